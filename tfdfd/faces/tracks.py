"""Who is who: faces of the sampled frames of a clip linked into tracks, one a person."""

from __future__ import annotations

import cv2
import numpy as np

# Sampled frames can be seconds apart, so position alone cannot link them and looks alone confuse; either may be
# weak if the other is strong. Chosen so that two people side by side stay apart and one walking person stays one.
MIN_AFFINITY = 0.5
_THUMB = 24


def link_faces(frames: list[list[tuple[tuple[float, float, float, float], np.ndarray]]]) -> list[list[int]]:
    """Track numbers, from 0 in order of first appearance, for each face of each frame.

    Args:
        frames: for each frame in time order, its faces as `(box, crop)`: box `(x, y, width, height)` in pixels,
            crop RGB uint8 square. Two faces of one frame never share a track.
    """
    tracks: list[dict] = []
    numbers = []
    for faces in frames:
        looks = [_look(crop) for _, crop in faces]
        pairs = [
            (_affinity(track, box, look), t, i)
            for t, track in enumerate(tracks)
            for i, ((box, _), look) in enumerate(zip(faces, looks, strict=True))
        ]
        assigned: dict[int, int] = {}
        for affinity, t, i in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if affinity >= MIN_AFFINITY and i not in assigned and t not in assigned.values():
                assigned[i] = t
        for i, ((box, _), look) in enumerate(zip(faces, looks, strict=True)):
            if i not in assigned:
                assigned[i] = len(tracks)
                tracks.append({"look": look})
            track = tracks[assigned[i]]
            track["box"] = box
            track["look"] = 0.7 * track["look"] + 0.3 * look
        numbers.append([assigned[i] for i in range(len(faces))])
    return numbers


def _affinity(track, box, look):
    """From below 0 (another person) to 1 (the same place, size and looks)."""
    x, y, width, height = track["box"]
    side = max(width, height, box[2], box[3])
    distance = np.hypot(x + width / 2 - box[0] - box[2] / 2, y + height / 2 - box[1] - box[3] / 2) / side
    ratio = abs(np.log(max(width * height, 1e-6) / max(box[2] * box[3], 1e-6))) / 2
    place = np.exp(-distance - ratio)
    scale = np.linalg.norm(track["look"]) * np.linalg.norm(look)
    likeness = float(np.vdot(track["look"], look) / scale) if scale else 0.0
    return (place + likeness) / 2


def _look(crop):
    """A small colour picture of the face without its mean: compared by correlation, so light matters little."""
    small = cv2.resize(crop, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small - small.mean(axis=(0, 1))
