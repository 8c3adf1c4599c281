"""Training and validation sets of crops and clips, and a network's validation scores on them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import keras
import numpy as np

from tfdfd.data.crops import Faces, clips_of, equally_spaced, faces_of
from tfdfd.data.leaks import refuse_leaks
from tfdfd.data.orders import Order, balanced, dual, pair_faces, shuffled, various
from tfdfd.data.pair_sets import BlendedPairs, blended_row
from tfdfd.data.tables import FAKE, REAL, FaceRow
from tfdfd.files import differences
from tfdfd.metrics import auc, balanced_accuracy, brier, log_loss
from tfdfd.metrics.scores import ScoreRow, write_scores
from tfdfd.pipelines.datasets import blended_eval, blended_pipeline, clip_pipeline, eval_pipeline, train_pipeline
from tfdfd.training import TrainingError
from tfdfd.training.recipe import BLENDED, CROPS, Recipe

TRAIN, VAL = "train", "val"
LAST_SCORES = "last_val_scores.csv"
CROSS_ENTROPY = "binary_crossentropy"
# The squared error of a probability is its Brier score.
_LOSSES = {CROSS_ENTROPY: log_loss, "mean_squared_error": brier}
# Losses are minimized, areas and accuracies are maximized.
_SIGNS = {"val_loss": -1, "val_auc": 1, "val_video_auc": 1, "val_video_balanced_accuracy": 1}
_PAIR_ORDERS: dict[str, Callable[..., Order]] = {"dual": dual, "various": various}
# A `tf.data.Dataset`; only `tfdfd.pipelines` imports TensorFlow.
Batches: TypeAlias = Any
_Labeled = TypeVar("_Labeled")


class CropSet:
    """Training and validation crops of a face set.

    Args:
        where: a `faces.csv` with splits, or its folder.
        recipe: the recipe of the training.
        size: side of the network's square input, pixels.
        allow_leaks: whether to accept a set whose splits share sources, people or files.

    Attributes:
        size: as given.
        count: number of training crops, blended ones included.
        steps: number of batches per epoch.
        short_pairs: number of pairs of a fake and its original that S2's orders omit for too few frames.

    Raises:
        ValueError: the set is missing, a split is empty or has one class only, or splits leak.
    """

    def __init__(self, where: str | os.PathLike | Faces, recipe: Recipe, size: int, allow_leaks: bool = False):
        everything = faces_of(where)
        refuse_leaks(everything.rows, allow_leaks)
        # A table without digests would not reveal that a crop was replaced.
        everything = everything.with_digests()
        self._recipe, self.size = recipe, size
        self._parts = {split: self._part(everything, split) for split in (TRAIN, VAL)}
        self._pairs = {}
        if recipe.data == BLENDED:
            self._pairs = {
                split: BlendedPairs(part, size, split=None, seed=recipe.seed, fakes=recipe.fakes, medium=recipe.medium)
                for split, part in self._parts.items()
            }
        self.count = 2 * len(self._pairs[TRAIN].rows) if self._pairs else len(self._parts[TRAIN].rows)
        self.steps = len(self.batches(0))
        self.short_pairs = 0
        if recipe.order in _PAIR_ORDERS and not self._pairs:
            rows = self._parts[TRAIN].rows
            used = len(_order(recipe)(rows, recipe.batch_size, recipe.seed)(0))
            each = recipe.batch_size if recipe.order == "dual" else 2
            self.short_pairs = len(pair_faces(rows)[0]) - used // each

    def digests(self) -> dict:
        """Returns a description of the data: digest of the table, counts by method, and the folder."""
        faces = self._parts[TRAIN]
        counts = {
            split: dict(sorted(Counter(row.method for row in part.rows).items())) for split, part in self._parts.items()
        }
        return {"folder": str(faces.root), "rows_sha256": _digest(self._parts.values()), "crops": counts}

    def refuse_other(self, digests: dict, what: str) -> None:
        """Raises `ValueError` with the differences unless `digests` describe the same data, in any folder."""
        message = differences(digests, self.digests(), ("folder",))
        if message:
            raise ValueError(f"{what}: {message}.")

    def faces(self, split: str) -> Faces:
        """Returns the crops of a split as files, for procedures that read them in another way.

        Raises:
            ValueError: the fakes are blended on demand, and have no files.
        """
        if self._pairs:
            raise ValueError(
                f"procedure={self._recipe.procedure} reads crop files, but data={BLENDED} makes its fakes on demand; "
                f"set data={CROPS}, with a set that has both classes."
            )
        return self._parts[split]

    def batches(self, epoch: int, first_batch: int = 0, one_epoch: bool = True) -> Batches:
        """Returns the batches `(image, label)` of one epoch (from 0), starting at `first_batch`.

        With `one_epoch` false, every further iteration returns the next epoch.
        """
        recipe = self._recipe
        start: dict[str, Any] = {"first_epoch": epoch, "first_batch": first_batch, "one_epoch": one_epoch}
        if self._pairs:
            return blended_pipeline(self._pairs[TRAIN], self.size, recipe.batch_size, **start)
        return train_pipeline(
            self._parts[TRAIN],
            self.size,
            recipe.batch_size,
            split=None,
            order=_order(recipe),
            seed=recipe.seed,
            augment=recipe.augment,
            **start,
        )

    def images(self, split: str = VAL) -> tuple[Batches, list[FaceRow]]:
        """Returns the batches `(image, label)` of a split for scoring, and the row of each crop in the same order."""
        batch_size = self._recipe.batch_size
        if self._pairs:
            pairs = self._pairs[split]
            return blended_eval(pairs, self.size, batch_size, split=None), [
                row for real in pairs.rows for row in (real, blended_row(real))
            ]
        part = self._parts[split]
        return eval_pipeline(part, self.size, batch_size, split=None), list(part.rows)

    def _part(self, everything: Faces, split: str) -> Faces:
        part = faces_of(everything, split)
        rows = part.rows
        if self._recipe.data == BLENDED:
            rows = tuple(row for row in rows if row.label == REAL)
            if not rows:
                raise ValueError(f"{part.root}: split {split!r} has no real crops; fakes are blended from real ones.")
        counts = Counter(row.label for row in rows)
        if self._recipe.data != BLENDED and len(counts) < 2:
            only = "fake" if FAKE in counts else "real"
            raise ValueError(
                f"{part.root}: all {len(rows):,} crops of split {split!r} are {only}; a network learns nothing from "
                "one class. Split again with 'tfdfd split', or add the other class with 'tfdfd merge'."
            )
        # For clips, the limit counts clips.
        limit = None if self._recipe.procedure == "temporal" else self._recipe.limit
        if split == VAL:
            rows = tuple(equally_spaced(rows, self._recipe.val_frames))
        if split == TRAIN and self._recipe.order in _PAIR_ORDERS and self._recipe.data != BLENDED:
            return replace(part, rows=tuple(limited_pairs(rows, limit, self._recipe.seed)))
        return replace(part, rows=tuple(limited(rows, limit, self._recipe.seed)))


def _order(recipe: Recipe) -> Order:
    if recipe.order in _PAIR_ORDERS:
        return _PAIR_ORDERS[recipe.order](recipe.epochs, skip_short=True)
    return {"shuffled": shuffled, "balanced": balanced}[recipe.order]


def limited(rows: Sequence[_Labeled], limit: int | None, seed: int) -> Sequence[_Labeled]:
    """Returns at most `limit` items that have a `label`, half of each class if possible, in their order."""
    if limit is None or len(rows) <= limit:
        return rows
    counts: Counter[int] = Counter()
    rank: dict[int, int] = {}
    for position in np.random.default_rng([seed, 3]).permutation(len(rows)).tolist():
        label = rows[position].label
        rank[position] = counts[label]
        counts[label] += 1
    return [rows[position] for position in sorted(sorted(rank, key=rank.__getitem__)[:limit])]


def limited_pairs(rows: Sequence[FaceRow], limit: int | None, seed: int) -> Sequence[FaceRow]:
    """Returns at most `limit` crops, or those of one original with its fakes: whole originals with all their fakes.

    Originals with fakes come first, so that the result has the pairs that the order needs.
    """
    if limit is None or len(rows) <= limit:
        return rows
    families: dict[tuple, list[int]] = {}
    for position, row in enumerate(rows):
        families.setdefault((row.dataset, row.compression, row.source_id[:1]), []).append(position)
    groups = list(families.values())
    draws = np.random.default_rng([seed, 4]).permutation(len(groups))
    classes = [len({rows[position].label for position in group}) for group in groups]
    kept: list[int] = []
    for number in sorted(range(len(groups)), key=lambda number: (-classes[number], draws[number])):
        if not kept or len(kept) + len(groups[number]) <= limit:
            kept += groups[number]
    return [rows[position] for position in sorted(kept)]


def _digest(parts: Iterable[Faces]) -> str:
    value = hashlib.sha256()
    for part in parts:
        for row in part.rows:
            value.update(f"{row.file}\0{row.sha256}\0{row.label}\0{row.split}\n".encode("utf-8", "surrogateescape"))
    return value.hexdigest()


class ClipSet:
    """Training and validation clips of a recurrent network, one per video; each clip is several crops of a `CropSet`.

    It has the interface of `CropSet` that `fit`, `validate` and `finish` use. Training clips are shuffled each epoch,
    and take crops from another part of the video each time; both are functions of seed and epoch. Validation clips take
    the crops in the middle.

    Attributes:
        size: side of the frames, pixels.
        steps: number of batches per epoch.
        counts: videos with and without a clip, by split and class, before a limit; see `clips_of`.

    Raises:
        ValueError: a split has no clips of one class, or the recipe has settings that clips do not support.
    """

    def __init__(self, crops: CropSet, recipe: Recipe):
        for name, expected in (("order", "shuffled"), ("augment", None)):
            if getattr(recipe, name) != expected:
                value = "none" if expected is None else expected
                raise ValueError(f"clips support {name}={value} only; received {name}={getattr(recipe, name)}.")
        self._crops, self._recipe, self.size = crops, recipe, crops.size
        self._clips, self.counts = {}, {}
        for split in (TRAIN, VAL):
            rows = crops.faces(split).rows
            self._clips[split] = limited(clips_of(rows, recipe.frames)[0], recipe.limit, recipe.seed)
            for label, name in enumerate(("real", "fake")):
                counts = clips_of([row for row in rows if row.label == label], recipe.frames)[1]
                if not counts["clips"]:
                    raise ValueError(
                        f"split {split!r} has no {name} video with two crops of one face, so no {name} clip; extract "
                        "more frames of each video, or split again."
                    )
                self.counts[f"{split} {name}"] = dict(counts)
        self.steps = -(-len(self._clips[TRAIN]) // recipe.batch_size)

    def digests(self) -> dict:
        """Returns a description of the data, as `CropSet.digests`, with the counts of clips."""
        return self._crops.digests() | {"clips": self.counts}

    def batches(self, epoch: int, first_batch: int = 0) -> Batches:
        """Returns the batches `(clip, label)` of one epoch (from 0), starting at `first_batch`."""
        draw, clips = np.random.default_rng([self._recipe.seed, epoch]), self._clips[TRAIN]
        order, offsets = draw.permutation(len(clips)), draw.random(len(clips))
        positions = np.stack([clips[number].frames(self._recipe.frames, offsets[number]) for number in order])
        return self._pipeline(TRAIN, positions, first_batch)

    def images(self, split: str = VAL) -> tuple[Batches, list[FaceRow]]:
        """Returns the clips `(clip, label)` of a split for scoring, and the row of each one's first crop."""
        clips = self._clips[split]
        positions = np.stack([clip.frames(self._recipe.frames) for clip in clips])
        return self._pipeline(split, positions), [clip.row for clip in clips]

    def _pipeline(self, split: str, positions: np.ndarray, first_batch: int = 0) -> Any:
        return clip_pipeline(self._crops.faces(split), positions, self.size, self._recipe.batch_size, first_batch)


