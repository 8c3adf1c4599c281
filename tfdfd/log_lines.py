"""Log lines of TensorFlow and other C++ libraries, which are told from everything else on standard error."""

from __future__ import annotations

import os
import re

# TensorFlow's own variable: 1 drops INFO, 2 also WARNING, 3 also ERROR.
LEVEL, QUIET = "TF_CPP_MIN_LOG_LEVEL", "3"
# Where TensorFlow begins to quote what it was given, such as the bytes of a picture: of no use in any log.
CONTENT = r"(?: starting with|,? ?(?:value|input|string):)[^\n]*"


def pattern(letters: str) -> str:
    """A pattern for the beginnings of absl's and TensorFlow's log lines of some severities, of I, W, E and F."""
    absl = rf"[{letters}]\d{{4}} \d\d:\d\d:[\d.]+ +\d+ \S+:\d+\] "
    return rf"{absl}|\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [{letters}] "


def noise(level: str) -> str:
    """A pattern for the beginnings of lines that are not wanted at a level; what follows indented belongs to them."""
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
    """What a process wrote to standard error, without the lines that are not wanted."""
    is_noise = re.compile(noise(os.environ.get(LEVEL, QUIET))).match
    return "".join(line for line in text.splitlines(keepends=True) if not is_noise(line))
