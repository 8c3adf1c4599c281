"""`tfdfd train`: an experiment on a face set, to a folder that says how it was made."""

from __future__ import annotations

import os
import sys

_DESCRIPTION = """\
Trains a network by a recipe ('tfdfd recipes' lists them) on a face set with splits ('extract', then 'split').

The run folder holds the weights of the epoch that is best on validation with their model card, log, curves, and how
they were made. A run that was stopped, however, goes on with the same command, to the same weights. Thresholds and
calibration are chosen on validation; test data are never opened.

Exit code: 0 trained; 1 it could not go on, and says where; 2 wrong usage, or a set of no use."""


def add_parser(verbs) -> None:
    parser = verbs.add_parser("train", help="train a network by a recipe", description=_DESCRIPTION)
    parser.add_argument("recipe", metavar="RECIPE", help="by name, such as s1-meso-inception4")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="another setting; repeat it"
    )
    parser.add_argument(
        "--config",
        metavar="FILE.json|NETWORK",
        help="settings that 'tfdfd tune' found best: a file, or those that tfdfd has of a network",
    )
    parser.add_argument("--quick", action="store_true", help="one epoch of few small crops: whether it runs at all")
    parser.add_argument("--allow-leaks", action="store_true", help="take a set whose splits share people or files")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), help="of Keras (default: $KERAS_BACKEND)")
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), help="fail unless it is there (default: what the backend finds)"
    )
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="share each batch among N (jax only)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    if arguments.devices < 1:
        raise ValueError(f"--devices must be at least 1; received {arguments.devices}.")
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    from tfdfd.cli.training_progress import TrainingProgress
    from tfdfd.recipes import find_recipe

    recipe = find_recipe(arguments.recipe)
    if arguments.config:
        from tfdfd.training.recipe import read_config

        recipe = read_config(arguments.config, recipe)
    # What the user says goes before what --quick takes for quick.
    recipe = (recipe.quick() if arguments.quick else recipe).changed(arguments.settings)
    with TrainingProgress(arguments.quiet) as report:
        from tfdfd.training.procedures import distributed, train

        with distributed(arguments.device, arguments.devices):
            result = train(recipe, arguments.data, arguments.output, report, arguments.allow_leaks)
    for line in summary(result, arguments.output):
        print(line)
    for warning in result.get("warnings", ()):
        sys.stderr.write(f"tfdfd train: {warning}\n")
    return 0


def summary(result: dict, folder: str) -> list[str]:
    """What a person wants to know at the end."""
    lines = [f"{name}: {value}" for name, value in result.items() if not isinstance(value, dict | list)]
    return [*lines, f"weights: {os.path.join(folder, 'weights.safetensors')}"]
