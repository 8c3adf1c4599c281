"""Tables of an evaluation report and of the source documents S0 to S4, and their form in a terminal and in Markdown.

A document's tables have its own layout, for side-by-side comparison, and add what the documents omit: the majority
baseline and which class is positive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfdfd.data.tables import FAKE, REAL
from tfdfd.metrics import LOG_LOSS_CLIP, METRICS
from tfdfd.metrics.report import FRAME, LEVELS, VIDEO
from tfdfd.metrics.scores import OK, ScoreRow, Video, aggregate_videos
from tfdfd.text import escape_control_chars, table_lines

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
    """Lines for a terminal."""
    yield escape_control_chars(table.title)
    yield from table_lines([tuple(map(escape_control_chars, row)) for row in (table.columns, *table.rows)])
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


def protocol_line(report: dict, level: str | None = None, part: dict | None = None) -> str:
    """Data, split, counts, threshold and aggregation: the line that accompanies every table.

    Args:
        report: as returned by `tfdfd.metrics.report.compute_report`.
        level: `video` or `frame`; None for both, with the protocol of the intervals.
        part: part of `report["per_dataset"]`, for metrics of one data set only.
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
    rows: list[tuple[str, ...]] = [("real / fake", *(_class_counts(report[level]) for level in LEVELS))]
    notes: dict[str, list[str]] = {}
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
    counts = report[level]["confusion"]
    rows: tuple = ()
    if counts:
        rows = tuple(
            (kind, *(format_count(counts[f"{kind}_as_{verdict}"]) for verdict in ("real", "fake")))
            for kind in ("real", "fake")
        )
    columns = ("actual", "called real", "called fake")
    return Table(f"Confusion matrix, {level}s", protocol_line(report, level), columns, rows)


def class_table(report: dict, level: str) -> Table:
    """Precision, recall, F1 and support of both classes, their means, and accuracy beside the majority baseline."""
    metrics = report[level]
    rows: tuple = ()
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


_SRM = "srm_"
_HARDEST = 10
_S1_METHODS = {"Deepfakes": "table 6", "Face2Face": "table 7"}
# Accuracies of S1's network in its abstract and in its section 5.
S1_ACCURACIES = {
    "Deepfakes": (0.96, 0.67),
    "FaceForensics++": (0.93, 0.62),
    "Celeb-DF": (0.96, 0.70),
    "combined set": (0.667, 0.6633),
}
# Rows of S2's tables; no method is called None.
_ORIGINALS, _OVERALL = "original_sequences", None


@dataclass(frozen=True)
class ScoredModel:
    """A model's scores with their report.

    Attributes:
        name: name of the model.
        network: a network of `tfdfd.models`.
        rows: its scores.
        report: as returned by `tfdfd.metrics.report.compute_report`.
        training: `train_accuracy`, `val_accuracy`, `train_loss`, `seconds` of its run; None for unknown values.
    """

    name: str
    network: str
    rows: Sequence[ScoreRow]
    report: dict
    training: dict


def document_tables(document: str, models: Sequence[ScoredModel]) -> list[Table]:
    """The tables of document `s0` ... `s4` for one or more models evaluated on the same set.

    Raises:
        ValueError: unknown document.
    """
    if document not in _MAKERS:
        raise ValueError(f"--table must be one of {', '.join(_MAKERS)}; received {document!r}.")
    return _MAKERS[document](models)


def _s0(models: Sequence[ScoredModel]) -> list[Table]:
    tables = []
    for model in models:
        metrics = model.report[FRAME]["confusion"] or {}
        rows = tuple(
            (sign, *(format_count(metrics.get(f"{kind}_as_{verdict}", 0)) for verdict in ("fake", "real")))
            for sign, kind in (("positive", "fake"), ("negative", "real"))
        )
        notes = (
            f"pos/pos {rows[0][1]}, pos/neg {rows[0][2]}, neg/pos {rows[1][1]}, neg/neg {rows[1][2]}: actual class "
            "first, positive = fake.",
            _accuracy_note(model.report[FRAME]),
        )
        protocol = protocol_line(model.report, FRAME)
        tables.append(Table("S0, tables 1 and 2", protocol, (model.name, "positive", "negative"), rows, notes))
    return tables


