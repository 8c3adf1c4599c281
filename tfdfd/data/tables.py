"""Tables of data preparation: `index.csv`, a row per video or image, and `faces.csv`, a row per crop.

CSV in UTF-8 (undecodable bytes of file names survive), with a header; columns are the fields below, in their order.
Several names in one cell (`source_id`, `identity`) are joined by ";". An empty cell is None or no name. Paths have "/".
Text that a spreadsheet program would run, such as `=1+1`, has an apostrophe before it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tfdfd.files import cache_folder, write_atomically
from tfdfd.text import printable_path, text_of_cell, without_formula

# Folders, separated as in `PATH`.
OTHER_FOLDERS = "TFDFD_DATA"
REAL, FAKE = 0, 1
ORIGINAL = "original"
SPLITS = ("train", "val", "test")
SEPARATOR = ";"
SOURCE, IDENTITY, VIDEO = "source", "identity", "video"
_COMPRESSIONS = {"raw", "c0", "c23", "c40"}


@dataclass(frozen=True)
class IndexRow:
    """One video or image of a data set.

    Attributes:
        path: relative to the data set's root.
        dataset: `ffpp`, `celebdf`, `dfdc` or `folder`.
        kind: `video` or `image`.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation as the data set calls it.
        source_id: names of the original videos that it shows (both of a pair `519_515`); people are in `identity`. Rows
            that share either stay together in a split.
        compression: `c0`, `c23`, `c40`; None where the data set has one version only.
        original: path of the real video that a fake was made from; None where it is unknown or the row is real.
        identity: names of the people in it, where the data set has them.
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
        video: `path` of its video or image in the index.
        frame: number of the frame, from 0.
        time_s: its time in the video; 0 for an image.
        track: number of the face's track in the video, from 0.
        box: `(x, y, width, height)` of the detected face in the upright frame, pixels.
        score: score of the detector; None where it gives none.
        label: 0 real, 1 fake.
        dataset, method, source_id, identity, compression: those of its video.
        split: that of its video, or set by `tfdfd split`.
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


Row = IndexRow | FaceRow
Key = tuple[str, str, str]


