"""Measures of a face as it was found: what decides whether a model was ever validated on such a face."""

from __future__ import annotations

import cv2
import numpy as np

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
