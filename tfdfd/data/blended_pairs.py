"""Self-blended pairs of a face set: what a network trains on when all it has is real crops. No TensorFlow.

Every pair is a function of the seed, the epoch and the crop, whichever thread or process makes it and whatever was made
before: a training that was stopped goes on with the bytes it would have seen.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from tfdfd.data.crop_pixels import read_pixels
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.landmarks import OK, FaceLandmarks, landmarks_of
from tfdfd.data.self_blended import crop_alike, degrade_pair, self_blend
from tfdfd.data.tables import FAKE, REAL, FaceRow
from tfdfd.data.varied_fakes import vary

METHOD = "self-blended"
FAKES = PLAIN, VARIED = "plain", "varied"
MEDIA = PHOTO, VIDEO = "photo", "video"
# The sides of crops over the longer side of the face: around the 1.3 that `tfdfd detect` cuts with, but not so wide
# that a picture which is a crop already would be mirrored to show a second pair of eyes.
MARGIN = (0.95, 1.4)
# First words of the seeds, so that order, training pairs and fixed pairs draw apart.
_ORDER, _TRAINING, _FIXED = range(3)


class BlendedPairs:
    """The real crops of a split that have landmarks, each with a fake made from it.

    Args:
        faces: `faces.csv` or its folder, a folder with `real/` and `fake/`, or `Faces`. Fakes are passed over.
        size: side of the square crops that come out, in pixels.
        split: which crops; None takes all, whatever their split.
        seed: the same one gives the same pairs.
        landmarks: of the crops, by file (`landmarks_of`), or the file that keeps them; None: `landmarks.csv` beside
            the crops. Missing ones are found here and now, unless a mapping is given.
        fakes: `plain`, or `varied` beyond colour, sharpness and place (`tfdfd.data.varied_fakes`).
        medium: what pairs are degraded as: `photo`, or `video`, most of them through H.264 (`degrade_pair`).

    Attributes:
        rows: `FaceRow`s of the crops that pairs are made from.
        left_out: how many crops are left out, by status of their landmarks.

    Raises:
        ValueError: no real crop of that split, none with landmarks, or a wrong size or seed; errors of `landmarks_of`.
    """

    def __init__(
        self,
        faces: str | os.PathLike | Faces,
        size: int,
        *,
        split: str | None = "train",
        seed: int = 0,
        landmarks: Mapping[str, FaceLandmarks] | str | os.PathLike | None = None,
        fakes: str = PLAIN,
        medium: str = PHOTO,
    ):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be the side of a square in pixels, as pairs are square; received {size!r}.")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number from 0; received {seed!r}.")
        for name, value, known in (("fakes", fakes, FAKES), ("medium", medium, MEDIA)):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}; received {value!r}.")
        faces = faces_of(faces, split)
        real = Faces(faces.root, tuple(row for row in faces.rows if row.label == REAL))
        if not real.rows:
            raise ValueError(f"{faces.root} has no real crop of split {split!r}; pairs are made from real ones.")
        if not isinstance(landmarks, Mapping):
            landmarks = landmarks_of(real, landmarks)
        status = {row.file: landmarks[row.file].status if row.file in landmarks else "missing" for row in real.rows}
        self.left_out = Counter(value for value in status.values() if value != OK)
        kept = (row for row in real.rows if status[row.file] == OK)
        # Landmarks know the files' digests, which the rows of a plain folder lack.
        rows = tuple(replace(row, sha256=row.sha256 or landmarks[row.file].sha256) for row in kept)
        self._faces = Faces(real.root, rows)
        self.rows = self._faces.rows
        if not self.rows:
            raise ValueError(
                f"none of the {len(real.rows)} real crops of {faces.root} has landmarks of a face: "
                f"{dict(self.left_out)}."
            )
        self.size, self.seed, self.fakes, self.medium = size, seed, fakes, medium
        self._vary = vary if fakes == VARIED else None
        self._landmarks = [landmarks[row.file] for row in self.rows]
        self._order = None, None

    def __len__(self) -> int:
        """How many pairs an epoch has."""
        return len(self.rows)

    def order(self, epoch: int) -> np.ndarray:
        """The crops of an epoch in their order, int64 `(len,)`: a permutation of `rows`."""
        known, order = self._order
        if known != epoch:
            order = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self))
            self._order = epoch, order
        return order

    def pair(self, number: int, epoch: int | None) -> np.ndarray:
        """A crop and its fake: RGB uint8 `(2, size, size, 3)`, real first.

        Args:
            number: of the crop in `rows`.
            epoch: another one gives another pair of the same crop; None gives a fixed pair, for evaluation.

        Raises:
            ValueError: the crop cannot be read, or the landmarks cannot be its own; names it.
        """
        return self.pair_and_mask(number, epoch)[0]

    def pair_and_mask(self, number: int, epoch: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The same as `pair`, and the share of the altered face in each pixel: float32 `(size, size)` in [0, 1]."""
        where = [_FIXED, self.seed, number] if epoch is None else [_TRAINING, self.seed, number, epoch]
        rng, found = np.random.default_rng(where), self._landmarks[number]
        path = self._faces.path(number)
        pixels = read_pixels(path)
        try:
            real, fake, mask = self_blend(pixels, found.points, rng, vary=self._vary)
            pair = degrade_pair(real, fake, rng, video=self.medium == VIDEO)
            *pair, mask = crop_alike((*pair, mask), found.box, rng, MARGIN, size=self.size)
            return np.stack(pair), mask
        except ValueError as error:
            raise ValueError(f"no self-blended pair can be made from {path}: {error}") from error

    def batches(
        self, batch_size: int, *, first_epoch: int = 0, first_batch: int = 0, epochs: int | None = 1, threads: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches to train on, made ahead in threads: each crop of the split and its fake once an epoch.

        Args:
            batch_size: images in a batch, even; real and fake in turn. The last batch of an epoch may be smaller.
            first_epoch: the first epoch.
            first_batch: the batch of it to begin with.
            epochs: how many, the first included; None: without end.
            threads: 0: one a core.

        Yields:
            Images, float32 `(batch, size, size, 3)` in [0, 1], and labels, float32 `(batch, 1)`, 1 = fake.
        """
        last = self.batches_of_epoch(batch_size)
        if first_epoch < 0 or not 0 <= first_batch < last:
            raise ValueError(
                f"an epoch has {last} batches; received first_epoch {first_epoch} and first_batch {first_batch}."
            )
        numbers = itertools.count(first_epoch) if epochs is None else range(first_epoch, first_epoch + epochs)
        places = ((e, b) for e in numbers for b in range(first_batch if e == first_epoch else 0, last))
        threads = threads or os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            upcoming = deque()
            for place in places:
                upcoming.append(pool.submit(self.batch, *place, batch_size))
                if len(upcoming) > threads + 1:
                    yield upcoming.popleft().result()
            while upcoming:
                yield upcoming.popleft().result()

    def batch(self, epoch: int, number: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number` of an epoch, as `batches` yields it."""
        last = self.batches_of_epoch(batch_size)
        if not 0 <= number < last:
            raise ValueError(f"an epoch has {last} batches; there is no batch {number}.")
        half = batch_size // 2
        crops = self.order(epoch)[number * half : (number + 1) * half]
        return as_batch(np.stack([self.pair(crop, epoch) for crop in crops]))

    def batches_of_epoch(self, batch_size: int) -> int:
        """How many batches of `batch_size` images an epoch has."""
        if batch_size < 2 or batch_size % 2:
            raise ValueError(f"a batch of pairs needs an even size of at least 2; received {batch_size}.")
        return -(-2 * len(self) // batch_size)


def as_batch(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, uint8 `(n, 2, size, size, 3)`, as images float32 `(2 n, size, size, 3)` and labels float32 `(2 n, 1)`."""
    images = pairs.reshape(-1, *pairs.shape[2:]).astype(np.float32) / np.float32(255)
    return images, np.tile(np.float32([[0], [1]]), (len(pairs), 1))


def blended_row(real: FaceRow) -> FaceRow:
    """What is known of the fake that was made of a real crop; it is a video of its own."""
    return replace(real, label=FAKE, method=METHOD, video=f"{real.video}#{METHOD}", sha256=None)