def write_table(path: str | os.PathLike, rows: Iterable, kind: type) -> None:
    """Writes rows of `kind` (`IndexRow`, `FaceRow` or another dataclass) atomically."""
    names = [field.name for field in fields(kind)]
    text = io.StringIO()
    plain, quoting = (
        csv.writer(text, lineterminator="\n", quoting=style) for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    plain.writerow(names)
    for row in rows:
        cells = [_to_cell(getattr(row, name)) for name in names]
        # The writer does not quote a bare carriage return by itself; the reader would break the line there.
        (quoting if any("\r" in cell for cell in cells) else plain).writerow(cells)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_table(path: str | os.PathLike, kind: type) -> list:
    """The rows of a table as `kind`, whose attribute `READ`, if any, maps column names to cell parsers.

    Raises:
        ValueError: no such file, other columns, or an invalid cell; names file and line.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    lines = csv.reader(io.StringIO(text, newline=""))
    names = [field.name for field in fields(kind)]
    header = next(lines, [])
    if header != names:
        missing, extra = [n for n in names if n not in header], [n for n in header if n not in names]
        raise ValueError(
            f"{path} has other columns than expected: it lacks {missing} and has additional {extra}; expected "
            f"{','.join(names)}, in this order."
        )
    rows, read = [], _READ | getattr(kind, "READ", {})
    for cells in lines:
        if len(cells) != len(names):
            raise ValueError(f"{path}, line {lines.line_num}: {len(cells)} cells; expected {len(names)}.")
        try:
            parsed = {name: read[name](text_of_cell(cell)) for name, cell in zip(names, cells, strict=True)}
            rows.append(kind(**parsed))
        except ValueError as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from error
    if kind is FaceRow and any(row.file.startswith("../") for row in rows):
        _recall_folders(path, data)
    return rows


def other_folders() -> list[str]:
    """The folders of `$TFDFD_DATA`, in which crops may lie besides that of their table."""
    return [name for name in os.environ.get(OTHER_FOLDERS, "").split(os.pathsep) if name]


def allow_crops_in(folder: str | os.PathLike) -> None:
    """Adds a folder to `$TFDFD_DATA` of this process and its children."""
    if os.path.realpath(folder) not in other_folders():
        os.environ[OTHER_FOLDERS] = os.pathsep.join([*other_folders(), os.path.realpath(folder)])


def remember_folders(
    table: str | os.PathLike, rows: Iterable[FaceRow], folders: Iterable[str | os.PathLike]
) -> str | None:
    """Remembers that a table which was just written on this machine has some of its crops in other folders.

    Only a table with these bytes in this place may have crops read from there without `$TFDFD_DATA`. The memory is in
    `$TFDFD_CACHE`, or in the user's cache folder.

    Returns:
        None; or, if it cannot be written, how the table is read.
    """
    if not any(row.file.startswith("../") for row in rows):
        return None
    table = Path(table)
    here = os.path.realpath(table.parent)
    there = sorted({*map(os.path.realpath, folders), *other_folders()} - {here})
    try:
        memory = _memory_of(table.read_bytes())
        memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(memory, json.dumps({"folder": here, "crops": there}) + "\n")
    except (OSError, RuntimeError) as error:  # a full disk, or no home folder
        return f"crops of {printable_path(table)} are only read with {OTHER_FOLDERS}={os.pathsep.join(there)}: {error}"
    return None


def _recall_folders(table: Path, data: bytes) -> None:
    try:
        memory = json.loads(_memory_of(data).read_text("utf-8"))
    except (OSError, RuntimeError):
        return  # written elsewhere, or no home folder
    if memory["folder"] == os.path.realpath(table.parent):
        for folder in memory["crops"]:
            allow_crops_in(folder)


def _memory_of(data: bytes) -> Path:
    return cache_folder() / "tables" / f"{hashlib.sha256(data).hexdigest()}.json"


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


def video_of(row: Row) -> str:
    """The video or image in the index that a row of either table belongs to."""
    return row.video if hasattr(row, "video") else row.path


def name_of(row: Row) -> str:
    """The file of a row of either table: the crop's, or the video's path."""
    return row.file if hasattr(row, "file") else row.path


def keys_of(row: Row) -> list[Key]:
    """The keys that tie a row to others: `(data set, kind, name)`, of kinds `SOURCE`, `IDENTITY` and `VIDEO`."""
    keys = [(row.dataset, VIDEO, _recording(row, video_of(row)))]
    keys += [(row.dataset, SOURCE, name) for name in row.source_id]
    keys += [(row.dataset, IDENTITY, name) for name in row.identity]
    if getattr(row, "original", None):
        keys.append((row.dataset, VIDEO, _recording(row, row.original)))  # type: ignore[union-attr]
    return keys


@dataclass(frozen=True)
class MergedTable:
    """One table made of several.

    Attributes:
        rows: rows of all tables, in their order.
        repeated: number of rows left out because an equal row of the same file came before.
        same_content: crops with one sha256, each a tuple of rows; they are in `rows`.
        shared_names: `(data set, kind, name)` that more than one table has: they count as one.
    """

    rows: list
    repeated: int
    same_content: list[tuple]
    shared_names: list[Key]

    @property
    def contradictions(self) -> list[tuple]:
        """Those of `same_content` with both a real and a fake row."""
        return [rows for rows in self.same_content if len({row.label for row in rows}) > 1]


def merge_tables(tables: Sequence[Iterable], labels: Sequence[str]) -> MergedTable:
    """Merges tables whose paths are relative to the same folder.

    Args:
        tables: rows of each table, all of one kind.
        labels: names of the tables in errors.

    Raises:
        ValueError: kinds differ, or two different rows describe the same file.
    """
    tables = [list(table) for table in tables]
    kinds = {type(row): label for table, label in zip(tables, labels, strict=True) for row in table[:1]}  # type: ignore[index]
    if len(kinds) > 1:
        listed = ", ".join(f"{label} of {'crops' if kind is FaceRow else 'videos'}" for kind, label in kinds.items())
        raise ValueError(f"the tables are of different kinds: {listed}. Merge indexes, or faces, not both.")
    repeated = 0
    rows: dict[Any, Any] = {}
    owner: dict[Any, str] = {}
    for table, label in zip(tables, labels, strict=True):
        for row in table:
            name = name_of(row)
            if rows.setdefault(name, row) != row:
                raise ValueError(
                    f"{name} is in {owner[name]} and in {label}; the rows differ in {_differences(rows[name], row)}. "
                    "If these are two files, give the folder that each table's paths are relative to (--roots); if it "
                    "is one, keep one row."
                )
            repeated += name in owner
            owner.setdefault(name, label)
    by_digest = defaultdict(list)
    for row in rows.values():
        if getattr(row, "sha256", None):
            by_digest[row.sha256].append(row)
    same_content = [tuple(same) for same in by_digest.values() if len(same) > 1]
    return MergedTable(list(rows.values()), repeated, same_content, _shared_keys(tables))


def relocate(rows: Iterable, folder: str | os.PathLike, target: str | os.PathLike) -> list:
    """Rows with paths relative to `folder` as rows of the same files with paths relative to `target`.

    Of an index, the folder is the data set's root.
    """
    here, there = os.path.realpath(folder), os.path.realpath(target)
    if here == there:
        return list(rows)

    def moved(path: str | None) -> Any:
        return None if path is None else os.path.relpath(os.path.join(here, path), there).replace(os.sep, "/")

    return [
        replace(row, file=moved(row.file))
        if isinstance(row, FaceRow)
        else replace(row, path=moved(row.path), original=moved(row.original))
        for row in rows
    ]


def rename_dataset(rows: Iterable, dataset: str) -> list:
    """The rows as rows of another data set, whose names of people and videos are then its own."""
    if not dataset:
        raise ValueError("the name of a data set is empty; give one, such as mine.")
    return [replace(row, dataset=dataset) for row in rows]


def _recording(row: IndexRow | FaceRow, path: Any) -> str:
    """The path without its folder of compression: FaceForensics++ has each video up to three times."""
    if row.compression is None:
        return path
    return "/".join(part for part in path.split("/") if part not in _COMPRESSIONS)


def _differences(one: Any, other: Any) -> str:
    return ", ".join(
        f"{field.name} ({getattr(one, field.name)!r}, {getattr(other, field.name)!r})"
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    )


def _shared_keys(tables: Sequence[Any]) -> list:
    seen: set = set()
    shared: dict[Any, None] = {}
    for table in tables:
        here = {key for row in table for key in keys_of(row)}
        shared |= dict.fromkeys(sorted(here & seen))
        seen |= here
    return list(shared)


def _to_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple) and not all(isinstance(part, str) for part in value):
        return " ".join(map(str, value))
    text = SEPARATOR.join(value) if isinstance(value, tuple) else str(value)
    return without_formula(text) if isinstance(value, str | tuple) else text


def _names(cell: str) -> tuple[str, ...]:
    return tuple(part for part in cell.split(SEPARATOR) if part)


def _text(cell: str) -> str:
    if not cell:
        raise ValueError("an empty cell where a name is expected.")
    return cell


def _label(cell: str) -> int:
    if cell not in ("0", "1"):
        raise ValueError(f"label must be 0 (real) or 1 (fake); received {cell!r}.")
    return int(cell)


def _split(cell: str) -> str | None:
    if cell and cell not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)} or empty; received {cell!r}.")
    return cell or None


def _box(cell: str) -> tuple[int, ...]:
    box = tuple(int(part) for part in cell.split())
    if len(box) != 4:
        raise ValueError(f"box must be 'x y width height'; received {cell!r}.")
    return box


def optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """The parser of a cell that may be empty: None then."""
    return lambda cell: read(cell) if cell else None


_READ = {
    "path": _text, "file": _text, "video": _text, "dataset": _text, "kind": _text, "method": _text, "status": _text,
    "label": _label, "split": _split, "box": _box, "source_id": _names, "identity": _names,
    "compression": optional(str), "original": optional(str), "sha256": optional(str),
    "bytes": optional(int), "score": optional(float), "frame": int, "track": int, "time_s": float,
}  # fmt: skip
