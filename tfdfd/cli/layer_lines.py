"""The layers of a network as aligned lines of text."""

from __future__ import annotations

_COLUMNS = (
    ("layer", lambda row: row["name"]),
    ("type", lambda row: row["type"]),
    ("kernel", lambda row: _times(row["kernel"])),
    ("stride", lambda row: _times(row["stride"])),
    ("padding", lambda row: _sides(row["padding"])),
    ("dilation", lambda row: _times(row["dilation"])),
    ("groups", lambda row: _number(row["groups"])),
    ("filters", lambda row: _number(row["filters"])),
    ("grid", lambda row: _times(row["grid"])),
    ("learned", lambda row: _number(row["learned"])),
    ("MACs", lambda row: _number(row["macs"])),
)
_TEXT = 2  # so many columns are words; the others are numbers, which end in one line


def layer_lines(rows):
    """The rows of `layer_rows` as aligned lines of text: a heading, the rows, and the sums."""
    sums = [
        "in all",
        "",
        *[""] * 7,
        _number(sum(row["learned"] for row in rows)),
        _number(sum(row["macs"] for row in rows)),
    ]
    table = [[title for title, _ in _COLUMNS], *([cell(row) for _, cell in _COLUMNS] for row in rows), sums]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < _TEXT else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]


def _times(pair):
    return "x".join(map(str, pair)) if pair else "-"


def _sides(padding):
    """One number where all sides are alike, `height,width` where opposite ones are, else all four."""
    if padding is None:
        return "-"
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return str(top) if top == left else f"{top},{left}"
    return ",".join(map(str, padding))


def _number(value):
    return "-" if value is None else f"{value:,}"