def score(model: keras.Model, crops: CropSet | ClipSet, split: str = VAL) -> tuple[list[FaceRow], np.ndarray]:
    """Returns the rows of a split and P(fake) of each crop, float64 `(n,)` in [0, 1].

    Raises:
        TrainingError: an output is not finite, or the set changed.
    """
    images, rows = crops.images(split)
    scores = np.asarray(model.predict(images, verbose=0), np.float64).reshape(-1)
    if len(scores) != len(rows):
        raise TrainingError(f"{len(scores)} scores of {len(rows)} crops of split {split!r}: the set changed meanwhile.")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise TrainingError(f"{model.name} answers {scores[bad]} for {rows[bad].file}: its weights are damaged.")
    return rows, scores


def validate(model: keras.Model, crops: CropSet | ClipSet, loss: str = CROSS_ENTROPY) -> dict[str, float]:
    """Returns the `validation_metrics` of a network on the validation split."""
    return validation_metrics(*score(model, crops), loss)


def validation_metrics(rows: Sequence[FaceRow], scores: np.ndarray, loss: str = CROSS_ENTROPY) -> dict[str, float]:
    """Returns `val_loss`, `val_accuracy` (at 0.5) and `val_auc` of crops, `val_video_auc` of videos and
    their `val_video_balanced_accuracy` (at 0.5).

    A video's score is the mean of its crops' scores.

    Args:
        rows: one row per crop.
        scores: P(fake), `(n,)`.
        loss: the loss of the recipe, so that its curve is comparable to that of training.
    """
    labels = np.array([row.label for row in rows])
    video_labels, video_scores = videos_of(rows, scores)
    return {
        "val_loss": _LOSSES[loss](labels, scores),
        "val_accuracy": float(((scores >= 0.5) == labels).mean()),
        "val_auc": auc(labels, scores),
        "val_video_auc": auc(video_labels, video_scores),
        "val_video_balanced_accuracy": balanced_accuracy(video_labels, video_scores, 0.5),
    }


