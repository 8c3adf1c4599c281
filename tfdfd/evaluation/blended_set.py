"""The real crops of a set, each with a fake that is made of it, the same each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfdfd.data.crops import Faces
from tfdfd.data.landmarks import PARTIAL, landmarks_of
from tfdfd.data.pair_sets import METHOD, BlendedPairs, blended_row
from tfdfd.data.tables import REAL, FaceRow
from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.metrics.scores import NO_FACE, OK


class BlendedSet(JudgedSet):
    """Real and fake in turn. Fakes of the set are passed over; real crops without landmarks are absent.

    Args:
        seed: of the pairs; others as of `JudgedSet`.

    Raises:
        ValueError: no real crops, or none with landmarks.
    """

    blended = True

    def __init__(
        self, where: str, faces: Faces, size: int, split: str | None = None, name: str | None = None, seed: int = 0
    ):
        super().__init__(where, faces, size, split, name)
        landmarks = landmarks_of(faces)
        self._pairs, self.seed = BlendedPairs(faces, size, split=None, seed=seed, landmarks=landmarks), seed
        # A face whose landmarks leave the crop is none that a pair could be made of.
        status = {file: NO_FACE if found.status == PARTIAL else found.status for file, found in landmarks.items()}
        left_out = [row for row in self.rows if row.label == REAL and status[row.file] != OK]
        self.absent = tuple(self.line_of(row, None, status[row.file]) for row in left_out)
        self.rows = tuple(row for real in self._pairs.rows for row in (real, blended_row(real)))

    @property
    def sources(self) -> Sequence[FaceRow]:
        return self._pairs.rows

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(numbers), batch_size):
                some = numbers[start : start + batch_size]
                wanted = sorted({number // 2 for number in some})
                pairs = dict(zip(wanted, pool.map(self._pair, wanted), strict=True))
                pixels = np.stack([pairs[number // 2][number % 2] for number in some])
                yield pixels.astype(np.float32) / np.float32(255)

    def unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        return {}  # without landmarks already; what cannot be read now has changed meanwhile, an error

    def pixels(self, file: str, method: str) -> np.ndarray:
        numbers = {row.file: number for number, row in enumerate(self._pairs.rows)}
        return self._pair(numbers[file])[int(method == METHOD)]

    def _pair(self, number):
        return self._pairs.pair(number, None)
