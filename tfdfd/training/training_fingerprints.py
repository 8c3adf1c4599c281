"""Fingerprints of training data: `seen.json` in a run folder lets an evaluation detect overlap with training data.

Names of sources and people are stored as digests only, since a model is shared more widely than its data.
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
# Kind of a fingerprint: the bytes of a crop's file. The other kinds are those of `keys_of`.
CROP = "file"
# Data set name of plain folders. Names in one folder are unrelated to names in another folder.
_UNNAMED = "folder"


def write_fingerprints(
    folder: str | os.PathLike,
    parts: Mapping[str, Iterable[FaceRow]],
    root: str | os.PathLike,
    initial_models: Iterable[str | os.PathLike] = (),
) -> None:
    """Writes the fingerprints of each part (`train`, `val`) of a run's data.

    Args:
        folder: run folder.
        parts: rows by name of the part.
        root: folder of the crops.
        initial_models: models that the run starts from. If one is a run folder, its fingerprints are included.

    Raises:
        ValueError: the fingerprints of an initial model are damaged.
        OSError: the file cannot be written.
    """
    fingerprints = {
        name: {digest for row in rows for _, digest in fingerprints_of(row, root)} for name, rows in parts.items()
    }
    for model in initial_models:
        for name, inherited in (read_fingerprints(model) or {}).items():
            fingerprints.setdefault(name, set()).update(inherited)
    content = {"schema": SCHEMA} | {name: sorted(digests) for name, digests in fingerprints.items()}
    write_atomically(Path(folder) / FILE, json.dumps(content) + "\n")


def read_fingerprints(folder: str | os.PathLike) -> dict[str, frozenset[str]] | None:
    """Returns the fingerprints by part; None if the run has no such file.

    Raises:
        ValueError: the file is damaged or of another schema.
    """
    file = Path(folder) / FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_bytes())
        if content.pop("schema") != SCHEMA:
            raise ValueError(f"another schema than {SCHEMA}")
        return {name: frozenset(digests) for name, digests in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} does not say what a run has seen: {type(error).__name__}: {error}.") from error


def fingerprints_of(row: FaceRow, root: str | os.PathLike) -> list[tuple[str, str]]:
    """Returns `(kind, digest)` for the file, video, sources and people of a crop.

    Names count within their data set; names of a plain folder count within that folder.
    """
    scope = os.path.realpath(root) if row.dataset == _UNNAMED else ""
    fingerprints = [(kind, _digest(dataset, scope, kind, name)) for dataset, kind, name in keys_of(row)]
    return fingerprints + ([(CROP, row.sha256)] if row.sha256 else [])


def _digest(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:32]
