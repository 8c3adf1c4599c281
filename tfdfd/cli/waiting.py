"""What is being measured now, on standard error: one line that gives way to the answer's rows on a terminal."""

from __future__ import annotations

import sys


class Waiting:
    """Tells of steps that take long.

    Args:
        total: how many there are.
        quiet: tell nothing.
    """

    def __init__(self, total: int, quiet: bool = False):
        self._total, self._quiet, self._done = total, quiet, 0

    def begin(self, what: str) -> None:
        """The next step begins."""
        self._done += 1
        line = f"[{self._done}/{self._total}] {what}"
        self._write(f"\r\x1b[K{line}" if sys.stderr.isatty() else f"{line}\n")

    def end(self) -> None:
        """It has ended: what was on the terminal's line makes room."""
        if sys.stderr.isatty():
            self._write("\r\x1b[K")

    def _write(self, text):
        if not self._quiet:
            sys.stderr.write(text)
            sys.stderr.flush()
