"""A table of a report, as text: one form for terminal, Markdown and page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """What a reader sees.

    Attributes:
        title: above it.
        protocol: how its figures were made: data, split, level, threshold, aggregation.
        columns: their names; the first one names rows.
        rows: cells, as many as columns.
        notes: below it.
    """

    title: str
    protocol: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = field(default=())

    def told(self) -> dict:
        """What JSON holds of it."""
        return {
            "title": self.title,
            "protocol": self.protocol,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }


def as_text(table: Table) -> Iterator[str]:
    """Lines for a terminal: the first column to the left, numbers to the right."""
    rows = [tuple(map(one_line, row)) for row in (table.columns, *table.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    yield one_line(table.title)
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
    yield from (f"  {one_line(line)}" for line in (table.protocol, *table.notes) if line)


def as_markdown(table: Table) -> Iterator[str]:
    """Lines of GitHub's Markdown."""
    yield from (f"### {_escaped(table.title)}", "")
    if table.protocol:
        yield from (f"*{_escaped(table.protocol)}*", "")
    yield _row(table.columns)
    yield _row("---" if not place else "---:" for place, _ in enumerate(table.columns))
    yield from map(_row, table.rows)
    yield ""
    for note in table.notes:
        yield from (f"- {_escaped(note)}", "")


def number(value: float | None, digits: int = 3) -> str:
    """Rounded; a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as per cent; a dash for None."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def counted(value: int) -> str:
    return f"{value:,}"


def figure(told: dict, digits: int = 3) -> str:
    """A figure of `tfdfd.metrics.figures` with its interval: `0.912 [0.880, 0.941]`."""
    text = number(told["value"], digits)
    interval = told.get("interval")
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else text


def one_line(text: str) -> str:
    """Names of strangers that neither begin a line of their own nor steer a terminal or a page."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _row(cells):
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text):
    # What Markdown or the HTML in it would take for more than text.
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else {"<": "&lt;", "&": "&amp;"}.get(c, c) for c in one_line(text))
