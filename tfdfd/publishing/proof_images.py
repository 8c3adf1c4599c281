"""What an exported network is compared with the Keras model on: noise, faces of the carried clips, a user's crops."""

from __future__ import annotations

import os
from importlib.resources import files

import numpy as np

from tfdfd.data.crops import faces_of as crops_of
from tfdfd.data.crops import read_pixels
from tfdfd.extract.extraction import Request, extract_faces
from tfdfd.faces import build_detector
from tfdfd.faces.crop import resize_crop
from tfdfd.media import Limits
from tfdfd.runtime.opening import proof_crops

CLIPS = ("genuine.mp4", "blended.mp4")
# Of each clip, and of a user's set, evenly spread.
_FRAMES, _CROPS = 4, 64


def proof_images(size: int, data: str | os.PathLike | None = None) -> np.ndarray:
    """uint8 RGB crops `(n, size, size, 3)`: 8 of noise, faces of the two clips that the package carries, then `data`.

    Args:
        size: side of the crops in pixels.
        data: a face set, or a folder with `real/` and `fake/`; up to 64 of its crops, spread over all of it.

    Raises:
        ValueError: there are no crops in `data`, or one cannot be read.
    """
    crops = [*proof_crops(size), *_carried_faces(size)]
    if data is not None:
        faces = crops_of(data)
        for position in np.unique(np.linspace(0, len(faces.rows) - 1, _CROPS).astype(int)):
            crops.append(resize_crop(read_pixels(faces.path(position)), size))
    return np.stack(crops)


def _carried_faces(size):
    detector = build_detector("haar")
    for clip in CLIPS:
        found = extract_faces(str(files("tfdfd") / "samples" / clip), detector, Request(_FRAMES, size), Limits())
        crops = [face.crop for frame in found.frames for face in frame.faces]
        if not crops:
            raise ValueError(f"no face was found in the carried clip {clip} ({found.status}: {found.message}).")
        yield from crops
