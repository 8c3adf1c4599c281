"""`scores.csv`: what a model said of every crop of a set, and of which videos it could say nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from tfdfd.data.tables import read_table, write_table
from tfdfd.media import STATUSES

TABLE = "scores.csv"
OK, NO_FACE = "ok", "no_face"
# A face set leaves such a video out by its own rule.
LEFT_OUT = "multiple_faces"


def _maybe(read):
    return lambda cell: read(cell) if cell else None


@dataclass(frozen=True)
class ScoreRow:
    """One crop and its score; or a video, image or crop without one, and why.

    Attributes:
        file: path of the crop, as in `faces.csv`; None where there is none.
        dataset: as of its video.
        video: `path` of its video or image in the index.
        frame: number of the frame, from 0; None where there is no crop.
        track: number of the face's track in the video, from 0; None where there is no crop.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation.
        source_id: names of the original videos that it shows.
        compression: as of its video.
        split: `train`, `val`, `test` or None.
        fake_probability: P(fake) in [0, 1], a Python float; None for any status but `ok`.
        status: `ok`, another one of `tfdfd.media`, or `multiple_faces`.

    Raises:
        ValueError: a score without status `ok`, or the other way round; or a value outside its range.
    """

    file: str | None
    dataset: str
    video: str
    frame: int | None
    track: int | None
    label: int
    method: str
    source_id: tuple[str, ...]
    compression: str | None
    split: str | None
    fake_probability: float | None
    status: str = OK

    READ: ClassVar[dict[str, Callable[[str], object]]] = {
        "file": _maybe(str), "frame": _maybe(int), "track": _maybe(int), "fake_probability": _maybe(float)
    }  # fmt: skip

    def __post_init__(self):
        if self.status not in (*STATUSES, LEFT_OUT):
            raise ValueError(f"status must be one of {', '.join((*STATUSES, LEFT_OUT))}; received {self.status!r}.")
        if (self.status == OK) != (self.fake_probability is not None):
            raise ValueError(
                f"{self.video}: a score is given for status 'ok' and for no other; received status {self.status!r} "
                f"with fake_probability {self.fake_probability!r}."
            )
        if self.status == OK and (self.file is None or self.frame is None or self.track is None):
            raise ValueError(f"{self.video}: a score belongs to a crop; received none of file, frame or track.")
        if self.fake_probability is not None and not (
            isinstance(self.fake_probability, float) and 0 <= self.fake_probability <= 1
        ):
            raise ValueError(
                f"{self.file}: fake_probability must be a Python float in [0, 1]; received {self.fake_probability!r}."
            )


def write_scores(path: str | os.PathLike, rows: Iterable[ScoreRow]) -> None:
    """Writes the rows as CSV, at once or not at all; scores come back to the last bit."""
    write_table(path, rows, ScoreRow)


def read_scores(path: str | os.PathLike) -> list[ScoreRow]:
    """The rows of a `scores.csv`.

    Raises:
        ValueError: no such file, other columns, or a cell that is none of its values; names file and line.
    """
    return read_table(path, ScoreRow)
