"""The crops that a network is trained and validated on, and what a run has to say of them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.leaks import refuse_leaks
from tfdfd.data.orders import balanced, dual, shuffled, various
from tfdfd.data.pair_sets import BlendedPairs, blended_row
from tfdfd.data.tables import FAKE, REAL
from tfdfd.pipelines.datasets import blended_eval, blended_pipeline, eval_pipeline, train_pipeline
from tfdfd.training.recipe import BLENDED, CROPS, Recipe
from tfdfd.workdir import differences

TRAIN, VAL = "train", "val"


class CropSet:
    """Training and validation crops of a face set.

    Args:
        where: a `faces.csv` with splits, or its folder.
        recipe: what is trained.
        size: side of the square that the network takes.
        allow_leaks: whether a set whose splits share sources, people or files is taken all the same.

    Attributes:
        size: of what it gives, pixels.
        count: of crops to train on, blended ones included.
        steps: batches of an epoch.

    Raises:
        ValueError: no such set, no crops of a split, one class only, or leaks.
    """

    def __init__(self, where: str | os.PathLike | Faces, recipe: Recipe, size: int, allow_leaks: bool = False):
        everything = faces_of(where)
        refuse_leaks(everything.rows, allow_leaks)
        # A table without digests would not tell that a crop has been replaced.
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

    def digests(self) -> dict:
        """What a run says of its data: digest of the table and counts of what was taken; and where it lies."""
        faces = self._parts[TRAIN]
        counts = {
            split: dict(sorted(Counter(row.method for row in part.rows).items())) for split, part in self._parts.items()
        }
        return {"folder": str(faces.root), "rows_sha256": _digest(self._parts.values()), "crops": counts}

    def refuse_other(self, digests: dict, what: str) -> None:
        """Raises `ValueError` with what differs unless `digests` are of the same data, wherever it lies."""
        words = differences(digests, self.digests(), ("folder",))
        if words:
            raise ValueError(f"{what}: {words}.")

    def faces(self, split: str) -> Faces:
        """The crops of a split as files, for what keeps or orders them otherwise.

        Raises:
            ValueError: fakes are blended as they are wanted, and are no files.
        """
        if self._pairs:
            raise ValueError(
                f"{self._recipe.procedure!r} works on files of crops, and data={BLENDED} makes its fakes as it goes; "
                f"set data={CROPS}, with a set that has both classes."
            )
        return self._parts[split]

    def batches(self, epoch: int, first_batch: int = 0):
        """The batches of one epoch from `first_batch` on, `(image, label)`."""
        recipe, place = self._recipe, {"first_epoch": epoch, "first_batch": first_batch, "one_epoch": True}
        if self._pairs:
            return blended_pipeline(self._pairs[TRAIN], self.size, recipe.batch_size, **place)
        return train_pipeline(
            self._parts[TRAIN],
            self.size,
            recipe.batch_size,
            split=None,
            order=_order(recipe),
            seed=recipe.seed,
            augment=recipe.augment,
            **place,
        )

    def images(self, split: str = VAL):
        """The batches to score of a split, `(image, label)`, and the row of each crop, in the same order."""
        batch_size = self._recipe.batch_size
        if self._pairs:
            pairs = self._pairs[split]
            return blended_eval(pairs, self.size, batch_size, split=None), [
                row for real in pairs.rows for row in (real, blended_row(real))
            ]
        part = self._parts[split]
        return eval_pipeline(part, self.size, batch_size, split=None), list(part.rows)

    def _part(self, everything, split):
        part = faces_of(everything, split)
        rows = part.rows
        if self._recipe.data == BLENDED:
            rows = tuple(row for row in rows if row.label == REAL)
            if not rows:
                raise ValueError(f"{part.root}: split {split!r} has no real crops; fakes are blended of real ones.")
        counts = Counter(row.label for row in rows)
        if self._recipe.data != BLENDED and len(counts) < 2:
            only = "fake" if FAKE in counts else "real"
            raise ValueError(
                f"{part.root}: all {len(rows):,} crops of split {split!r} are {only}; a network learns nothing of one "
                "class. Split again with 'tfdfd split', or add the other class with 'tfdfd merge'."
            )
        # Of clips, the limit counts clips.
        limit = None if self._recipe.procedure == "temporal" else self._recipe.limit
        return replace(part, rows=tuple(limited(rows, limit, self._recipe.seed)))


def _order(recipe):
    if recipe.order in ("dual", "various"):
        return {"dual": dual, "various": various}[recipe.order](recipe.epochs, skip_short=True)
    return {"shuffled": shuffled, "balanced": balanced}[recipe.order]


def limited(rows: Sequence, limit: int | None, seed: int) -> Sequence:
    """At most `limit` of what has a `label`, half of each class where there are enough, in their order."""
    if limit is None or len(rows) <= limit:
        return rows
    before, turn = Counter(), {}
    for place in np.random.default_rng([seed, 3]).permutation(len(rows)).tolist():
        label = rows[place].label
        turn[place] = before[label]
        before[label] += 1
    return [rows[place] for place in sorted(sorted(turn, key=turn.get)[:limit])]


def _digest(parts):
    value = hashlib.sha256()
    for part in parts:
        for row in part.rows:
            value.update(f"{row.file}\0{row.sha256}\0{row.label}\0{row.split}\n".encode("utf-8", "surrogateescape"))
    return value.hexdigest()
