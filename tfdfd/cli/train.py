"""`tfdfd train` and `tfdfd recipes`: training by a recipe, and the list of recipes."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from argparse import Namespace

from tfdfd.cli.options import add_backend, add_training, check_at_least, select_backend
from tfdfd.cli.parser import Parser
from tfdfd.cli.text import warn, write_line, write_text

_TRAIN = """\
Trains a network by a recipe ('tfdfd recipes' lists them) on a face set with splits ('extract', then 'split').

The run folder holds the weights of the best epoch on validation with their model card, the log, the curves and the
settings. A run that was stopped in any way resumes with the same command and ends in the same weights. Thresholds and
calibration are chosen on validation; test data are never opened.

Exit code: 0 trained; 1 it could not go on, and says where; 2 wrong usage, or an invalid set."""

_RECIPES = """\
Lists the recipes of 'tfdfd train', with the table that each one reproduces and the result that the document reports.
With NAME, lists all settings of one recipe, as --set takes them, with what each means and its choices."""


def add_train_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd train`."""
    parser.description = _TRAIN
    parser.add_argument("recipe", metavar="RECIPE", help="its name, such as s1-meso-inception4")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run")
    add_training(parser, "changes a setting of the recipe; repeatable")
    parser.add_argument(
        "--config",
        metavar="FILE.json|NETWORK",
        help="settings that 'tfdfd tune' found best: a file, or those that tfdfd includes for a network",
    )
    parser.add_argument("--quick", action="store_true", help="smoke test: one epoch of few small crops")
    add_backend(parser)
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), help="fail unless it is there (default: what the backend finds)"
    )
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="share each batch among N (jax only)")
    parser.set_defaults(run=run_train)


def add_recipes_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd recipes`."""
    parser.description = _RECIPES
    parser.add_argument("name", nargs="?", metavar="NAME", help="show all settings of this recipe")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_recipes)


def run_train(arguments: Namespace) -> int:
    check_at_least(arguments, "devices", 1)
    select_backend(arguments)
    from tfdfd.cli.progress import TrainingProgress
    from tfdfd.recipes import find_recipe

    recipe = find_recipe(arguments.recipe)
    if arguments.config:
        from tfdfd.training.recipe import read_config

        recipe = read_config(arguments.config, recipe)
    # --set overrides --quick.
    recipe = (recipe.quick() if arguments.quick else recipe).changed(arguments.settings)
    with TrainingProgress(arguments.quiet) as report:
        from tfdfd.training.procedures import distributed, train

        with distributed(arguments.device, arguments.devices):
            result = train(recipe, arguments.data, arguments.output, report, arguments.allow_leaks)
    for name, value in result.items():
        if not isinstance(value, dict | list):
            write_line(f"{name}: {value}")
    write_line(f"weights: {os.path.join(arguments.output, 'weights.safetensors')}")
    for warning in result.get("warnings", ()):
        warn(f"tfdfd train: {warning}")
    return 0


def run_recipes(arguments: Namespace) -> int:
    from tfdfd.recipes import find_recipe, list_recipes

    recipes = [find_recipe(arguments.name)] if arguments.name else list(list_recipes().values())
    if arguments.json:
        settings = [recipe.settings() for recipe in recipes]
        write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", "-")
    elif arguments.name:
        meanings, width = recipes[0].meanings(), shutil.get_terminal_size((120, 24)).columns
        for key, value in recipes[0].settings().items():
            write_line(f"{key:16}{'none' if value is None else value}")
            for line in textwrap.wrap(meanings.get(key, ""), width - 18, break_on_hyphens=False):
                write_line(f"{'':18}{line}")
    else:
        width = max(len(recipe.name) for recipe in recipes)
        for recipe in recipes:
            write_line(f"{recipe.name:{width}}  {recipe.source}")
            write_line(f"{'':{width}}  {recipe.expected}")
    return 0
