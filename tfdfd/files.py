"""Files that several processes use at once: atomic writes, bounded reads, digests, folder locks, and work folders.

A work folder is locked, described by a JSON file, and resumed only by an equal request. Requests are compared by
settings and by digests of contents. Paths are recorded for people but not compared, so that another spelling of a path,
or another working directory, resumes the work.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tfdfd.threads import map_in_threads

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


def cache_folder(part: str = "") -> Path:
    """`$TFDFD_CACHE`, or the folder `part` in `user_cache()`.

    Raises:
        RuntimeError: the variable is not set, and there is no home folder.
    """
    given = os.environ.get("TFDFD_CACHE")
    return Path(given) if given else user_cache() / part


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
        size = os.fstat(file.fileno()).st_size
        # Asking for `most` would reserve as much memory for each small file.
        data = file.read(size + 1)
        if len(data) > size:
            data += file.read(most + 1 - len(data))
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
    for _ in map_in_threads(_sync, [entry.path for entry in os.scandir(folder) if entry.is_file()], 8):
        pass
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


@contextlib.contextmanager
def locked(folder: str | os.PathLike, work: str, wait: bool = False) -> Iterator[None]:
    """Holds the lock of `locked_folder` until the end of the block."""
    lock = locked_folder(folder, work, wait)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def new_folder(target: Path, work: str, replace: bool = False) -> Iterator[Path]:
    """A context with an empty folder beside `target`, which takes its place at the end: whole and on the disk.

    After an error, `target` is as before and nothing else is left. What a killed process left is removed.

    Args:
        target: a folder that is absent or empty.
        work: as for `locked_folder`.
        replace: `target` may hold files, which are removed in the end.

    Raises:
        ValueError: another process writes the same folder.
        OSError: the folder cannot be written.
    """
    partial, former = (target.with_name(f".{target.name}.{state}") for state in ("partial", "former"))
    with locked(partial, work):
        try:
            if replace:
                shutil.rmtree(former, ignore_errors=True)
            for entry in partial.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            yield partial
            # Synced before the rename, so the folder is complete even after a power cut.
            for path, _, _ in os.walk(partial, topdown=False):
                sync_folder(path)
            if replace and target.exists():
                os.replace(target, former)
            try:
                os.replace(partial, target)
            except OSError:
                if replace and former.exists():
                    os.replace(former, target)
                raise
            if replace:
                shutil.rmtree(former, ignore_errors=True)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def code_digest(*parts: str) -> str:
    """Returns the SHA-256 of the source code of these parts of the package, to detect outdated stored results."""
    value = hashlib.sha256()
    for part in parts:
        for path in sorted((PACKAGE / part).rglob("*.py")):
            value.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return value.hexdigest()


RUN = "run.json"
_SHOWN = 5


class WorkDir:
    """A folder that one process at a time works in. Use it as a context manager: it locks the folder.

    Args:
        folder: created if it is missing.
        work: the command, for the error that a second process gets.
        request: everything that the work depends on, JSON-serializable.
        holds: name of the folder's content for errors, such as "face set".
        file: name of the description file.
        places: keys of `request` that contain paths, such as `data.folder`, and are not compared.
        state: further entries of a new folder's description.
        upgrade: converts the description of an earlier version; raises `ValueError` for an invalid one.

    Attributes:
        path: path of the folder.
        request: as given.
        before: the existing description; None for a new folder.

    Raises:
        ValueError: the folder contains the work of another request, or something else, or another process has it.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        work: str,
        request: dict,
        *,
        holds: str,
        file: str = RUN,
        places: Collection[str] = (),
        state: dict | None = None,
        upgrade: Callable[[dict], dict] = dict,
    ):
        self.path, self.request = Path(folder), request
        self._file, self._holds, self._places, self._upgrade = self.path / file, holds, places, upgrade
        self._lock = locked_folder(self.path, work)
        try:
            self.before = self._opened()
            if self.before is None:
                self.write(state or {})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkDir:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, state: dict) -> None:
        """Writes the description: the request and the state of the work."""
        write_atomically(self._file, json.dumps(self.request | state, indent=1) + "\n")

    def _opened(self) -> dict | None:
        for left_over in self.path.glob(TEMPORARY):
            left_over.unlink(missing_ok=True)
        if not self._file.exists():
            if any(self.path.iterdir()):
                raise ValueError(f"{self.path} is not empty and holds no {self._holds}; give a new or an empty folder.")
            return None
        before = self._upgrade(read_description(self._file, self._holds))
        refuse_other(self.path, before, self.request, self._places)
        return before


def read_description(file: str | os.PathLike, holds: str) -> dict:
    """Returns the description file of a folder.

    Raises:
        ValueError: the file cannot be read, or is not a JSON object.
    """
    try:
        description = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a record of a {holds}: {type(error).__name__}: {error}.") from error
    if not isinstance(description, dict):
        raise ValueError(
            f"{file} is not a record of a {holds}: a {type(description).__name__} where an object is expected."
        )
    return description


def refuse_other(folder: str | os.PathLike, before: dict, request: dict, places: Collection[str] = ()) -> None:
    """Raises `ValueError` with the differences unless the work in `folder` has an equal request."""
    message = differences({key: before.get(key) for key in request}, request, places)
    if message:
        raise ValueError(
            f"{folder} was started with other settings: {message}. Repeat those to resume, or give another folder."
        )


def differences(before: dict, now: dict, places: Collection[str] = ()) -> str:
    """Returns the differences as text, such as "recipe.epochs was 3, now 5; …"; empty if there are none.

    Args:
        before: as read from JSON.
        now: JSON-serializable.
        places: keys that are not compared, such as `data.folder`.
    """
    one, other = _flat(before), _flat(json.loads(json.dumps(now)))
    keys = [key for key in other | one if key not in places]
    differing = [key for key in keys if one.get(key) != other.get(key)]
    shown = [f"{key} was {one.get(key)!r}, now {other.get(key)!r}" for key in differing[:_SHOWN]]
    return "; ".join(shown + ["…"] * (len(differing) > _SHOWN))


def _flat(nested: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
