"""A hub that is a folder: `manifest.json`, and `<model>/<version>/` as TF Serving reads it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tfdfd.hub.cache import Cache
from tfdfd.hub.checking import check_folder, refuse_links
from tfdfd.hub.errors import HubError
from tfdfd.hub.manifest import FILE, MAX_BYTES, Manifest, Version
from tfdfd.hub.pinning import check_pin


class FolderHub:
    """Published models in a folder.

    Without a pin, files are checked and loaded where they lie: whoever can write there after the check can write
    another manifest, too, and is trusted. With one, they are copied to the cache and the copy is checked.

    Args:
        root: the folder.
        words: what it is called in messages.
        pin: sha256 that the manifest must have, or None.
    """

    def __init__(self, root: Path, words: str, pin: str | None = None):
        self.words = words
        self._root, self._pin = root, pin
        self._digest = None

    def manifest(self) -> Manifest:
        """What the folder says it holds.

        Raises:
            HubError: no folder, no manifest, or one that is not to be believed.
        """
        path = self._root / FILE
        if path.is_symlink() or not path.is_file():
            raise HubError(
                f"{self.words} has no file {path}: 'tfdfd publish' writes it. A manifest that is a link is not read."
            )
        if path.stat().st_size > MAX_BYTES:
            raise HubError(f"{path} is larger than {MAX_BYTES:,} bytes: no manifest of ours.")
        data = path.read_bytes()
        check_pin(data, self._pin, str(path))
        self._digest = hashlib.sha256(data).hexdigest()
        return Manifest.decode(data, str(path))

    def folder_of(self, model: str, number: int, version: Version) -> Path:
        """The checked folder of a version that the manifest names.

        Raises:
            HubError: it holds something else than the manifest says.
        """
        folder = self._root / model / str(number)
        name = f"tfdfd/{model}/{number}"
        if self._pin is None:
            check_folder(self._root, folder, version, name)
            return folder
        return self.fetch(model, number, version)

    def fetch(self, model: str, number: int, version: Version) -> Path:
        """The checked folder of a copy in the cache, which answers without this hub, too.

        Raises:
            HubError: it holds something else than the manifest says.
            OSError: the cache cannot be written.
        """
        return Cache().keep(model, number, version, self._digest, self._copy)

    def _copy(self, model, number, file, target):
        name, source = f"tfdfd/{model}/{number}", self._root / model / str(number) / file.path
        refuse_links(self._root, source, name)
        if not source.is_file():
            raise HubError(f"{name} lacks {source}: publish or copy it again.")
        if source.stat().st_size != file.bytes:
            raise HubError(f"{source} has {source.stat().st_size:,} bytes, but the manifest says {file.bytes:,}.")
        shutil.copyfile(source, target)
