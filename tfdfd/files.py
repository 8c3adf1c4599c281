"""Atomic writes, digests and folder locks for files that several processes use at once."""

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
    """Writes text (UTF-8) or bytes to a temporary file in the same folder, then renames it; leaves no partial file.

    Raises:
        OSError: the file cannot be written; an existing file stays unchanged.
    """
    path = Path(os.path.realpath(path))  # a link stays a link, and its target is written
    partial = path.with_name(f".tfdfd-{secrets.token_hex(8)}.tmp")
    try:
        with open(partial, "xb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk, whose error names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 digest of a file's bytes, as hex.

    Raises:
        OSError: the file cannot be read.
    """
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value.update(block)
    return value.hexdigest()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flushes the files in a folder, and their names, to the disk, so that they survive a power failure.

    File systems flush many files at once in a fraction of the time of one after another.

    Raises:
        OSError: the disk is full or broken.
    """
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(_sync, [entry.path for entry in os.scandir(folder) if entry.is_file()]))
    if os.name == "posix":  # Windows cannot flush folders
        _sync(folder, os.O_RDONLY)


def _sync(path: str | os.PathLike, mode: int = os.O_RDWR) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked_folder(folder: str | os.PathLike, work: str, wait: bool = False) -> int | None:
    """Creates the folder and locks it for as long as the descriptor is open; a killed process releases the lock.

    Args:
        folder: the folder.
        work: the command, for the error that a second process gets.
        wait: whether a second process waits instead.

    Returns:
        The descriptor, for `os.close`; None if the system or the file system has no locks.

    Raises:
        ValueError: another process has the lock.
        OSError: the folder cannot be created.
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
    """Returns the SHA-256 of the source code of these parts of the package, to detect outdated stored results."""
    value = hashlib.sha256()
    for part in parts:
        for path in sorted((PACKAGE / part).rglob("*.py")):
            value.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return value.hexdigest()
