"""Faces that were found: square crops, measures of how well they were found, and tracks of a person through a clip."""

from __future__ import annotations

import cv2
import numpy as np

from tfdfd.faces import MARGIN

Box = tuple[float, float, float, float]


def square_around(box: Box, margin: float = MARGIN) -> tuple[int, int, int]:
    """The square that is centered on a box (document S2).

    Args:
        box: `(x, y, width, height)` in pixels.
        margin: side of the square relative to the long side of the box.

    Returns:
        `(x, y, side)` in whole pixels; may extend beyond the frame.
    """
    x, y, width, height = box
    side = max(1, round(max(width, height) * margin))
    return round(x + width / 2 - side / 2), round(y + height / 2 - side / 2), side


def crop_face(frame: np.ndarray, box: Box, size: int, margin: float = MARGIN) -> np.ndarray:
    """Crops a face, with replicated border pixels outside the frame.

    Args:
        frame: `(height, width, 3)`.
        box: `(x, y, width, height)` in pixels of the frame.
        size: side of the crop in pixels.
        margin: side of the crop relative to the long side of the box, at least 1.

    Returns:
        `(size, size, 3)` of the frame's dtype.
    """
    height, width = frame.shape[:2]
    x, y, side = square_around(box, margin)
    left, top = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    right, bottom = min(max(x + side, left + 1), width), min(max(y + side, top + 1), height)
    inside = frame[top:bottom, left:right]
    # Shrinking comes before padding, so that a box far larger than the frame costs no memory.
    before, after = (top - y, left - x), (y + side - bottom, x + side - right)
    if any(before) or any(after):
        factor = min(1.0, 2 * size / side)
        if factor < 1:
            shape = (max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor)))
            inside = cv2.resize(inside, shape, interpolation=cv2.INTER_AREA)
        top, bottom, left, right = (
            max(0, round(value * factor)) for value in (before[0], after[0], before[1], after[1])
        )
        inside = cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return resize_crop(inside, size)


