"""Why a handle has no published model, and what to do: weights are to be trained, published, or it is mistyped."""

from __future__ import annotations

from tfdfd.hub.handles import PREFIX, Handle
from tfdfd.near_matches import near_matches


def absent(wanted: Handle, known: dict[str, set[int]], unreachable: Exception | None) -> str:
    """The words for it.

    Args:
        wanted: the handle.
        known: versions of each model that there is.
        unreachable: why a hub did not answer, or None.
    """
    return _why(wanted, known) + (f" It was not looked for everywhere: {unreachable}" if unreachable else "")


def _why(wanted, known):
    from tfdfd.models import MODELS
    from tfdfd.weights.records import list_records
    from tfdfd.weights.store import how_to_get

    handle = PREFIX + wanted.model
    if wanted.model in known:
        versions = ", ".join(map(str, sorted(known[wanted.model])))
        return f"{handle} has no version {wanted.version}; there is {versions}."
    records = list_records()
    if handle in records:
        # Weights that are on this machine answer themselves, so these are elsewhere.
        return f"the weights of {handle} are not on this machine; {how_to_get(records[handle])}."
    if wanted.model in MODELS:
        others = [name for name in records if name.startswith(f"{handle}.")]
        tagged = f" There are weights with a tag: {', '.join(others)}." if others else ""
        return f"nobody has trained weights for {handle} yet.{tagged} {_how(wanted.model)}"
    names = sorted({*known, *MODELS, *(name.removeprefix(PREFIX) for name in records)})
    near = near_matches(wanted.model, names) or sorted(known)
    return f"no published model is known as {handle!r}; did you mean {' or '.join(PREFIX + name for name in near)}?"


def _how(model):
    from tfdfd.recipes import list_recipes

    recipes = [recipe.name for recipe in list_recipes().values() if recipe.network == model]
    if not recipes:
        return f"No recipe trains it, either ('tfdfd recipes' lists them): change one with --set network={model}."
    return (
        f"Train it by one of the recipes {', '.join(recipes)} ('tfdfd train {recipes[0]} --data SET -o RUN'), then "
        f"'tfdfd publish RUN --to DIR --version 1 --name {model}' and set TFDFD_HUB=DIR."
    )
