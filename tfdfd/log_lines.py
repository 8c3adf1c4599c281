"""Log lines of TensorFlow and other C++ libraries: recognized among other text, and kept off standard error."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

# TensorFlow's own variable: 1 drops INFO, 2 also WARNING, 3 also ERROR.
LEVEL, QUIET = "TF_CPP_MIN_LOG_LEVEL", "3"
# Start of a quotation of the input, such as the bytes of a picture, which belongs in no log.
CONTENT = r"(?: starting with|,? ?(?:value|input|string):)[^\n]*"
# The filter starts when one of these is imported, so that verbs without them do not pay for it.
_LOUD = ("tensorflow", "jax", "ai_edge_litert", "grpc")
# A process rather than a thread: it still passes on the last lines of a process that aborts.
_FILTER = """\
import re, sys
is_noise, is_log, content = (re.compile(pattern.encode()) for pattern in sys.argv[1:])
within = False
for line in sys.stdin.buffer:
    within = bool(is_noise.match(line)) or within and line[:1] in b" \\t"
    if within:
        continue
    if is_log.match(line):
        line = content.sub(b"", line)
    try:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    except OSError:
        pass
"""
_SECONDS_FOR_LAST_LINES = 1


def pattern(letters: str) -> str:
    """A pattern for the starts of absl's and TensorFlow's log lines of the given severities: some of I, W, E and F."""
    absl = rf"[{letters}]\d{{4}} \d\d:\d\d:[\d.]+ +\d+ \S+:\d+\] "
    return rf"{absl}|\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [{letters}] "


def noise(level: str) -> str:
    """A pattern for the starts of lines to remove at a log level; indented lines that follow belong to them."""
    letters = "IWE"[: int(level)] if level in ("0", "1", "2", "3") else "IWE"
    if not letters:
        return r"(?!)"
    words = "|".join({"I": "INFO|VERBOSE", "W": "WARNING", "E": "ERROR"}[letter] for letter in letters)
    return "|".join(
        (
            pattern(letters),
            rf"(?:{words}): ",  # LiteRT
            r"WARNING: All log messages before absl::InitializeLog\(\)",
            r"To enable the following instructions: .*rebuild TensorFlow",
            r"Improper call to JPEG library in state",
            r"fully_quantize: \d",  # LiteRT's converter
        )
    )


def without_log_lines(text: str) -> str:
    """The standard error of a process without the log lines that are to be removed."""
    is_noise = re.compile(noise(os.environ.get(LEVEL, QUIET))).match
    return "".join(line for line in text.splitlines(keepends=True) if not is_noise(line))


class LogFilter:
    """A module finder that finds nothing; from the import of a loud library on, it filters file descriptor 2."""

    def __init__(self, level: str):
        self._level = level
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: int | None = None

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in _LOUD and self._process is None and os.name == "posix" and sys.executable:
            with contextlib.suppress(OSError):  # without a filter, log lines are shown
                self._start()

    def _start(self) -> None:
        import subprocess

        self._kept = os.dup(2)
        reader, writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _FILTER, noise(self._level), pattern("IWEF"), CONTENT],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=self._kept,
                start_new_session=True,  # the filter ignores Ctrl-C
            )
            os.dup2(writer, 2)
        finally:
            os.close(reader)
            os.close(writer)

    def stop(self) -> None:
        """Restores file descriptor 2 and waits for the last lines."""
        if self._kept is not None:
            os.dup2(self._kept, 2)
            os.close(self._kept)
        if self._process is not None:
            # A child that outlives this process may still write to it.
            end = time.monotonic() + _SECONDS_FOR_LAST_LINES
            while self._process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
