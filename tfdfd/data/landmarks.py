"""Five landmarks of each real crop, as self-blending needs them: detected once, stored in `landmarks.csv`.

The table is CSV in UTF-8 (undecodable bytes of file names survive), a row per crop. Rows are appended as they are
detected; of several rows of one file the last one counts. A row whose digest no longer matches the crop is detected
anew.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tfdfd.data.crops import Faces, decode_pixels
from tfdfd.data.self_blending import check_landmarks
from tfdfd.data.tables import REAL
from tfdfd.faces import FaceDetector
from tfdfd.files import write_atomically
from tfdfd.text import text_of_cell, without_formula

if TYPE_CHECKING:
    from tfdfd.faces.detectors import MtcnnDetector

TABLE = "landmarks.csv"
OK, NO_FACE, PARTIAL, DECODE_ERROR, NOT_FOUND = STATUSES = ("ok", "no_face", "partial", "decode_error", "not_found")
_COLUMNS = ("file", "sha256", "status", "score", "box", "points")
# In a crop the face is large. Resized to one size for all, a quarter of which is the smallest face searched for, crops
# are processed three times as fast as with all face sizes from 20 pixels.
_SIDE = 192
_BLOCK = 64  # crops per detector call; the results of one block are lost when a run is interrupted


@dataclass(frozen=True)
class FaceLandmarks:
    """The face in a crop.

    Attributes:
        file: file of the crop, as in its table.
        sha256: of the file when the face was detected; None where it could not be read.
        status: `ok`; `no_face`; `partial`: a face whose landmarks leave the crop or lie too close together for
            self-blending; `decode_error`; `not_found`.
        score: score of the detector, in [0, 1]; None without a face.
        box: `(x, y, width, height)` in pixels of the crop; None without a face.
        points: `(5, 2)` x, y in pixels of the crop: left eye, right eye (as seen), nose, left and right mouth corner;
            None without a face.
    """

    file: str
    sha256: str | None
    status: str
    score: float | None = None
    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, float], ...] | None = None


def landmarks_of(
    faces: Faces, table: str | os.PathLike | None = None, detector: FaceDetector | None = None
) -> dict[str, FaceLandmarks]:
    """The landmarks of each real crop, by file, whatever their status; for arguments see `find_landmarks`."""
    return {entry.file: entry for entry in find_landmarks(faces, table, detector)}


def find_landmarks(
    faces: Faces, table: str | os.PathLike | None = None, detector: FaceDetector | None = None
) -> Iterator[FaceLandmarks]:
    """Reads the landmarks of the real crops, and detects those that are missing or of other bytes.

    Results are written a block at a time: an interrupted run resumes. Of several faces the largest is taken. Crops with
    a digest in their table are opened only if their landmarks are unknown.

    Args:
        faces: the crops; fakes are ignored.
        table: the file that stores landmarks; None: `landmarks.csv` in the folder of the crops.
        detector: one that detects landmarks; None: MTCNN.

    Yields:
        One entry per real crop, in their order; each one is already on disk.

    Raises:
        ValueError: the table has another form, or a crop differs from the digest in its `faces.csv`.
        OSError: the table cannot be written.
    """
    table = Path(faces.root / TABLE if table is None else table)
    known = _open_table(table)
    real = [position for position, row in enumerate(faces.rows) if row.label == REAL]
    for start in range(0, len(real), _BLOCK):
        block, entries, pictures = real[start : start + _BLOCK], {}, {}
        for position in block:
            row = faces.rows[position]
            entry = known.get(row.file)
            if entry is None or entry.sha256 is None or entry.sha256 != row.sha256:
                entry, pixels = _read_crop(faces, position, entry)
                if pixels is not None:
                    pictures[row.file] = entry, pixels
            entries[row.file] = entry
        if pictures:
            detector = detector or _mtcnn()
            entries |= {entry.file: entry for entry in _detect(*zip(*pictures.values(), strict=True), detector)}  # type: ignore[call-arg]
        new = [entry for entry in entries.values() if known.get(entry.file) != entry]
        if new:
            _append(table, new)
        yield from entries.values()


def _read_crop(faces: Faces, position: int, entry: FaceLandmarks | None) -> tuple[FaceLandmarks, np.ndarray | None]:
    """The entry of a crop as far as its bytes determine it, and its pixels if detection is needed."""
    file = faces.rows[position].file
    try:
        data = faces.read(position)
    except FileNotFoundError:
        return FaceLandmarks(file, None, NOT_FOUND), None
    digest = hashlib.sha256(data).hexdigest()
    if entry is not None and entry.sha256 == digest:
        return entry, None
    try:
        return FaceLandmarks(file, digest, OK), decode_pixels(data, file)
    except ValueError:
        return FaceLandmarks(file, digest, DECODE_ERROR), None


def _mtcnn() -> MtcnnDetector:
    from tfdfd.faces.detectors import MtcnnDetector

    return MtcnnDetector(min_face_size=_SIDE // 4)


def _detect(
    entries: Sequence[FaceLandmarks], pictures: Sequence[np.ndarray], detector: MtcnnDetector
) -> Iterator[FaceLandmarks]:
    factors = [_SIDE / max(picture.shape[:2]) for picture in pictures]
    scaled = [_scale(picture, factor) for picture, factor in zip(pictures, factors, strict=True)]
    answers = detector.detect(scaled, [min(factor, 1.0) for factor in factors])
    for entry, picture, factor, answer in zip(entries, pictures, factors, answers, strict=True):
        faces = [face.scaled(1 / factor) for face in answer if face.landmarks is not None]
        if not faces:
            yield FaceLandmarks(entry.file, entry.sha256, NO_FACE)
            continue
        face = max(faces, key=lambda face: face.box[2] * face.box[3])
        points = tuple((round(float(x), 2), round(float(y), 2)) for x, y in face.landmarks)  # type: ignore[union-attr]
        score = None if face.score is None else round(face.score, 4)
        box = tuple(round(float(value), 2) for value in face.box)
        try:
            check_landmarks(points, picture.shape[:2])  # type: ignore[arg-type]
            status = OK
        except ValueError:
            status = PARTIAL
        yield FaceLandmarks(entry.file, entry.sha256, status, score, box, points)


def _scale(picture: np.ndarray, factor: float) -> np.ndarray:
    # The short side of a very narrow picture would round to 0.
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _open_table(table: Path) -> dict[str, FaceLandmarks]:
    """Rows by file. A partial last row of an interrupted run is removed."""
    if not table.exists():
        write_atomically(table, ",".join(_COLUMNS) + "\n")
        return {}
    text = table.read_bytes().decode("utf-8", "surrogateescape")
    lines = list(csv.reader(io.StringIO(text, newline="")))
    if not lines or lines[0] != list(_COLUMNS):
        raise ValueError(
            f"{table} is not a table of landmarks: its columns are {lines[0] if lines else []}; expected "
            f"{','.join(_COLUMNS)}. Move it away and run 'tfdfd data landmarks' again."
        )
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        try:
            rows.append(_parse(cells))
        except (ValueError, TypeError) as error:
            if number < len(lines):
                raise ValueError(f"{table}, row {number}: {error}; remove the row, or the table.") from error
    if len(rows) < len(lines) - 1 or not text.endswith("\n"):
        # A row without a line end may be truncated within a number.
        rows = rows[: len(lines) - 2]
        write_atomically(table, _csv([_COLUMNS, *map(_cells, rows)]))
    return {row.file: row for row in rows}


def _append(table: Path, rows: Iterable[FaceLandmarks]) -> None:
    # In one call, so that rows of two processes do not interleave.
    descriptor = os.open(table, os.O_WRONLY | os.O_APPEND)
    try:
        data = _csv(map(_cells, rows))
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _csv(lines: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _cells(row: FaceLandmarks) -> tuple[str, ...]:
    box, points = (np.ravel(values).tolist() if values else [] for values in (row.box, row.points))
    numbers = (" ".join(map(repr, values)) for values in (box, points))
    return (
        without_formula(row.file),
        row.sha256 or "",
        row.status,
        "" if row.score is None else repr(row.score),
        *numbers,
    )


def _parse(cells: Sequence[str]) -> FaceLandmarks:
    if len(cells) != len(_COLUMNS):
        raise ValueError(f"{len(cells)} cells; expected {len(_COLUMNS)}")
    box: Any
    points: Any
    file, sha256, status, score, box, points = cells
    if status not in STATUSES:
        raise ValueError(f"status {status!r}; expected one of {', '.join(STATUSES)}")
    box, points = (tuple(map(float, cell.split())) for cell in (box, points))
    if (len(box), len(points)) != ((0, 0) if status not in (OK, PARTIAL) else (4, 10)):
        raise ValueError(f"status {status} with {len(box)} numbers of a box and {len(points)} of points")
    pairs = tuple(zip(points[::2], points[1::2], strict=True))
    return FaceLandmarks(
        text_of_cell(file), sha256 or None, status, float(score) if score else None, box or None, pairs or None
    )
