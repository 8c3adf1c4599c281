"""Puts a trained network into a hub: whole and proved under a new version, or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfdfd.files import write_atomically
from tfdfd.hub.checking import version_in
from tfdfd.hub.errors import HubError
from tfdfd.hub.handles import PREFIX, Handle, check_name, check_version
from tfdfd.hub.locking import locked
from tfdfd.hub.manifest import FILE, MAX_BYTES, Manifest, Version
from tfdfd.weights.store import locate

_TEMPORARY = ".tfdfd-publish-"


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        handle: with its version.
        folder: of the version.
        version: its files.
        manifest_sha256: digest of the hub's manifest now, for `$TFDFD_HUB_SHA256`.
    """

    handle: Handle
    folder: Path
    version: Version
    manifest_sha256: str


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
        name: of the model; None: of a handle its own, else the network's.
        export: called as `(model, folder)`; None: `tfdfd.publishing.exporting.export`.

    Raises:
        HubError: name or version are of no use or taken, or the folder is something else than a hub.
        ValueError: the weights are unknown, or the export cannot be proved.
        OSError: the folder cannot be written.
    """
    check_version(number)
    name = name or _name_of(model)
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
            version = version_in(partial, f"{PREFIX}{name}/{number}")
            folder.parent.mkdir(exist_ok=True)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        data = manifest.with_version(name, number, version).encoded()
        write_atomically(root / FILE, data)
    return Published(Handle(name, number), folder, version, hashlib.sha256(data).hexdigest())


def _name_of(model):
    text = os.fspath(model)
    record, _ = locate(text)
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else record.model


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
