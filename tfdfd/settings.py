"""How a piece of work was begun, against how it is asked for now: only the same may go on."""

from __future__ import annotations

import json

_SHOWN = 5


def differences(before: dict, now: dict) -> str:
    """What differs, in words such as "recipe.epochs was 3, now 5; …"; empty where nothing does.

    Args:
        before: as read from JSON.
        now: anything that JSON holds.
    """
    one, other = _flat(before), _flat(json.loads(json.dumps(now)))
    differing = [key for key in other | one if one.get(key) != other.get(key)]
    told = [f"{key} was {one.get(key)!r}, now {other.get(key)!r}" for key in differing[:_SHOWN]]
    return "; ".join(told + ["…"] * (len(differing) > _SHOWN))


def _flat(nested, prefix=""):
    flat = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
