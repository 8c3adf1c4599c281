"""Evaluation sets: what a model is scored on, from files, shards, clips or blended pairs, and the videos without crops.

`open_set` opens whatever a user names; `tfdfd.evaluation.scoring` scores it. `DegradedSet` degrades another set's
images by a condition: it maps an RGB uint8 image `(height, width, 3)` and a `np.random.Generator` to an image of the
same shape; the same random state gives the same image.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfdfd.data import degrade
from tfdfd.data.crops import Faces, clips_of, crop_path, equally_spaced, faces_of, named_set, read_pixels
from tfdfd.data.face_set import StatusRow
from tfdfd.data.landmarks import PARTIAL, FaceLandmarks, landmarks_of
from tfdfd.data.leaks import refuse_leaks
from tfdfd.data.pair_sets import METHOD, PHOTO, PLAIN, BlendedPairs, blended_row
from tfdfd.data.tables import REAL, FaceRow, IndexRow, read_table, video_of
from tfdfd.faces.crop import resize_crop
from tfdfd.metrics.scores import NO_FACE, OK, ScoreRow
from tfdfd.pipelines import is_packed, open_shards, read_records
from tfdfd.pipelines.datasets import clip_pipeline, eval_pipeline
from tfdfd.threads import map_in_threads

STATUS_TABLE = "status.csv"
_FOLDER = "folder"
# Status of a video with a single crop for a network that takes clips.
_NO_CLIP = "unsupported"
_NO_BOX = (0, 0, 0, 0)


class EvalSet:
    """The crops of a face set as files, or of one of its splits. Subclasses store or make their crops differently.

    Args:
        where: the folder or file that it was opened from.
        faces: the crops.
        size: side of the square crops that the network takes, in pixels.
        split: name of the split, or None.
        name: name of the data set in tables; None: as in the rows.

    Attributes:
        rows: `FaceRow`s in the order in which they are scored.
        root: folder that their files are relative to; None if the crops are not files.
        absent: rows of videos and crops that cannot have a score, with the reason.
        unlabelled: number of videos without crops and of unknown label, by status.
        videos_known: whether videos without any crop are known.
    """

    frames: int | None = None
    blended = False
    seed: int | None = None
    has_tracks = True

    def __init__(self, where: str, faces: Faces, size: int, split: str | None = None, name: str | None = None):
        self.where, self.split, self.size, self._name = where, split, size, name
        self.root, self.rows = faces.root, tuple(faces.rows)
        self.absent: tuple[ScoreRow, ...] = ()
        self.unlabelled: Mapping[str, int] = {}
        self.videos_known = False

    @property
    def sources(self) -> Sequence[FaceRow]:
        """The rows of all crops that are read."""
        return self.rows

    def dataset_of(self, row: FaceRow | IndexRow) -> str:
        """Data set of a row in tables: the given name, the row's data set, or the folder's name for a plain folder."""
        if self._name:
            return self._name
        return (self.root or Path(self.where)).resolve().name if row.dataset == _FOLDER else row.dataset

    def info(self) -> dict:
        """Identity of the set for JSON: names, split, counts and a digest of its rows."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(f"{row.file}\0{row.sha256}\0{row.label}\0{row.video}\n".encode("utf-8", "surrogateescape"))
        return {
            "names": sorted({self.dataset_of(row) for row in self.rows}),
            "where": os.path.abspath(self.where),
            "root": None if self.root is None else os.path.abspath(self.root),
            "split": self.split,
            "frames_of_a_clip": self.frames,
            "self_blended": self.blended,
            "seed": self.seed,
            "crops": len(self.rows),
            "rows_sha256": digest.hexdigest(),
            "absent": len(self.absent),
            "unlabelled": dict(self.unlabelled),
            "videos_known": self.videos_known,
        }

    def resized(self, size: int) -> EvalSet:
        """The same set for a network that takes crops of another size."""
        other = copy.copy(self)
        other.size = size
        return other

    def parts(self, length: int) -> list[range]:
        """Row numbers in parts that can be scored independently."""
        return [range(start, min(start + length, len(self.rows))) for start in range(0, len(self.rows), length)]

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        """Network inputs of these rows: RGB float32 `(batch, size, size, 3)` in [0, 1].

        Raises:
            Exception: a crop cannot be read; `unreadable` tells which.
        """
        some = Faces(self.root, tuple(self.rows[number] for number in numbers))
        for image, _ in eval_pipeline(some, self.size, batch_size, split=None).as_numpy_iterator():
            yield image

    def picture(self, number: int) -> np.ndarray:
        """The crop of one row before it is scaled: RGB uint8 `(height, width, 3)`."""
        return read_pixels(crop_path(self.root, self.rows[number].file))

    def unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        """Status, `not_found` or `decode_error`, of those of these rows whose files cannot be read."""
        statuses = map_in_threads(lambda number: _file_status(self._files(number)), numbers)
        return {number: status for number, status in zip(numbers, statuses, strict=True) if status}

    def pixels(self, file: str, method: str) -> np.ndarray:
        """A crop by file and method, as stored or as made: RGB uint8 `(height, width, 3)`.

        Raises:
            KeyError: the set has no such file.
            ValueError: it cannot be read.
        """
        if all(row.file != file for row in self.rows):
            raise KeyError(file)
        return read_pixels(crop_path(self.root, file))

    def score_row(self, row: FaceRow, score: float | None, status: str) -> ScoreRow:
        """The row of a crop in the table of scores."""
        same = (row.frame, row.track, row.label, row.method, row.source_id, row.compression, row.split)
        return ScoreRow(row.file, self.dataset_of(row), row.video, *same, score, status)

    def video_row(self, row: FaceRow | IndexRow, status: str) -> ScoreRow:
        """The row of a video without a score in the table of scores."""
        same = (row.label, row.method, row.source_id, row.compression, row.split)
        return ScoreRow(None, self.dataset_of(row), video_of(row), None, None, *same, None, status)

    def _files(self, number: int) -> list[str]:
        return [crop_path(self.root, self.rows[number].file)]


