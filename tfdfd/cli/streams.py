"""Standard output and standard error of the command line.

A reader that has closed its end, such as `head`, does not stop the work. Log lines of TensorFlow and other C++
libraries are removed. Some are written before any setting is read, so they are filtered at file descriptor 2, which
child processes inherit. Everything else that is written there, such as the reason for a crash, is passed on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from tfdfd.cli.text import warn
from tfdfd.hub.handles import HubWarning
from tfdfd.log_lines import LEVEL, QUIET, LogFilter


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
