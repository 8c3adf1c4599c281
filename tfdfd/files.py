"""Files and folders that several processes may be at: a reader finds the old file or the new one, never half of one,
and a folder in the making belongs to one process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGE = Path(__file__).parent
_BLOCK = 1 << 20


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


def sha256(path: str | os.PathLike) -> str:
    """The digest of a file's bytes, as hex.

    Raises:
        OSError: it cannot be read.
    """
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value.update(block)
    return value.hexdigest()


def sync_folder(folder: str | os.PathLike) -> None:
    """Waits until the files in a folder, and their names, are on the disk, where a power cut leaves them as they are.

    Many at once take a file system a fraction of the time that one after another does.

    Raises:
        OSError: the disk is full or broken.
    """
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(_sync, [entry.path for entry in os.scandir(folder) if entry.is_file()]))
    if os.name == "posix":  # Windows has no such thing for folders
        _sync(folder, os.O_RDONLY)


def _sync(path, mode=os.O_RDWR):
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked_folder(folder: str | os.PathLike, work: str, wait: bool = False) -> int | None:
    """Makes the folder and keeps others out of it for as long as the descriptor is open, which a kill ends, too.

    Args:
        folder: where the work is done.
        work: what is done, for the error of whoever comes second.
        wait: whether whoever comes second waits instead.

    Returns:
        The descriptor, for `os.close`; None where the system or the file system has no locks.

    Raises:
        ValueError: another process has it.
        OSError: it cannot be made.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(lock)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise ValueError(f"another '{work}' is at work in {folder}; wait for it or end it.") from error
        return None
    return lock


def code_digest(*parts: str) -> str:
    """SHA-256 of the code of these parts of the package: of what is kept, whether it would be made the same today."""
    value = hashlib.sha256()
    for part in parts:
        for path in sorted((PACKAGE / part).rglob("*.py")):
            value.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return value.hexdigest()
