"""The experiments by name: each file has those of one document or idea, with its hyper-parameters for defaults."""

from __future__ import annotations

import importlib

from tfdfd.near_matches import did_you_mean
from tfdfd.training.recipe import Recipe

_FILES = (
    "s0_mobilenet",
    "s1_mesonet",
    "s2_thesis",
    "s3_bottleneck",
    "s4_noise",
    "temporal",
    "self_blended",
)


def list_recipes() -> dict[str, Recipe]:
    """All experiments by name."""
    files = [importlib.import_module(f"tfdfd.recipes.{file}") for file in _FILES]
    return {recipe.name: recipe for file in files for recipe in file.RECIPES}


def find_recipe(name: str) -> Recipe:
    """The experiment of this name.

    Raises:
        ValueError: there is none; lists the near ones.
    """
    recipes = list_recipes()
    if name in recipes:
        return recipes[name]
    hint = did_you_mean(name, recipes, otherwise="'tfdfd recipes' lists them.")
    raise ValueError(f"no recipe is known as {name!r}; {hint}")
