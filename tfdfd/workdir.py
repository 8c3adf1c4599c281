"""Work folders: locked, described by a JSON file, and resumed only by an equal request.

Requests are compared by settings and by digests of contents. Paths are recorded for people but not compared, so that
another spelling of a path, or another working directory, resumes the work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tfdfd.files import TEMPORARY, locked_folder, write_atomically

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
        ValueError: the file cannot be read, or is no JSON object.
    """
    try:
        description = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no record of a {holds}: {type(error).__name__}: {error}.") from error
    if not isinstance(description, dict):
        raise ValueError(
            f"{file} is no record of a {holds}: a {type(description).__name__} where an object is expected."
        )
    return description


def refuse_other(folder: str | os.PathLike, before: dict, request: dict, places: Collection[str] = ()) -> None:
    """Raises `ValueError` with the differences unless the work in `folder` has an equal request."""
    message = differences({key: before.get(key) for key in request}, request, places)
    if message:
        raise ValueError(
            f"{folder} was begun otherwise: {message}. Repeat the former settings to resume, or give another folder."
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