def _s1(models: Sequence[ScoredModel]) -> list[Table]:
    tables = []
    rows: Any
    notes: tuple[str, ...]
    for model in models:
        metrics = model.report[FRAME]
        if not metrics["classes"]:
            continue
        lines = {"0 (real)": "real", "1 (fake)": "fake", "Macro avg": "macro", "weighted avg": "weighted"}
        rows = [
            (title, *(format_number(metrics["classes"][name][key], 2) for key in ("precision", "recall", "f1")),
             format_count(metrics["classes"][name]["support"]))
            for title, name in lines.items()
        ]  # fmt: skip
        rows.insert(2, ("Accuracy", "", "", format_number(metrics["accuracy"]["value"], 2), format_count(metrics["n"])))
        columns = (model.name, "precision", "recall", "f1-score", "support")
        notes = (
            "0 is real and 1 is fake; the document's set labels them the other way round.",
            _accuracy_note(metrics),
        )
        tables.append(Table("S1, tables 4 and 5", protocol_line(model.report, FRAME), columns, tuple(rows), notes))
    for index, part in enumerate(models[0].report["per_method"]):
        # The fakes of one method with all real ones of their data set.
        metrics = [model.report["per_method"][index][FRAME] for model in models]
        rows = tuple(
            (model.name, format_percent(one["accuracy"]["value"]), format_percent(one["auc"]["value"]))
            for model, one in zip(models, metrics, strict=True)
        )
        notes = (f"majority baseline of ACC: {format_percent(metrics[0]['majority'])}.",)
        title = f"S1, {_S1_METHODS.get(part['method'], 'as tables 6 and 7')}: {part['method']} of {part['dataset']}"
        protocol = protocol_line(models[0].report, FRAME, part)
        tables.append(Table(title, protocol, ("Method", "ACC", "AUC"), rows, notes))
    return [*tables, _s1_accuracies(models)]


def _s1_accuracies(models: Sequence[ScoredModel]) -> Table:
    """Both accuracies that the document gives, beside those of the models on the same part of the data."""

    def measured(report: dict[str, Any], name: str) -> float | None:
        if name == "combined set":
            return report[FRAME]["accuracy"]["value"]
        dataset = {"FaceForensics++": "ffpp", "Celeb-DF": "celebdf"}.get(name)
        for part in report["per_method"] if name == "Deepfakes" else report["per_dataset"]:
            if part.get("method") == name or (dataset and part["dataset"] == dataset):
                return part[FRAME]["accuracy"]["value"]
        return None

    rows = tuple(
        (name, *map(format_percent, printed), *(format_percent(measured(model.report, name)) for model in models))
        for name, printed in S1_ACCURACIES.items()
    )
    columns = ("accuracy", "abstract", "section 5", *(model.name for model in models))
    notes = (
        "the document contradicts itself: one network with 93 to 96 % on each set cannot have 66.7 % on their union.",
    )
    return Table("S1, abstract and section 5", protocol_line(models[0].report, FRAME), columns, rows, notes)


def _s2(models: Sequence[ScoredModel]) -> list[Table]:
    columns = [_by_category(model) for model in models]
    names: list[Any] = sorted({name for column in columns for name in column} - {_ORIGINALS, _OVERALL})
    rows: Any = []
    for name in [*names, _ORIGINALS, _OVERALL]:
        cells = [column.get(name, (None, None)) for column in columns]
        texts = (text for loss, share in cells for text in (format_number(loss, 5), format_percent(share)))
        rows.append((name or "Overall", *texts))
    heads = ("Model Testing", *(f"{model.name} {kind}" for model in models for kind in ("Loss", "Acc")))
    protocol = protocol_line(models[0].report)
    notes = (
        "Loss: mean over frames; Acc: videos. Every row except the last has one class only, on which a constant "
        "verdict scores 100 % or 0 %: read it with the AUC by method.",
        _accuracy_note(models[0].report[VIDEO]),
    )
    tables = [Table("S2, table 7.6", protocol, heads, tuple(rows), notes)]
    balanced = tuple(
        (model.name, format_percent(model.report[VIDEO]["balanced_accuracy"]["value"])) for model in models
    )
    tables.append(Table("S2, table 7.7", protocol_line(models[0].report, VIDEO), ("", "Balanced Acc"), balanced))
    lists = [_worst(model) for model in models]
    empty = (NOTHING,) * 3
    rows = tuple(
        sum((one[index] if index < len(one) else empty for one in lists), ()) for index in range(max(map(len, lists)))
    )
    heads = tuple(f"{model.name} {kind}" for model in models for kind in ("method", "filename", "loss"))
    title = "S2, tables 5.5 and 7.4: samples with worst loss"
    tables.append(Table(title, protocol_line(models[0].report, VIDEO), heads, rows))
    return tables


