"""Robustness: degradations of images by compression, blur, scaling and noise, and evaluation sets degraded by them.

Each condition maps an RGB uint8 image `(height, width, 3)` and a `np.random.Generator` to an image of the same shape;
the same random state gives the same image. The H.264 conditions need PyAV.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from tfdfd.data import degrade
from tfdfd.evaluation.sets import EvalSet
from tfdfd.faces.crop import resize_crop

if TYPE_CHECKING:
    from tfdfd.data.tables import FaceRow, IndexRow

Condition = Callable[[np.ndarray, np.random.Generator], np.ndarray]


UNCHANGED = "as it is"
CONDITIONS: dict[str, Condition] = {
    UNCHANGED: lambda image, rng: image,
    **{f"JPEG quality {q}": lambda image, rng, q=q: degrade.compress_jpeg(image, q) for q in (90, 70, 50, 30, 10)},  # type: ignore[misc]
    **{f"Gaussian blur, sigma {s}": lambda image, rng, s=s: degrade.blur(image, s) for s in (1, 2, 3)},  # type: ignore[misc]
    **{
        f"resized to 1/{part} and back": lambda image, rng, part=part: degrade.resize_and_back(image, 1 / part)  # type: ignore[misc]
        for part in (2, 4)
    },
    **{
        f"Gaussian noise, sigma {s} of 255": lambda image, rng, s=s: degrade.add_noise(image, s, rng)  # type: ignore[misc]
        for s in (5, 10, 20)
    },
    **{
        f"H.264, CRF {crf}": lambda image, rng, crf=crf: degrade.simulate_video([image], crf, rng)[0]  # type: ignore[misc]
        for crf in (23, 32, 40)
    },
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

    def dataset_of(self, row: FaceRow | IndexRow) -> str:
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
