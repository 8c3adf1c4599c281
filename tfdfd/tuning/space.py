"""What a search varies: settings of a recipe and the values that each may take, read from a JSON file.

{"network": "meso4", "recipe": "sbi-meso4",
 "fixed": {"patience": 5},
 "search": {"learning_rate": {"min": 1e-4, "max": 1e-2, "scale": "log"},
            "optimizer": {"choices": ["adam", "radam"]},
            "arguments.dropout": {"min": 0.2, "max": 0.6}}}

Keys are those of `--set`: a recipe's settings, and `arguments.NAME` for the network's builder.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from tfdfd.models import list_models
from tfdfd.near_matches import did_you_mean
from tfdfd.recipes import find_recipe
from tfdfd.training.config import assignment
from tfdfd.training.recipe import Recipe

LOG, LINEAR = "log", "linear"
FOLDER = Path("tuning", "spaces")
_KEYS = {"network", "recipe", "fixed", "search"}


@dataclass(frozen=True)
class Setting:
    """One setting and its values: either `choices`, or everything from `low` to `high`, both included.

    Attributes:
        key: as `--set` takes it.
        choices: of any kind that JSON has.
        low, high: numbers; whole ones give whole values.
        scale: `log` or `linear`: how values are spread over the range.
    """

    key: str
    choices: tuple = ()
    low: float = 0
    high: float = 0
    scale: str = LINEAR

    def extremes(self) -> tuple:
        """The values that all others are between."""
        return self.choices or (self.low, self.high)

    def levels(self, count: int) -> tuple:
        """All choices, or at most `count` values over the range, its ends included."""
        if self.choices:
            return self.choices
        low, high = (math.log(end) if self.scale == LOG else end for end in (self.low, self.high))
        values = [low + (high - low) * step / (count - 1) for step in range(1, count - 1)]
        values = [math.exp(value) if self.scale == LOG else value for value in values]
        if self.is_whole:
            values = [round(value) for value in values]
        return tuple(dict.fromkeys([self.low, *values, self.high]))

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Space:
    """A network, the recipe it is trained by, and what is varied of it.

    Attributes:
        network: of `tfdfd.models`.
        recipe: name of the recipe whose settings hold where nothing is varied.
        fixed: settings that are changed but not varied, as `KEY=VALUE`.
        search: what is varied.
    """

    network: str
    recipe: str
    fixed: tuple[str, ...]
    search: tuple[Setting, ...]

    def base(self) -> Recipe:
        """The recipe, with what is fixed."""
        return find_recipe(self.recipe).changed(list(self.fixed))

    def without(self, keys: set[str]) -> Space:
        """The space in which these are not varied."""
        return replace(self, search=tuple(setting for setting in self.search if setting.key not in keys))


def read_space(name: str | os.PathLike) -> Space:
    """The space of a network, looked for in `tuning/spaces` of this folder and in the package; or that of a file.

    Raises:
        ValueError: no such network or file, or a file with something else than a space; says what and where.
    """
    file = _file(os.fspath(name))
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the search space {file}: {error}.") from error
    try:
        return _space(told)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _file(name):
    if name.endswith(".json"):
        return Path(name)
    # In a checkout, the last one lies beside the package.
    places = [FOLDER, Path(__file__).parent / FOLDER.name, Path(__file__).parents[2] / FOLDER]
    if name not in list_models():
        hint = did_you_mean(name, list_models(), otherwise=f"there are {', '.join(list_models())}.")
        raise ValueError(f"no network is known as {name!r}, and a space of your own is a file FILE.json; {hint}")
    for place in places:
        if (place / f"{name}.json").is_file():
            return place / f"{name}.json"
    raise ValueError(f"no search space for {name} in {' or '.join(map(str, places))}; give a file: FILE.json.")


def _space(told):
    if not isinstance(told, dict) or set(told) - _KEYS or not _KEYS - {"fixed"} <= set(told):
        keys = ", ".join(sorted(told)) if isinstance(told, dict) else type(told).__name__
        raise ValueError(f"a search space has network, recipe, search, and may have fixed; received {keys}.")
    fixed = told.get("fixed", {})
    if not isinstance(fixed, dict) or not isinstance(told["search"], dict) or not told["search"]:
        raise ValueError("'search' must say by key what is varied, and 'fixed', if it is there, what is not.")
    space = Space(
        network=told["network"],
        recipe=told["recipe"],
        fixed=tuple(assignment(key, value) for key, value in fixed.items()),
        search=tuple(_setting(key, values) for key, values in told["search"].items()),
    )
    base = space.base()
    if base.network != space.network:
        raise ValueError(f"recipe {base.name} trains {base.network}; the space says it is for {space.network!r}.")
    for setting in space.search:
        for value in setting.extremes():
            base.changed([assignment(setting.key, value)])
    return space


def _setting(key, told):
    told = told if isinstance(told, dict) else {}
    if set(told) == {"choices"}:
        choices = told["choices"]
        if isinstance(choices, list) and choices and all(_is_plain(choice) for choice in choices):
            return Setting(key, choices=tuple(choices))
    elif {"min", "max"} <= set(told) <= {"min", "max", "scale"}:
        low, high, scale = told["min"], told["max"], told.get("scale", LINEAR)
        numbers = all(_is_number(end) for end in (low, high)) and low < high
        if numbers and (scale == LINEAR or (scale == LOG and low > 0)):
            return Setting(key, low=low, high=high, scale=scale)
    raise ValueError(
        f"{key!r} needs {{'choices': [...]}} or {{'min': A, 'max': B, 'scale': 'log' or 'linear'}}, A below B and, "
        f"with 'log', above 0; received {json.dumps(told)}."
    )


def _is_plain(value):
    return value is None or isinstance(value, str | int | float)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
