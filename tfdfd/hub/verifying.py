"""Checks published models as whoever loads them would, and what no loader looks at besides: operations and cards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from tfdfd.hub.exports import FromWeights
from tfdfd.hub.finding import carried, hub_at, look_up
from tfdfd.hub.handles import FEATURE_VECTOR, PREFIX, Handle
from tfdfd.hub.pinning import pin_of_user
from tfdfd.hub.weights import CARD, read_card, record_of_card
from tfdfd.publishing.allowed_operations import check_operations
from tfdfd.weights.store import locate


@dataclass(frozen=True)
class Outcome:
    """Of one version.

    Attributes:
        handle: with its version.
        place: where it is, in words.
        error: what is wrong with it, or None.
        files: how many it has.
        bytes: of all of them.
    """

    handle: str
    place: str
    error: str | None
    files: int
    bytes: int


def verify(place: str | os.PathLike | None = None) -> Iterator[Outcome]:
    """Checks digests, operations and card of each version.

    Args:
        place: a hub's folder or address, or a handle; None: what the package carries, of whose weights only the files
            are checked.

    Raises:
        HubError: there is no such hub or handle, or its manifest is of no use.
        OSError: the cache, which models of an address go to, cannot be written.
    """
    text = None if place is None else os.fspath(place)
    if text is not None and text.startswith(PREFIX):
        yield _outcome(*look_up(Handle.parse(text)))
        return
    hub = carried() if text is None else hub_at(text, pin_of_user())
    for model, versions in sorted(hub.manifest().models.items()):
        for number, version in sorted(versions.items()):
            outcome = _of_weights if isinstance(version, FromWeights) else _outcome
            yield outcome(hub, Handle(model, number), version)


def _outcome(hub, handle, version):
    try:
        folder = hub.folder_of(handle.model, handle.version, version)
        _check_card(folder)
        check_operations(folder)
        if version.has_features:
            check_operations(folder / FEATURE_VECTOR)
        error = None
    except ValueError as reason:
        error = str(reason)
    handle = Handle(handle.model, handle.version)
    return Outcome(str(handle), hub.words, error, len(version.files), sum(file.bytes for file in version.files))


def _of_weights(hub, handle, version):
    """Of weights that are a version as soon as somebody wants it: making it is not what was asked for."""
    try:
        locate(PREFIX + handle.model)
        error = None
    except ValueError as reason:
        error = str(reason)
    place = f"{hub.words}, as weights"
    return Outcome(str(handle), place, error, len(version.files), sum(file.bytes for file in version.files))


def _check_card(folder):
    record_of_card(read_card(folder), folder / CARD)
