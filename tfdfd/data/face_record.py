"""What became of one video or image of an index: one JSON file of a face set, written last, which makes it done."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from tfdfd.media import STATUSES

MULTIPLE = "multiple_faces"
# A video that was read; any other status says why it could not be.
READ = ("ok", "no_face", MULTIPLE)
FAILED = tuple(status for status in STATUSES if status not in READ)
DETECTED, OF_ORIGINAL, STORED = "detected", "original", "stored"


@dataclass
class Record:
    """What became of one video or image.

    Attributes:
        video: its path in the index.
        status: one of `tfdfd.media.STATUSES`, or `multiple_faces` where that rule left it out.
        message: why, or what else is to be known of it.
        kind: `image` or `video` by content.
        duration_s: of a video that was read to its end.
        frames: how many were looked at.
        multiple_faces: whether more than 10 % of its frames have a second face.
        boxes: `detected`, or whose they are: `original`, `stored`.
        crops: the fields of `FaceRow` that are the crop's own.
    """

    video: str
    status: str
    message: str | None = None
    kind: str | None = None
    duration_s: float | None = None
    frames: int = 0
    multiple_faces: bool = False
    boxes: str | None = None
    crops: list[dict] = field(default_factory=list)


def read_record(path: str | os.PathLike) -> Record:
    """The record in a file.

    Raises:
        OSError: it cannot be read.
        ValueError, TypeError: it holds something else.
    """
    return Record(**json.loads(Path(path).read_bytes()))
