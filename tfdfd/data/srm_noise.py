"""SRM residuals of a picture in grey levels, and the 8 bits in which a file keeps them.

A residual r is negative as often as positive. `filter2D` on 8 bits, as document S4 has it, loses the negative half;
here r, clipped to [-T, T], is the grey level `128 + round(127 r / T)`, 1 to 255, and no noise is mid-grey. Back it is
`(level - 128) T / 127`, at most `T / 254` off: half a grey level at T = 127, where a file's levels are the residual's.
"""

from __future__ import annotations

import cv2
import numpy as np

from tfdfd.data.srm_options import STEPS, SrmOptions
from tfdfd.srm_kernels import DIVISORS, WHOLE

NO_NOISE = STEPS + 1
SMALLEST = 3


def residuals(image: np.ndarray, options: SrmOptions) -> np.ndarray:
    """What `SRM(options.kernels, options.combine)` gives of the picture, not clipped.

    Args:
        image: RGB uint8 `(height, width, 3)`, both sides at least 3.
        options: which kernels.

    Returns:
        float64 `(height, width, 3)` in grey levels. Sums are of whole numbers, so that every machine gives the same.

    Raises:
        ValueError: another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; expected RGB uint8 (height, width, 3), sides at least {SMALLEST}"
        )
    levels = image.astype(np.float32)
    if options.combine == "sum":
        levels = levels.sum(axis=2)
    planes = [cv2.filter2D(levels, cv2.CV_32F, np.array(WHOLE[name], np.float32)) for name in options.kernels]
    divided = [plane.astype(np.float64) / DIVISORS[name] for plane, name in zip(planes, options.kernels, strict=True)]
    return divided[0] if options.combine == "each" else np.stack(divided, axis=-1)


def stored(residual: np.ndarray, truncate: float) -> np.ndarray:
    """Residuals in grey levels as the grey levels 1 to 255 of a file, uint8 of the same shape."""
    return (NO_NOISE + np.rint(np.clip(residual, -truncate, truncate) * (STEPS / truncate))).astype(np.uint8)


def residuals_of(levels: np.ndarray, truncate: float) -> np.ndarray:
    """What `stored` was given, clipped to `truncate` and within `truncate / 254`: float32 of the same shape."""
    return (levels.astype(np.float32) - NO_NOISE) * np.float32(truncate / STEPS)
