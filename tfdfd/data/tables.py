"""The two tables that data preparation passes on: `index.csv`, a row a video or image, and `faces.csv`, a row a crop.

CSV, UTF-8 (bytes of a file name that are none survive), with a header; columns are the fields below, in their order.
Several names in one cell (`source_id`, `identity`) are joined by ";". An empty cell is None or no name. Paths have "/".
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from tfdfd.files import write_atomically

REAL, FAKE = 0, 1
ORIGINAL = "original"
SPLITS = ("train", "val", "test")
SEPARATOR = ";"


@dataclass(frozen=True)
class IndexRow:
    """One video or image of a data set.

    Attributes:
        path: relative to the data set's root.
        dataset: `ffpp`, `celebdf`, `dfdc` or `folder`.
        kind: `video` or `image`.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation as the data set calls it.
        source_id: names of the original videos that it shows (both of a pair `519_515`); people are in `identity`. What
            shares either stays together in a split.
        compression: `c0`, `c23`, `c40`; None where the data set has one version only.
        original: path of the real video that a fake was made from; None where it is unknown or the row is real.
        identity: names of the people in it, where the data set tells.
        split: `train`, `val`, `test` of the data set's own, or None.
        bytes: size of the file; None where it is missing.
        status: `ok`, `missing`, `empty` (0 bytes).
    """

    path: str
    dataset: str
    kind: str
    label: int
    method: str
    source_id: tuple[str, ...]
    compression: str | None = None
    original: str | None = None
    identity: tuple[str, ...] = ()
    split: str | None = None
    bytes: int | None = None
    status: str = "ok"


@dataclass(frozen=True)
class FaceRow:
    """One face crop.

    Attributes:
        file: path of the crop, relative to the folder of `faces.csv`.
        dataset: as of its video.
        video: `path` of its video or image in the index.
        frame: number of the frame, from 0.
        time_s: its time in the video; 0 for an image.
        track: number of the face's track in the video, from 0.
        box: `(x, y, width, height)` of the detected face in the upright frame, pixels.
        score: of the detector; None where it gives none.
        label: 0 real, 1 fake.
        method: as of its video.
        source_id: as of its video.
        identity: as of its video.
        compression: as of its video.
        split: as of its video, or as `tfdfd split` has set it.
        sha256: of the crop's file.
    """

    file: str
    dataset: str
    video: str
    frame: int
    time_s: float
    track: int
    box: tuple[int, int, int, int]
    score: float | None
    label: int
    method: str
    source_id: tuple[str, ...]
    identity: tuple[str, ...] = ()
    compression: str | None = None
    split: str | None = None
    sha256: str | None = None


def write_table(path: str | os.PathLike, rows: Iterable[IndexRow] | Iterable[FaceRow], kind: type) -> None:
    """Writes rows of `kind` (`IndexRow`, `FaceRow` or another dataclass), at once or not at all."""
    names = [field.name for field in fields(kind)]
    text = io.StringIO()
    plain, quoting = (
        csv.writer(text, lineterminator="\n", quoting=style) for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    plain.writerow(names)
    for row in rows:
        cells = [_written(getattr(row, name)) for name in names]
        # Left to itself the writer takes a carriage return for an ordinary letter; the reader does not.
        (quoting if any("\r" in cell for cell in cells) else plain).writerow(cells)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_table(path: str | os.PathLike, kind: type) -> list:
    """The rows of a table as `kind`, which may have a `READ`: for some of its columns, what makes a value of a cell.

    Raises:
        ValueError: no such file, other columns, or a cell that is none of its values; names file and line.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    lines = csv.reader(io.StringIO(text, newline=""))
    names = [field.name for field in fields(kind)]
    header = next(lines, [])
    if header != names:
        missing, extra = [n for n in names if n not in header], [n for n in header if n not in names]
        raise ValueError(
            f"{path} has other columns than expected: it lacks {missing}, and has {extra} besides; expected "
            f"{','.join(names)}, in this order."
        )
    rows, read = [], _READ | getattr(kind, "READ", {})
    for cells in lines:
        if len(cells) != len(names):
            raise ValueError(f"{path}, line {lines.line_num}: {len(cells)} cells; expected {len(names)}.")
        try:
            rows.append(kind(**{name: read[name](cell) for name, cell in zip(names, cells, strict=True)}))
        except ValueError as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from error
    return rows


def read_either(path: str | os.PathLike) -> tuple[list, type]:
    """The rows of a table of either kind, and its kind: `IndexRow` or `FaceRow`.

    Raises:
        ValueError: it is neither; see `read_table`.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = next(csv.reader(io.StringIO(file.readline())), [])
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    kind = FaceRow if "file" in header or "video" in header else IndexRow
    return read_table(path, kind), kind


def _written(value):
    if value is None:
        return ""
    if isinstance(value, tuple):
        separator = SEPARATOR if all(isinstance(part, str) for part in value) else " "
        return separator.join(map(str, value))
    return str(value)


def _names(cell):
    return tuple(part for part in cell.split(SEPARATOR) if part)


def _text(cell):
    if not cell:
        raise ValueError("an empty cell where a name is expected.")
    return cell


def _label(cell):
    if cell not in ("0", "1"):
        raise ValueError(f"label must be 0 (real) or 1 (fake); received {cell!r}.")
    return int(cell)


def _split(cell):
    if cell and cell not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)} or empty; received {cell!r}.")
    return cell or None


def _box(cell):
    box = tuple(int(part) for part in cell.split())
    if len(box) != 4:
        raise ValueError(f"box must be 'x y width height'; received {cell!r}.")
    return box


def _maybe(read):
    return lambda cell: read(cell) if cell else None


_READ = {
    "path": _text, "file": _text, "video": _text, "dataset": _text, "kind": _text, "method": _text, "status": _text,
    "label": _label, "split": _split, "box": _box, "source_id": _names, "identity": _names,
    "compression": _maybe(str), "original": _maybe(str), "sha256": _maybe(str),
    "bytes": _maybe(int), "score": _maybe(float), "frame": int, "track": int, "time_s": float,
}  # fmt: skip
