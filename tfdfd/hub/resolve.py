"""Resolution of a handle to a checked folder: `$TFDFD_HUB`, then the package, then the cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tfdfd.hub import FEATURE_VECTOR, PREFIX, Handle, HubError, HubUnreachable, HubWarning
from tfdfd.hub.bundled import PackageHub, saved_models
from tfdfd.hub.manifest import PIN, Version, pin_of_user
from tfdfd.hub.sources import AddressHub, Cache, FolderHub, is_address
from tfdfd.text import near_matches
from tfdfd.weights import list_records
from tfdfd.weights.store import how_to_get

VARIABLE = "TFDFD_HUB"
Hub = FolderHub | AddressHub | PackageHub | Cache


@dataclass(frozen=True)
class ResolvedModel:
    """A published model on this machine, checked.

    Attributes:
        handle: with its version.
        folder: folder of the version, with its `model_card.json`.
        version: its files; for a version made of bundled weights, the weights file and its card.
        hub: name of the hub that has it.
    """

    handle: Handle
    folder: Path
    version: Version
    hub: str

    @property
    def path(self) -> Path:
        """Folder of the SavedModel that the handle means."""
        return self.folder / FEATURE_VECTOR if self.handle.features else self.folder


def find(handle: str) -> ResolvedModel:
    """The published model of a handle, checked: file digests first, then the operations of its graph.

    A model of which the package has only the weights is exported from them, which takes seconds, and cached.

    Raises:
        HubError: the handle is mistyped or unknown, files differ from the manifest, or the graph could do more than
            compute. For a network without trained weights the message names the recipe that trains it.
        OSError: the cache cannot be written.
    """
    hub, wanted, version = look_up(Handle.parse(handle))
    if wanted.features and not version.has_features:
        raise HubError(f"tfdfd/{wanted.model}/{wanted.version} was published without a {FEATURE_VECTOR}.")
    folder = hub.folder_of(wanted.model, wanted.version, version)  # type: ignore[arg-type]
    resolved = ResolvedModel(wanted, folder, version, hub.name)
    from tfdfd.publishing.allowed_operations import check_operations

    try:
        check_operations(resolved.path)
    except ValueError as error:
        raise HubError(f"{wanted} of {hub.name} was not loaded: {error}") from error
    return resolved


def look_up(wanted: Handle) -> tuple[Hub, Handle, Version]:
    """The hub that has a model, the handle with its version, and the files in the manifest; no file is checked.

    Raises:
        HubError: no hub has it.
    """
    search = search_hubs(wanted)
    if search.hit is None:
        raise HubError(not_found_message(wanted, search.known, search.unreachable))
    return search.hit


@dataclass(frozen=True)
class Search:
    """Result of looking for a handle in all hubs.

    Attributes:
        hit: the hub that has it, the handle with its version, and its files; or None.
        known: available versions of each model.
        unreachable: why a hub did not answer, or None.
    """

    hit: tuple[Hub, Handle, Version] | None
    known: dict[str, set[int]]
    unreachable: HubUnreachable | None


def search_hubs(wanted: Handle) -> Search:
    """Looks for a handle in all hubs in order; warns if a hub before the hit did not answer.

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
            message = f"{unreachable} {wanted} is that of {hub.name}, version {number}."
            warnings.warn(message, HubWarning, stacklevel=4)
        return Search((hub, replace(wanted, version=number), versions[number]), known, unreachable)
    return Search(None, known, unreachable)


def hubs() -> Iterator[Hub]:
    """The hubs in the order in which they are searched.

    Raises:
        HubError: an environment variable is invalid.
    """
    pin, location = pin_of_user(), os.environ.get(VARIABLE)
    if location:
        yield hub_at(location, pin)
    elif pin is not None:
        raise HubError(f"${PIN} pins the manifest of a hub, but ${VARIABLE} names none; set both or neither.")
    yield bundled()
    yield Cache(pin)


def hub_at(location: str, pin: str | None = None) -> FolderHub | AddressHub:
    """The hub in a folder or at an address.

    Raises:
        HubError: there is no such folder, or the address is invalid.
    """
    if is_address(location):
        return AddressHub(location, pin)
    root = Path(location).absolute()
    if not root.is_dir():
        raise HubError(
            f"there is no folder {location!r}; a hub is a folder written by 'tfdfd publish', or its address."
        )
    return FolderHub(root, f"the hub {location}", pin, signed=True)


def bundled() -> PackageHub:
    """The hub in the package, or beside it in a checkout.

    Raises:
        HubError: the package is incomplete.
    """
    return PackageHub(saved_models())


def not_found_message(wanted: Handle, known: dict[str, set[int]], unreachable: Exception | None) -> str:
    """Explains why no hub has a handle, and what to do: pull, train and publish, or correct it.

    Args:
        wanted: the handle.
        known: available versions of each model.
        unreachable: why a hub did not answer, or None.
    """
    return _reason(wanted, known) + (f" It was not looked for everywhere: {unreachable}" if unreachable else "")


def _reason(wanted: Handle, known: Mapping[str, set[int]]) -> str:
    from tfdfd.models import MODELS
    from tfdfd.recipes import list_recipes

    handle = PREFIX + wanted.model
    if wanted.model in known:
        versions = ", ".join(map(str, sorted(known[wanted.model])))
        return f"{handle} has no version {wanted.version}; there is {versions}."
    records = list_records()
    if handle in records:
        # The weights are not local: the package hub lists those that are.
        return f"the weights of {handle} are not on this machine; {how_to_get(records[handle])}."
    if wanted.model not in MODELS:
        names = sorted({*known, *MODELS, *(name.removeprefix(PREFIX) for name in records)})
        near = near_matches(wanted.model, names) or sorted(known)
        return f"no published model is known as {handle!r}; did you mean {' or '.join(PREFIX + name for name in near)}?"
    others = [name for name in records if name.startswith(f"{handle}.")]
    tagged = f" There are weights with a tag: {', '.join(others)}." if others else ""
    recipes = [recipe.name for recipe in list_recipes().values() if recipe.network == wanted.model]
    if recipes:
        fix = (
            f"Train it by one of the recipes {', '.join(recipes)} ('tfdfd train {recipes[0]} --data SET -o RUN'), then "
            f"'tfdfd publish RUN --to DIR --version 1 --name {wanted.model}' and set TFDFD_HUB=DIR."
        )
    else:
        fix = f"No recipe trains it ('tfdfd recipes' lists them): change one with --set network={wanted.model}."
    return f"nobody has trained weights for {handle} yet.{tagged} {fix}"
