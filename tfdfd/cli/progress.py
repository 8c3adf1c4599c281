"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from tfdfd.cli.text import path_text, warn
from tfdfd.safe_text import escape_control_chars

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector
    from tfdfd.detect.results import Detection
    from tfdfd.media.inputs import Inputs

T = TypeVar("T")


class Progress(contextlib.AbstractContextManager):
    """A bar on a terminal, plain lines elsewhere, nothing with `quiet`; both with the rate and the time left.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False):
        self._first: tuple[float, int] | None
        self._quiet, self._first = quiet, None
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
        items: what is done, in order.
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
    """The step that is being measured: on a terminal one line, which is erased before a row of the answer is printed.

    Args:
        total: number of steps.
        quiet: show nothing.
    """

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
