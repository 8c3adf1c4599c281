"""Text output of the verbs: file names, counts, aligned tables, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from tfdfd.safe_text import escape_control_chars, printable_path


def path_text(path: str) -> str:
    """A file name on one line of a terminal."""
    return escape_control_chars(printable_path(path))


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table_lines(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a table: the first `left` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


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
