"""Data of a reproduction: crops, or folders of videos, as one table of crops with a document's splits.

Only folders without a `faces.csv` are searched for faces and cut. Everything is written below one work folder, and a
second call resumes a stopped one.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfdfd.data import FaceOptions
from tfdfd.data.crops import TABLE, faces_of, named_set
from tfdfd.data.face_set import FaceSet
from tfdfd.data.index import INDEXERS, datasets
from tfdfd.data.leaks import find_leaks, fingerprint_files, same_pictures
from tfdfd.data.splits import BY, balance_classes, groups, split
from tfdfd.data.tables import (
    FAKE,
    REAL,
    FaceRow,
    IndexRow,
    allow_crops_in,
    merge_tables,
    relocate,
    rename_dataset,
    write_table,
)
from tfdfd.files import sha256
from tfdfd.reproduce import Document

TRAIN, VAL, TEST = "train", "val", "test"
QUICK_FRAMES = 4
Note = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """One data source.

    Attributes:
        path: a table of crops, its folder, or the folder of a data set.
        name: new name of its data set, or None for that of the table or layout.
        layout: key of `tfdfd.data.index.INDEXERS`, or None for crops.
        sha256: digest of the table or index.
    """

    path: Path
    name: str | None
    layout: str | None
    sha256: str

    @property
    def is_cut(self) -> bool:
        """Whether the source is a table of crops."""
        return self.layout is None


@dataclass(frozen=True)
class Prepared:
    """Crops with a document's splits.

    Attributes:
        root: folder that the rows' files are relative to.
        rows: the crops.
        held_out: origin of the test split: `own`, `val` or `made`.
        protocol: protocol of the split, as text.
        left_out: reason, by data set that is not used.
    """

    root: Path
    rows: tuple[FaceRow, ...]
    held_out: str
    protocol: str
    left_out: dict[str, str]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets."""
        return tuple(sorted({row.dataset for row in self.rows}))

    def subset(self, crops: int | None) -> tuple[FaceRow, ...]:
        """Returns at most `crops` of the rows, half of each class, in proportion to the splits."""
        if crops is None or len(self.rows) <= crops:
            return self.rows
        kept = []
        for name in (TRAIN, VAL, TEST):
            for label in (REAL, FAKE):
                part = [n for n, row in enumerate(self.rows) if row.split == name and row.label == label]
                wanted = round(len(part) * crops / len(self.rows))
                part.sort(key=lambda n: hashlib.blake2b(self.rows[n].file.encode("utf-8", "surrogateescape")).digest())
                kept += part[:wanted]
        return tuple(self.rows[n] for n in sorted(kept))


def sources_of(data: Sequence[str]) -> list[Source]:
    """Recognizes each data source by tables, names and sizes, without decoding.

    Args:
        data: each a `faces.csv` or another table of crops, a folder with one, or the folder of a data set as `tfdfd
            index` takes it; `NAME=PATH` names its data set.

    Raises:
        ValueError: a path is neither.
    """
    return [_source(*named_set(each)) for each in data]


def layout_of(root: Path) -> str:
    """Returns the layout of a data set's folder, a key of `tfdfd.data.index.INDEXERS`."""
    if any((root / name).is_dir() for name in datasets.FOLDERS):
        return "ffpp"
    if (root / datasets.TEST_LIST).is_file() or (root / datasets.FAKES).is_dir():
        return "celebdf"
    if any(next(root.glob(f"{depth}{name}"), None) for name in datasets.LISTS for depth in ("", "*/")):
        return "dfdc"
    return "folder"


def prepare(
    document: Document,
    sources: Sequence[Source],
    work: Path,
    note: Note,
    *,
    quick: bool = False,
    extraction: dict | None = None,
    seed: int = 0,
) -> Prepared:
    """Cuts crops of videos, merges the sources and splits them as the document does.

    Args:
        document: document whose protocol applies.
        sources: data sources.
        work: folder for indexes, face sets and tables.
        note: receives progress messages.
        quick: whether four frames of each video are enough.
        extraction: settings of `FaceOptions` instead of the document's.
        seed: seed of the split.

    Raises:
        ValueError: no crops, or no data set with both classes.
        OSError: a folder cannot be written.
    """
    tables = []
    for number, source in enumerate(sources):
        rows, root = _cut(document, source, work / f"data-{number}", note, quick, extraction or {})
        rows = rename_dataset(rows, source.name) if source.name else rows
        allow_crops_in(root)
        tables.append(relocate(rows, root, work))
    rows = merge_tables(tables, [str(source.path) for source in sources]).rows
    rows, left_out = _with_both_classes(rows)
    rows, held_out, protocol = _split(document, rows, work, seed)
    if document.balanced:
        before = len(rows)
        rows, _ = balance_classes(rows, seed)
        protocol += f"; {before - len(rows):,} crops of the larger class left out, 1:1"
    return Prepared(work, tuple(rows), held_out, protocol, left_out)


