"""Output of the verbs: text, tables and JSON, progress, and the standard streams themselves.

A reader that has closed its end, such as `head`, does not stop the work. Log lines of TensorFlow and other C++
libraries are removed. Some are written before any setting is read, so they are filtered at file descriptor 2, which
child processes inherit. Everything else that is written there, such as the reason for a crash, is passed on.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from tfdfd.hub import HubWarning
from tfdfd.log_lines import LEVEL, QUIET, LogFilter
from tfdfd.text import escape_control_chars, printable_path

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector
    from tfdfd.detect.results import Detection
    from tfdfd.media.inputs import Inputs


@contextlib.contextmanager
def standard_streams() -> Iterator[Callable[[], bool]]:
    """A context in which `sys.stdout` and `sys.stderr` outlive their readers and show only tfdfd's own messages.

    `TF_CPP_MIN_LOG_LEVEL` and `python -W` are respected. With level 0, all log lines are shown, without the input that
    some of them quote.

    Yields:
        A function that returns whether the reader of standard output has closed its end.
    """
    level = os.environ.setdefault(LEVEL, QUIET)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    before, disabled = (sys.stdout, sys.stderr), logging.root.manager.disable
    sys.stdout, sys.stderr = _outliving(sys.stdout, 1), _outliving(sys.stderr, 2)
    buffer = getattr(sys.stdout, "buffer", None)
    pipe = getattr(buffer, "raw", buffer)
    log_filter = LogFilter(level)
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", HubWarning)
        warnings.showwarning = _show_warning
        if level != "0":
            logging.disable(max(disabled, logging.INFO if level == "1" else logging.WARNING))
        sys.meta_path.insert(0, log_filter)
        try:
            yield lambda: getattr(pipe, "gone", False)
        finally:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(log_filter)
            log_filter.stop()
            logging.disable(disabled)
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def verbose_log(level: int) -> Iterator[None]:
    """A context in which the log of `tfdfd` goes to standard error: decisions with level 1, details with level 2.

    Logs of other libraries stay as they are.
    """
    if not level:
        yield
        return
    logger, handler, root = logging.getLogger("tfdfd"), _Lines(), logging.root
    before = logger.level, root.level, root.manager.disable
    # Disabled levels hold for all loggers; here those of other libraries have the level of the root.
    root.setLevel(max(root.level, before[2] + 1))
    logging.disable(logging.NOTSET)
    logger.setLevel(logging.DEBUG if level > 1 else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        root.setLevel(before[1])
        logging.disable(before[2])


class _Lines(logging.Handler):
    """Writes each record as a line to standard error, above a progress bar if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        warn(self.format(record))


class _Pipe(io.FileIO):
    """A file descriptor that discards everything once its reader has closed its end."""

    gone = False

    def write(self, data: Any) -> int:
        if not self.gone:
            try:
                return super().write(data)
            except BrokenPipeError:
                self.gone = True
        return memoryview(data).nbytes


