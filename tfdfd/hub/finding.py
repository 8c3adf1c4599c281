"""From a handle to a checked folder: `$TFDFD_HUB`, then what the package carries, then the cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tfdfd.hub.address_hub import AddressHub, is_address
from tfdfd.hub.cache import Cache
from tfdfd.hub.errors import HubError, HubUnreachable, HubWarning
from tfdfd.hub.folder_hub import FolderHub
from tfdfd.hub.handles import FEATURE_VECTOR, Handle
from tfdfd.hub.manifest import FILE, Version
from tfdfd.hub.package_hub import PackageHub
from tfdfd.hub.pinning import VARIABLE as PIN
from tfdfd.hub.pinning import pin_of_user

VARIABLE = "TFDFD_HUB"
_PACKAGE = Path(__file__).parents[1]
Hub = FolderHub | AddressHub | PackageHub | Cache


@dataclass(frozen=True)
class Found:
    """A published model on this machine, checked.

    Attributes:
        handle: with its version.
        folder: of the version, with its `model_card.json`.
        version: the files; of a version that was made of carried weights, these and their card.
        place: in words, where it was found.
    """

    handle: Handle
    folder: Path
    version: Version
    place: str

    @property
    def path(self) -> Path:
        """Of the SavedModel that the handle means."""
        return self.folder / FEATURE_VECTOR if self.handle.features else self.folder


def find(handle: str) -> Found:
    """The published model of a handle: files compared with their digests, then its graph's operations with the list.

    Where the package carries its weights only, it is made of them, which takes seconds, and kept in the cache.

    Raises:
        HubError: mistyped, not there, not what was published, or a graph that could do more than compute. A handle
            that nobody has trained weights for names the recipe that does.
        OSError: the cache cannot be written.
    """
    hub, wanted, version = look_up(Handle.parse(handle))
    if wanted.features and not version.has_features:
        raise HubError(f"tfdfd/{wanted.model}/{wanted.version} was published without a {FEATURE_VECTOR}.")
    place = Found(wanted, hub.folder_of(wanted.model, wanted.version, version), version, hub.words)
    from tfdfd.publishing.allowed_operations import check_operations

    try:
        check_operations(place.path)
    except ValueError as error:
        raise HubError(f"{wanted} of {hub.words} was not loaded: {error}") from error
    return place


def look_up(wanted: Handle) -> tuple[Hub, Handle, Version]:
    """Which hub has a model, the handle with its version, and what the manifest says of it; no file is checked.

    Raises:
        HubError: none has it.
    """
    search = search_hubs(wanted)
    if search.hit is None:
        from tfdfd.hub.absent import absent

        raise HubError(absent(wanted, search.known, search.unreachable))
    return search.hit


@dataclass(frozen=True)
class Search:
    """What came of looking for a handle in all hubs.

    Attributes:
        hit: the hub that has it, the handle with its version, and what the manifest says of it; or None.
        known: versions of each model that there is.
        unreachable: why a hub did not answer, or None.
    """

    hit: tuple[Hub, Handle, Version] | None
    known: dict[str, set[int]]
    unreachable: HubUnreachable | None


def search_hubs(wanted: Handle) -> Search:
    """Looks for a handle in all hubs, in their order; warns where one that did not answer goes before the hit.

    Raises:
        HubError: a hub is invalid.
    """
    known: dict[str, set[int]] = {}
    unreachable = None
    for hub in hubs():
        try:
            models = hub.manifest().models
        except HubUnreachable as error:
            unreachable = error
            continue
        for model, versions in models.items():
            known.setdefault(model, set()).update(versions)
        versions = models.get(wanted.model, {})
        number = wanted.version or max(versions, default=None)
        if number not in versions:
            continue
        if unreachable is not None:
            message = f"{unreachable} {wanted} is that of {hub.words}, version {number}."
            warnings.warn(message, HubWarning, stacklevel=4)
        return Search((hub, replace(wanted, version=number), versions[number]), known, unreachable)
    return Search(None, known, unreachable)


def hubs() -> Iterator[Hub]:
    """Where published models are looked for, in this order.

    Raises:
        HubError: what the environment says is of no use.
    """
    pin, place = pin_of_user(), os.environ.get(VARIABLE)
    if place:
        yield hub_at(place, pin)
    elif pin is not None:
        raise HubError(f"${PIN} pins the manifest of a hub, but ${VARIABLE} names none; set both or neither.")
    yield carried()
    yield Cache(pin)


def hub_at(place: str, pin: str | None = None) -> FolderHub | AddressHub:
    """The hub in a folder or at an address.

    Raises:
        HubError: it is neither.
    """
    if is_address(place):
        return AddressHub(place, pin)
    root = Path(place).absolute()
    if not root.is_dir():
        raise HubError(f"there is no folder {place!r}; a hub is a folder that 'tfdfd publish' made, or its address.")
    return FolderHub(root, f"the hub {place}", pin)


def carried() -> PackageHub:
    """What the package carries: in it, or beside it in a checkout.

    Raises:
        HubError: the package is not whole.
    """
    for place in (_PACKAGE / "saved_models", _PACKAGE.parent / "saved_models"):
        if (place / FILE).is_file():
            return PackageHub(place)
    raise HubError(f"the package carries no saved_models (looked in {_PACKAGE} and beside it): install it again.")
