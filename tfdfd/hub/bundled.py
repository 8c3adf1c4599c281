"""Hub of the package: bundled SavedModels, and SavedModels made of bundled weights at their first use.

Weights are a fraction of a SavedModel's size, so many networks fit a wheel. Each export is a hub of its own in the
cache, `from-weights/<model>-<digest>-<tfdfd>-<code>/`, whose name changes with weights, card and publishing code; it is
complete or absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tfdfd.child_process import Channel, PythonProcess
from tfdfd.files import PACKAGE, code_digest, sync_folder
from tfdfd.hub import PREFIX, Handle, HubError, check_version
from tfdfd.hub.manifest import FILE, File, Manifest, Version, version_in
from tfdfd.hub.sources import CACHE, FolderHub, cache_folder, check_owner, locked
from tfdfd.hub.stripped import SUFFIX, restore
from tfdfd.runtime.equality import check_equal
from tfdfd.version import __version__
from tfdfd.weights import WeightRecord, list_records
from tfdfd.weights.store import CARD, locate, read_card_file

FOLDER = "from-weights"
_TEMPORARY = ".tfdfd-export-"
_CODE = "from tfdfd.hub.bundled import main; main(sys.argv[1])"


@dataclass(frozen=True)
class FromWeights(Version):
    """A version whose files are a weights file and its card; the SavedModel is made at its first use."""

    @property
    def has_features(self) -> bool:
        return True


def export_weights(model: str, number: int, version: FromWeights) -> Path:
    """The checked folder of a version, made from its weights if absent.

    If the package contains the version without its weights (`tfdfd.hub.stripped`), they are added. Otherwise a separate
    process exports it, so that this one's backend, precision and devices have no influence; a line on standard error
    announces it. Other processes that need the version wait.

    Raises:
        HubError: the weights are absent or altered, or their scores differ from their card; the cache cannot be
            written; a library is missing; or the earlier export was altered.
    """
    handle = Handle(model, number)
    cache = cache_folder()
    code = code_digest("models", "publishing", "weights")[:16]
    root = cache / FOLDER / f"{model}-{version.digest[:16]}-{__version__}-{code}"
    try:
        if not root.is_dir():
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owner(cache)
            with locked(root.parent, "tfdfd", wait=True):
                if not root.is_dir():
                    _make(handle, root)
        check_owner(cache)
    except OSError as error:
        raise HubError(
            f"{handle} is bundled as weights, and their SavedModel could not be made in {root.parent} ({error}): "
            f"set ${CACHE} to a folder that can be written."
        ) from error
    hub = FolderHub(root, f"the export of {PREFIX}{model}")
    try:
        made = hub.manifest().models.get(model, {}).get(number)
        if made is None:
            raise HubError(f"{root / FILE} does not name {handle}.")
        return hub.folder_of(model, number, made)
    except HubError as error:
        raise HubError(f"{error} This is the cache: delete {root}, and it is made again.") from error


def _make(handle: Handle, root: Path) -> None:
    name = PREFIX + handle.model
    try:
        record, weights = locate(name)
    except ValueError as error:
        raise HubError(str(error)) from error
    for left in root.parent.glob(f"{_TEMPORARY}*"):
        # This process holds the lock, so the processes that made these were killed.
        shutil.rmtree(left, ignore_errors=True)
    partial = root.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        if not _restored(handle, record, weights, partial):
            sys.stderr.write(f"tfdfd: making a SavedModel of the weights of {name}, once, in {root}\n")
            sys.stderr.flush()
            _in_a_process(handle, weights, partial)
        _check_scores(record, partial / handle.model / str(handle.version))
        sync_folder(partial)
        os.rename(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _restored(handle: Handle, record: WeightRecord, weights: Path, hub: Path) -> bool:
    """Whether the package contains the SavedModel without its weights; if so, writes the hub from it."""
    folder = hub / handle.model / str(handle.version)
    if not restore(saved_models() / f"{handle.model}{SUFFIX}", record, weights, folder):
        return False
    version = version_in(folder, str(handle))
    (hub / FILE).write_bytes(Manifest().with_version(handle.model, handle.version, version).encoded())  # type: ignore[arg-type]
    for path, _, _ in os.walk(folder):
        sync_folder(path)
    return True


def _in_a_process(handle: Handle, weights: Path, hub: Path) -> None:
    request = {"weights": str(weights), "hub": str(hub), "version": handle.version, "name": handle.model}
    environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_USE_LEGACY_KERAS": None}
    with PythonProcess(_CODE, json.dumps(request), environment=environment) as child:
        code = child.wait()
    if code:
        why = child.errors.rpartition("\n")[2] or f"the process ended with {code}"
        raise HubError(f"no SavedModel could be made of the weights of {PREFIX}{handle.model}: {why}")


def main(request: str) -> None:
    """Entry point of the separate process; an error is the last line on standard error."""
    from tfdfd.hub.publish import publish

    Channel()
    options = json.loads(request)
    try:
        publish(options["weights"], options["hub"], options["version"], options["name"])
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))


def _check_scores(record: WeightRecord, folder: Path) -> None:
    expected = record.card.get("proof_scores")
    if expected is None:
        return
    found = read_card_file(folder / CARD)["proof_scores"]
    try:
        check_equal(f"P(fake) of {record.handle}", found, expected, "card")
    except ValueError as error:
        raise HubError(
            f"the weights of {record.handle} answer {found} for the proof crops, but their card says {expected}: "
            "card and file do not belong together, or this tfdfd builds another network; install it again."
        ) from error


def saved_models() -> Path:
    """The folder of published models in the package, or beside it in a checkout.

    Raises:
        HubError: the package is incomplete.
    """
    for root in (PACKAGE / "saved_models", PACKAGE.parent / "saved_models"):
        if (root / FILE).is_file():
            return root
    raise HubError(f"the package has no saved_models (looked in {PACKAGE} and beside it): install it again.")


class PackageHub:
    """The models of a folder, plus one version of each set of weights that is bundled or was pulled.

    A set of weights is version 1, or the `version` in its card. A SavedModel of that number takes precedence.
    """

    name = "the package"

    def __init__(self, root: Path):
        self._published = FolderHub(root, self.name)

    def manifest(self) -> Manifest:
        """The available versions; nothing is exported for the list.

        Raises:
            HubError: the package is incomplete.
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
        """The checked folder of a version in the manifest.

        Raises:
            HubError: its files differ from the manifest, or it could not be made.
        """
        if isinstance(version, FromWeights):
            return export_weights(model, number, version)
        return self._published.folder_of(model, number, version)


def _version(record: WeightRecord) -> FromWeights:
    card = json.dumps(record.card, sort_keys=True).encode()
    digest = hashlib.sha256(card).hexdigest()
    return FromWeights((File("model_card.json", len(card), digest), File(record.file, record.bytes, record.sha256)))
