"""Where crops are and what is known of them: a `faces.csv`, or a folder with `real/` and `fake/`."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tfdfd.data.tables import FAKE, ORIGINAL, REAL, FaceRow, read_table
from tfdfd.files import sha256
from tfdfd.near_matches import did_you_mean

TABLE = "faces.csv"
ENDINGS = (".png", ".jpg", ".jpeg")
_NO_BOX = (0, 0, 0, 0)


@dataclass(frozen=True)
class Faces:
    """Crops: rows, and the folder that their files are relative to."""

    root: Path
    rows: tuple[FaceRow, ...]

    def path(self, position: int) -> str:
        """The file of one row."""
        return os.path.join(self.root, self.rows[position].file)

    def with_digests(self) -> Faces:
        """The same crops, each row with the digest of its file, for tables and folders that do not state it.

        A file that cannot be read has none: whoever needs its pixels says so.
        """
        missing = [position for position, row in enumerate(self.rows) if not row.sha256]
        if not missing:
            return self
        rows = list(self.rows)
        with ThreadPoolExecutor() as pool:
            for position, digest in zip(missing, pool.map(self._digest, missing), strict=True):
                rows[position] = replace(rows[position], sha256=digest)
        return Faces(self.root, tuple(rows))

    def _digest(self, position):
        try:
            return sha256(self.path(position))
        except OSError:
            return None


def faces_of(where: str | os.PathLike | Faces, split: str | None = None) -> Faces:
    """Reads which crops there are; no image is opened.

    Args:
        where: a `faces.csv`, a folder that holds one, a folder with `real/` and `fake/` (any depth, PNG and JPEG by
            name, sorted; a folder within `fake/` names the method), or `Faces`.
        split: only the rows of this split; None for all.

    Raises:
        ValueError: nothing of that kind is there, or no crop of that split.
    """
    faces = where if isinstance(where, Faces) else _read(Path(where))
    if split is not None:
        chosen = tuple(row for row in faces.rows if row.split == split)
        if not chosen and faces.rows:
            counts = Counter(row.split or "without a split" for row in faces.rows)
            there = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            others = _tables_with(faces.root, split)
            more = f" {' and '.join(map(str, others))} has some: give that table." if others else ""
            raise ValueError(
                f"{faces.root} has no crop of split {split!r} (its crops: {there}); make splits with 'tfdfd split', or "
                f"take all crops: --split none of 'tfdfd evaluate', split=None in Python.{more}"
            )
        faces = replace(faces, rows=chosen)
    if not faces.rows:
        raise ValueError(f"{faces.root} has no crops: its table is empty, or no name ends in {', '.join(ENDINGS)}.")
    return faces


def table_file(where: str | os.PathLike) -> Path:
    """The table that a set is told by: a file as it is, and of a folder its `faces.csv`.

    Raises:
        ValueError: a folder without one.
    """
    where = Path(where)
    if not where.is_dir():
        return where
    if not (where / TABLE).is_file():
        tables = sorted(file.name for file in where.glob("*.csv"))
        there = f"it has {', '.join(tables)}: give one of them" if tables else "give a table"
        raise ValueError(f"the folder {where} has no {TABLE}; {there}.")
    return where / TABLE


def _tables_with(folder, split):
    """Other tables of crops in a folder that have the split."""
    found = []
    for file in sorted(folder.glob("*.csv")):
        with contextlib.suppress(ValueError):
            if any(row.split == split for row in read_table(file, FaceRow)):
                found.append(file)
    return found


def _absent(where):
    """That there is no such path, and what there is of nearly that name."""
    parent = where.absolute().parent
    with contextlib.suppress(OSError):
        hint = did_you_mean(where.name, os.listdir(parent))
        if hint:
            return f" There is no {where.name!r} in {parent}; {hint}"
    return f" There is no {where.name!r} in {parent}."


def named_set(where: str) -> tuple[str | None, str]:
    """`(name or None, path)` of `NAME=PATH`; a path that exists is one, "=" or not."""
    name, equals, path = where.partition("=")
    if equals and name and path and not os.path.exists(where) and not set(name) & set("/\\"):
        return name, path
    return None, where


def _read(where):
    table = where / TABLE if where.is_dir() else where
    if table.is_file():
        return Faces(table.parent, tuple(read_table(table, FaceRow)))
    if not any((where / name).is_dir() for name in ("real", "fake")):
        raise ValueError(
            f"{where} holds no face crops; expected a {TABLE}, a folder with one, or a folder with real/ and fake/."
            f"{'' if where.exists() else _absent(where)}"
        )
    rows = []
    for folder, label in (("real", REAL), ("fake", FAKE)):
        files = (file for file in (where / folder).rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        for name in sorted(file.relative_to(where).as_posix() for file in files):
            inner = name.split("/")[1:-1]
            method = (inner[0] if inner else folder) if label == FAKE else ORIGINAL
            rows.append(FaceRow(name, "folder", name, 0, 0.0, 0, _NO_BOX, None, label, method, ()))
    return Faces(where, tuple(rows))
