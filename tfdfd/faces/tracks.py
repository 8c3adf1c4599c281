"""Face tracking: links the faces of a clip's sampled frames into tracks, one per person; and frames of a track."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from tfdfd.faces.crop import Box

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
