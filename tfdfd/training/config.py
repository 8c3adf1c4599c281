"""Settings that a search found best, as `tfdfd tune` writes them and `tfdfd train --config` takes them.

The package has some in `tuning/best`, by network; in a checkout they lie beside it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tfdfd.training.recipe import Recipe

# In a checkout, the last one lies beside the package.
_BEST = [Path(__file__).parents[count] / "tuning" / "best" for count in (2, 1)]


def read_config(file: str | os.PathLike, recipe: Recipe) -> Recipe:
    """The recipe with the settings of a file.

    Args:
        file: JSON with `network` and `settings`: values by key, as `--set` knows them; or the name of a network whose
            best settings the package has.
        recipe: of the same network.

    Raises:
        ValueError: no such file, settings of another network, or some that a recipe does not have.
    """
    file = _file(file)
    try:
        with open(file, encoding="utf-8") as text:
            told = json.load(text)
        network, settings = told["network"], dict(told["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{os.fspath(file)} holds no settings, such as best.json of 'tfdfd tune': {type(error).__name__}: {error}."
        ) from error
    if network != recipe.network:
        raise ValueError(
            f"{os.fspath(file)} has settings for {network}; {recipe.name} trains {recipe.network}. Give a recipe of "
            f"{network}, such as {told.get('recipe')}."
        )
    try:
        return recipe.changed([assignment(key, value) for key, value in settings.items()])
    except ValueError as error:
        raise ValueError(f"{os.fspath(file)}: {error}") from error


def _file(name):
    if os.fspath(name).endswith(".json") or os.path.exists(name):
        return name
    known = {path.stem: path for place in _BEST for path in sorted(place.glob("*.json"))}
    if name in known:
        return known[name]
    raise ValueError(
        f"there is no file {os.fspath(name)!r}, and no best settings of a network by that name; there are those of "
        f"{', '.join(known) or 'none'}, and best.json of 'tfdfd tune'."
    )


def assignment(key: str, value) -> str:
    """`KEY=VALUE` of which `Recipe.changed` makes this very value, to the last digit."""
    if key.startswith("arguments.") and value is None:
        return f"{key}=null"
    if value is None or isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, list | tuple):
        return f"{key}={','.join(value)}"
    # A builder's word may be a number or a truth elsewhere, such as "1".
    is_ambiguous = isinstance(value, str) and key.startswith("arguments.") and _is_json(value)
    return f"{key}={json.dumps(value) if is_ambiguous else value}"


def _is_json(word):
    try:
        json.loads(word)
    except ValueError:
        return word.lower() in ("true", "false")
    return True
