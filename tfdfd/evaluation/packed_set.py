"""A set of crops in shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from tfdfd.data.crops import Faces
from tfdfd.data.tables import FaceRow
from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.pipelines.datasets import eval_pipeline
from tfdfd.pipelines.shards import open_shards, read_records

_NO_BOX = (0, 0, 0, 0)


class PackedSet(JudgedSet):
    """The crops of shards, which are read from the first to the last; arguments as of `JudgedSet`."""

    has_tracks = False

    def __init__(self, where: str, size: int, split: str | None = None, name: str | None = None):
        super().__init__(where, Faces(None, packed_rows(where, split)), size, split, name)

    def parts(self, length: int) -> list[range]:
        return [range(len(self.rows))]

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        for image, _ in eval_pipeline(self.where, self.size, batch_size, split=self.split).as_numpy_iterator():
            yield image

    def unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        return {}  # packed crops were whole; what is not now is a damaged shard, an error

    def pixels(self, file: str, method: str) -> np.ndarray:
        raise KeyError(file)


def packed_rows(where: str, split: str | None = None) -> tuple[FaceRow, ...]:
    """What shards say of their crops, and the digests of these; time, track and box they do not say."""
    return tuple(map(_row, read_records(open_shards(where, split))))


def _row(record):
    return FaceRow(
        file=record.path,
        dataset=record.dataset,
        video=record.video,
        frame=record.frame,
        time_s=0.0,
        track=0,
        box=_NO_BOX,
        score=None,
        label=record.label,
        method=record.method,
        source_id=record.source_id,
        split=record.split,
        sha256=hashlib.sha256(record.image).hexdigest(),
    )
