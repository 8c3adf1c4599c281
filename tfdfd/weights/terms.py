"""Inherited terms of weights: license, restrictions, training data and attributions of all weights they are built on.

A card lists them in `built_on`: initial weights, teachers, members and frozen bases, each followed by those it is built
on itself. `licence`, `training_data` and `notices` of the card include the terms of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfdfd.weights import WeightRecord, list_records
from tfdfd.weights.store import locate

BEGUN_WITH, TAUGHT_BY, MEMBER, BASE = "begun with", "taught by", "built on", "frozen weights"
# Keys of a card that derived weights inherit. `own_licence` is the license of a run's data alone.
_TERMS = ("training_data", "licence_note", "restrictions", "notice", "source")
NOT_STATED = "not stated"
# Description and license of weights without a card, by the prefix of the setting. The license of ImageNet weights
# depends on their source.
_FOREIGN = {"imagenet": ("ImageNet features", NOT_STATED), "clip": ("the image tower of CLIP ViT-B/16", "MIT")}


def inherit(role: str, record: WeightRecord) -> list[dict]:
    """Returns the entries of `built_on` for weights: their own terms, then those they inherit.

    Args:
        role: one of `BEGUN_WITH`, `TAUGHT_BY` and `MEMBER`.
        record: record of the weights.
    """
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
    data = [f"{row['role']} {row['what']}" + _trained_on(row) for row in rows]
    notices = list(dict.fromkeys(row["notice"] for row in rows if row.get("notice")))
    return {
        "licence": "; ".join([*licences, own_licence]),
        "training_data": "; ".join([own_data, *data]),
        "own_licence": own_licence,
        "own_training_data": own_data,
        "built_on": rows,
    } | ({"notices": notices} if notices else {})


def _trained_on(row: dict[str, Any]) -> str:
    return f" (trained on {row['training_data']})" if row.get("training_data") else ""


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
        rows += inherit(BEGUN_WITH, record) if record else [{"role": BEGUN_WITH, "licence": NOT_STATED, **initial}]
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
