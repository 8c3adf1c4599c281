"""`report.md`: the report as text that any host of code shows, with its plots beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from tfdfd.evaluation.table import Table, as_markdown, one_line
from tfdfd.evaluation.tables import (
    class_table,
    comparison_table,
    confusion_table,
    coverage_table,
    hardest_table,
    main_table,
    part_tables,
)
from tfdfd.metrics.report import FRAME, VIDEO


def report_tables(report: dict) -> list[Table]:
    """The tables of a report in their order, but for the hardest samples."""
    judged = report["judged"]
    tables = [*as_tables(report["tables"]), main_table(judged)]
    tables += [make(judged, level) for level in (VIDEO, FRAME) for make in (confusion_table, class_table)]
    tables += part_tables(judged)
    compared = comparison_table(report)
    return tables + [coverage_table(report)] + ([compared] if compared else [])


def as_tables(told: list[dict]) -> list[Table]:
    """The tables that a report has as JSON."""
    return [Table(**{name: _tuples(value) for name, value in one.items()}) for one in told]


def as_markdown_report(report: dict, plots: Sequence[str], thumbnails: Sequence[Sequence[str]]) -> str:
    """The text of `report.md`.

    Args:
        report: of `tfdfd.evaluation.report_json.make_report`.
        plots: their files, as a link beside the report says them.
        thumbnails: for each of the hardest videos, files likewise.
    """
    return "\n".join(_lines(report, plots, thumbnails)).rstrip("\n") + "\n"


def _lines(report, plots, thumbnails) -> Iterator[str]:
    yield from (f"# Evaluation of {_code(report['model']['handle'])}", "")
    for warning in report["warnings"]:
        yield from (f"> **WARNING** {one_line(warning['message'])}", "")
    for line in facts(report).items():
        yield f"- {line[0]}: {_code(line[1])}"
    yield ""
    for table in report_tables(report):
        yield from as_markdown(table)
    if plots:
        yield from ("### Plots", "")
        yield from (" ".join(f"![{os.path.basename(name)}]({name})" for name in plots), "")
    yield from as_markdown(hardest_table(report["judged"]))
    for one, files in zip(report["judged"]["hardest"], thumbnails, strict=True):
        if files:
            yield f"{_code(one['video'])}: {' '.join(f'![crop]({name})' for name in files)}"
            yield ""


def facts(report: dict) -> dict[str, str]:
    """What model, what sets, and whether they overlap, in words."""
    model, found = report["model"], report["leaks"]
    told = {"Model": model["handle"]}
    if model.get("sha256"):
        told["SHA-256 of the weights"] = model["sha256"]
    if model.get("run"):
        told["Run"] = model["run"]
    told["Threshold"] = f"{report['threshold']['value']:.6g}, {report['threshold']['source']}"
    if report["second"]:
        told["Second model"] = report["second"]["model"]["handle"]
    for one in report["sets"]:
        made = ", fakes self-blended of its real crops" if one["self_blended"] else ""
        told[f"Data {', '.join(one['names'])}"] = (
            f"{one['where']}, split {one['split'] or 'none'}, {one['crops']:,} crops{made}, "
            f"rows {one['rows_sha256'][:16]}"
        )
    if found:
        checked = "nothing shared" if not found["shared"] else f"shared with {', '.join(found['shared'])}"
        told["Against the model's training data"] = checked if found["checked"] else f"not checked: {found['why_not']}"
    if model.get("training_data"):
        told["Training data, as its card says"] = str(model["training_data"])
    told["tfdfd"] = report["tfdfd"]
    return told


def _code(text):
    return f"`{one_line(text).replace('`', chr(39))}`"


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
