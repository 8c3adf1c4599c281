"""Search spaces: the settings of a recipe that a search varies, and their values, read from a JSON file.

{"network": "meso4", "recipe": "sbi-meso4",
 "fixed": {"patience": 5},
 "search": {"learning_rate": {"min": 1e-4, "max": 1e-2, "scale": "log"},
            "optimizer": {"choices": ["adam", "radam"]},
            "arguments.dropout": {"min": 0.2, "max": 0.6}}}

Keys are those of `--set`: settings of a recipe, and `arguments.NAME` for the network's builder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfdfd.models import default_arguments, list_models
from tfdfd.recipes import find_recipe
from tfdfd.text import did_you_mean
from tfdfd.training.recipe import BLENDED, Recipe, assignment

LOG, LINEAR = "log", "linear"
FOLDER = Path("tuning", "spaces")
_KEYS = {"network", "recipe", "fixed", "search"}


@dataclass(frozen=True)
class Setting:
    """One setting and its values: either `choices`, or a range from `low` to `high`, both included.

    Attributes:
        key: key of `--set`.
        choices: JSON values.
        low, high: numbers; two integers give integer values.
        scale: `log` or `linear`: distribution of values over the range.
    """

    key: str
    choices: tuple = ()
    low: float = 0
    high: float = 0
    scale: str = LINEAR

    def extremes(self) -> tuple:
        """Returns the choices, or the ends of the range."""
        return self.choices or (self.low, self.high)

    def levels(self, count: int) -> tuple:
        """Returns all choices, or at most `count` values over the range, including its ends."""
        if self.choices:
            return self.choices
        low, high = (math.log(end) if self.scale == LOG else end for end in (self.low, self.high))
        values = [low + (high - low) * step / (count - 1) for step in range(1, count - 1)]
        values = [math.exp(value) if self.scale == LOG else value for value in values]
        if self.is_integer:
            values = [round(value) for value in values]
        return tuple(dict.fromkeys([self.low, *values, self.high]))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the choices or in the range."""
        return value in self.choices if self.choices else _is_number(value) and self.low <= value <= self.high

    @property
    def is_integer(self) -> bool:
        """Whether the range has integer values."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Space:
    """A network, the recipe it is trained by, and the settings that are varied.

    Attributes:
        network: name in `tfdfd.models`.
        recipe: name of the recipe with the other settings.
        fixed: settings that differ from the recipe but are not varied, as `KEY=VALUE`.
        search: the settings that are varied.
    """

    network: str
    recipe: str
    fixed: tuple[str, ...]
    search: tuple[Setting, ...]

    def base(self) -> Recipe:
        """Returns the recipe with the fixed settings."""
        return find_recipe(self.recipe).changed(list(self.fixed))

    def own_values(self) -> dict[str, Any]:
        """Returns the recipe's own value of each varied setting, by key, without those that the space does not hold."""
        base = self.base()
        known = base.settings() | {
            f"arguments.{name}": value for name, value in (default_arguments(self.network) | base.arguments).items()
        }
        return {
            setting.key: known[setting.key]
            for setting in self.search
            if setting.key in known and setting.holds(known[setting.key])
        }

    def prepared(
        self, settings: Iterable[str] = (), quick: bool = False, fixed: Iterable[str] = ()
    ) -> tuple[Recipe, Space]:
        """Returns the recipe of all trials, and the space without the settings that are fixed.

        Args:
            settings: settings of the user as `KEY=VALUE`, which hold in every trial and are not varied.
            quick: whether every trial takes seconds, to check that the search runs.
            fixed: further keys that are not varied.

        Raises:
            ValueError: a setting is unknown, or no setting is left to vary.
        """
        settings, recipe = list(settings), self.base()
        keys = {*fixed, *(text.partition("=")[0] for text in settings)}
        if quick:
            before, recipe = recipe, recipe.quick()
            keys |= {key for key, value in vars(recipe).items() if value != getattr(before, key)} | {"batch_size"}
        recipe = recipe.changed(settings)
        if recipe.data == BLENDED:
            # Self-blended pairs are degraded by a rule of their own; an augmentation policy would have no effect.
            keys.add("augment")
        left = tuple(setting for setting in self.search if setting.key not in keys)
        if not left:
            raise ValueError(
                f"all settings of the space of {self.network} are fixed: {', '.join(settings)}; fix fewer."
            )
        return recipe, replace(self, search=left)


def read_space(name: str | os.PathLike) -> Space:
    """Returns the space of a network, from `tuning/spaces` of the working directory or of the package; or of a file.

    Raises:
        ValueError: the network or file does not exist, or the file contains no valid space.
    """
    file = _file(os.fspath(name))
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the search space {file}: {error}.") from error
    try:
        return _space(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _file(name: str) -> Path:
    if name.endswith(".json"):
        return Path(name)
    # In a checkout, the last one is beside the package.
    folders = [FOLDER, Path(__file__).parent / FOLDER.name, Path(__file__).parents[2] / FOLDER]
    if name not in list_models():
        hint = did_you_mean(name, list_models(), otherwise=f"there are {', '.join(list_models())}.")
        raise ValueError(f"no network is known as {name!r}, and a custom space is a file FILE.json; {hint}")
    for folder in folders:
        if (folder / f"{name}.json").is_file():
            return folder / f"{name}.json"
    raise ValueError(f"no search space for {name} in {' or '.join(map(str, folders))}; give a file: FILE.json.")


def _space(content: Any) -> Space:
    if not isinstance(content, dict) or set(content) - _KEYS or not _KEYS - {"fixed"} <= set(content):
        keys = ", ".join(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"a search space has network, recipe, search, and may have fixed; received {keys}.")
    for key in ("network", "recipe"):
        if not isinstance(content[key], str):
            raise ValueError(f"{key!r} must be a name; received {content[key]!r:.200}.")
    fixed = content.get("fixed", {})
    if not isinstance(fixed, dict) or not isinstance(content["search"], dict) or not content["search"]:
        raise ValueError(
            "'search' must contain the varied settings by key, and 'fixed', if present, those that are not varied."
        )
    space = Space(
        network=content["network"],
        recipe=content["recipe"],
        fixed=tuple(assignment(key, value) for key, value in fixed.items()),
        search=tuple(_setting(key, values) for key, values in content["search"].items()),
    )
    base = space.base()
    if base.network != space.network:
        raise ValueError(f"recipe {base.name} trains {base.network}; the space says it is for {space.network!r}.")
    for setting in space.search:
        for value in setting.extremes():
            base.changed([assignment(setting.key, value)])
    return space


def _setting(key: str, content: Any) -> Setting:
    content = content if isinstance(content, dict) else {}
    if set(content) == {"choices"}:
        choices = content["choices"]
        if (
            isinstance(choices, list)
            and choices
            and all(isinstance(choice, str | int | float | None) for choice in choices)
        ):
            return Setting(key, choices=tuple(choices))
    elif {"min", "max"} <= set(content) <= {"min", "max", "scale"}:
        low, high, scale = content["min"], content["max"], content.get("scale", LINEAR)
        numbers = all(_is_number(end) for end in (low, high)) and low < high
        if numbers and (scale == LINEAR or (scale == LOG and low > 0)):
            return Setting(key, low=low, high=high, scale=scale)
    raise ValueError(
        f"{key!r} needs {{'choices': [...]}} or {{'min': A, 'max': B, 'scale': 'log' or 'linear'}}, A below B and, "
        f"with 'log', above 0; received {json.dumps(content)}."
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
