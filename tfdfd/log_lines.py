"""Recognition of log lines of TensorFlow and other C++ libraries among other text on standard error."""

from __future__ import annotations

import os
import re

# TensorFlow's own variable: 1 drops INFO, 2 also WARNING, 3 also ERROR.
LEVEL, QUIET = "TF_CPP_MIN_LOG_LEVEL", "3"
# Start of a quotation of the input, such as the bytes of a picture, which belongs in no log.
CONTENT = r"(?: starting with|,? ?(?:value|input|string):)[^\n]*"


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