class EvalClipSet(EvalSet):
    """One clip per video, as in validation, for networks over several crops of one face.

    Each row is that of its clip's first crop.

    Args:
        frames: crops per clip; the others as for `EvalSet`.

    Raises:
        ValueError: no video has two crops of one face.
    """

    def __init__(
        self, where: str, faces: Faces, size: int, frames: int, split: str | None = None, name: str | None = None
    ):
        super().__init__(where, faces, size, split, name)
        self.frames, self._faces = frames, faces
        self._clips, _ = clips_of(faces.rows, frames)
        if not self._clips:
            raise ValueError(f"{where} has no video with two crops of one face, hence no clips; extract more frames.")
        self.rows = tuple(clip.row for clip in self._clips)
        taken = {(row.dataset, row.video) for row in self.rows}
        first = {(row.dataset, row.video): row for row in reversed(faces.rows)}
        self.absent = tuple(self.video_row(row, _NO_CLIP) for video, row in first.items() if video not in taken)

    @property
    def sources(self) -> Sequence[FaceRow]:
        return self._faces.rows

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        """RGB float32 `(batch, frames, size, size, 3)` in [0, 1]."""
        positions = np.stack([self._clips[number].frames(self.frames) for number in numbers])  # type: ignore[arg-type]
        for clip, _ in clip_pipeline(self._faces, positions, self.size, batch_size).as_numpy_iterator():
            yield clip

    def _files(self, number: int) -> list[str]:
        positions = dict.fromkeys(self._clips[number].frames(self.frames).tolist())  # type: ignore[arg-type]
        return [self._faces.path(position) for position in positions]


class PackedSet(EvalSet):
    """The crops of shards, read in order; arguments as for `EvalSet`."""

    has_tracks = False

    def __init__(self, where: str, size: int, split: str | None = None, name: str | None = None):
        super().__init__(where, Faces(None, _packed_rows(where, split)), size, split, name)  # type: ignore[arg-type]

    def parts(self, length: int) -> list[range]:
        return [range(len(self.rows))]

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        for image, _ in eval_pipeline(self.where, self.size, batch_size, split=self.split).as_numpy_iterator():
            yield image

    def unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        return {}  # crops were readable when packed; a damaged shard is an error

    def pixels(self, file: str, method: str) -> np.ndarray:
        raise KeyError(file)


