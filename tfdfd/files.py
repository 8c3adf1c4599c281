"""Writing files so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: str | os.PathLike, data: str | bytes) -> None:
    """Writes text (UTF-8) or bytes under a temporary name in the same folder, then renames; nothing is left behind.

    Raises:
        OSError: the file cannot be written; what was there before is left as it was.
    """
    path = Path(os.path.realpath(path))  # a link stays a link, and what it leads to is written
    partial = path.with_name(f".tfdfd-{secrets.token_hex(8)}.tmp")
    try:
        with open(partial, "xb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
