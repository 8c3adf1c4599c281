"""The checked summary of an index as lines for a terminal."""

from __future__ import annotations

from tfdfd.cli.shown import shown
from tfdfd.data.tables import SPLITS
from tfdfd.detect.results import printable_path

EXAMPLES = 3


def index_lines(checked: dict) -> list[str]:
    """The table of counts, then a line for each thing that `tfdfd.data.index.summary.summarize` has found."""
    lines = [*_table(checked["counts"]), ""]
    size = f"{checked['bytes'] / 1e6:,.1f} MB"
    people = f", named people: {checked['identities']:,}" if checked["identities"] else ""
    lines.append(f"{_count(checked['rows'], 'file')}, {size}, {_count(checked['sources'], 'source')}{people}")
    lines.append(_listed(checked["missing"], "missing"))
    lines.append(_listed(checked["empty"], "empty (0 bytes)"))
    lines.append(_duplicates(checked))
    if checked["fakes_without_original"]:
        lines.append(f"{_count(checked['fakes_without_original'], 'fake')} without original")
    lines += [_listed(paths, f"left out: {reason}") for reason, paths in checked["left_out"].items()]
    lines += [f"{count:,} passed over: {_in_one_line(reason)}" for reason, count in checked["passed_over"].items()]
    lines += [f"note: {note}" for note in checked["notes"]]
    if checked["official"]:
        lines += ["", "of the official set:"]
        width = max(len(share["what"]) for share in checked["official"])
        lines += [
            f"  {share['what']:{width}}  {share['present']:>7,} of {share['official']:>7,}"
            for share in checked["official"]
        ]
    return lines


def _table(counts):
    splits = (*SPLITS, "none")
    head = ["method", "label", "compression", *splits, "total"]
    cells = [
        [row["method"], "fake" if row["label"] else "real", row["compression"] or "-"]
        + [row[split] for split in splits]
        + [sum(row[split] for split in splits)]
        for row in counts
    ]
    totals = [sum(row[column] for row in cells) for column in range(3, len(head))]
    table = [head, *cells, ["total", "", "", *totals]]
    table = [[cell if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in table]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return [
        "  ".join(f"{cell:{'<' if column < 3 else '>'}{widths[column]}}" for column, cell in enumerate(row))
        for row in table
    ]


def _listed(paths, what):
    examples = ", ".join(map(_in_one_line, paths[:EXAMPLES])) + (", ..." if len(paths) > EXAMPLES else "")
    return f"{len(paths):,} {_in_one_line(what)}" + (f": {examples}" if paths else "")


def _count(number, noun):
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duplicates(checked):
    groups = checked["duplicates"]
    if groups is None:
        return "duplicates: not looked for"
    if not groups:
        return "0 duplicates by content"
    line = f"{sum(map(len, groups)):,} duplicates by content in {_count(len(groups), 'group')}"
    across = [
        f"{_count(checked[f'duplicates_across_{what}'], 'group')} across {what}"
        for what in ("labels", "splits")
        if checked[f"duplicates_across_{what}"]
    ]
    told = f" ({', '.join(across)})" if across else ""
    return f"{line}{told}: {' = '.join(map(_in_one_line, groups[0][:EXAMPLES]))}"


def _in_one_line(path):
    return shown(printable_path(path))