class BlendedSet(EvalSet):
    """Real crops alternating with fakes blended from them, the same for each run.

    Fakes of the set are ignored; real crops without landmarks are absent.

    Args:
        seed: seed of the pairs; the others as for `EvalSet`.
        landmarks: file that keeps the landmarks; None: `landmarks.csv` beside the crops.
        keep: keep pairs in memory, for sets that are read many times.
        fakes, medium: as for `BlendedPairs`.

    Raises:
        ValueError: no real crops, or none with landmarks.
    """

    blended = True

    def __init__(
        self,
        where: str,
        faces: Faces,
        size: int,
        split: str | None = None,
        name: str | None = None,
        seed: int = 0,
        landmarks: str | os.PathLike | None = None,
        keep: bool = False,
        fakes: str = PLAIN,
        medium: str = PHOTO,
    ):
        super().__init__(where, faces, size, split, name)
        known: Mapping[str, FaceLandmarks] = landmarks_of(faces, landmarks)
        self.seed = seed
        self._kind: dict[str, Any] = {"seed": seed, "landmarks": known, "fakes": fakes, "medium": medium}
        self._pairs = BlendedPairs(faces, size, split=None, **self._kind)
        self._kept: dict[int, np.ndarray] | None = {} if keep else None
        # A face whose landmarks leave the crop cannot be blended.
        status = {file: NO_FACE if each.status == PARTIAL else each.status for file, each in known.items()}
        left_out = [row for row in self.rows if row.label == REAL and status[row.file] != OK]
        self.absent = tuple(self.score_row(row, None, status[row.file]) for row in left_out)
        self.rows = tuple(row for real in self._pairs.rows for row in (real, blended_row(real)))

    @property
    def sources(self) -> Sequence[FaceRow]:
        return self._pairs.rows

    def resized(self, size: int) -> BlendedSet:
        other = copy.copy(self)
        other.size, other._kept = size, None if self._kept is None else {}
        other._pairs = BlendedPairs(Faces(self.root, self._pairs.rows), size, split=None, **self._kind)
        return other

    def batches(self, numbers: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
        batches = [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
        wanted = [sorted({number // 2 for number in some}) for some in batches]
        made = map_in_threads(self._pair, itertools.chain.from_iterable(wanted))
        for some, theirs in zip(batches, wanted, strict=True):
            pairs = {pair: next(made) for pair in theirs}
            pixels = np.stack([pairs[number // 2][number % 2] for number in some])
            yield pixels.astype(np.float32) / np.float32(255)

    def picture(self, number: int) -> np.ndarray:
        return self._pair(number // 2)[number % 2]

    def unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        return {}  # unreadable crops have no landmarks; one that became unreadable since is an error

    def pixels(self, file: str, method: str) -> np.ndarray:
        numbers = {row.file: number for number, row in enumerate(self._pairs.rows)}
        return self._pair(numbers[file])[int(method == METHOD)]

    def _pair(self, number: int) -> np.ndarray:
        if self._kept is None:
            return self._pairs.pair(number, None)
        if number not in self._kept:
            self._kept[number] = self._pairs.pair(number, None)
        return self._kept[number]


def open_set(
    where: str | os.PathLike,
    split: str | None,
    size: int,
    *,
    frames: int | None = None,
    blend: bool = False,
    index: str | os.PathLike | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
    chosen_frames: int | None = None,
) -> EvalSet:
    """Opens a face set for evaluation.

    Args:
        where: `faces.csv`, its folder, a folder with `real/` and `fake/`, or a folder of shards; `NAME=` in front
            names it.
        split: which crops; None takes all.
        size: side of the square crops that the network takes, in pixels.
        frames: crops per clip, for a network that takes clips; None for single crops.
        blend: blend fakes from the real crops and ignore the set's own fakes.
        index: `index.csv` that the set was extracted from: it knows the labels of videos without crops.
        seed: seed of blended pairs.
        allow_leaks: accept a set whose splits share sources, people or files.
        chosen_frames: number of equally spaced crops of each video, see `tfdfd.data.crops.equally_spaced`; None for
            all.

    Raises:
        ValueError: no such set or split, leaks, or incompatible arguments.
    """
    name, where = named_set(os.fspath(where))
    if frames and (blend or is_packed(where)):
        raise ValueError("the network takes clips, which are made from files: pass a face set, without --blend.")
    if blend and index:
        raise ValueError("--blend makes its own fakes, so --index has nothing to add; omit one of them.")
    if is_packed(where):
        if blend or index or chosen_frames:
            raise ValueError(f"{where} is packed; pass the face set itself for --blend, --index or --frames.")
        refuse_leaks(_packed_rows(where), allow_leaks)
        return PackedSet(where, size, split, name)
    everything = faces_of(where)
    refuse_leaks(everything.rows, allow_leaks)
    # Without digests a replaced crop would go unnoticed.
    faces = faces_of(everything, split)
    faces = replace(faces, rows=tuple(equally_spaced(faces.rows, chosen_frames))).with_digests()
    if blend:
        return BlendedSet(where, faces, size, split, name, seed)
    opened = (
        EvalClipSet(where, faces, size, frames, split, name) if frames else EvalSet(where, faces, size, split, name)
    )
    missing = _missing_videos(everything, split, index)
    if missing:
        opened.videos_known = True
        opened.absent += tuple(opened.video_row(row, status) for row, status in missing[0])
        opened.unlabelled = missing[1]
    return opened


def _missing_videos(
    faces: Faces, split: str | None, index: str | os.PathLike | None
) -> tuple[list[tuple[IndexRow, str]], dict[str, int]] | None:
    """The videos of a split without crops, from `status.csv`; None without that table.

    Returns:
        `(row of the index, status)` of each, and the number of videos of unknown label or split by status.
    """
    table = Path(faces.root) / STATUS_TABLE
    if not table.is_file():
        if index:
            raise ValueError(f"--index gives the labels of the videos in {table}; there is no such file.")
        return None
    with_crops = {row.video for row in faces.rows}
    known = {row.path: row for row in read_table(index, IndexRow)} if index else {}
    missing = []
    unknown: Counter[str] = Counter()
    for status in read_table(table, StatusRow):
        if status.video in with_crops:
            continue
        row = known.get(status.video)
        if row is None or (split is not None and row.split is None):
            unknown[status.status] += 1
        elif split in (None, row.split):
            # If a video has the status `ok` but no crop, none of its faces was kept.
            missing.append((row, NO_FACE if status.status == OK else status.status))
    return missing, dict(sorted(unknown.items()))


def _packed_rows(where: str | os.PathLike, split: str | None = None) -> tuple[FaceRow, ...]:
    """Rows of the crops in shards with their digests; shards do not store time, track and box."""
    return tuple(
        FaceRow(
            file=record.path,
            dataset=record.dataset,
            video=record.video,
            frame=record.frame,
            time_s=0.0,
            track=0,
            box=_NO_BOX,
            score=None,
            label=record.label,
            method=record.method,
            source_id=record.source_id,
            split=record.split,
            sha256=hashlib.sha256(record.image).hexdigest(),
        )
        for record in read_records(open_shards(where, split))
    )


def _file_status(paths: Iterable[str]) -> str | None:
    """Status of the first file that cannot be read; None if all can."""
    for path in paths:
        if not os.path.isfile(path):
            return "not_found"
        try:
            read_pixels(path)
        except ValueError:
            return "decode_error"
    return None


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
        pictures = map_in_threads(lambda number: resize_crop(self.picture(number), self.size), numbers)
        for start in range(0, len(numbers), batch_size):
            crops = np.stack(list(itertools.islice(pictures, min(batch_size, len(numbers) - start))))
            yield crops.astype(np.float32) / np.float32(255)

    def picture(self, number: int) -> np.ndarray:
        name = zlib.crc32(self._condition.encode())
        if self._by_file:
            seed = [name, zlib.crc32(self.rows[number].file.encode("utf-8", "surrogateescape"))]
        else:
            seed = [name, number]
        return CONDITIONS[self._condition](self._base.picture(number), np.random.default_rng(seed))
