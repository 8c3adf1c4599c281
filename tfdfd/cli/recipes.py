"""`tfdfd recipes`: which experiments there are."""

from __future__ import annotations

import json

_DESCRIPTION = """\
Lists the experiments that 'tfdfd train' runs, with the table that each reproduces and what the document reports; with
NAME, all settings of one, as --set takes them."""


def add_parser(verbs) -> None:
    parser = verbs.add_parser("recipes", help="list the experiments", description=_DESCRIPTION)
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them, with all its settings")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.recipes import find_recipe, list_recipes

    recipes = [find_recipe(arguments.name)] if arguments.name else list(list_recipes().values())
    if arguments.json:
        print(json.dumps([recipe.settings() for recipe in recipes], indent=1, ensure_ascii=False))
    elif arguments.name:
        for key, value in recipes[0].settings().items():
            print(f"{key:16}{'none' if value is None else value}")
    else:
        width = max(len(recipe.name) for recipe in recipes)
        for recipe in recipes:
            print(f"{recipe.name:{width}}  {recipe.source}\n{'':{width}}  {recipe.expected}")
    return 0
