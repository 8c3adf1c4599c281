"""The clips that a recurrent network is trained and validated on: several crops of a `CropSet` are one example."""

from __future__ import annotations

import numpy as np

from tfdfd.data.crops import clips_of
from tfdfd.data.tables import FaceRow
from tfdfd.pipelines.datasets import clip_pipeline
from tfdfd.training.crop_set import TRAIN, VAL, CropSet, limited
from tfdfd.training.recipe import Recipe


class ClipSet:
    """Training and validation clips, one of each video; `fit`, `validate` and `finish` take it for a `CropSet`.

    Training takes the clips in a new order each epoch, of each one crops from another part of the video: both are
    functions of seed and epoch. Validation takes the middle ones.

    Args:
        crops: the set.
        recipe: what is trained.

    Attributes:
        size: of what it gives, pixels.
        steps: batches of an epoch.
        counts: for each split and class, videos by whether they have a clip, before a limit; see `clips_of`.

    Raises:
        ValueError: a split has no clips of a class, or the recipe asks for what clips do not have.
    """

    def __init__(self, crops: CropSet, recipe: Recipe):
        for name, expected in (("order", "shuffled"), ("augment", None)):
            if getattr(recipe, name) != expected:
                told = "none" if expected is None else expected
                raise ValueError(f"clips are taken with {name}={told} only; received {name}={getattr(recipe, name)}.")
        self._crops, self._recipe, self.size = crops, recipe, crops.size
        self._clips, self.counts = {}, {}
        for split in (TRAIN, VAL):
            rows = crops.faces(split).rows
            self._clips[split] = limited(clips_of(rows, recipe.frames)[0], recipe.limit, recipe.seed)
            for label, name in enumerate(("real", "fake")):
                found = clips_of([row for row in rows if row.label == label], recipe.frames)[1]
                if not found["clips"]:
                    raise ValueError(
                        f"split {split!r} has no {name} video with two crops of one face, so no {name} clip; extract "
                        "more frames of each video, or split again."
                    )
                self.counts[f"{split} {name}"] = dict(found)
        self.steps = -(-len(self._clips[TRAIN]) // recipe.batch_size)

    def digests(self) -> dict:
        """What a run says of its data."""
        return self._crops.digests() | {"clips": self.counts}

    def batches(self, epoch: int, first_batch: int = 0):
        """The batches of one epoch from `first_batch` on, `(clip, label)`."""
        draw, clips = np.random.default_rng([self._recipe.seed, epoch]), self._clips[TRAIN]
        order, offsets = draw.permutation(len(clips)), draw.random(len(clips))
        positions = np.stack([clips[number].frames(self._recipe.frames, offsets[number]) for number in order])
        return self._pipeline(TRAIN, positions, first_batch)

    def images(self, split: str = VAL):
        """The clips to score of a split, `(clip, label)`, and the row of each one's first crop, in the same order."""
        clips = self._clips[split]
        return self._pipeline(split, np.stack([clip.frames(self._recipe.frames) for clip in clips])), self.rows(split)

    def rows(self, split: str) -> list[FaceRow]:
        """The row of each clip's first crop."""
        return [clip.row for clip in self._clips[split]]

    def _pipeline(self, split, positions, first_batch=0):
        return clip_pipeline(self._crops.faces(split), positions, self.size, self._recipe.batch_size, first_batch)