def _s3(models: Sequence[ScoredModel]) -> list[Table]:
    rows, notes = [], []
    for model in models:
        known, metrics = model.training, model.report[FRAME]
        rows.append(
            (model.name, format_percent(known.get("train_accuracy")), format_percent(known.get("val_accuracy")),
             format_percent(metrics["accuracy"]["value"]), format_number(known.get("train_loss"), 4),
             _minutes(known.get("seconds")), format_count(metrics["n"]))
        )  # fmt: skip
        notes.append(f"{model.name}: {_accuracy_note(metrics)}")
        if not known:
            notes.append(f"{model.name} is not a run of 'tfdfd train' with a record of its training.")
    columns = (
        "", "Training accuracy", "Validation accuracy", "Test accuracy", "Training cross entropy",
        "Training time (mins)", "Test sample size",
    )  # fmt: skip
    return [Table("S3, table 2", protocol_line(models[0].report, FRAME), columns, tuple(rows), tuple(notes))]


def _s4(models: Sequence[ScoredModel]) -> list[Table]:
    aucs: dict[str, dict[bool, float | None]] = {}
    for model in models:
        with_srm = model.network.startswith(_SRM)
        name = model.network.removeprefix(_SRM)
        if with_srm in aucs.setdefault(name, {}):
            raise ValueError(f"--table s4 has one cell per network, and both models are {model.network}.")
        aucs[name][with_srm] = model.report[FRAME]["auc"]["value"]
    rows = tuple(
        (name, *(format_percent(metrics.get(srm), 0) for srm in (False, True))) for name, metrics in aucs.items()
    )
    notes = [f"{model.name}: {_accuracy_note(model.report[FRAME])}" for model in models]
    protocol = protocol_line(models[0].report, FRAME)
    title = "S4, table 2: AUC"
    return [Table(title, protocol, ("Methods", "Without SRM", "With SRM"), rows, tuple(notes))]


_MAKERS = {"s0": _s0, "s1": _s1, "s2": _s2, "s3": _s3, "s4": _s4}
DOCUMENTS = tuple(_MAKERS)


def _accuracy_note(metrics: dict[str, Any]) -> str:
    accuracy, balanced = (format_percent(metrics[name]["value"]) for name in ("accuracy", "balanced_accuracy"))
    return (
        f"accuracy {accuracy}, majority baseline {format_percent(metrics['majority'])}, balanced accuracy {balanced}."
    )


def _by_category(model: ScoredModel) -> dict[str | None, tuple[float, float]]:
    """Mean loss of frames and accuracy of videos, by method and overall."""
    threshold, aggregation = (model.report["protocol"][name] for name in ("threshold", "aggregation"))
    losses: dict[str | None, list[float]] = {}
    rights: dict[str | None, list[bool]] = {}
    for row in model.rows:
        if row.status == OK:
            for name in (_category(row), _OVERALL):
                losses.setdefault(name, []).append(_loss(row))
    for video in aggregate_videos(model.rows, aggregation):
        if video.status == OK:
            for name in (_category(video), _OVERALL):
                rights.setdefault(name, []).append((video.fake_probability >= threshold) == (video.label == FAKE))
    return {name: (_mean(losses[name]), _mean(rights[name])) for name in losses}


def _worst(model: ScoredModel) -> list[tuple[str | None, str, str]]:
    losses = []
    for video in aggregate_videos(model.rows):
        if video.status == OK:
            losses.append((_mean([_loss(crop) for crop in video.crops]), _category(video), video.video))
    losses.sort(key=lambda one: (-one[0], one[2]))
    return [(method, video.rsplit("/", 1)[-1], format_number(loss, 2)) for loss, method, video in losses[:_HARDEST]]


def _category(row: ScoreRow | Video) -> str | None:
    return _ORIGINALS if row.label == REAL else row.method


def _loss(row: ScoreRow) -> float:
    given: Any = row.fake_probability if row.label == FAKE else 1 - row.fake_probability  # type: ignore[operator]
    return -math.log(max(given, LOG_LOSS_CLIP))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _minutes(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{int(seconds // 60)}:{int(seconds % 60):02}"