def people_in_both(rows: Sequence[FaceRow], shares: dict[str, float], seed: int = 0) -> tuple[int, int]:
    """Returns how many sources a random split by crops puts into several parts, and the number of sources."""
    names = [name for name in (TRAIN, VAL, TEST) if shares.get(name)]
    draws = [
        int.from_bytes(hashlib.blake2b(f"{seed} {row.file}".encode("utf-8", "surrogateescape")).digest()[:8], "big")
        for row in rows
    ]
    drawn = []
    for row, draw in zip(rows, draws, strict=True):
        point, total = draw / 2**64, 0.0
        for name in names:
            total += shares[name]
            if point < total or name == names[-1]:
                drawn.append(replace(row, split=name, identity=(), sha256=None))
                break
    crossing = [leak for leak in find_leaks(drawn) if leak.kind in ("source", "video")]
    sources = {(row.dataset, name) for row in rows for name in row.source_id or (row.video,)}
    return len(crossing), len(sources)


def write_rows(path: Path, rows: Sequence[FaceRow]) -> Path:
    """Writes a table of crops, unless one with the same rows is there, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, rows, FaceRow)
    return path


def _source(name: str | None, path: str | os.PathLike) -> Source:
    where = Path(path)
    if where.is_file() or (where / TABLE).is_file():
        faces_of(where)
        table = where if where.is_file() else where / TABLE
        return Source(table, name, None, sha256(table))
    if not where.is_dir():
        faces_of(where)  # raises, and names what is near
        raise ValueError(f"{where} is neither a table of crops nor a folder.")
    layout = layout_of(where)
    rows = INDEXERS[layout](where).rows
    if not rows:
        raise ValueError(
            f"{where} holds no labeled videos or images in the layout of {layout}; 'tfdfd index --help' describes the "
            "layouts. For crops, give their faces.csv."
        )
    return Source(where, name, layout, hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest())


def _cut(
    document: Document, source: Source, folder: Path, note: Note, quick: bool, extraction: dict
) -> tuple[list[FaceRow], Path]:
    faces: Any
    if source.is_cut:
        faces = faces_of(source.path)
        note(f"{source.path}: {len(faces.rows):,} crops, used as they are")
        return list(faces.rows), faces.root
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.csv"
    if not index.is_file():
        write_table(index, INDEXERS[source.layout](source.path).rows, IndexRow)  # type: ignore[index]
    settings = document.extraction | extraction
    if quick and not settings.get("first"):
        settings = {name: value for name, value in settings.items() if name not in ("all", "every_s")}
        settings["frames"] = QUICK_FRAMES
    with FaceSet(index, source.path, folder / "faces", FaceOptions(**settings)) as faces:
        note(f"{source.path}: faces of {len(faces.pending):,} of {len(faces.rows):,} videos and images are to be cut")
        for done, _ in enumerate(faces.extract(), 1):
            if done % 50 == 0:
                note(f"{source.path}: {done:,} done")
        counts = faces.finish()
    note(f"{source.path}: {counts['crops']:,} crops")
    return list(faces_of(folder / "faces").rows), folder / "faces"


def _with_both_classes(rows: Sequence[FaceRow]) -> tuple[list[FaceRow], dict[str, str]]:
    classes: dict[str, set[int]] = {}
    for row in rows:
        classes.setdefault(row.dataset, set()).add(row.label)
    left_out = {
        name: f"only {'fake' if FAKE in labels else 'real'} crops: a network would learn the source"
        for name, labels in sorted(classes.items())
        if len(labels) < 2
    }
    kept = [row for row in rows if row.dataset not in left_out]
    if not kept:
        raise ValueError(
            "no data set of DATA has both real and fake crops: "
            f"{'; '.join(f'{name}: {why}' for name, why in left_out.items()) or 'there are no crops'}."
        )
    return kept, left_out


def _split(document: Document, rows: Sequence[FaceRow], work: Path, seed: int) -> tuple[list[FaceRow], str, str]:
    """Returns the rows with the document's splits, the origin of the test split, and the protocol as text."""
    counts = Counter(row.split for row in rows)
    shares: Any
    if document.split:
        shares = "/".join(f"{100 * share:g}" for share in document.split.values())
        return (
            split(rows, document.split, seed, BY, _same(rows, work)),
            "made",
            f"split anew, {shares}, by source and person",
        )
    if counts[TEST]:
        held_out, test, protocol = "own", TEST, "own test split"
    elif counts[VAL] and counts[TRAIN]:
        held_out, test, protocol = "val", VAL, "the data have no test split: their val split is the test here"
    else:
        rest = 1 - document.test_share
        shares = {TRAIN: rest * (1 - document.val_share), VAL: rest * document.val_share, TEST: document.test_share}
        return (
            split(rows, shares, seed, BY, _same(rows, work)), "made",
            f"the data have no splits: {document.test_share:.1%} test, by source and person",
        )  # fmt: skip
    free = [row for row in rows if row.split != test]
    keeps_val = held_out == "own" and counts[VAL] and document.own_test and document.name == "s2"
    if not keeps_val:
        shares = {TRAIN: 1 - document.val_share, VAL: document.val_share}
        free = split(free, shares, seed, BY, _same(free, work))
        protocol += f"; {document.val_share:.0%} of the rest is validation, by source and person"
    done = iter(free)
    return [replace(row, split=TEST) if row.split == test else next(done) for row in rows], held_out, protocol


def _same(rows: Sequence[FaceRow], folder: Path) -> list[tuple[int, int]]:
    """Returns pairs of rows with the same picture, so that no near-duplicate crosses splits."""
    prints = fingerprint_files(rows, folder)
    return same_pictures(rows, groups(rows), prints) if len(prints.numbers) else []
