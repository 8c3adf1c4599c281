"""Atomic writes, bounded reads, digests and folder locks for files that several processes use at once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

PACKAGE = Path(__file__).parent
# Temporary files of `temporary_beside`.
TEMPORARY = ".tfdfd-*.tmp"
_FOLDER = "tfdfd-work-"
_BLOCK = 1 << 20


def user_cache() -> Path:
    """The package's folder in the user's cache folder.

    Raises:
        RuntimeError: there is no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfdfd")


def write_atomically(path: str | os.PathLike, data: str | bytes) -> None:
    """Writes text (UTF-8) or bytes to a temporary file in the same folder, then renames it; leaves no partial file.

    Raises:
        OSError: the file cannot be written; an existing file stays unchanged.
    """
    # A link stays a link, and its target is written.
    with temporary_beside(Path(os.path.realpath(path))) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` at the end of the block; after an error it is removed.

    Its name depends on that of `path` and it is locked, so the next write takes over what a killed process left.

    Raises:
        OSError: the file cannot be written; an existing file stays unchanged.
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    partial = path.with_name(f".tfdfd-{name}.tmp")
    file = _taken_over(partial)
    if file is None:  # another process writes to the same path, or there are no locks
        partial = path.with_name(f".tfdfd-{secrets.token_hex(8)}.tmp")
        file = open(partial, "xb")  # noqa: SIM115
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":  # while the file is locked; Windows does not rename open files
                os.replace(partial, path)
        if os.name != "posix":
            os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk, whose error names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _taken_over(partial: Path) -> BinaryIO | None:
    """The file, empty and locked, whether it is new or a killed process left it; None if it cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EACCES) and os.path.lexists(partial):
            return None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status, named = os.fstat(descriptor), os.lstat(partial)
        # Another process may have renamed it between opening and locking.
        is_named = (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino)
        if is_named and stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid():
            os.ftruncate(descriptor, 0)
            return os.fdopen(descriptor, "wb")
    except OSError:
        pass
    os.close(descriptor)
    return None


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's temporary folder until the end of the block.

    Folders that killed processes of the same user left there are removed first.

    Raises:
        OSError: the folder cannot be created.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError, ValueError):
            if not left.is_symlink() and left.stat().st_uid == (os.geteuid() if os.name == "posix" else -1):
                lock = locked_folder(left, "tfdfd")
                if lock is not None:
                    shutil.rmtree(left, ignore_errors=True)
                    os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
        try:
            lock = locked_folder(folder, "tfdfd")
        except ValueError:  # another process took it for one that was left
            continue
        if folder.is_dir():
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def open_regular(path: str | os.PathLike, most: int | None = None) -> BinaryIO:
    """Opens a regular file to read its bytes; a pipe or a device neither blocks nor is read.

    Args:
        path: path of the file.
        most: size that the file may have; None: any.

    Raises:
        OSError: the file cannot be opened, is not a regular file, or is larger.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file, but a folder, pipe, socket or device", str(path))
        if most is not None and status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes; at most {most:,} are read", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike, most: int) -> bytes:
    """Returns the bytes of a regular file of at most `most` bytes.

    Raises:
        OSError: see `open_regular`.
    """
    with open_regular(path, most) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it grew beyond the {most:,} bytes that are read", str(path))
    return data


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 digest of a regular file's bytes, as hex.

    Raises:
        OSError: the file cannot be read.
    """
    value = hashlib.sha256()
    with open_regular(path) as file:
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