def write_last_scores(model: keras.Model, crops: CropSet | ClipSet, folder: str | os.PathLike) -> None:
    """Writes the validation scores of the last epoch, for `tfdfd evaluate --from-scores` (S2, tables 5.3 and 5.4).

    Args:
        model: with the weights of the last epoch.
        crops: the set.
        folder: the run folder, which receives `LAST_SCORES`.
    """
    rows, scores = score(model, crops)
    table = [
        ScoreRow(row.file, row.dataset, row.video, row.frame, row.track, row.label, row.method, row.source_id,
                 row.compression, row.split, float(value))
        for row, value in zip(rows, scores, strict=True)
    ]  # fmt: skip
    write_scores(Path(folder) / LAST_SCORES, table)


def is_better(row: dict, other: dict, monitor: str) -> bool:
    """Returns whether one epoch is better than another; ties, which few videos cause often, go to the smaller loss."""
    sign = _SIGNS[monitor]
    return (sign * row[monitor], -row["val_loss"]) > (sign * other[monitor], -other["val_loss"])


def videos_of(rows: Sequence[FaceRow], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns label and mean score of each video, `(videos,)` each, in order of first appearance."""
    positions: dict[tuple[str, str], list[int]] = {}
    for position, row in enumerate(rows):
        positions.setdefault((row.dataset, row.video), []).append(position)
    labels = np.array([rows[crops[0]].label for crops in positions.values()])
    return labels, np.array([scores[crops].mean() for crops in positions.values()])
