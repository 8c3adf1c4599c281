"""Face search on copies of bounded size, so that its cost does not grow with the resolution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tfdfd.faces import Face, FaceDetector

if TYPE_CHECKING:
    from tfdfd.faces.crop import Box

# Longest side in pixels of the copy that the detector sees. An image gets more detail than one of many video frames.
VIDEO_SIDE, IMAGE_SIDE = 640, 1280
# An image whose sides have at least this ratio is searched in parts along its long side: a copy of a whole scrolled
# screenshot would keep no detail.
_ELONGATED = 3
# An image whose copy is scaled below the first value (above about 30 megapixels) is searched again in parts, unless
# the copy shows a face at least as wide as the second value, in pixels.
_SECOND_LOOK, _CLEAR_FACE = 0.2, 32
# Scale of the copies in that second search. It finds faces from 40 px; smaller ones are too small to be scored.
_PART_SCALE = 0.5
# Total pixels of all parts, so that an image of any size takes seconds.
_MOST_PIXELS = 32_000_000
# Faces from different parts are the same if their boxes share this fraction of the smaller one.
_SAME = 0.5


def detect_bounded(detector: FaceDetector, frames: list[np.ndarray], max_side: int) -> list[list[Face]]:
    """Faces of each RGB uint8 frame, in its own pixels, found on copies whose sides are at most `max_side` pixels."""
    scales = [min(1.0, max_side / max(frame.shape[:2])) for frame in frames]
    copies = [_shrunk(frame, scale) for frame, scale in zip(frames, scales, strict=True)]
    detected = detector.detect(copies, scales)
    return [[face.scaled(1 / scale) for face in faces] for faces, scale in zip(detected, scales, strict=True)]


def detect_still(detector: FaceDetector, image: np.ndarray, max_side: int) -> tuple[list[Face], float]:
    """Faces of an RGB uint8 image, in its own pixels and in descending order of score, and the largest scale searched.

    An image of usual proportions is searched as by `detect_bounded`; a large one again in parts if that finds no clear
    face. An elongated image is searched in parts from the start. No side of a copy exceeds `max_side` pixels.
    """
    short, long = sorted(image.shape[:2])
    scale = whole = min(1.0, max_side / long)
    elongated = long >= _ELONGATED * short and whole < 1
    if elongated:
        # Parts twice as long as wide that overlap by half: one of them contains a face as wide as the image.
        scale = max(whole, _affordable(min(1.0, max_side / (2 * short)), image, overlapping=2))
        parts = _detect_parts(detector, image, max_side, scale, min(short, max_side / scale / 2))
    else:
        parts = [[(face, False) for face in detect_bounded(detector, [image], max_side)[0]]]
    finer = _affordable(_PART_SCALE, image, overlapping=1.5)
    clear = any(face.box[2] * scale >= _CLEAR_FACE for part in parts for face, _ in part)
    if scale < finer and (elongated or (whole < _SECOND_LOOK and not clear)):
        # A face that all of these parts cut is wider than a quarter of a part; the first search has found it.
        parts += _detect_parts(detector, image, max_side, finer, max_side / finer / 4)
        scale = finer
    return (_merge(parts) if len(parts) > 1 else [face for face, _ in parts[0]]), scale


def _affordable(scale: float, image: np.ndarray, overlapping: float) -> float:
    return min(scale, math.sqrt(_MOST_PIXELS / (overlapping * image.shape[0] * image.shape[1])))


def _detect_parts(
    detector: FaceDetector, image: np.ndarray, max_side: int, scale: float, overlap: float
) -> list[list[tuple[Face, bool]]]:
    """For each part of the image, its faces, and whether a border inside the image cuts each."""
    height, width = image.shape[:2]
    side = max_side / scale
    parts = []
    for left, right in _spans(width, side, overlap):
        for top, bottom in _spans(height, side, overlap):
            part = image[top:bottom, left:right]
            faces = detector.detect([_shrunk(part, scale)], [scale])[0]
            parts.append([_moved(face.scaled(1 / scale), (left, top, right, bottom), width, height) for face in faces])
    return parts


def _spans(length: int, side: float, overlap: float) -> Iterator[tuple[int, int]]:
    """Equal intervals of at most `side` that cover `length`; successive ones share at least `overlap`."""
    side = min(int(side), length)
    count = 1 if side >= length else 1 + math.ceil((length - side) / max(1, side - overlap))
    for number in range(count):
        start = 0 if count == 1 else round(number * (length - side) / (count - 1))
        yield start, start + side


def _moved(face: Face, part: tuple[int, int, int, int], width: int, height: int) -> tuple[Face, bool]:
    left, top, right, bottom = part
    x, y, w, h = face.box
    near = 0.02 * max(w, h)
    cut = (x < near and left > 0) or (y < near and top > 0)
    cut = cut or (x + w > right - left - near and right < width) or (y + h > bottom - top - near and bottom < height)
    landmarks = None if face.landmarks is None else face.landmarks + np.float32([left, top])  # type: ignore[arg-type,operator]
    return Face((x + left, y + top, w, h), face.score, landmarks), cut


def _merge(parts: Iterable[list[tuple[Face, bool]]]) -> list[Face]:
    """The faces of all parts without duplicates: whole faces take precedence over cut ones, then higher scores."""
    ranked = [(cut, *_rank(face), number, face) for number, part in enumerate(parts) for face, cut in part]
    kept: list[tuple[int, Face]] = []
    for *_, number, face in sorted(ranked, key=lambda item: item[:4]):
        # Faces of one part are distinct: the detector has merged duplicates.
        if all(number == other or _shared(face.box, kept_face.box) < _SAME for other, kept_face in kept):
            kept.append((number, face))
    return sorted((face for _, face in kept), key=_rank)


def _rank(face: Face) -> tuple[float, float]:
    """Sort key for descending scores; descending sizes if the detector gives no score."""
    return -(face.score or 0), -face.box[2]


def _shared(box: Box, other: Box) -> float:
    """Area of the intersection of two boxes as a fraction of the smaller."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / max(min(box[2] * box[3], other[2] * other[3]), 1e-9)


def _shrunk(frame: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return frame
    height, width = frame.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
