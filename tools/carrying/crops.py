"""The sets of crops that a network is judged on, as uint8 pixels of whatever size a network takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.lib.format import open_memmap

from tfdfd.data import crops, degrade, pair_sets, self_blending
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.leaks import refuse_leaks
from tfdfd.data.tables import REAL
from tfdfd.evaluation.blended_set import BlendedSet
from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.evaluation.opening_sets import open_set
from tfdfd.faces import crop
from tfdfd.training.crop_set import limited

_BATCH = 64
# Of a set that is opened for its rows alone.
_ANY_SIZE = 32
_FRAME_AND_FACE = re.compile(r"-\d+-\d+$")


def photograph_of(row) -> str:
    """The one photograph that a crop shows or was made of (video `NAME`, or `NAME#method`).

    By whose face was swapped into which, all photographs would hang together, and leave a bootstrap little to draw.
    """
    return row.video.partition("#")[0]


def video_of(file: str) -> str:
    """The video that a crop of the data folder was cut from, by its name: DFDC's are `VIDEO-FRAME-FACE.png`, and of
    FaceForensics++ there is one of each."""
    return _FRAME_AND_FACE.sub("", PurePosixPath(file).stem)


class StoredCrops:
    """Crops as they lie there, scaled as `tfdfd detect` scales them.

    Args:
        name: in cards.
        where: a face set, or a folder with `real/` and `fake/`.
        split: which crops; None takes all.
        limit: at most so many.
        source_of: a row to the name of what it is drawn with.

    Attributes:
        opened: the set with its rows.
        key: digest by which scores of it are known again.
    """

    def __init__(
        self,
        name: str,
        where: str,
        split: str | None = None,
        limit: int | None = None,
        source_of: Callable = photograph_of,
    ):
        self.name, self.source_of = name, source_of
        self.opened: JudgedSet = open_set(where, split, _ANY_SIZE)
        self.opened.rows = tuple(limited(self.opened.rows, limit, 0))
        self.key = _digest(self.opened, _code(crop, crops))

    def __len__(self) -> int:
        return len(self.opened.rows)

    def crops(self, numbers: Sequence[int], size: int) -> np.ndarray:
        """RGB uint8 `(n, size, size, 3)` of these rows."""
        paths = (self.opened.root / self.opened.rows[number].file for number in numbers)
        return np.stack([crop.resize_crop(crops.read_pixels(path), size) for path in paths])


class BlendedCrops:
    """The real crops of a split, each with one self-blended fake: the pairs that `tfdfd evaluate --blend` judges.

    They are made once per size and kept.

    Args:
        name: in cards.
        where: a face set with splits.
        split: which crops.
        cache: folder for pixels.
        seed: of the pairs.
        limit: at most so many real crops.
    """

    def __init__(self, name: str, where: str, split: str, cache: Path, seed: int = 0, limit: int | None = None):
        everything = faces_of(where)
        refuse_leaks(everything.rows)
        part = faces_of(everything, split)
        real = [row for row in part.rows if row.label == REAL]
        self._faces = Faces(part.root, tuple(limited(real, limit, seed)))
        self._where, self._split, self._seed, self._cache = str(where), split, seed, cache
        self.name, self.opened, self.source_of = name, self._set(_ANY_SIZE), photograph_of
        self.key = _digest(self.opened, _code(crop, crops, degrade, self_blending, pair_sets))
        self._pixels: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.opened.rows)

    def crops(self, numbers: Sequence[int], size: int) -> np.ndarray:
        """RGB uint8 `(n, size, size, 3)` of these rows."""
        if size not in self._pixels:
            self._pixels[size] = self._kept(size)
        return np.asarray(self._pixels[size][list(numbers)])

    def _kept(self, size):
        self._cache.mkdir(parents=True, exist_ok=True)
        file = self._cache / f"blended-{self.key[:16]}-{size}.npy"
        if not file.exists():
            partial = file.with_name(f"partial-{file.name}")
            pixels = open_memmap(partial, "w+", np.uint8, (len(self), size, size, 3))
            made = self._set(size).batches(range(len(self)), _BATCH)
            for start, images in zip(range(0, len(self), _BATCH), made, strict=True):
                pixels[start : start + len(images)] = np.rint(images * 255)
            pixels.flush()
            partial.replace(file)
        return np.load(file, mmap_mode="r")

    def _set(self, size):
        return BlendedSet(self._where, self._faces, size, self._split, None, self._seed)


def _digest(opened, code):
    told = {"code": code, "opencv": cv2.__version__} | opened.told()
    # Not where it lies, and not the size, which its pixels are kept by.
    known = {key: value for key, value in told.items() if key not in ("where", "root")}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _code(*modules):
    return [hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest() for module in modules]
