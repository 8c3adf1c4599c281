"""A network's scores of held-out crops, and what an epoch is judged by."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np

from tfdfd.data.tables import FaceRow
from tfdfd.metrics.metrics import auc, balanced_accuracy, brier, log_loss
from tfdfd.metrics.scores import ScoreRow, write_scores
from tfdfd.training.crop_set import VAL, CropSet
from tfdfd.training.errors import TrainingError

# What is best: of losses the smallest, of areas the largest.
_SIGNS = {"val_loss": -1, "val_auc": 1, "val_video_auc": 1, "val_video_balanced_accuracy": 1}
LAST_SCORES = "last_val_scores.csv"
CROSS_ENTROPY = "binary_crossentropy"
# The squared error of a probability is its Brier score.
_LOSSES = {CROSS_ENTROPY: log_loss, "mean_squared_error": brier}


def score(model: keras.Model, crops: CropSet, split: str = VAL) -> tuple[list[FaceRow], np.ndarray]:
    """The rows of a split and P(fake) of each crop, float64 `(n,)`.

    Raises:
        TrainingError: the network answers something that is no probability.
    """
    images, rows = crops.images(split)
    scores = np.asarray(model.predict(images, verbose=0), np.float64).reshape(-1)
    if len(scores) != len(rows):
        raise TrainingError(f"{len(scores)} scores of {len(rows)} crops of split {split!r}: the set changed meanwhile.")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise TrainingError(f"{model.name} answers {scores[bad]} for {rows[bad].file}: its weights are damaged.")
    return rows, scores


def validate(model: keras.Model, crops: CropSet, loss: str = CROSS_ENTROPY) -> dict:
    """`val_loss` and `val_accuracy` (at 0.5) of crops, `val_auc` of crops, `val_video_auc` of videos scored by the mean
    of their crops, and `val_video_balanced_accuracy` (at 0.5) of the same.

    Args:
        model: the network.
        crops: the set.
        loss: the recipe's, so that a curve of it can be read beside that of training.
    """
    return figures(*score(model, crops), loss)


def figures(rows: list[FaceRow], scores: np.ndarray, loss: str = CROSS_ENTROPY) -> dict:
    """The same of scores, `(n,)`, that are there already."""
    labels = np.array([row.label for row in rows])
    video_labels, video_scores = videos_of(rows, scores)
    return {
        "val_loss": _LOSSES[loss](labels, scores),
        "val_accuracy": float(((scores >= 0.5) == labels).mean()),
        "val_auc": auc(labels, scores),
        "val_video_auc": auc(video_labels, video_scores),
        "val_video_balanced_accuracy": balanced_accuracy(video_labels, video_scores, 0.5),
    }


def write_last_scores(model: keras.Model, crops: CropSet, folder: str | os.PathLike) -> None:
    """Writes the validation scores of the last epoch, for `tfdfd evaluate --from-scores` (S2, tables 5.3 and 5.4).

    Args:
        model: with the weights of the last epoch.
        crops: the set.
        folder: of the run.
    """
    rows, scores = score(model, crops)
    lines = [
        ScoreRow(row.file, row.dataset, row.video, row.frame, row.track, row.label, row.method, row.source_id,
                 row.compression, row.split, float(value))
        for row, value in zip(rows, scores, strict=True)
    ]  # fmt: skip
    write_scores(Path(folder) / LAST_SCORES, lines)


def is_better(row: dict, other: dict, monitor: str) -> bool:
    """Whether an epoch is better than another; of those that are equally good, as they often are on few videos, the one
    of smaller loss is."""
    sign = _SIGNS[monitor]
    return (sign * row[monitor], -row["val_loss"]) > (sign * other[monitor], -other["val_loss"])


def videos_of(rows: list[FaceRow], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and mean score of each video, `(videos,)` both, in the order in which they first come."""
    places = {}
    for place, row in enumerate(rows):
        places.setdefault((row.dataset, row.video), []).append(place)
    labels = np.array([rows[some[0]].label for some in places.values()])
    return labels, np.array([scores[some].mean() for some in places.values()])
