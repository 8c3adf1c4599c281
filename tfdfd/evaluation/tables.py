"""Tables of an evaluation report, and their form in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfdfd.metrics import METRICS
from tfdfd.metrics.report import FRAME, LEVELS, VIDEO
from tfdfd.safe_text import escape_control_chars

NOTHING = "–"
_MISSING = {
    "exclude": "videos without a score are excluded",
    "as-real": "videos without a score count as P(fake) 0",
    "as-fake": "videos without a score count as P(fake) 1",
    "as-chance": "videos without a score count as P(fake) 0.5",
}


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        title: heading.
        protocol: how the values were computed: data, split, level, threshold, aggregation.
        columns: headings; the first column names the rows.
        rows: cells, as many as columns.
        notes: remarks below the table.
    """

    title: str
    protocol: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict:
        """The table for JSON."""
        return {
            "title": self.title,
            "protocol": self.protocol,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }


def as_text(table: Table) -> Iterator[str]:
    """Lines for a terminal: the first column is left-aligned, the others are right-aligned."""
    rows = [tuple(map(escape_control_chars, row)) for row in (table.columns, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield escape_control_chars(table.title)
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
    yield from (f"  {escape_control_chars(line)}" for line in (table.protocol, *table.notes) if line)


def as_markdown(table: Table) -> Iterator[str]:
    """Lines of GitHub Flavored Markdown."""
    yield from (f"### {_escape_markdown(table.title)}", "")
    if table.protocol:
        yield from (f"*{_escape_markdown(table.protocol)}*", "")
    yield _markdown_row(table.columns)
    yield _markdown_row("---:" if number else "---" for number, _ in enumerate(table.columns))
    yield from map(_markdown_row, table.rows)
    yield ""
    for note in table.notes:
        yield from (f"- {_escape_markdown(note)}", "")


def format_number(value: float | None, digits: int = 3) -> str:
    """A rounded number; a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def format_percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage; a dash for None."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def format_count(value: int) -> str:
    """A count with thousands separators."""
    return f"{value:,}"


def format_value(metric: dict, digits: int = 3) -> str:
    """A metric of `tfdfd.metrics.report.compute_metrics` with its interval: `0.912 [0.880, 0.941]`."""
    text = format_number(metric["value"], digits)
    interval = metric.get("interval")
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else text


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escape_markdown, cells))} |"


def _escape_markdown(text: str) -> str:
    return "".join(
        f"\\{c}" if c in "\\`*_[]|#!" else {"<": "&lt;", "&": "&amp;"}.get(c, c) for c in escape_control_chars(text)
    )


# Tables of a report --------------------------------------------------------------------------------------------------


def protocol_line(report: dict, level: str | None = None, part: dict | None = None) -> str:
    """Data, split, counts, threshold and aggregation: the line that accompanies every table.

    Args:
        report: of `tfdfd.metrics.report.compute_report`.
        level: `video` or `frame`; None for both, with the protocol of the intervals.
        part: of `report["per_dataset"]`, for metrics of one data set only.
    """
    protocol, counts = report["protocol"], part or report
    data = [part["dataset"]] if part else protocol["datasets"]
    parts = [f"data {', '.join(data) or 'none'}", f"split {', '.join(protocol['splits']) or 'none'}"]
    sizes = [f"{counts[each]['n_real']:,} real and {counts[each]['n_fake']:,} fake {each}s" for each in LEVELS]
    parts.append(sizes[LEVELS.index(level)] if level else "; ".join(sizes))
    parts.append(f"threshold {protocol['threshold']:.6g}")
    if level != FRAME:
        parts.append(f"video score: {protocol['aggregation']} of its crops; {_MISSING[protocol['missing']]}")
    drawn = protocol["bootstrap"]
    if drawn["resamples"] and not level:
        parts.append(
            f"[95 % intervals: bootstrap over {drawn['over']}s, {drawn['resamples']:,} resamples, seed {drawn['seed']}]"
        )
    return "; ".join(parts)


def main_table(report: dict) -> Table:
    """Every metric of videos and frames."""
    notes: dict[str, list[str]]
    rows: list[tuple[str, ...]]
    rows, notes = [("real / fake", *(_class_counts(report[level]) for level in LEVELS))], {}
    for name, metric in METRICS.items():
        rows.append((metric.title, *(_with_majority(report[level], name) for level in LEVELS)))
        if name == "auc" and report[VIDEO][name].get("delong"):
            low, high = report[VIDEO][name]["delong"]
            rows.append(("AUC, DeLong's 95 % interval", f"[{low:.3f}, {high:.3f}]", NOTHING))
        for level in LEVELS:
            for key in ("reason", "interval_reason"):
                if why := report[level][name].get(key):
                    notes.setdefault(why, []).append(f"{metric.title} of {level}s")
    grouped = tuple(f"{', '.join(names)}: {why}" for why, names in notes.items())
    return Table("Metrics", protocol_line(report), ("", "videos", "frames"), tuple(rows), grouped)


def confusion_table(report: dict, level: str) -> Table:
    """Actual class by verdict."""
    rows: tuple
    counts, rows = report[level]["confusion"], ()
    if counts:
        rows = tuple(
            (kind, *(format_count(counts[f"{kind}_as_{verdict}"]) for verdict in ("real", "fake")))
            for kind in ("real", "fake")
        )
    columns = ("actual", "called real", "called fake")
    return Table(f"Confusion matrix, {level}s", protocol_line(report, level), columns, rows)


def class_table(report: dict, level: str) -> Table:
    """Precision, recall, F1 and support of both classes, their means, and accuracy beside the majority baseline."""
    rows: tuple
    metrics, rows = report[level], ()
    if metrics["classes"]:
        rows = tuple(
            (name, *(format_number(row[key]) for key in ("precision", "recall", "f1")), format_count(row["support"]))
            for name, row in metrics["classes"].items()
        )
        rows += (
            ("accuracy", "", "", format_number(metrics["accuracy"]["value"]), format_count(metrics["n"])),
            ("majority baseline", "", "", format_number(metrics["majority"]), format_count(metrics["n"])),
        )
    columns = ("", "precision", "recall", "F1", "support")
    return Table(f"Classes, {level}s", protocol_line(report, level), columns, rows)


def part_tables(report: dict) -> list[Table]:
    """By data set, by method, and by compression if any is known: each fake part against all reals of its set."""
    tables = [
        _part_table("By data set", report["per_dataset"], (), report),
        _part_table("By method, each against all reals of its data set", report["per_method"], ("method",), report),
    ]
    if any(part["compression"] for part in report["per_compression"]):
        tables.append(_part_table("By compression", report["per_compression"], ("compression",), report))
    return tables


def coverage_table(report: dict) -> Table:
    """Outcomes of the videos and of the crops; takes the whole of `report.json`."""
    videos, crops = report["judged"]["coverage"], report["crops"]
    rows = [
        (title, format_count(videos[name]), format_count(crops[name]) if name in crops else NOTHING)
        for name, title in (
            ("expected", "expected"),
            ("scored", "scored"),
            ("no_face", "without a face"),
            ("left_out", "excluded for several faces"),
            ("broken", "broken or missing"),
        )
    ]
    share = crops["scored"] / max(1, crops["expected"])
    rows.append(("coverage", format_percent(videos["share"]), format_percent(share)))
    notes = [f"{_MISSING[report['judged']['protocol']['missing']]} (--missing)."]
    notes += [f"without a score: {text}" for text in crops["unscored"]]
    if not report["videos_known"]:
        notes.append("there is no status.csv beside the crops, so videos without any crop are unknown.")
    return Table("Coverage", "", ("", "videos", "crops"), tuple(rows), tuple(notes))


def hardest_table(report: dict) -> Table:
    """The videos furthest from their label."""
    rows = tuple(
        (one["video"], one["dataset"], one["method"], ("real", "fake")[one["label"]],
         format_number(one["fake_probability"]), "wrong" if one["wrong"] else "right")
        for one in report["hardest"]
    )  # fmt: skip
    columns = ("video", "data set", "method", "actual", "P(fake)", "verdict")
    return Table(f"The {len(rows)} hardest videos", protocol_line(report, VIDEO), columns, rows)


def comparison_table(report: dict) -> Table | None:
    """Paired comparison of two models; takes the whole of `report.json`."""
    comparison = report["comparison"]
    if comparison is None:
        return None
    rows, notes = [], []
    compared = [(name, metric.title, "values") for name, metric in METRICS.items() if metric.compared]
    for name, title, values in [*compared, ("delong", "AUC, DeLong's test", "auc")]:
        one = comparison[name]
        if one is None:
            notes.append(f"{title.removeprefix('AUC, ')}: {comparison[f'{name}_reason']}")
            continue
        low, high = one["interval"]
        difference = f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        rows.append((title, *(format_number(value, 4) for value in one[values]), difference, _p_value(one["p"])))
    counts, drawn = comparison["videos"], comparison["protocol"]["bootstrap"]
    protocol = (
        f"{counts['both']:,} videos scored by both ({counts['first_only']:,} and {counts['second_only']:,} by one "
        f"only); video score: {comparison['protocol']['aggregation']} of its crops; paired bootstrap over "
        f"{drawn['over']}s, {drawn['resamples']:,} resamples, seed {drawn['seed']}"
    )
    columns = ("", report["model"]["handle"], report["second"]["model"]["handle"], "difference", "p")
    return Table("Two models on the same videos", protocol, columns, tuple(rows), tuple(notes))


def short_table(report: dict) -> Table:
    """The main metrics, one line per level; takes the whole of `report.json`."""
    judged, names = report["judged"], ("auc", "eer", "balanced_accuracy")
    rows = tuple(
        (f"{level}s", _class_counts(judged[level]), *(format_value(judged[level][name]) for name in names),
         format_number(judged[level]["accuracy"]["value"]), format_number(judged[level]["majority"]))
        for level in LEVELS
    )  # fmt: skip
    columns = ("", "real / fake", *(METRICS[name].title for name in names), "accuracy", "majority")
    return Table(report["model"]["handle"], protocol_line(judged), columns, rows)


def _part_table(title: str, parts: Sequence[dict[str, Any]], columns: Sequence[str], report: dict[str, Any]) -> Table:
    by_part = {name: metric.title for name, metric in METRICS.items() if metric.by_part}
    rows = tuple(
        (part["dataset"], *(str(part[name] or NOTHING) for name in columns), f"{level}s", _class_counts(part[level]),
         *(format_value(part[level][name]) for name in by_part),
         format_number(part[level]["accuracy"]["value"]), format_number(part[level]["majority"]))
        for part in parts
        for level in LEVELS
    )  # fmt: skip
    heads = ("data set", *columns, "level", "real / fake", *by_part.values(), "accuracy", "majority")
    return Table(title, protocol_line(report), heads, rows)


def _class_counts(metrics: dict[str, Any]) -> str:
    return f"{metrics['n_real']:,} / {metrics['n_fake']:,}"


def _with_majority(metrics: dict[str, Any], name: str) -> str:
    text = format_value(metrics[name])
    return f"{text} (majority: {format_number(metrics['majority'])})" if name == "accuracy" else text


def _p_value(value: float | None) -> str:
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
