"""A face set of real crops, and of the same with someone else's face swapped in, as frames of H.264 videos.

For validation: no network here trains on such fakes (`tfdfd.data.swapped`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np

from tfdfd.data.blended_pairs import MARGIN
from tfdfd.data.crop_pixels import read_pixels
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.donors import NEAREST, Donors
from tfdfd.data.h264 import filmed
from tfdfd.data.landmarks import OK, FaceLandmarks, landmarks_of
from tfdfd.data.pair_set import write_pair_set
from tfdfd.data.self_blended import crop_alike
from tfdfd.data.swapped import KIND_SHARES, KINDS, swap_face
from tfdfd.data.tables import FAKE, REAL, FaceRow

# Rate factors of x264, from a good recording to what messengers pass on; few, so that each has figures of its own.
# FF++'s c23 and c40 are among them.
CRFS = (18, 23, 28, 34, 40)
# Longer side of a face in the video, pixels; a photograph is not enlarged.
_SIDES = 80, 240


class SwappedPairs:
    """The real crops of some splits that have landmarks, each with a fake that has someone else's face.

    Donors come from the same split, by `tfdfd.data.donors`. What is drawn follows from the seed and the video's name:
    crops of one video share donor video, kind, size and compression.

    Args:
        faces: `faces.csv` or its folder, a folder with `real/` and `fake/`, or `Faces`. Fakes are passed over.
        size: side of the square crops that come out, in pixels.
        splits: which crops.
        seed: the same one gives the same pairs.
        landmarks: of the crops, by file (`landmarks_of`), or the file that keeps them; None: `landmarks.csv` beside
            the crops. Missing ones are found here and now, unless a mapping is given.

    Attributes:
        rows: two `FaceRow`s of each pair, of the real crop and of its fake (method `swapped-<kind>`; sources and people
            of both photographs). Both have the compression, `c<CRF>`.
        left_out: how many crops are left out, by status of their landmarks.

    Raises:
        ValueError: a split without real crops, or of one person; none with landmarks; a wrong size or seed; a crop
            cannot be read; errors of `landmarks_of`.
    """

    def __init__(
        self,
        faces: str | os.PathLike | Faces,
        size: int,
        *,
        splits: Sequence[str] = ("val", "test"),
        seed: int = 0,
        landmarks: Mapping[str, FaceLandmarks] | str | os.PathLike | None = None,
    ):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be the side of a square in pixels; received {size!r}.")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number from 0; received {seed!r}.")
        real = _real(faces, splits)
        if not isinstance(landmarks, Mapping):
            landmarks = landmarks_of(real, landmarks)
        status = {row.file: landmarks[row.file].status if row.file in landmarks else "missing" for row in real.rows}
        self.left_out = Counter(value for value in status.values() if value != OK)
        kept = (row for row in real.rows if status[row.file] == OK)
        # Landmarks know the files' digests, which the rows of a plain folder lack.
        rows = tuple(replace(row, sha256=row.sha256 or landmarks[row.file].sha256) for row in kept)
        self._real = Faces(real.root, rows)
        if not self._real.rows:
            raise ValueError(
                f"none of the {len(real.rows)} real crops of {real.root} has landmarks of a face: "
                f"{dict(self.left_out)}."
            )
        self.size, self.seed = size, seed
        self._found = [landmarks[row.file] for row in self._real.rows]
        donors = Donors(self._real, landmarks)
        self._donors = [donors.donor(number, self._drawn(number)[0]) for number in range(len(self._real.rows))]
        self.rows = [self._two_rows(number) for number in range(len(self._real.rows))]

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.rows)

    def pair(self, number: int) -> np.ndarray:
        """A crop and its fake: RGB uint8 `(2, size, size, 3)`, real first; both went through the same video.

        Raises:
            ValueError: a crop cannot be read, or the landmarks cannot be its own; names it and its donor.
        """
        return self.pair_and_mask(number)[0]

    def pair_and_mask(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The same as `pair`, and which pixels the swap changed, before the video: float32 `(size, size)` in [0, 1]."""
        _, kind, crf, rng = self._drawn(number)
        donor = self._donors[number]
        paths = self._real.path(number), self._real.path(donor)
        target, other = (read_pixels(path) for path in paths)
        found, of_donor = self._found[number], self._found[donor]
        try:
            fake = swap_face(target, found.points, other, of_donor.points, rng, kind)
            factor = min(1.0, rng.uniform(*_SIDES) / max(found.box[2:]))
            size = max(1, round(target.shape[1] * factor)), max(1, round(target.shape[0] * factor))
            changed = np.any(fake != target, axis=-1).astype(np.float32)
            *pair, mask = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (target, fake, changed))
            box = [value * factor for value in found.box]
            *pair, mask = crop_alike((*filmed(pair, crf, rng), mask), box, rng, MARGIN, size=self.size)
            return np.stack(pair), mask
        except ValueError as error:
            raise ValueError(f"the face of {paths[1]} cannot be swapped into {paths[0]}: {error}") from error

    def _drawn(self, number):
        """Which donor, kind and rate factor, and the generator for all else."""
        row = self._real.rows[number]
        name = f"{row.dataset}\0{row.video}".encode("utf-8", "surrogateescape")
        rng = np.random.default_rng([self.seed, *np.frombuffer(hashlib.sha256(name).digest(), "<u4")])
        return int(rng.integers(NEAREST)), str(rng.choice(KINDS, p=KIND_SHARES)), int(rng.choice(CRFS)), rng

    def _two_rows(self, number):
        _, kind, crf, _ = self._drawn(number)
        real, other = self._real.rows[number], self._real.rows[self._donors[number]]
        real = replace(real, compression=f"c{crf}")
        method = f"swapped-{kind}"
        fake = replace(
            real,
            label=FAKE,
            method=method,
            video=f"{real.video}#{method}",
            source_id=tuple(dict.fromkeys(real.source_id + other.source_id)),
            identity=tuple(dict.fromkeys(real.identity + other.identity)),
            sha256=None,
        )
        return real, fake


def write_swapped_set(pairs: SwappedPairs, folder: str | os.PathLike) -> Iterator[FaceRow]:
    """Writes each pair as PNG, then `faces.csv`, and gives each real crop's row as it is done.

    A run that was stopped goes on where it was.

    Raises:
        ValueError: the folder holds another set, or something else; a pair cannot be made; or PyAV or SciPy is not
            installed.
        OSError: it cannot be written; what was done stays.
    """
    settings = {"seed": pairs.seed, "crops": len(pairs), "left_out": dict(pairs.left_out), **_libraries()}
    yield from write_pair_set(folder, "tfdfd data swap", pairs.size, settings, pairs.rows, pairs.pair)


def _libraries():
    """Their versions, as pictures depend on them."""
    names = "av", "scipy"
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"swapping faces needs {' and '.join(missing)}, not installed here: run pip install 'tfdfd[train]'."
        )
    return {name: importlib.metadata.version(name) for name in names}


def _real(faces, splits):
    parts = [faces_of(faces, split) for split in splits]
    if not parts:
        raise ValueError("no split was given; expected train, val or test.")
    rows = tuple(row for part in parts for row in part.rows if row.label == REAL)
    for split in splits:
        if not any(row.split == split for row in rows):
            raise ValueError(f"{parts[0].root} has no real crop of split {split!r}; fakes are made from real ones.")
    return Faces(parts[0].root, rows)
