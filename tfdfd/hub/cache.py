"""Versions that were fetched, in `$TFHUB_CACHE_DIR/tfdfd`: whole and checked, or not there at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tfdfd.files import sync_folder, write_atomically
from tfdfd.hub.checking import check_folder
from tfdfd.hub.errors import HubError
from tfdfd.hub.locking import locked
from tfdfd.hub.manifest import FILE, File, Manifest, Version
from tfdfd.weights.store import digest

VARIABLE = "TFHUB_CACHE_DIR"


class Cache:
    """What was fetched before, from any hub.

    A version lies in `<model>/<version>-<digest>`, so that hubs which differ in it do not meet.

    Args:
        source: only what came by the manifest of this digest; None: all.

    Raises:
        HubError: `$TFHUB_CACHE_DIR` is of no use.
    """

    words = "the cache"

    def __init__(self, source: str | None = None):
        self.root = cache_folder()
        self._source = source

    def manifest(self) -> Manifest:
        """What is there."""
        told = self._told()
        if self._source is None:
            return told
        models = {
            model: {number: version for number, version in versions.items() if version.source == self._source}
            for model, versions in told.models.items()
        }
        return Manifest({model: versions for model, versions in models.items() if versions})

    def folder_of(self, model: str, number: int, version: Version) -> Path:
        """The checked folder of a version.

        Raises:
            HubError: it was altered.
        """
        check_owner(self.root)
        folder = self.root / model / f"{number}-{version.digest[:16]}"
        try:
            check_folder(self.root, folder, version, f"tfdfd/{model}/{number}")
        except HubError as error:
            raise HubError(f"{error} This is the cache: delete {folder}, and it is fetched again.") from error
        return folder

    def keep(
        self,
        model: str,
        number: int,
        version: Version,
        source: str,
        fetch: Callable[[str, int, File, Path], None],
    ) -> Path:
        """The checked folder of a version, fetched if it is not there.

        A fetch that was ended, however, leaves nothing that is taken for a version, and the files that had arrived are
        not fetched again.

        Args:
            model: its name.
            number: of the version.
            version: what it must consist of.
            source: digest of the manifest that says so.
            fetch: called as `(model, number, file, target)` for each file.

        Raises:
            HubError: something else than the manifest says was fetched.
            OSError: the cache cannot be written.
        """
        folder = self.root / model / f"{number}-{version.digest[:16]}"
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(self.root)
        if not folder.exists():
            with locked(self.root):
                if not folder.exists():
                    self._fetch(folder, model, number, version, fetch)
        self.folder_of(model, number, version)
        told = self._told().models.get(model, {}).get(number)
        if told != version or told.source != source:
            with locked(self.root):
                known = Version(version.files, source)
                write_atomically(self.root / FILE, self._told().with_version(model, number, known).encoded())
        return folder

    def _fetch(self, folder, model, number, version, fetch):
        partial = self.root / f".{model}-{number}-{version.digest[:16]}.part"
        for file in version.files:
            target = partial / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target.is_file() and target.stat().st_size == file.bytes and digest(target) == file.sha256):
                fetch(model, number, file, target)
        check_folder(self.root, partial, version, f"tfdfd/{model}/{number}")
        for place, _, _ in os.walk(partial):
            sync_folder(place)
        folder.parent.mkdir(exist_ok=True)
        os.rename(partial, folder)

    def _told(self):
        path = self.root / FILE
        if not path.is_file():
            return Manifest()
        check_owner(self.root)
        return Manifest.decode(path.read_bytes(), str(path))


def check_owner(root: Path) -> None:
    """Raises `HubError` where a cache is another user's, or everybody may write there."""
    # Their files, and their manifest, could be of a network that calls all faces real.
    if not hasattr(os, "geteuid") or not root.exists():
        return
    status = root.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o002:
        raise HubError(
            f"the cache {root} belongs to somebody else, or everybody may write there; set ${VARIABLE} to a folder of "
            "your own."
        )


def cache_folder() -> Path:
    """`$TFHUB_CACHE_DIR/tfdfd`, or `tfdfd/hub` in the user's cache folder.

    Raises:
        HubError: the variable names no local folder, or there is no home folder.
    """
    given = os.environ.get(VARIABLE)
    if given:
        if "://" in given:
            raise HubError(f"${VARIABLE} must be a local folder for models of tfdfd; received {given!r}.")
        return Path(given).absolute() / "tfdfd"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfdfd", "hub").absolute()
    except RuntimeError as error:
        raise HubError(f"there is no home folder for a cache ({error}); set ${VARIABLE}.") from error