def resize_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes an image `(height, width, 3)` to `(size, size, 3)`: bilinear, as the MesoNet authors do, or by area where
    that would alias."""
    shrink = min(image.shape[:2]) / size
    method = cv2.INTER_AREA if shrink >= 2 else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)


# Side of the window, in pixels of the source, in which block artifacts are measured.
_WINDOW = 256
_BLOCK = 8  # of JPEG; the transforms of video codecs are multiples or divisors
# Smallest window with enough blocks to tell their edges from those of the face.
_LEAST_WINDOW = 4 * _BLOCK
_DIGITS = 4
# Measures by name: the words for a reader, and which ends of the range count. A face larger than the network's input
# is reduced to it, and less compression or a straighter pose than validation had does no harm.
LOW, HIGH, BOTH = "low", "high", "both"
MEASURES = {
    "side": ("size of the face crop in pixels", LOW),
    "sharpness": ("sharpness (variance of the Laplacian)", BOTH),
    "blockiness": ("compression (block artifacts)", HIGH),
    "turn": ("turn of the head (offset of the nose)", HIGH),
    "tilt": ("tilt of the head in degrees", HIGH),
}


def measure_face(source: np.ndarray, crop: np.ndarray, landmarks: np.ndarray | None = None) -> dict[str, float]:
    """Measures one face.

    Args:
        source: RGB uint8 `(height, width, 3)`: the part of the frame that the crop was made from, in its own pixels.
        crop: RGB uint8 `(size, size, 3)`, as the network gets it.
        landmarks: five points `(5, 2)` in pixels of one frame: left eye, right eye, nose, corners of the mouth.

    Returns:
        Values by name of `MEASURES`: `side` in pixels of the source, at most those of the crop; `sharpness`, the
        variance of the Laplacian of the gray crop (Pech-Pacheco et al., 2000); `blockiness`, the step at the edges of
        an 8-pixel grid of any phase as a multiple of the mean step; `turn`, the distance of the nose from the middle
        of the eyes along the line through them, in distances of the eyes; `tilt` of that line in degrees. What cannot
        be measured is absent.
    """
    values = {"side": float(min(*source.shape[:2], crop.shape[0]))}
    values["sharpness"] = float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
    height, width = (min(side, _WINDOW) for side in source.shape[:2])
    if min(height, width) >= _LEAST_WINDOW:
        top, left = (source.shape[0] - height) // 2, (source.shape[1] - width) // 2
        window = cv2.cvtColor(source[top : top + height, left : left + width], cv2.COLOR_RGB2GRAY).astype(np.float32)
        values["blockiness"] = (_grid_steps(window) + _grid_steps(window.T)) / 2
    if landmarks is not None:
        values |= _pose(np.asarray(landmarks, np.float64))
    return {name: round(value, _DIGITS) for name, value in values.items()}


def _grid_steps(gray: np.ndarray) -> float:
    """How far the steps between columns at the strongest phase of the grid exceed their neighbors', per mean step."""
    steps = np.abs(np.diff(gray, axis=1)).mean(0)
    excess = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    excess = excess[: len(excess) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    return float(np.median(excess, 0).max() / max(steps.mean(), 1e-6))


def _pose(points: np.ndarray) -> dict[str, float]:
    left, right, nose = points[:3]
    across = right - left
    distance = float(np.hypot(*across))
    if distance < 1:
        return {}
    turn = float((nose - (left + right) / 2) @ across) / distance**2
    return {"turn": abs(turn), "tilt": abs(float(np.degrees(np.arctan2(across[1], across[0]))))}


# Sampled frames can be seconds apart, so position alone cannot link faces, and appearance alone confuses people; either
# may be weak if the other is strong. Chosen so that two people side by side stay apart and a walking person stays one.
MIN_AFFINITY = 0.5
_THUMB = 24


def equal_parts(length: int, count: int, offset: float = 0.5) -> np.ndarray:
    """Positions of `count` equally spaced items among `length`, int64 `(count,)`.

    The items are divided into `count` equal parts, and the one at `offset` of each part, in [0, 1), is taken. Fewer
    items than parts are repeated.
    """
    places = (np.arange(count) + offset) * length / count
    return np.minimum(places.astype(np.int64), length - 1)


def link_faces(frames: list[list[tuple[tuple[float, float, float, float], np.ndarray]]]) -> list[list[int]]:
    """Assigns each face of each frame to a track. Two faces of one frame never share a track.

    Args:
        frames: for each frame in time order, its faces as `(box, crop)`: box `(x, y, width, height)` in pixels,
            crop RGB uint8 square.

    Returns:
        For each frame, the track numbers of its faces, from 0 in order of first appearance.
    """
    tracks: list[dict] = []
    numbers = []
    for faces in frames:
        appearances = [_appearance(crop) for _, crop in faces]
        pairs = [
            (_affinity(track, box, appearance), t, i)
            for t, track in enumerate(tracks)
            for i, ((box, _), appearance) in enumerate(zip(faces, appearances, strict=True))
        ]
        assigned: dict[int, int] = {}
        for affinity, t, i in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if affinity >= MIN_AFFINITY and i not in assigned and t not in assigned.values():
                assigned[i] = t
        for i, ((box, _), appearance) in enumerate(zip(faces, appearances, strict=True)):
            if i not in assigned:
                assigned[i] = len(tracks)
                tracks.append({"appearance": appearance})
            track = tracks[assigned[i]]
            track["box"] = box
            track["appearance"] = 0.7 * track["appearance"] + 0.3 * appearance
        numbers.append([assigned[i] for i in range(len(faces))])
    return numbers


def _affinity(track: dict, box: Box, appearance: np.ndarray) -> float:
    """Mean of proximity and likeness: from below 0 (another person) to 1 (same position, size and appearance)."""
    x, y, width, height = track["box"]
    side = max(width, height, box[2], box[3])
    distance = np.hypot(x + width / 2 - box[0] - box[2] / 2, y + height / 2 - box[1] - box[3] / 2) / side
    ratio = abs(np.log(max(width * height, 1e-6) / max(box[2] * box[3], 1e-6))) / 2
    proximity = np.exp(-distance - ratio)
    scale = np.linalg.norm(track["appearance"]) * np.linalg.norm(appearance)
    likeness = float(np.vdot(track["appearance"], appearance) / scale) if scale else 0.0
    return (proximity + likeness) / 2


def _appearance(crop: np.ndarray) -> np.ndarray:
    """A small color image of the face minus its mean; correlation of two of them is insensitive to lighting."""
    small = cv2.resize(crop, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small - small.mean(axis=(0, 1))
