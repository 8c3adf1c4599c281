"""What is here without a hub: carried SavedModels, and weights that become one when somebody wants it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tfdfd.hub.exports import FromWeights, exported
from tfdfd.hub.folder_hub import FolderHub
from tfdfd.hub.handles import PREFIX, check_version
from tfdfd.hub.manifest import File, Manifest, Version
from tfdfd.weights.records import list_records


class PackageHub:
    """The models of a folder, and beside them one version of each set of weights that is carried or was pulled.

    A set of weights is version 1, or the `version` that its card says. A SavedModel of that number goes before it.

    Args:
        root: the folder `saved_models`.
    """

    words = "the package"

    def __init__(self, root: Path):
        self._published = FolderHub(root, self.words)

    def manifest(self) -> Manifest:
        """What there is; nothing is made for it.

        Raises:
            HubError: the package is not whole.
        """
        manifest = self._published.manifest()
        for record in list_records().values():
            if record.is_local:
                model, number = record.handle.removeprefix(PREFIX), record.card.get("version", 1)
                check_version(number)
                if number not in manifest.models.get(model, {}):
                    manifest = manifest.with_version(model, number, _version(record))
        return manifest

    def folder_of(self, model: str, number: int, version: Version) -> Path:
        """The checked folder of a version that the manifest names.

        Raises:
            HubError: it is something else than it should be, or could not be made.
        """
        if isinstance(version, FromWeights):
            return exported(model, number, version)
        return self._published.folder_of(model, number, version)


def _version(record):
    card = json.dumps(record.card, sort_keys=True).encode()
    digest = hashlib.sha256(card).hexdigest()
    return FromWeights((File("model_card.json", len(card), digest), File(record.file, record.bytes, record.sha256)))
