"""The detected faces of a video as JSON, as document S2 keeps them: crops are cut from them again without detecting.

An object with an entry a frame that was looked at: its number, and the list of its faces, strongest first, each with
`top`, `bottom`, `left`, `right` in pixels of the upright frame (the lower and right edge are outside), the detector's
`score` (null where it gives none) and the face's `track`.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from tfdfd.files import write_atomically


@dataclass(frozen=True)
class FaceBox:
    """A face in one frame.

    Attributes:
        box: `(x, y, width, height)`, whole pixels.
        score: of the detector; None where it gives none.
        track: number of the face's track in the video.
    """

    box: tuple[int, int, int, int]
    score: float | None
    track: int


def write_boxes(path: str | os.PathLike, frames: dict[int, list[FaceBox]]) -> None:
    """Writes the faces of each frame, at once or not at all."""
    lines = [f'"{frame}": {json.dumps([_written(face) for face in frames[frame]])}' for frame in sorted(frames)]
    write_atomically(path, "{" + ",".join(f"\n {line}" for line in lines) + "\n}\n")


def read_boxes(path: str | os.PathLike) -> dict[int, list[FaceBox]]:
    """The faces of each frame.

    Raises:
        ValueError: no such file, or other content; names the file.
    """
    path = Path(path)
    try:
        frames = json.loads(path.read_bytes())
        return {_number(int(frame)): _read_frame(frame, faces) for frame, faces in frames.items()}
    except OSError as error:
        raise ValueError(f"the boxes {path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no boxes: {type(error).__name__}: {error}; expected JSON such as "
            '{"0": [{"top": 1, "bottom": 9, "left": 2, "right": 8, "score": 0.9, "track": 0}]}.'
        ) from error


def _written(face):
    x, y, width, height = face.box
    edges = {"top": y, "bottom": y + height, "left": x, "right": x + width}
    return edges | {"score": face.score, "track": face.track}


def _read_frame(frame, faces):
    found = [_read(face) for face in faces]
    if len({face.track for face in found}) < len(found):
        raise ValueError(f"two faces of frame {frame} have the same track")
    return found


def _read(face):
    top, bottom, left, right = (face[edge] for edge in ("top", "bottom", "left", "right"))
    if not all(type(edge) is int and abs(edge) < 2**31 for edge in (top, bottom, left, right)):
        raise ValueError(f"edges must be whole numbers; received {face}")
    if bottom < top or right < left:
        raise ValueError(f"bottom and right must not be less than top and left; received {face}")
    score = face["score"]
    if score is not None and not math.isfinite(score):
        raise ValueError(f"score must be a number or null; received {score!r}")
    return FaceBox((left, top, right - left, bottom - top), score, _number(face["track"]))


def _number(value):
    if type(value) is not int or value < 0:
        raise ValueError(f"a number of a frame or track must be at least 0; received {value!r}")
    return value
