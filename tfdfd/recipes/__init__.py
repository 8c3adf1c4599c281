"""Recipes by name. Each file contains those of one document or idea, and is discovered by being in this folder."""

from __future__ import annotations

import importlib
import pkgutil

from tfdfd.text import did_you_mean
from tfdfd.training.recipe import Recipe


def list_recipes() -> dict[str, Recipe]:
    """Returns all recipes by name: `RECIPES` of every module of this package, in alphabetical order of modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {recipe.name: recipe for module in modules for recipe in module.RECIPES}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe of this name.

    Raises:
        ValueError: the name is unknown; the error lists near matches.
    """
    recipes = list_recipes()
    if name in recipes:
        return recipes[name]
    hint = did_you_mean(name, recipes, otherwise="'tfdfd recipes' lists them.")
    raise ValueError(f"no recipe is known as {name!r}; {hint}")
