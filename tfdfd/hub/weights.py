"""Weights of published models: what `tfdfd detect` and others take by the handle of a model in a hub."""

from __future__ import annotations

import json
from pathlib import Path

from tfdfd.files import write_atomically
from tfdfd.hub.absent import absent
from tfdfd.hub.errors import HubError
from tfdfd.hub.exports import FromWeights
from tfdfd.hub.finding import Found, find, search_hubs
from tfdfd.hub.handles import FEATURE_VECTOR, PREFIX, Handle
from tfdfd.hub.package_hub import PackageHub
from tfdfd.near_matches import near_matches
from tfdfd.weights.records import WeightRecord, base_of, cache_folder, find_base, list_records
from tfdfd.weights.store import DATA_SUFFIXES, check_digest, digest, locate

CARD = "model_card.json"
# In the cache of weights: what was read from SavedModels that were published without a weights file that is enough.
FOLDER = "published"


def find_weights(handle: str) -> tuple[WeightRecord, Path] | None:
    """Record and checked file of a published model's weights; None where no hub has it.

    Args:
        handle: `tfdfd/MODEL` or `tfdfd/MODEL/VERSION`.

    Raises:
        HubError: the handle has no such version, is close to others, is of features, or what was found is not what was
            published; or a hub did not answer, and no other has it.
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
    folder = hub.folder_of(wanted.model, wanted.version, version)
    # Whatever the card says, this is the handle that it was published under.
    card = read_card(folder) | {"handle": PREFIX + wanted.model}
    record = record_of_card(card, folder / CARD)
    known = list_records().get(record.handle)
    if isinstance(hub, PackageHub) and known and known.is_local and known.sha256 == record.sha256:
        return locate(known.handle)
    path = folder / Path(record.file).name
    if path.suffix in DATA_SUFFIXES and path.is_file() and _has_the_rest(record):
        check_digest(path, record.sha256, str(wanted))
        return record, path
    return _read_from_saved_model(find(str(wanted)), card)


def _has_the_rest(record):
    """Whether all that the file builds on is on this machine. The SavedModel has it, too."""
    records = list_records()
    members = [records.get(member["handle"]) for member in record.members.values()]
    alike = zip(members, record.members.values(), strict=True)
    if not all(member and member.is_local and member.sha256 == told["sha256"] for member, told in alike):
        return False
    base = base_of(record)
    return not base or find_base(base) is not None


def read_card(folder: Path) -> dict:
    """The model card of a version's folder.

    Raises:
        HubError: there is none.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise HubError(f"{folder} has no {CARD} ({error.strerror}): publish it again with 'tfdfd publish'.") from error
    except ValueError as error:
        raise HubError(f"{path} is no model card: {error}") from error
    if not isinstance(card, dict) or not isinstance(card.get("weights", {}), dict):
        raise HubError(f"{path} is no model card: expected an object.")
    return card


def record_of_card(card: dict, where: Path) -> WeightRecord:
    """The record of the weights that a published model's card is of.

    Raises:
        HubError: it lacks something that a record has, or has an invalid value.
    """
    try:
        return WeightRecord.from_card({**card, **card.get("weights", {})})
    except (ValueError, TypeError, AttributeError) as error:
        raise HubError(f"{where} is no model card: {error}") from error


def _check_absent(wanted, search):
    """Raises where more is known than that there is no such handle."""
    if search.unreachable or wanted.model in search.known:
        raise HubError(absent(wanted, search.known, search.unreachable))
    handle = PREFIX + wanted.model
    records = list_records()
    if handle in records:
        return
    # The prefix would make any two handles alike.
    names = {*search.known, *(name.removeprefix(PREFIX) for name in records)}
    near = [PREFIX + name for name in near_matches(wanted.model, names)]
    if set(near) - set(records):
        raise HubError(f"no weights are known as {handle!r}; did you mean {' or '.join(near)}?")


def _read_from_saved_model(found: Found, card: dict) -> tuple[WeightRecord, Path]:
    """The variables of a published graph as a weights file, which is kept in the cache."""
    from tfdfd.hub.layer import network_of
    from tfdfd.weights.saving import save_weights

    target = cache_folder() / FOLDER / f"{found.handle.model}-{found.version.digest[:16]}.safetensors"
    card_path = target.with_suffix(".json")
    if not (target.is_file() and card_path.is_file()):
        target.parent.mkdir(parents=True, exist_ok=True)
        save_weights(network_of(found), target)
        # The file has all that the network is built on, and its last layer says P(fake).
        alone = {name: value for name, value in card.items() if name not in ("members", "base", "weights")}
        facts = {"file": target.name, "sha256": digest(target), "bytes": target.stat().st_size}
        facts |= {"layout": "safetensors", "polarity": "fake=1"}
        write_atomically(card_path, json.dumps(alone | facts, indent=1, ensure_ascii=False) + "\n")
    # Not by its digest, by which it may be known under another handle, too.
    record = record_of_card(json.loads(card_path.read_text("utf-8")), card_path)
    check_digest(target, record.sha256, str(found.handle))
    return record, target
