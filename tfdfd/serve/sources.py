"""Where a model's versions come from: a folder of numbered folders, or a hub that knows the digest of every file."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from tfdfd.serve.loaded_model import SAVED_MODEL

# What fits the protocol's 64 bits.
_NUMBER = re.compile("[0-9]{1,18}")
# Of a hub that is asked over the network.
_SECONDS_BETWEEN_QUESTIONS = 60.0


@dataclass(frozen=True)
class FolderSource:
    """Versions beside one another, each in a folder that is named by its number.

    A folder that is itself a SavedModel is its only version, 1.
    """

    base: Path

    def __str__(self):
        return str(self.base)

    def versions(self) -> dict[int, object]:
        """Numbers, the highest first, each with what differs once its files are others.

        Raises:
            OSError: the folder cannot be read.
        """
        return {number: _state_of(folder) for number, folder in self._folders().items()}

    def folder(self, number: int) -> Path:
        """Of a version.

        Raises:
            ValueError: it is not there any more.
        """
        try:
            return self._folders()[number]
        except KeyError:
            raise ValueError(f"there is no folder {self.base / str(number)}.") from None

    def _folders(self):
        if (self.base / SAVED_MODEL).is_file():
            return {1: self.base}
        with os.scandir(self.base) as entries:
            found = {int(e.name): Path(e.path) for e in entries if _NUMBER.fullmatch(e.name) and e.is_dir()}
        return dict(sorted(found.items(), reverse=True))


@dataclass(frozen=True)
class HubSource:
    """Versions that `tfdfd publish` has made; each is compared with the manifest before it is loaded."""

    model: str
    _known: list = field(default_factory=list, compare=False, repr=False)

    def __str__(self):
        return f"tfdfd/{self.model}"

    def versions(self) -> dict[int, object]:
        """Numbers, the highest first, each with its digest; a hub on the network is asked once a minute.

        Raises:
            ValueError: the hub cannot be read.
        """
        from tfdfd.hub.errors import HubUnreachable
        from tfdfd.hub.finding import hubs

        if self._known and time.monotonic() < self._known[0]:
            return self._known[1]
        found: dict[int, object] = {}
        for hub in hubs():
            try:
                versions = hub.manifest().models.get(self.model, {})
            except HubUnreachable:
                continue
            for number, version in versions.items():
                found.setdefault(number, version.digest)
        wait = _SECONDS_BETWEEN_QUESTIONS if "://" in os.environ.get("TFDFD_HUB", "") else 0.0
        self._known[:] = time.monotonic() + wait, dict(sorted(found.items(), reverse=True))
        return self._known[1]

    def folder(self, number: int) -> Path:
        """The checked folder of a version, fetched if need be.

        Raises:
            ValueError: it is not there, or not what was published.
        """
        from tfdfd.hub.finding import find

        return find(f"tfdfd/{self.model}/{number}").path


def _state_of(folder):
    files = [folder / SAVED_MODEL, *sorted((folder / "variables").glob("*"))]
    return tuple((file.name, *_state(file)) for file in files)


def _state(file):
    try:
        found = file.stat()
    except OSError:
        return (None, None)
    return found.st_size, found.st_mtime_ns
