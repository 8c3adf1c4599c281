"""Pairs of real crops and fakes made from them: self-blended for training, face-swapped for validation.

A self-blended pair is a function of the seed, the epoch and the crop, in whichever thread or process it is made: a
resumed training sees the same bytes. Both kinds can be written as a face set of PNG files, for code that reads crops.
TensorFlow is not needed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.crops import TABLE, Faces, crop_alike, faces_of, read_pixels
from tfdfd.data.degrade import degrade_pair, simulate_video
from tfdfd.data.face_swapping import KIND_SHARES, KINDS, NEAREST, Donors, swap_face
from tfdfd.data.landmarks import OK, FaceLandmarks, landmarks_of
from tfdfd.data.orders import half_of
from tfdfd.data.self_blending import self_blend, vary
from tfdfd.data.tables import FAKE, REAL, FaceRow, write_table
from tfdfd.files import WorkDir, sha256, write_atomically
from tfdfd.threads import map_in_threads
from tfdfd.version import __version__

METHOD = "self-blended"
FAKES = PLAIN, VARIED = "plain", "varied"
MEDIA = PHOTO, VIDEO = "photo", "video"
# Range of the crops' sides over the longer side of the face: around the 1.3 of `tfdfd detect`, but not so wide that a
# picture which is a crop already would be mirrored and show a second pair of eyes.
MARGIN = (0.95, 1.4)
# Rate factors of x264, from a good recording to what messengers transmit; few, so that each can be evaluated by itself.
# c23 and c40 of FaceForensics++ are among them.
CRFS = (18, 23, 28, 34, 40)
# Range of the longer side of a swapped face in the video, pixels; photographs are not enlarged.
_SIDES = 80, 240
# First words of the seeds, so that order, training pairs and fixed pairs draw independently.
_ORDER, _TRAINING, _FIXED = range(3)

Landmarks = Mapping[str, FaceLandmarks] | str | os.PathLike | None


class _PairSet:
    """The real crops of some splits that have landmarks."""

    def __init__(
        self, faces: str | os.PathLike | Faces, size: int, splits: Sequence[str | None], seed: int, landmarks: Landmarks
    ) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be the side of a square in pixels, as pairs are square; received {size!r}.")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0; received {seed!r}.")
        if not splits:
            raise ValueError("no split was given; expected train, val or test.")
        parts = [faces_of(faces, split) for split in splits]
        for split, part in zip(splits, parts, strict=True):
            if not any(row.label == REAL for row in part.rows):
                raise ValueError(f"{part.root} has no real crop of split {split!r}; fakes are made from real ones.")
        real = Faces(parts[0].root, tuple(row for part in parts for row in part.rows if row.label == REAL))
        if not isinstance(landmarks, Mapping):
            landmarks = landmarks_of(real, landmarks)
        status = {row.file: landmarks[row.file].status if row.file in landmarks else "missing" for row in real.rows}
        self.left_out = Counter(value for value in status.values() if value != OK)
        usable = (row for row in real.rows if status[row.file] == OK)
        # The landmarks carry the files' digests, which the rows of a plain folder lack.
        rows = tuple(replace(row, sha256=row.sha256 or landmarks[row.file].sha256) for row in usable)
        if not rows:
            raise ValueError(
                f"none of the {len(real.rows)} real crops of {real.root} has landmarks of a face: "
                f"{dict(self.left_out)}."
            )
        self.size, self.seed = size, seed
        self._real = Faces(real.root, rows)
        self._landmarks = {row.file: landmarks[row.file] for row in rows}

    def __len__(self) -> int:
        """Number of pairs (of an epoch)."""
        return len(self._real.rows)

    def _landmarks_at(self, number: int) -> FaceLandmarks:
        return self._landmarks[self._real.rows[number].file]


class BlendedPairs(_PairSet):
    """The real crops of a split that have landmarks, each with a self-blended fake made from it.

    Args:
        faces: `faces.csv` or its folder, a folder with `real/` and `fake/`, or `Faces`. Fakes are ignored.
        size: side of the square crops that are returned, in pixels.
        split: which crops; None takes all, whatever their split.
        seed: the same seed gives the same pairs.
        landmarks: those of the crops, by file (`landmarks_of`), or the file that stores them; None: `landmarks.csv`
            beside the crops. Missing ones are detected now, unless a mapping is given.
        fakes: `plain`, or `varied` beyond color, sharpness and position (`tfdfd.data.self_blending.vary`).
        medium: `photo`, or `video` to degrade most pairs with H.264 (`degrade_pair`).
        meshes: face meshes by the crop's file, `(468, 2)` xy pixels, whose hulls outline the masks; crops without
            one have outlines from their landmarks.

    Attributes:
        rows: `FaceRow`s of the crops that pairs are made from.
        left_out: number of crops left out, by the status of their landmarks.

    Raises:
        ValueError: no real crop of that split, none with landmarks, or invalid arguments; errors of `landmarks_of`.
    """

    def __init__(
        self,
        faces: str | os.PathLike | Faces,
        size: int,
        *,
        split: str | None = "train",
        seed: int = 0,
        landmarks: Landmarks = None,
        fakes: str = PLAIN,
        medium: str = PHOTO,
        meshes: Mapping[str, np.ndarray] | None = None,
    ):
        for name, value, known in (("fakes", fakes, FAKES), ("medium", medium, MEDIA)):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}; received {value!r}.")
        super().__init__(faces, size, (split,), seed, landmarks)
        self.rows = self._real.rows
        self.fakes, self.medium = fakes, medium
        self._meshes = meshes or {}
        self._order: tuple[int, np.ndarray] | tuple[None, None] = None, None

    def order(self, epoch: int) -> np.ndarray:
        """The order of the crops in an epoch, int64 `(len,)`: a permutation of `rows`."""
        known, order = self._order
        if known != epoch:
            order = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self))
            self._order = epoch, order
        return order  # type: ignore[return-value]

    def pair(self, number: int, epoch: int | None) -> np.ndarray:
        """A crop and its fake: RGB uint8 `(2, size, size, 3)`, real first.

        Args:
            number: number of the crop in `rows`.
            epoch: each epoch has another pair of the same crop; None gives a fixed pair, for evaluation.

        Raises:
            ValueError: the crop cannot be read, or the landmarks do not fit it; names it.
        """
        return self.pair_and_mask(number, epoch)[0]

    def pair_and_mask(self, number: int, epoch: int | None) -> tuple[np.ndarray, np.ndarray]:
        """`pair`, and the weight of the altered face in each pixel: float32 `(size, size)` in [0, 1]."""
        seeds = [_FIXED, self.seed, number] if epoch is None else [_TRAINING, self.seed, number, epoch]
        rng, landmarks = np.random.default_rng(seeds), self._landmarks_at(number)
        path, mesh = self._real.path(number), self._meshes.get(self.rows[number].file)
        pixels, more = read_pixels(path), vary if self.fakes == VARIED else None
        try:
            real, fake, mask = self_blend(pixels, landmarks.points, rng, vary=more, mesh=mesh)  # type: ignore[arg-type]
            pair = degrade_pair(real, fake, rng, video=self.medium == VIDEO)
            *pair, mask = crop_alike((*pair, mask), landmarks.box, rng, MARGIN, size=self.size)  # type: ignore[arg-type,assignment]
            return np.stack(pair), mask
        except ValueError as error:
            raise ValueError(f"no self-blended pair can be made from {path}: {error}") from error

    def batches(
        self, batch_size: int, *, first_epoch: int = 0, first_batch: int = 0, epochs: int | None = 1, threads: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Training batches, made ahead in threads: each crop of the split and its fake once per epoch.

        Args:
            batch_size: images in a batch, even; real and fake alternate. The last batch of an epoch may be smaller.
            first_epoch: the first epoch.
            first_batch: the first batch in it.
            epochs: how many, the first included; None: without end.
            threads: 0: one per core.

        Yields:
            Images, float32 `(batch, size, size, 3)` in [0, 1], and labels, float32 `(batch, 1)`, 1 = fake.
        """
        last = self.batches_of_epoch(batch_size)
        if first_epoch < 0 or not 0 <= first_batch < last:
            raise ValueError(
                f"an epoch has {last} batches; received first_epoch {first_epoch} and first_batch {first_batch}."
            )
        numbers = itertools.count(first_epoch) if epochs is None else range(first_epoch, first_epoch + epochs)
        wanted = ((e, b) for e in numbers for b in range(first_batch if e == first_epoch else 0, last))
        threads = threads or os.cpu_count() or 1
        yield from map_in_threads(lambda at: self.batch(*at, batch_size), wanted, threads, ahead=threads + 2)

    def batch(self, epoch: int, number: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number` of an epoch, as `batches` yields it."""
        last = self.batches_of_epoch(batch_size)
        if not 0 <= number < last:
            raise ValueError(f"an epoch has {last} batches; there is no batch {number}.")
        half = half_of(batch_size)
        crops = self.order(epoch)[number * half : (number + 1) * half]
        images = np.concatenate([self.pair(crop, epoch) for crop in crops]).astype(np.float32) / np.float32(255)
        return images, np.tile(np.float32([[0], [1]]), (len(crops), 1))  # type: ignore[arg-type]

    def batches_of_epoch(self, batch_size: int) -> int:
        """Number of batches of `batch_size` images in an epoch."""
        return -(-len(self) // half_of(batch_size))


class SwappedPairs(_PairSet):
    """The real crops of some splits that have landmarks, each with a fake that shows someone else's face.

    Donors come from the same split (`tfdfd.data.face_swapping.Donors`). All draws follow from the seed and the video's
    name: crops of one video share donor video, kind, size and compression. Pairs are frames of H.264 videos.

    Args:
        faces: `faces.csv` or its folder, a folder with `real/` and `fake/`, or `Faces`. Fakes are ignored.
        size: side of the square crops that are returned, in pixels.
        splits: splits whose crops are taken.
        seed: the same seed gives the same pairs.
        landmarks: see `BlendedPairs`.

    Attributes:
        rows: two `FaceRow`s per pair, of the real crop and of its fake (method `swapped-<kind>`; sources and people of
            both photographs). Both have the compression, `c<CRF>`.
        left_out: number of crops left out, by the status of their landmarks.

    Raises:
        ValueError: a split without real crops, or with one person; no crop with landmarks; an invalid size or seed; a
            crop that cannot be read; errors of `landmarks_of`.
    """

    def __init__(
        self,
        faces: str | os.PathLike | Faces,
        size: int,
        *,
        splits: Sequence[str] = ("val", "test"),
        seed: int = 0,
        landmarks: Landmarks = None,
    ):
        super().__init__(faces, size, splits, seed, landmarks)
        donors = Donors(self._real, self._landmarks)
        self._donors = [donors.donor(number, self._draw(number)[0]) for number in range(len(self))]
        self.rows = [self._two_rows(number) for number in range(len(self))]

    def pair(self, number: int) -> np.ndarray:
        """A crop and its fake: RGB uint8 `(2, size, size, 3)`, real first; both went through the same video.

        Raises:
            ValueError: a crop cannot be read, or the landmarks do not fit it; names it and its donor.
        """
        return self.pair_and_mask(number)[0]

    def pair_and_mask(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """`pair`, and which pixels the swap changed before the video: float32 `(size, size)` in [0, 1]."""
        _, kind, crf, rng = self._draw(number)
        donor = self._donors[number]
        paths = self._real.path(number), self._real.path(donor)
        target, other = (read_pixels(path) for path in paths)
        landmarks, donor_landmarks = self._landmarks_at(number), self._landmarks_at(donor)
        try:
            fake = swap_face(target, landmarks.points, other, donor_landmarks.points, rng, kind)  # type: ignore[arg-type]
            factor = min(1.0, rng.uniform(*_SIDES) / max(landmarks.box[2:]))  # type: ignore[index]
            size = max(1, round(target.shape[1] * factor)), max(1, round(target.shape[0] * factor))
            changed = np.any(fake != target, axis=-1).astype(np.float32)
            *pair, mask = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (target, fake, changed))
            box = [value * factor for value in landmarks.box]  # type: ignore[union-attr]
            *pair, mask = crop_alike((*simulate_video(pair, crf, rng), mask), box, rng, MARGIN, size=self.size)
            return np.stack(pair), mask
        except ValueError as error:
            raise ValueError(f"the face of {paths[1]} cannot be swapped into {paths[0]}: {error}") from error

    def _draw(self, number: int) -> tuple[int, str, int, np.random.Generator]:
        """Rank of the donor, kind, rate factor, and the generator of everything else."""
        row = self._real.rows[number]
        name = f"{row.dataset}\0{row.video}".encode("utf-8", "surrogateescape")
        rng = np.random.default_rng([self.seed, *np.frombuffer(hashlib.sha256(name).digest(), "<u4")])
        return int(rng.integers(NEAREST)), str(rng.choice(KINDS, p=KIND_SHARES)), int(rng.choice(CRFS)), rng

    def _two_rows(self, number: int) -> tuple[FaceRow, FaceRow]:
        _, kind, crf, _ = self._draw(number)
        real, other = self._real.rows[number], self._real.rows[self._donors[number]]
        real = replace(real, compression=f"c{crf}")
        fake = replace(
            _fake_row(real, f"swapped-{kind}"),
            source_id=tuple(dict.fromkeys(real.source_id + other.source_id)),
            identity=tuple(dict.fromkeys(real.identity + other.identity)),
        )
        return real, fake


def blended_row(real: FaceRow) -> FaceRow:
    """The row of the self-blended fake of a real crop; it counts as a video of its own."""
    return _fake_row(real, METHOD)


def write_blended_set(pairs: BlendedPairs, folder: str | os.PathLike) -> Iterator[FaceRow]:
    """Writes the fixed pair of each crop as PNG, then `faces.csv`, and yields each real crop's row as it is done.

    Real crops are placed and compressed like their fakes, so that neither tells the label. Rows keep split, sources and
    people; a fake has the method `self-blended`. An interrupted run resumes.

    Args:
        pairs: pairs, of all splits that are wanted.
        folder: folder of the set; created if it is missing.

    Raises:
        ValueError: the folder holds another set, or something else; or a crop cannot be read.
        OSError: it cannot be written; finished files stay.
    """
    rows = [(real, blended_row(real)) for real in pairs.rows]
    yield from _write(folder, "tfdfd data blend", pairs, {}, rows, lambda number: pairs.pair(number, None))


def write_swapped_set(pairs: SwappedPairs, folder: str | os.PathLike) -> Iterator[FaceRow]:
    """Writes each pair as PNG, then `faces.csv`, and yields each real crop's row as it is done.

    An interrupted run resumes.

    Raises:
        ValueError: the folder holds another set, or something else; a pair cannot be made; or PyAV or SciPy is not
            installed.
        OSError: it cannot be written; finished files stay.
    """
    libraries = "av", "scipy"
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"swapping faces needs {' and '.join(missing)}, not installed here: run pip install 'tfdfd[train]'."
        )
    # The pictures depend on the libraries' versions.
    versions = {name: importlib.metadata.version(name) for name in libraries}
    yield from _write(folder, "tfdfd data swap", pairs, versions, pairs.rows, pairs.pair)


def _fake_row(real: FaceRow, method: str) -> FaceRow:
    return replace(real, label=FAKE, method=method, video=f"{real.video}#{method}", sha256=None)


def _write(
    folder: str | os.PathLike,
    made_by: str,
    pairs: _PairSet,
    versions: Mapping[str, str],
    rows: Sequence[tuple[FaceRow, FaceRow]],
    pair: Callable[[int], np.ndarray],
) -> Iterator[FaceRow]:
    request = {"made_by": made_by, "size": pairs.size, "seed": pairs.seed, "crops": len(pairs)}
    request |= {"left_out": dict(pairs.left_out), **versions, "tfdfd": __version__, "opencv": cv2.__version__}
    with WorkDir(folder, made_by, request | {"rows_sha256": _rows_digest(rows)}, holds="such set") as work:
        for part in ("real", "fake"):
            (work.path / part).mkdir(exist_ok=True)
        written = []
        for two in map_in_threads(lambda number: _write_pair(work.path, number, rows[number], pair), range(len(rows))):
            written += [replace(row, box=(0, 0, pairs.size, pairs.size)) for row in two]
            if len(written) < 2 * len(rows):
                yield written[-2]
        # The table is written before the last row is yielded: a caller that takes one row per pair has a complete set.
        write_table(work.path / TABLE, written, FaceRow)
        if written:
            yield written[-2]


def _rows_digest(rows: Sequence[tuple[FaceRow, FaceRow]]) -> str:
    digest = hashlib.sha256()
    for row, _ in rows:
        digest.update(f"{row.file}\0{row.sha256}\0{row.split}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _write_pair(folder: Path, number: int, rows: Sequence[FaceRow], pair: Callable[[int], np.ndarray]) -> list[FaceRow]:
    """Writes the two files unless they exist; their rows."""
    names = [f"{part}/{number:06}.png" for part in ("real", "fake")]
    files = [folder / name for name in names]
    if not all(file.exists() for file in files):
        for file, image in zip(files, pair(number), strict=True):
            _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            write_atomically(file, data.tobytes())
    return [replace(row, file=name, sha256=sha256(file)) for row, name, file in zip(rows, names, files, strict=True)]
