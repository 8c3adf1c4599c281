"""Robustness: degradations of images by compression, blur, scaling and noise, and evaluation sets degraded by them.

Each condition maps an RGB uint8 image `(height, width, 3)` and a `np.random.Generator` to an image of the same shape;
the same random state gives the same image. The H.264 conditions need PyAV.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np

from tfdfd.data.h264 import filmed
from tfdfd.data.self_blended import recompress
from tfdfd.evaluation.sets import EvalSet
from tfdfd.faces.crop import resize_crop

Condition = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _jpeg(image, rng, quality):
    return recompress(image, quality)


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
    return filmed([image], crf, rng)[0]


def _unchanged(image, rng):
    return image


UNCHANGED = "as it is"
CONDITIONS: dict[str, Condition] = {
    UNCHANGED: _unchanged,
    **{f"JPEG quality {quality}": partial(_jpeg, quality=quality) for quality in (90, 70, 50, 30, 10)},
    **{f"Gaussian blur, sigma {sigma}": partial(_blur, sigma=sigma) for sigma in (1, 2, 3)},
    **{f"resized to 1/{part} and back": partial(_resize, share=1 / part) for part in (2, 4)},
    **{f"Gaussian noise, sigma {sigma} of 255": partial(_noise, deviation=sigma) for sigma in (5, 10, 20)},
    **{f"H.264, CRF {crf}": partial(_h264, crf=crf) for crf in (23, 32, 40)},
}


class DegradedSet(EvalSet):
    """An evaluation set whose crops are degraded before they are scaled to the network's size.

    Args:
        base: the set; its `picture(number)` is degraded.
        condition: key of `CONDITIONS`.
        size: side of the square crops that the network takes, in pixels.
        by_file: seed the random state by the file name instead of the row number.
    """

    def __init__(self, base: EvalSet, condition: str, size: int, by_file: bool = False):
        self._base, self._condition, self._by_file, self.size = base, condition, by_file, size
        self.where, self.root, self.split, self.rows, self.absent = (
            base.where, base.root, base.split, base.rows, base.absent
        )  # fmt: skip
        self.blended, self.seed, self.unlabelled, self.videos_known = base.blended, base.seed, {}, base.videos_known

    def dataset_of(self, row) -> str:
        return self._base.dataset_of(row)

    def info(self) -> dict:
        return self._base.info() | {"condition": [self._condition, self._base.size, self._by_file]}

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(numbers), batch_size):
                pictures = pool.map(self.picture, numbers[start : start + batch_size])
                crops = np.stack([resize_crop(picture, self.size) for picture in pictures])
                yield crops.astype(np.float32) / np.float32(255)

    def picture(self, number: int) -> np.ndarray:
        name = zlib.crc32(self._condition.encode())
        if self._by_file:
            seed = [name, zlib.crc32(self.rows[number].file.encode("utf-8", "surrogateescape"))]
        else:
            seed = [name, number]
        return CONDITIONS[self._condition](self._base.picture(number), np.random.default_rng(seed))
