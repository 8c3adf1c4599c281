"""Detection on bounded copies of each frame, so that its cost does not grow with the camera."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from tfdfd.faces.face import Face, FaceDetector

# Longest side in pixels of the copy that the detector sees. A still is looked at more closely than one frame of many.
VIDEO_SIDE, IMAGE_SIDE = 640, 1280
# From this ratio of its sides on, a still is looked at in parts along its long side: a copy of the whole would keep
# nothing of a screenshot that was scrolled.
_ELONGATED = 3
# A photograph whose copy is smaller than this share of it (one of more than some 30 megapixels) is looked at again, in
# parts, unless the copy shows a face of so many pixels.
_SECOND_LOOK, _CLEAR_FACE = 0.2, 32
# Size of the copies of that second look. It finds faces from 40 pixels; smaller ones hold too little to be scored.
_PART_SCALE = 0.5
# Pixels of all parts together, so that a still of any size takes seconds.
_MOST_PIXELS = 32_000_000
# Two faces of different parts are one when they share this much of the smaller.
_SAME = 0.5


def detect_bounded(detector: FaceDetector, frames: list[np.ndarray], max_side: int) -> list[list[Face]]:
    """Faces of each RGB uint8 frame in its own pixels, looked for on copies of at most `max_side` pixels."""
    scales = [min(1.0, max_side / max(frame.shape[:2])) for frame in frames]
    copies = [_shrunk(frame, scale) for frame, scale in zip(frames, scales, strict=True)]
    found = detector.detect(copies, scales)
    return [[face.scaled(1 / scale) for face in faces] for faces, scale in zip(found, scales, strict=True)]


def detect_still(detector: FaceDetector, image: np.ndarray, max_side: int) -> tuple[list[Face], float]:
    """Faces of an RGB uint8 image in its own pixels, strongest first, and the largest scale of the copies looked at.

    An image of usual proportions is looked at as by `detect_bounded`, and a large one again in parts if that finds no
    clear face. An elongated one is looked at in parts from the beginning. No copy has a side over `max_side`.
    """
    short, long = sorted(image.shape[:2])
    scale = whole = min(1.0, max_side / long)
    elongated = long >= _ELONGATED * short and whole < 1
    if elongated:
        # Parts twice as long as wide, each half in the next: a face as wide as the image lies wholly in one of them.
        scale = max(whole, _affordable(min(1.0, max_side / (2 * short)), image, overlapping=2))
        looks = _detect_parts(detector, image, max_side, scale, min(short, max_side / scale / 2))
    else:
        looks = [[(face, False) for face in detect_bounded(detector, [image], max_side)[0]]]
    finer = _affordable(_PART_SCALE, image, overlapping=1.5)
    clear = any(face.box[2] * scale >= _CLEAR_FACE for look in looks for face, _ in look)
    if scale < finer and (elongated or (whole < _SECOND_LOOK and not clear)):
        # Faces that are cut by all of these parts had more than a quarter of a part's side above.
        looks += _detect_parts(detector, image, max_side, finer, max_side / finer / 4)
        scale = finer
    return (_merge(looks) if len(looks) > 1 else [face for face, _ in looks[0]]), scale


def _affordable(scale, image, overlapping):
    return min(scale, math.sqrt(_MOST_PIXELS / (overlapping * image.shape[0] * image.shape[1])))


def _detect_parts(detector, image, max_side, scale, overlap):
    """For each part of the image, its faces and whether each is cut by a border that is not the image's."""
    height, width = image.shape[:2]
    side = max_side / scale
    looks = []
    for left, right in _spans(width, side, overlap):
        for top, bottom in _spans(height, side, overlap):
            part = image[top:bottom, left:right]
            faces = detector.detect([_shrunk(part, scale)], [scale])[0]
            looks.append([_placed(face.scaled(1 / scale), (left, top, right, bottom), width, height) for face in faces])
    return looks


def _spans(length, side, overlap) -> Iterator[tuple[int, int]]:
    """Equal stretches of at most `side` that cover `length` and share at least `overlap` with the next."""
    side = min(int(side), length)
    count = 1 if side >= length else 1 + math.ceil((length - side) / max(1, side - overlap))
    for number in range(count):
        start = 0 if count == 1 else round(number * (length - side) / (count - 1))
        yield start, start + side


def _placed(face, part, width, height):
    left, top, right, bottom = part
    x, y, w, h = face.box
    near = 0.02 * max(w, h)
    cut = (x < near and left > 0) or (y < near and top > 0)
    cut = cut or (x + w > right - left - near and right < width) or (y + h > bottom - top - near and bottom < height)
    landmarks = None if face.landmarks is None else face.landmarks + np.float32([left, top])
    return Face((x + left, y + top, w, h), face.score, landmarks), cut


def _merge(looks):
    """Faces of all looks, each once: whole ones before those that a part's border cuts, then the strongest."""
    ranked = [(cut, *_rank(face), number, face) for number, look in enumerate(looks) for face, cut in look]
    kept = []
    for *_, number, face in sorted(ranked, key=lambda item: item[:4]):
        # Faces of one look are different ones: the detector has already merged what is the same.
        if all(number == other or _shared(face.box, kept_face.box) < _SAME for other, kept_face in kept):
            kept.append((number, face))
    return sorted((face for _, face in kept), key=_rank)


def _rank(face):
    """Sorts the strongest first; by size where the detector gives no score."""
    return -(face.score or 0), -face.box[2]


def _shared(box, other):
    """Pixels that two boxes share, as a part of the smaller."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / max(min(box[2] * box[3], other[2] * other[3]), 1e-9)


def _shrunk(frame, scale):
    if scale == 1:
        return frame
    height, width = frame.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
