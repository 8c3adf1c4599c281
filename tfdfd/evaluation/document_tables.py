"""Tables of the source documents S0 to S4 in their own layout, for side-by-side comparison.

Each adds what the documents omit: the majority baseline and which class is positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfdfd.data.tables import FAKE, REAL
from tfdfd.evaluation.tables import NOTHING, Table, format_count, format_number, format_percent, protocol_line
from tfdfd.metrics import LOG_LOSS_CLIP
from tfdfd.metrics.report import FRAME, VIDEO
from tfdfd.metrics.scores import OK, ScoreRow, Video, aggregate_videos

_SRM = "srm_"
_HARDEST = 10
_S1_METHODS = {"Deepfakes": "table 6", "Face2Face": "table 7"}
# Accuracies of S1's network in its abstract and in its section 5.
_S1_ACCURACIES = {
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
        name: of the model.
        network: of `tfdfd.models`.
        rows: its scores.
        report: of `tfdfd.metrics.report.compute_report`.
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
        for name, printed in _S1_ACCURACIES.items()
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
    losses: dict[str | None, list[float]]
    rights: dict[str | None, list[bool]]
    losses, rights = {}, {}
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
