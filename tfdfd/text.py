"""Words of messages (near matches, missing libraries, plurals, tables), and text from outside, safe to show."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence


def near_matches(word: object, known: Iterable[object], most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The known names that resemble `word`, the nearest first, without repetition."""
    return difflib.get_close_matches(str(word), dict.fromkeys(map(str, known)), n=most, cutoff=cutoff)


def did_you_mean(word: object, known: Iterable[object], most: int = 3, otherwise: str = "") -> str:
    """`did you mean a or b?`, or `otherwise` if no name is near."""
    near = near_matches(word, known, most)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


@contextlib.contextmanager
def optional_import(
    purpose: str, extra: str, otherwise: str = "", kind: type[ValueError] = ValueError
) -> Iterator[None]:
    """A context for the import of an optional library; if it is missing, the error names the extra that installs it.

    Args:
        purpose: what needs it, such as "plots need matplotlib".
        extra: extra of tfdfd.
        otherwise: ends the message, such as ", or use --no-plots".
        kind: class of the error.
    """
    try:
        yield
    except ImportError as error:
        raise kind(f"{purpose}, which is not installed: run pip install 'tfdfd[{extra}]'{otherwise}.") from error


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


# A cell that begins with one of these is a formula to spreadsheet programs (OWASP, "CSV Injection").
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")

_OVERRIDES = ("LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def printable_path(path: str | os.PathLike[str]) -> str:
    """A file name as valid Unicode; bytes that are not UTF-8 become `\\xNN`."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair: no file can have this name, but a caller may ask for it
        return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def escape_control_chars(text: str) -> str:
    """Text with its control characters escaped, so that it cannot start a new line or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spreadsheet_cell(text: str) -> str:
    """Text that a spreadsheet program shows and does not run, on one line.

    A formula is prefixed with an apostrophe. Control characters, line breaks and bidirectional overrides are escaped.
    """
    safe = "".join(c.encode("unicode_escape").decode() if _steers(c) else c for c in text)
    return f"'{safe}" if _FORMULA.match(text) else safe


def without_formula(text: str) -> str:
    """Text as a cell that a spreadsheet program does not run and from which `text_of_cell` restores the text."""
    return f"'{text}" if _FORMULA.match(text) else text


def text_of_cell(cell: str) -> str:
    """The text that `without_formula` made the cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _steers(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(c) in _OVERRIDES
