"""What happens to a picture on its way to whoever doubts it: compressed, blurred, shrunk or noisy, one at a time.

Each condition is a function of an RGB uint8 image `(height, width, 3)` and a `np.random.Generator`, and gives such an
image of the same size; the same draws give the same image. Those of H.264 need PyAV (extra `train`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from tfdfd.data.degrade import compress_jpeg, simulate_video

Condition = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _jpeg(image, rng, quality):
    return compress_jpeg(image, quality)


def _blur(image, rng, sigma):
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _resize(image, rng, share):
    height, width = image.shape[:2]
    small = (max(1, round(width * share)), max(1, round(height * share)))
    return cv2.resize(
        cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_LINEAR
    )


def _noise(image, rng, deviation):
    noisy = image + rng.normal(0, deviation, image.shape).astype(np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _h264(image, rng, crf):
    return simulate_video([image], crf, rng)[0]


def _same(image, rng):
    return image


UNCHANGED = "as it is"
CONDITIONS: dict[str, Condition] = {
    UNCHANGED: _same,
    **{f"JPEG quality {quality}": partial(_jpeg, quality=quality) for quality in (90, 70, 50, 30, 10)},
    **{f"Gaussian blur, sigma {sigma}": partial(_blur, sigma=sigma) for sigma in (1, 2, 3)},
    **{f"resized to 1/{part} and back": partial(_resize, share=1 / part) for part in (2, 4)},
    **{f"Gaussian noise, sigma {sigma} of 255": partial(_noise, deviation=sigma) for sigma in (5, 10, 20)},
    **{f"H.264, CRF {crf}": partial(_h264, crf=crf) for crf in (23, 32, 40)},
}
