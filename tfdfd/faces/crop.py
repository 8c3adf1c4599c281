"""Square face crops as the networks take them."""

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
