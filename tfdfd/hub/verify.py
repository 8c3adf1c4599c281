"""Verification of published models: digests, graph operations and model cards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfdfd.hub import FEATURE_VECTOR, PREFIX, Handle
from tfdfd.hub.bundled import FromWeights
from tfdfd.hub.manifest import pin_of_user
from tfdfd.hub.resolve import bundled, hub_at, look_up
from tfdfd.hub.signing import signers
from tfdfd.hub.weights import record_of_card
from tfdfd.publishing.allowed_operations import check_operations
from tfdfd.weights.store import CARD, locate, read_card

if TYPE_CHECKING:
    from tfdfd.hub.manifest import Version
    from tfdfd.hub.resolve import Hub


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
        record_of_card(read_card(folder / CARD), folder / CARD)
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
