"""The source documents' tables in their own layout, so that figures can be laid side by side.

Every one carries what the documents leave out: the majority's share, and who says which class is positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tfdfd.data.tables import FAKE, REAL
from tfdfd.evaluation.table import NOTHING, Table, counted, number, percent
from tfdfd.evaluation.tables import protocol_line
from tfdfd.metrics.metrics import LOG_LOSS_CLIP
from tfdfd.metrics.report import FRAME, VIDEO
from tfdfd.metrics.scores import OK, ScoreRow, aggregate_videos

_SRM = "srm_"
_HARDEST = 10
# Rows of S2's tables; no method has the name None.
_ORIGINALS, _OVERALL = "original_sequences", None


@dataclass(frozen=True)
class Judged:
    """A model's scores with their judgement.

    Attributes:
        name: of the model.
        network: of `tfdfd.models`.
        rows: scores.
        judged: of `tfdfd.metrics.report.compute_report`.
        trained: of its run: `train_accuracy`, `val_accuracy`, `train_loss`, `seconds`; None where it is not known.
    """

    name: str
    network: str
    rows: Sequence[ScoreRow]
    judged: dict
    trained: dict


def document_tables(document: str, models: Sequence[Judged]) -> list[Table]:
    """The tables of `s0` ... `s4` for one model or more, all judged on the same set.

    Raises:
        ValueError: no such document.
    """
    if document not in _MAKERS:
        raise ValueError(f"--table must be one of {', '.join(_MAKERS)}; received {document!r}.")
    return _MAKERS[document](models)


def _s0(models):
    tables = []
    for model in models:
        found = model.judged[FRAME]["confusion"] or {}
        rows = tuple(
            (said, *(counted(found.get(f"{kind}_as_{verdict}", 0)) for verdict in ("fake", "real")))
            for said, kind in (("positive", "fake"), ("negative", "real"))
        )
        notes = (
            f"pos/pos {rows[0][1]}, pos/neg {rows[0][2]}, neg/pos {rows[1][1]}, neg/neg {rows[1][2]}: actual class "
            "first, positive = fake.",
            _accuracy_note(model.judged[FRAME]),
        )
        protocol = protocol_line(model.judged, FRAME)
        tables.append(Table("S0, tables 1 and 2", protocol, (model.name, "positive", "negative"), rows, notes))
    return tables


def _s1(models):
    tables = []
    for model in models:
        found = model.judged[FRAME]
        if not found["classes"]:
            continue
        lines = {"0 (real)": "real", "1 (fake)": "fake", "Macro avg": "macro", "weighted avg": "weighted"}
        rows = [
            (title, *(number(found["classes"][name][key], 2) for key in ("precision", "recall", "f1")),
             counted(found["classes"][name]["support"]))
            for title, name in lines.items()
        ]  # fmt: skip
        rows.insert(2, ("Accuracy", "", "", number(found["accuracy"]["value"], 2), counted(found["n"])))
        columns = (model.name, "precision", "recall", "f1-score", "support")
        notes = (
            "0 is real and 1 is fake; in the document, whose set calls real 1, it is the other way round.",
            _accuracy_note(found),
        )
        tables.append(Table("S1, tables 4 and 5", protocol_line(model.judged, FRAME), columns, tuple(rows), notes))
    for place, dataset in enumerate(models[0].judged["protocol"]["datasets"]):
        parts = [model.judged["per_dataset"][place][FRAME] for model in models]
        rows = tuple(
            (model.name, percent(part["accuracy"]["value"]), percent(part["auc"]["value"]))
            for model, part in zip(models, parts, strict=True)
        )
        notes = (f"majority baseline of ACC: {percent(parts[0]['majority'])}.",)
        protocol = protocol_line(models[0].judged, FRAME, models[0].judged["per_dataset"][place])
        tables.append(Table(f"S1, tables 6 and 7: {dataset}", protocol, ("Method", "ACC", "AUC"), rows, notes))
    return tables


def _s2(models):
    columns = [_by_category(model) for model in models]
    names = sorted({name for column in columns for name in column} - {_ORIGINALS, _OVERALL})
    rows = []
    for name in [*names, _ORIGINALS, _OVERALL]:
        cells = [column.get(name, (None, None)) for column in columns]
        rows.append((name or "Overall", *(text for loss, share in cells for text in (number(loss, 5), percent(share)))))
    heads = ("Model Testing", *(f"{model.name} {kind}" for model in models for kind in ("Loss", "Acc")))
    protocol = protocol_line(models[0].judged)
    notes = (
        "Loss: mean over frames; Acc: videos. A row but the last has one class only, which a constant answer gets "
        "right at 100 % or 0 %: read it with the AUC by method.",
        _accuracy_note(models[0].judged[VIDEO]),
    )
    tables = [Table("S2, table 7.6", protocol, heads, tuple(rows), notes)]
    balanced = tuple((model.name, percent(model.judged[VIDEO]["balanced_accuracy"]["value"])) for model in models)
    tables.append(Table("S2, table 7.7", protocol_line(models[0].judged, VIDEO), ("", "Balanced Acc"), balanced))
    lists = [_worst(model) for model in models]
    empty = (NOTHING,) * 3
    rows = tuple(
        sum((one[place] if place < len(one) else empty for one in lists), ()) for place in range(max(map(len, lists)))
    )
    heads = tuple(f"{model.name} {kind}" for model in models for kind in ("method", "filename", "loss"))
    title = "S2, tables 5.5 and 7.4: samples with worst loss"
    tables.append(Table(title, protocol_line(models[0].judged, VIDEO), heads, rows))
    return tables


def _s3(models):
    rows, notes = [], []
    for model in models:
        known, found = model.trained, model.judged[FRAME]
        rows.append(
            (model.name, percent(known.get("train_accuracy")), percent(known.get("val_accuracy")),
             percent(found["accuracy"]["value"]), number(known.get("train_loss"), 4), _minutes(known.get("seconds")),
             counted(found["n"]))
        )  # fmt: skip
        notes.append(f"{model.name}: {_accuracy_note(found)}")
        if not known:
            notes.append(f"{model.name} is no run of 'tfdfd train' that tells of its training.")
    columns = (
        "", "Training accuracy", "Validation accuracy", "Test accuracy", "Training cross entropy",
        "Training time (mins)", "Test sample size",
    )  # fmt: skip
    return [Table("S3, table 2", protocol_line(models[0].judged, FRAME), columns, tuple(rows), tuple(notes))]


def _s4(models):
    aucs = {}
    for model in models:
        with_srm = model.network.startswith(_SRM)
        name = model.network.removeprefix(_SRM)
        if with_srm in aucs.setdefault(name, {}):
            raise ValueError(f"--table s4 has one cell for {model.network}, and both models are such.")
        aucs[name][with_srm] = model.judged[FRAME]["auc"]["value"]
    rows = tuple((name, *(percent(found.get(srm), 0) for srm in (False, True))) for name, found in aucs.items())
    notes = [f"{model.name}: {_accuracy_note(model.judged[FRAME])}" for model in models]
    protocol = protocol_line(models[0].judged, FRAME)
    title = "S4, table 2: AUC"
    return [Table(title, protocol, ("Methods", "Without SRM", "With SRM"), rows, tuple(notes))]


_MAKERS = {"s0": _s0, "s1": _s1, "s2": _s2, "s3": _s3, "s4": _s4}
DOCUMENTS = tuple(_MAKERS)


def _accuracy_note(found):
    return (
        f"accuracy {percent(found['accuracy']['value'])}, majority baseline {percent(found['majority'])}, balanced "
        f"accuracy {percent(found['balanced_accuracy']['value'])}."
    )


def _by_category(model):
    """Loss of frames and accuracy of videos, by method and overall."""
    threshold, aggregation = (model.judged["protocol"][name] for name in ("threshold", "aggregation"))
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


def _worst(model):
    losses = []
    for video in aggregate_videos(model.rows):
        if video.status == OK:
            losses.append((_mean([_loss(crop) for crop in video.crops]), _category(video), video.video))
    losses.sort(key=lambda one: (-one[0], one[2]))
    return [(method, video.rsplit("/", 1)[-1], number(loss, 2)) for loss, method, video in losses[:_HARDEST]]


def _category(row):
    return _ORIGINALS if row.label == REAL else row.method


def _loss(row):
    given = row.fake_probability if row.label == FAKE else 1 - row.fake_probability
    return -math.log(max(given, LOG_LOSS_CLIP))


def _mean(values):
    return math.fsum(values) / len(values)


def _minutes(seconds):
    return NOTHING if seconds is None else f"{int(seconds // 60)}:{int(seconds % 60):02}"