def _outliving(stream: Any, number: int) -> Any:
    """The stream over a `_Pipe` if it is descriptor `number`; else the stream as a test or an embedder has set it."""
    if stream is None:  # closed by the parent process
        return open(os.devnull, "w", encoding="utf-8")
    try:
        if stream.fileno() != number:
            return stream
    except (AttributeError, OSError, ValueError):
        return stream
    stream.flush()
    pipe = _Pipe(os.dup(number), "wb")  # a copy: descriptor 2 itself becomes the filter's
    return io.TextIOWrapper(
        pipe if stream.write_through else io.BufferedWriter(pipe),  # with and without `python -u`
        encoding=stream.encoding,
        errors="backslashreplace",  # the encoding of a terminal may lack letters of a name
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    warn(f"tfdfd: {message}")


def path_text(path: str) -> str:
    """A file name on one line of a terminal."""
    return escape_control_chars(printable_path(path))


def write_line(text: str, flush: bool = False) -> None:
    """Writes a line to standard output, with control characters escaped: names and messages may be from anybody."""
    sys.stdout.write(f"{escape_control_chars(text)}\n")
    if flush:
        sys.stdout.flush()


def warn(text: str) -> None:
    """Writes a line to standard error, with control characters escaped."""
    sys.stderr.write(f"{escape_control_chars(text)}\n")
    sys.stderr.flush()


def write_json(answer: dict, target: str) -> None:
    """Writes an answer as JSON to a file, or to standard output for `-`."""
    write_text(json.dumps(answer, indent=1) + "\n", target)


def write_text(text: str, target: str) -> None:
    """Writes text to a file, or to standard output for `-`."""
    from tfdfd.files import write_atomically

    if target == "-":
        sys.stdout.write(text)
    else:
        write_atomically(target, text)


T = TypeVar("T")


class Progress(contextlib.AbstractContextManager):
    """A bar on a terminal, plain lines elsewhere, nothing with `quiet`; both with the rate and the time left."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._first: tuple[float, int] | None = None
        self._bar = _bar() if not quiet and sys.stderr.isatty() else None
        self._task = None

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def start(self, total: int, done: int = 0) -> None:
        """Shows the bar, if there is one, before the first item is done."""
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", total=total, completed=done)

    def update(self, done: int, total: int, text: str, line: bool = True) -> None:
        """Reports that `done` of `total` items are done.

        Args:
            done: number of items done.
            total: number of items in all.
            text: describes the last item.
            line: print a line where there is no terminal.
        """
        text += self._rate_text(done, total)
        if self._bar:
            if self._task is None:
                self.start(total)
            self._bar.update(self._task, completed=done, total=total, description=escape_control_chars(text))
        elif line and not self._quiet:
            warn(f"[{done}/{total}] {text}")

    def line(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(escape_control_chars(text), markup=False, highlight=False)
        elif not self._quiet:
            warn(text)

    def _rate_text(self, done: int, total: int) -> str:
        now = time.monotonic()
        if self._first is None:  # loading the network before the first item says nothing about the rate
            self._first = now, done
        seconds, items = now - self._first[0], done - self._first[1]
        if items < 0:  # begins anew, such as with the next model
            self._first = now, done
        if items <= 0 or not seconds:
            return ""
        minutes, left = divmod(round((total - done) * seconds / items), 60)
        return f"  ({items / seconds:.2f}/s, {minutes}:{left:02d} left)"


def tracked(
    items: Iterable[T], total: int, label: Callable[[T], str], quiet: bool = False, done: int = 0
) -> Iterator[T]:
    """Passes items on and reports each one.

    The iterable is exhausted even if `total` is smaller: the work of a generator after its last item is part of it.

    Args:
        items: items to process, in order.
        total: number of items in all, with those done before.
        label: text for an item.
        quiet: show nothing.
        done: number of items that were done before.
    """
    with Progress(quiet) as progress:
        progress.start(total, done)
        for number, item in enumerate(items, done + 1):
            progress.update(number, total, label(item))
            yield item


def tracked_detections(detector: Detector, inputs: Inputs, quiet: bool) -> Iterator[Detection]:
    """Detects in all inputs and reports each one."""
    return tracked(detector.iter_detect(inputs), len(inputs.items), detection_text, quiet)


def detection_text(detection: Detection) -> str:
    """`PATH: VERDICT`, or the status where there is no verdict."""
    return f"{path_text(detection.path)}: {detection.verdict or detection.status}"


class TrainingProgress(Progress):
    """A `tfdfd.training.engine.Report`: a bar over all steps on a terminal, a line per epoch elsewhere."""

    _left = ""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """Reports a training step."""
        text = f"epoch {epoch}/{epochs}  step {step}/{steps}  loss {loss:.4f}"
        done, total = (epoch - 1) * steps + step, epochs * steps
        self.update(done, total, text, line=False)
        self._left = self._rate_text(done, total)

    def epoch(self, row: dict) -> None:
        """Reports the metrics of an epoch."""
        metrics = {name: value for name, value in row.items() if name != "epoch"}
        cells = (f"{name} {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in metrics.items())
        self.line(f"epoch {row['epoch']}: {'  '.join(cells)}{self._left}")

    def note(self, text: str) -> None:
        """Reports anything else."""
        self.line(text)


class StepLine:
    """The step that is being measured: one line on a terminal, erased before a row of the answer is printed."""

    def __init__(self, total: int, quiet: bool = False):
        self._total, self._quiet, self._number = total, quiet, 0

    def begin(self, text: str) -> None:
        """Shows that the next step begins."""
        self._number += 1
        line = f"[{self._number}/{self._total}] {escape_control_chars(text)}"
        self._write(f"\r\x1b[K{line}" if sys.stderr.isatty() else f"{line}\n")

    def end(self) -> None:
        """Erases the line on a terminal."""
        if sys.stderr.isatty():
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(text)
            sys.stderr.flush()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    return Progress(*columns, console=Console(file=sys.stderr), transient=True)
