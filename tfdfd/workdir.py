"""The folder of one piece of work: locked, described by a JSON file, and resumed only by the same request.

Requests compare by what they mean: digests of contents and settings. Where files lie is written down for people and is
left out of the comparison, so that another spelling of a path, or another working directory, goes on with the work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path

from tfdfd.files import locked_folder, write_atomically

RUN = "run.json"
_SHOWN = 5


class WorkDir:
    """A folder that one process at a time works in. Use as a context manager: it keeps others out.

    Args:
        folder: of the work; made if it is missing.
        work: the command, for the error of a second process.
        request: what the work depends on, for JSON.
        holds: what such a folder holds, for errors: "face set".
        file: name of the description.
        places: keys of `request`, such as `data.folder`, that say where something lies and are not compared.
        state: what a new folder's description says besides.
        upgrade: makes a description of an earlier form one of today's; raises `ValueError` for what is none.

    Attributes:
        path: of the folder.
        request: as given.
        before: the description that was there; None for a new folder.

    Raises:
        ValueError: the folder holds the work of another request, or something else, or a process is at work in it.
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

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Lets others into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, state: dict) -> None:
        """Writes the description: the request and how far its work is."""
        write_atomically(self._file, json.dumps(self.request | state, indent=1) + "\n")

    def _opened(self):
        for left_over in self.path.glob(".tfdfd-*.tmp"):
            left_over.unlink(missing_ok=True)
        if not self._file.exists():
            if any(self.path.iterdir()):
                raise ValueError(f"{self.path} is not empty and holds no {self._holds}; give a new or an empty folder.")
            return None
        before = self._upgrade(read_description(self._file, self._holds))
        refuse_other(self.path, before, self.request, self._places)
        return before


def read_description(file: str | os.PathLike, holds: str) -> dict:
    """What the JSON file of a folder says.

    Raises:
        ValueError: it cannot be read, or is no JSON object; names the file.
    """
    try:
        told = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no record of a {holds}: {type(error).__name__}: {error}.") from error
    if not isinstance(told, dict):
        raise ValueError(f"{file} is no record of a {holds}: a {type(told).__name__} where an object is expected.")
    return told


def refuse_other(folder: str | os.PathLike, before: dict, request: dict, places: Collection[str] = ()) -> None:
    """Raises `ValueError` with what differs unless the work in `folder` was begun with the same request."""
    words = differences({key: before.get(key) for key in request}, request, places)
    if words:
        raise ValueError(f"{folder} was begun otherwise: {words}. Give the same again to go on, or another folder.")


def differences(before: dict, now: dict, places: Collection[str] = ()) -> str:
    """What differs, in words such as "recipe.epochs was 3, now 5; …"; empty where nothing does.

    Args:
        before: as read from JSON.
        now: anything that JSON holds.
        places: keys, such as `data.folder`, that are not compared.
    """
    one, other = _flat(before), _flat(json.loads(json.dumps(now)))
    keys = [key for key in other | one if key not in places]
    differing = [key for key in keys if one.get(key) != other.get(key)]
    told = [f"{key} was {one.get(key)!r}, now {other.get(key)!r}" for key in differing[:_SHOWN]]
    return "; ".join(told + ["…"] * (len(differing) > _SHOWN))


def _flat(nested, prefix=""):
    flat = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
