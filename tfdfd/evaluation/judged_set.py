"""What a model is judged on: the crops of a face set, and the videos that have none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tfdfd.data.crops import Faces
from tfdfd.data.tables import FaceRow
from tfdfd.metrics.scores import ScoreRow
from tfdfd.pipelines.datasets import eval_pipeline, read_crop

_FOLDER = "folder"


class JudgedSet:
    """The crops of a face set as files, or of one of its splits. What is stored or made otherwise overrides.

    Args:
        where: the folder or file that it was opened from.
        faces: the crops.
        size: side of the square that the network takes.
        split: which one it is, or None.
        name: what the tables call the data; None: as its rows say.

    Attributes:
        rows: `FaceRow`s in the order in which they are scored.
        root: folder that their files are relative to; None where there are none.
        absent: videos and crops that can have no score, and why.
        unlabelled: of videos without a crop whose label is not known, how many of each status.
        videos_known: whether videos without any crop are known of.
    """

    frames: int | None = None
    blended = False
    seed: int | None = None
    has_tracks = True

    def __init__(self, where: str, faces: Faces, size: int, split: str | None = None, name: str | None = None):
        self.where, self.split, self.size, self._name = where, split, size, name
        self.root, self.rows = faces.root, tuple(faces.rows)
        self.absent: tuple[ScoreRow, ...] = ()
        self.unlabelled: Mapping[str, int] = {}
        self.videos_known = False

    @property
    def sources(self) -> Sequence[FaceRow]:
        """The rows of all crops that are opened."""
        return self.rows

    def dataset_of(self, row) -> str:
        """What the tables call the set of a row: its given name, its data set, or for a plain folder that one's."""
        if self._name:
            return self._name
        return (self.root or Path(self.where)).resolve().name if row.dataset == _FOLDER else row.dataset

    def told(self) -> dict:
        """How it is known again: names, split, counts and a digest of its rows."""
        value = hashlib.sha256()
        for row in self.rows:
            value.update(f"{row.file}\0{row.sha256}\0{row.label}\0{row.video}\n".encode("utf-8", "surrogateescape"))
        return {
            "names": sorted({self.dataset_of(row) for row in self.rows}),
            "where": os.path.abspath(self.where),
            "root": None if self.root is None else os.path.abspath(self.root),
            "split": self.split,
            "frames_of_a_clip": self.frames,
            "self_blended": self.blended,
            "seed": self.seed,
            "crops": len(self.rows),
            "rows_sha256": value.hexdigest(),
            "absent": len(self.absent),
            "unlabelled": dict(self.unlabelled),
            "videos_known": self.videos_known,
        }

    def parts(self, length: int) -> list[range]:
        """The rows in pieces that can be scored one after the other."""
        return [range(start, min(start + length, len(self.rows))) for start in range(0, len(self.rows), length)]

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        """What the network takes of these rows: RGB float32 `(batch, size, size, 3)` in [0, 1].

        Raises:
            Exception: a crop cannot be read; `unreadable` says which.
        """
        some = Faces(self.root, tuple(self.rows[number] for number in numbers))
        for image, _ in eval_pipeline(some, self.size, batch_size, split=None).as_numpy_iterator():
            yield image

    def unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        """Of these rows, the status of those whose files cannot be read: `not_found` or `decode_error`."""
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda number: _status(self._files(number)), numbers)
            return {number: status for number, status in zip(numbers, found, strict=True) if status}

    def pixels(self, file: str, method: str) -> np.ndarray:
        """One crop by name, as it lies there or as it is made: RGB uint8 `(height, width, 3)`.

        Raises:
            KeyError: the set has no such file.
            ValueError: it cannot be read.
        """
        if all(row.file != file for row in self.rows):
            raise KeyError(file)
        return read_crop(os.path.join(self.root, file))

    def line(self, number: int, score: float | None, status: str) -> ScoreRow:
        """The line of one row in the table of scores."""
        return self.line_of(self.rows[number], score, status)

    def line_of(self, row: FaceRow, score: float | None, status: str) -> ScoreRow:
        """The line of a crop in the table of scores."""
        same = (row.frame, row.track, row.label, row.method, row.source_id, row.compression, row.split)
        return ScoreRow(row.file, self.dataset_of(row), row.video, *same, score, status)

    def _files(self, number):
        """Of one row, all files that are read."""
        return [os.path.join(self.root, self.rows[number].file)]


def _status(paths):
    """Of the first file that cannot be read; None where all can."""
    for path in paths:
        if not os.path.isfile(path):
            return "not_found"
        try:
            read_crop(path)
        except ValueError:
            return "decode_error"
    return None
