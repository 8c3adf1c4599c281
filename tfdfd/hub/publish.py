"""Publication of a trained network and its weights in a hub, complete and proved under a new version or not at all.

Verification checks digests, graph operations and model cards of published versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfdfd.files import sync_folder, write_atomically
from tfdfd.hub import FEATURE_VECTOR, PREFIX, Handle, HubError, check_name, check_version
from tfdfd.hub.bundled import FromWeights
from tfdfd.hub.manifest import FILE, Manifest, Version, check_folder, pin_of_user, version_in
from tfdfd.hub.resolve import bundled, hub_at, look_up
from tfdfd.hub.signing import private_key, signed, signers
from tfdfd.hub.sources import locked, read_manifest
from tfdfd.hub.weights import record_of_card
from tfdfd.publishing.allowed_operations import check_operations
from tfdfd.weights import WeightRecord, list_records
from tfdfd.weights.store import CARD, DATA_SUFFIXES, check_digest, locate, read_card_file

if TYPE_CHECKING:
    from tfdfd.hub.resolve import Hub

_TEMPORARY = ".tfdfd-publish-"


@dataclass(frozen=True)
class Published:
    """A published version.

    Attributes:
        handle: with its version.
        folder: folder of the version.
        version: its files.
        manifest_sha256: digest of the hub's new manifest, for `$TFDFD_HUB_SHA256`.
        hides: the handle without version, if the package has other weights under it; else None.
    """

    handle: Handle
    folder: Path
    version: Version
    manifest_sha256: str
    hides: str | None = None


def publish(
    model: str | os.PathLike,
    hub: str | os.PathLike,
    number: int,
    name: str | None = None,
    export: Callable[[str | os.PathLike, Path], object] | None = None,
    sign: str | os.PathLike | None = None,
) -> Published:
    """Exports a trained network as `<hub>/<name>/<number>/` and then adds it to the hub's manifest.

    Other publishers wait. A publisher that is killed leaves the manifest and its versions unchanged.

    Args:
        model: a handle, a weights file, or the folder of a run.
        hub: folder; made if absent.
        number: version, at least 1; an existing one is never overwritten.
        name: name of the model; None: from the handle, or from the model card of a run or file.
        export: called as `(model, folder)`; None: `tfdfd.publishing.exporting.export`.
        sign: PEM file of the publisher's private key; None: the version is not signed.

    Raises:
        HubError: name or version is invalid or taken, the name in the card belongs to other weights, or the folder is
            not a hub.
        ValueError: the weights are unknown, or the export cannot be proved.
        OSError: the folder cannot be written.
    """
    check_version(number)
    key = None if sign is None else private_key(sign)
    record, weights = locate(model)
    name = name or _name_of(model, record)
    check_name(name)
    if export is None:
        from tfdfd.publishing.exporting import export
    root = Path(hub).absolute()
    if root.exists() and not root.is_dir():
        raise HubError(f"{root} is not a folder; a hub is a folder.")
    with locked(root, "tfdfd", wait=True):
        manifest = _opened(root)
        folder = root / name / str(number)
        _check_free(manifest, root, folder, name, number)
        partial = root / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            export(model, partial)  # type: ignore[misc]
            _add_weights(partial, name, record, weights)
            version = version_in(partial, f"{PREFIX}{name}/{number}")
            version = version if key is None else signed(version, name, number, key)
            folder.parent.mkdir(exist_ok=True)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        data = manifest.with_version(name, number, version).encoded()
        write_atomically(root / FILE, data)
    known = list_records().get(f"{PREFIX}{name}")
    hides = known.handle if known and known.sha256 != record.sha256 else None
    return Published(Handle(name, number), folder, version, hashlib.sha256(data).hexdigest(), hides)


def sign_hub(hub: str | os.PathLike, key_file: str | os.PathLike) -> int:
    """Signs all versions of a hub, whose files are checked first; returns their number.

    Signatures by other keys stay, so a new key can be introduced while readers still trust the old one.

    Raises:
        HubError: the folder is not a hub, a file differs from the manifest, or the key is invalid.
        OSError: the manifest cannot be written.
    """
    root, key = Path(hub).absolute(), private_key(key_file)
    read_manifest(root, f"the hub {root}")  # first: `locked` creates a missing folder
    with locked(root, "tfdfd", wait=True):
        manifest, count = Manifest.decode(read_manifest(root, f"the hub {root}"), str(root / FILE)), 0
        for model, versions in list(manifest.models.items()):
            for number, version in versions.items():
                check_folder(root, root / model / str(number), version, f"{PREFIX}{model}/{number}")
                manifest = manifest.with_version(model, number, signed(version, model, number, key))
                count += 1
        write_atomically(root / FILE, manifest.encoded())
    return count


def _name_of(model: str | os.PathLike, record: WeightRecord) -> str:
    text = os.fspath(model)
    if text.startswith(PREFIX):
        handle = Handle.parse(text)
        return handle.model
    known = list_records().get(record.handle)
    name = record.handle.removeprefix(PREFIX)
    if known is not None and known.sha256 != record.sha256:
        raise HubError(
            f"the model card of {text} has the handle {record.handle}, which belongs to other weights (sha256 "
            f"{known.sha256}); give another name: --name MODEL."
        )
    try:
        check_name(name)
    except HubError as error:
        raise HubError(f"{error} That is the name in the model card of {text}; give another: --name MODEL.") from error
    return name


def _add_weights(folder: Path, name: str, record: WeightRecord, weights: Path) -> None:
    """Adds the weights file beside the graph, and the published handle to the card."""
    card_path = folder / CARD
    if not card_path.is_file():
        return
    suffix = next(suffix for suffix in (".weights.h5", *DATA_SUFFIXES) if weights.name.endswith(suffix))
    file = f"weights{suffix.removeprefix('.weights')}"
    shutil.copyfile(weights, folder / file)
    check_digest(folder / file, record.sha256, record.handle)
    of_weights = {key: getattr(record, key) for key in ("sha256", "bytes", "layout", "polarity")} | {"file": file}
    card = read_card_file(card_path) | {"handle": f"{PREFIX}{name}", "weights": of_weights}
    card["files"] = card.get("files", {}) | {file: {"sha256": record.sha256, "bytes": record.bytes}}
    card_path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_folder(folder)


def _opened(root: Path) -> Manifest:
    """The manifest, written if the folder is new; leftovers of killed publishers are removed."""
    path = root / FILE
    if not path.exists():
        others = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith(".tfdfd-"))
        if others:
            raise HubError(
                f"{root} holds {others[0]!r}, but no hub; give the folder of a hub, or a new or empty folder."
            )
        write_atomically(path, Manifest().encoded())
    for entry in root.iterdir():
        # This process holds the lock, so nobody else is writing these.
        if entry.name.startswith((_TEMPORARY, f".{_TEMPORARY}")) and not entry.is_symlink() and entry.is_dir():
            shutil.rmtree(entry)
    return Manifest.decode(read_manifest(root, f"the hub {root}"), str(path))


def _check_free(manifest: Manifest, root: Path, folder: Path, name: str, number: int) -> None:
    versions = manifest.models.get(name, {})
    if number in versions:
        raise HubError(
            f"{PREFIX}{name}/{number} is published in {root}, and a version is never changed; "
            f"the next free one is {max(versions) + 1}."
        )
    if folder.parent.is_symlink():
        raise HubError(f"{folder.parent} is a link; the models of a hub must lie there themselves.")
    if os.path.lexists(folder):
        raise HubError(
            f"{folder} is there, but {root / FILE} does not name it: a killed publisher left it. Remove it, and "
            "publish again."
        )


@dataclass(frozen=True)
class Outcome:
    """Result for one version.

    Attributes:
        handle: with its version.
        hub: name of its hub.
        error: reason why it is invalid, or None.
        files: number of files.
        bytes: size of all files.
        signers: who signed it.
    """

    handle: str
    hub: str
    error: str | None
    files: int
    bytes: int
    signers: tuple[str, ...] = ()


def verify(source: str | os.PathLike | None = None) -> Iterator[Outcome]:
    """Checks signatures, digests, operations and card of each version.

    Args:
        source: a hub's folder or address, or a handle; None: the package, of whose weights only the files are checked.

    Raises:
        HubError: there is no such hub or handle, or its manifest is invalid.
        OSError: the cache, which holds models of an address, cannot be written.
    """
    text = None if source is None else os.fspath(source)
    if text is not None and text.startswith(PREFIX):
        yield _outcome(*look_up(Handle.parse(text)))
        return
    hub = bundled() if text is None else hub_at(text, pin_of_user())
    for model, versions in sorted(hub.manifest().models.items()):
        for number, version in sorted(versions.items()):
            outcome = _of_weights if isinstance(version, FromWeights) else _outcome
            yield outcome(hub, Handle(model, number), version)


def _outcome(hub: Hub, handle: Handle, version: Version) -> Outcome:
    try:
        folder = hub.folder_of(handle.model, handle.version, version)  # type: ignore[arg-type]
        record_of_card(read_card_file(folder / CARD), folder / CARD)
        check_operations(folder)
        if version.has_features:
            check_operations(folder / FEATURE_VECTOR)
        error: str | None = None
    except ValueError as reason:
        error = str(reason)
    handle = Handle(handle.model, handle.version)
    size = sum(file.bytes for file in version.files)
    return Outcome(str(handle), hub.name, error, len(version.files), size, tuple(signers(version)))


def _of_weights(hub: Hub, handle: Handle, version: Version) -> Outcome:
    """Checks weights that become a SavedModel at their first use, without making it."""
    try:
        locate(PREFIX + handle.model)
        error: str | None = None
    except ValueError as reason:
        error = str(reason)
    name = f"{hub.name}, as weights"
    return Outcome(str(handle), name, error, len(version.files), sum(file.bytes for file in version.files))
