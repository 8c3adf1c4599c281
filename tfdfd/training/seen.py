"""What a run has seen: `seen.json` in its folder, by which an evaluation knows its own training data again.

Names of sources and people are kept as digests only: a model is passed on more widely than its data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tfdfd.data.tables import FaceRow, keys_of
from tfdfd.files import write_atomically

FILE = "seen.json"
SCHEMA = 1
# `video`, `source` and `identity` as in `keys_of`; the bytes of a crop's file.
CROP = "file"
# A folder of anybody's: its names say nothing of another folder's.
_NAMELESS = "folder"


def write_seen(
    folder: str | os.PathLike,
    parts: Mapping[str, Iterable[FaceRow]],
    root: str | os.PathLike,
    begun_with: Iterable[str | os.PathLike] = (),
) -> None:
    """Writes what each part (`train`, `val`) of a run's data is known by.

    Args:
        folder: of the run.
        parts: rows by name.
        root: folder of the crops.
        begun_with: models that the run starts from; what those of them that are runs have seen, it has seen, too.

    Raises:
        ValueError: the list of one of these is damaged.
        OSError: it cannot be written.
    """
    marks = {name: {mark for row in rows for _, mark in marks_of(row, root)} for name, rows in parts.items()}
    for model in begun_with:
        for name, seen in (read_seen(model) or {}).items():
            marks.setdefault(name, set()).update(seen)
    told = {"schema": SCHEMA} | {name: sorted(found) for name, found in marks.items()}
    write_atomically(Path(folder) / FILE, json.dumps(told) + "\n")


def read_seen(folder: str | os.PathLike) -> dict[str, frozenset[str]] | None:
    """The marks of each part, by name; None where the run has no such file.

    Raises:
        ValueError: the file is none of this form.
    """
    file = Path(folder) / FILE
    if not file.exists():
        return None
    try:
        told = json.loads(file.read_bytes())
        if told.pop("schema") != SCHEMA:
            raise ValueError(f"another schema than {SCHEMA}")
        return {name: frozenset(marks) for name, marks in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} does not say what a run has seen: {type(error).__name__}: {error}.") from error


def marks_of(row: FaceRow, root: str | os.PathLike) -> list[tuple[str, str]]:
    """`(kind, digest)` of all that ties a crop to others.

    Names count within their data set, and names of a plain folder within that folder.
    """
    scope = os.path.realpath(root) if row.dataset == _NAMELESS else ""
    marks = [(kind, _digest(dataset, scope, kind, name)) for dataset, kind, name in keys_of(row)]
    return marks + ([(CROP, row.sha256)] if row.sha256 else [])


def _digest(*words):
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]
