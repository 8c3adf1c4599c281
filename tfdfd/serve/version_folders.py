"""Which versions lie in a model's folder, and whether one has changed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tfdfd.serve.loaded_model import SAVED_MODEL

# What fits the protocol's 64 bits.
_NUMBER = re.compile("[0-9]{1,18}")


def version_folders(base: str | os.PathLike) -> dict[int, Path]:
    """Version number -> folder, the highest first; other names in `base` are passed over.

    A folder that is itself a SavedModel is its own version, 1 or what its name says.

    Raises:
        OSError: `base` cannot be read.
    """
    base = Path(base)
    if (base / SAVED_MODEL).is_file():
        return {int(base.name) if _NUMBER.fullmatch(base.name) else 1: base}
    with os.scandir(base) as entries:
        found = {int(e.name): Path(e.path) for e in entries if _NUMBER.fullmatch(e.name) and e.is_dir()}
    return dict(sorted(found.items(), reverse=True))


def state_of(folder: Path) -> tuple:
    """What differs once a folder's files are others: a version that could not be loaded is then tried again."""
    files = [folder / SAVED_MODEL, *sorted((folder / "variables").glob("*"))]
    return tuple((file.name, *_state(file)) for file in files)


def _state(file):
    try:
        found = file.stat()
    except OSError:
        return (None, None)
    return found.st_size, found.st_mtime_ns
