"""Puts a trained network and its weights into a hub: whole and proved under a new version, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfdfd.files import sync_folder, write_atomically
from tfdfd.hub.checking import version_in
from tfdfd.hub.errors import HubError
from tfdfd.hub.handles import PREFIX, Handle, check_name, check_version
from tfdfd.hub.locking import locked
from tfdfd.hub.manifest import FILE, MAX_BYTES, Manifest, Version
from tfdfd.hub.weights import CARD
from tfdfd.weights.records import list_records
from tfdfd.weights.store import DATA_SUFFIXES, check_digest, locate

_TEMPORARY = ".tfdfd-publish-"


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        handle: with its version.
        folder: of the version.
        version: its files.
        manifest_sha256: digest of the hub's manifest now, for `$TFDFD_HUB_SHA256`.
        hides: the handle without version, where the package knows other weights by it; else None.
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
) -> Published:
    """Exports a trained network as `<hub>/<name>/<number>/` and then adds it to the hub's manifest.

    Whoever publishes at the same time waits. A publisher that dies leaves the manifest, and all that it names, as they
    were.

    Args:
        model: a handle, a weights file, or the folder of a run.
        hub: folder; made, if it is not there.
        number: version, from 1 on; one that is there is never written over.
        name: of the model; None: that of the handle, or of a run or file the one in its model card.
        export: called as `(model, folder)`; None: `tfdfd.publishing.exporting.export`.

    Raises:
        HubError: name or version are invalid or taken, the name must be given since the card's is that of other
            weights, or the folder is something else than a hub.
        ValueError: the weights are unknown, or the export cannot be proved.
        OSError: the folder cannot be written.
    """
    check_version(number)
    record, weights = locate(model)
    name = name or _name_of(model, record)
    check_name(name)
    if export is None:
        from tfdfd.publishing.exporting import export
    root = Path(hub).absolute()
    if root.exists() and not root.is_dir():
        raise HubError(f"{root} is no folder; a hub is one.")
    with locked(root):
        manifest = _opened(root)
        folder = root / name / str(number)
        _check_free(manifest, root, folder, name, number)
        partial = root / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            export(model, partial)
            _add_weights(partial, name, record, weights)
            version = version_in(partial, f"{PREFIX}{name}/{number}")
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


def _name_of(model, record):
    text = os.fspath(model)
    if text.startswith(PREFIX):
        handle = Handle.parse(text)
        return handle.model
    known = list_records().get(record.handle)
    name = record.handle.removeprefix(PREFIX)
    if known is not None and known.sha256 != record.sha256:
        raise HubError(
            f"the model card of {text} has the handle {record.handle}, which is that of other weights (sha256 "
            f"{known.sha256}); give a name of its own: --name MODEL."
        )
    try:
        check_name(name)
    except HubError as error:
        raise HubError(f"{error} That is the name in the model card of {text}; give another: --name MODEL.") from error
    return name


def _add_weights(folder, name, record, weights):
    """The file of the weights beside the graph, and a card that carries the handle that was published."""
    card_path = folder / CARD
    if not card_path.is_file():
        return
    suffix = next(suffix for suffix in (".weights.h5", *DATA_SUFFIXES) if weights.name.endswith(suffix))
    file = f"weights{suffix.removeprefix('.weights')}"
    shutil.copyfile(weights, folder / file)
    check_digest(folder / file, record.sha256, record.handle)
    of_weights = {key: getattr(record, key) for key in ("sha256", "bytes", "layout", "polarity")} | {"file": file}
    card = json.loads(card_path.read_text("utf-8")) | {"handle": f"{PREFIX}{name}", "weights": of_weights}
    card["files"] = card.get("files", {}) | {file: {"sha256": record.sha256, "bytes": record.bytes}}
    card_path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_folder(folder)


def _opened(root):
    """The manifest, written where the folder is new; what a publisher that died has left is removed."""
    path = root / FILE
    if not path.exists():
        others = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith(".tfdfd-"))
        if others:
            raise HubError(f"{root} holds {others[0]!r}, but no hub; give the folder of one, or a new or empty one.")
        write_atomically(path, Manifest().encoded())
    for entry in root.iterdir():
        # The lock is ours, so nobody is at work in these.
        if entry.name.startswith((_TEMPORARY, f".{_TEMPORARY}")) and not entry.is_symlink() and entry.is_dir():
            shutil.rmtree(entry)
    if path.is_symlink() or path.stat().st_size > MAX_BYTES:
        raise HubError(f"{path} is a link or larger than {MAX_BYTES:,} bytes: no manifest of ours.")
    return Manifest.decode(path.read_bytes(), str(path))


def _check_free(manifest, root, folder, name, number):
    versions = manifest.models.get(name, {})
    if number in versions:
        raise HubError(
            f"{PREFIX}{name}/{number} is published in {root}, and a version is never changed; "
            f"the next free one is {max(versions) + 1}."
        )
    if folder.parent.is_symlink():
        raise HubError(f"{folder.parent} is a link; a hub holds its models itself.")
    if os.path.lexists(folder):
        raise HubError(
            f"{folder} is there, but {root / FILE} does not name it: a publisher that died leaves that. Remove it, and "
            "publish again."
        )
