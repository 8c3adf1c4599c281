"""The videos of a face set that have no crop: what `status.csv` says of them, and an index of their labels."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from tfdfd.data.crops import Faces
from tfdfd.data.face_set import StatusRow
from tfdfd.data.tables import FaceRow, IndexRow, read_table, video_of
from tfdfd.metrics.scores import NO_FACE, OK, ScoreRow

STATUS_TABLE = "status.csv"


def absent_videos(
    faces: Faces, split: str | None, index: str | os.PathLike | None = None
) -> tuple[list[tuple[IndexRow, str]], dict[str, int]] | None:
    """The videos of a split without a crop, and how many more there are of unknown label or split.

    Args:
        faces: the whole set, all splits.
        split: which videos; None takes all.
        index: the `index.csv` that the set was extracted from; None: of no video the label is known.

    Returns:
        `(row of the index, status)` of each, and for each status the number of others; None where no `status.csv` is
        beside the crops.

    Raises:
        ValueError: an index, but no `status.csv`; or a damaged table.
    """
    table = Path(faces.root) / STATUS_TABLE
    if not table.is_file():
        if index:
            raise ValueError(f"--index tells the labels of what {table} lists; there is no such file.")
        return None
    with_crops = {row.video for row in faces.rows}
    known = {row.path: row for row in read_table(index, IndexRow)} if index else {}
    found, unknown = [], Counter()
    for status in read_table(table, StatusRow):
        if status.video in with_crops:
            continue
        row = known.get(status.video)
        if row is None or (split is not None and row.split is None):
            unknown[status.status] += 1
        elif split in (None, row.split):
            # A video that was read and has faces, but none that was kept, has none that counts.
            found.append((row, NO_FACE if status.status == OK else status.status))
    return found, dict(sorted(unknown.items()))


def video_line(row: IndexRow | FaceRow, dataset: str, status: str) -> ScoreRow:
    """The line of a video without a score."""
    same = (row.label, row.method, row.source_id, row.compression, row.split)
    return ScoreRow(None, dataset, video_of(row), None, None, *same, None, status)
