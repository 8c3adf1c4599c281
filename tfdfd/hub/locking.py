"""One process at a time in a folder; the others wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tfdfd.files import locked_folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, if need be, and keeps others out of it until the end of the block, or of the process.

    Raises:
        OSError: it cannot be made.
    """
    lock = locked_folder(folder, "tfdfd", wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)
