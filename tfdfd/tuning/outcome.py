"""What came out of a search: a table of all trials, TensorBoard's, and the best one's settings as a file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

from tfdfd.data.pair_sets import METHOD
from tfdfd.files import write_atomically
from tfdfd.metrics.intervals import LEVEL, bootstrap_interval
from tfdfd.metrics.metrics import auc
from tfdfd.models import load
from tfdfd.training.crop_set import VAL, CropSet
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import finished_run, read_log, versions
from tfdfd.training.validation import score, videos_of
from tfdfd.tuning.hparams import write_trial
from tfdfd.tuning.oracles import COMPLETED, FAILED, RUNNING, assignments
from tfdfd.tuning.search import SCHEMA, VIDEO_AUC, Search
from tfdfd.tuning.trial import read_record, trial_folder, trial_recipe
from tfdfd.weights.store import locate

TABLE, BEST = "trials.csv", "best.json"
# Of what a search was made with, but no setting of a network.
_OF_THE_SEARCH = ("limit", "seed", "monitor")


def write_table(search: Search, oracle) -> list[dict]:
    """Writes `trials.csv` and TensorBoard's log of the trials so far; returns the rows, in the order of the trials.

    A row has `trial`, `status` (COMPLETED, FAILED or RUNNING), the objective, `best_epoch`, `epochs`, `seconds`, each
    setting that is varied, and `message` of a failed one.
    """
    rows = _rows(search, oracle)
    names = list(dict.fromkeys(name for row in rows for name in row if name != "message"))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names, "message"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(search.folder / TABLE, text.getvalue())
    log = search.folder / "tensorboard"
    for trial in [oracle.trials[trial_id] for trial_id in list(oracle.end_order)]:
        if not (log / trial.trial_id).is_dir():
            values = dict(text.split("=", 1) for text in assignments(trial.hyperparameters.values))
            values |= {key: value for key, value in trial.hyperparameters.values.items() if key in values}
            scores = {} if trial.score is None else {search.objective: trial.score}
            write_trial(log, trial.trial_id, values, scores, trial.status == FAILED)
    return rows


def write_best(search: Search, oracle, command: str) -> dict | None:
    """Writes `best.json`, as `tfdfd train --config` takes it: the best trial's settings, and how they were found.

    Args:
        search: which one.
        oracle: at its end.
        command: that was given.

    Returns:
        What was written; None if no trial ended well.
    """
    done = [trial for trial in oracle.trials.values() if trial.status == COMPLETED]
    if not done:
        return None
    best = max(done, key=lambda trial: trial.score)
    recipe = trial_recipe(search, assignments(best.hyperparameters.values))
    told = {
        "schema": SCHEMA,
        "network": search.space.network,
        "recipe": search.space.recipe,
        "settings": settings_of(search, recipe, assignments(best.hyperparameters.values)),
        "score": _judged(search, recipe, best, len(done)),
        "tuner": search.tuner,
        "seed": search.seed,
        "command": command,
        "commit": _commit(),
        "versions": versions() | _version("keras-tuner"),
        "data": search.digests,
        "searched_with": recipe.settings(),
        "trials": _rows(search, oracle),
    }
    write_atomically(search.folder / BEST, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return told


def settings_of(search: Search, recipe: Recipe, found: list[str]) -> dict:
    """What of a trial's recipe is to be set for a training of the same, by key.

    Args:
        search: which one.
        recipe: of the trial.
        found: its values, as `KEY=VALUE`.
    """
    told = recipe.settings()
    # Published weights, from a file that others do not have there.
    kind = (recipe.weights or "").partition(":")[0]
    told["weights"] = kind if kind in ("imagenet", "clip") else recipe.weights
    keys = [text.partition("=")[0] for text in (*search.changed, *found)]
    return {
        key: told["arguments"][key.removeprefix("arguments.")] if key.startswith("arguments.") else told[key]
        for key in dict.fromkeys(keys)
        if key not in _OF_THE_SEARCH
    }


def _rows(search, oracle):
    # A chief's threads change trials meanwhile: those that have ended stay, of others only the values do.
    trials, ended = list(oracle.trials.values()), list(oracle.end_order)
    return [_row(search, trial, trial.trial_id in ended) for trial in trials]


def _row(search, trial, is_ended):
    status, score = (trial.status, trial.score) if is_ended else (RUNNING, None)
    row = {"trial": trial.trial_id, "status": status, search.objective: score}
    if status == COMPLETED:
        folder = trial_folder(search, trial.trial_id)
        result, log = finished_run(folder)["result"], read_log(folder)
        row |= {"best_epoch": result.get("best_epoch"), "epochs": len(log)}
        row |= {"seconds": float(log[-1]["seconds"])} if log else {}
    row |= {key: value for key, value in trial.hyperparameters.values.items() if not key.startswith("tuner/")}
    failed = read_record(search, trial.trial_id)["failed"]
    return row | ({"message": failed["error"]} if failed else {})


def _judged(search, recipe, best, count):
    folder = trial_folder(search, best.trial_id)
    result = finished_run(folder)["result"]
    told = {
        "objective": search.objective,
        "value": best.score,
        "interval": None,
        "level": LEVEL,
        "val_crops": result.get("val_crops"),
        "val_videos": result.get("val_videos"),
        "note": f"The best of {count} trials on the split that epoch and trial were chosen on, which flatters it; the "
        "interval does not correct that. Judge the network on test data, which the search never opens.",
    }
    if recipe.procedure == "fit":
        model = load(*locate(folder))
        crops = CropSet(search.data, recipe, model.input_shape[1], search.allow_leaks)
        told["interval"] = list(_interval(*score(model, crops, VAL), search.objective))
    return told


def _interval(rows, scores, objective):
    """A crop and the fake that was blended of it are drawn together."""
    if objective == VIDEO_AUC:
        labels, scores = videos_of(rows, scores)
        rows = {(row.dataset, row.video): row for row in rows}.values()
    else:
        labels = [row.label for row in rows]
    clusters = [(row.dataset, row.video.removesuffix(f"#{METHOD}")) for row in rows]
    return bootstrap_interval(auc, labels, scores, clusters)


def _commit():
    """Of the checkout that this package is in; None if it is in none. A `+` says that files were changed since."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "-C", os.fspath(Path(__file__).parents[1])]
        ask = {"capture_output": True, "text": True, "check": True, "timeout": 30}
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **ask).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "."], **ask).stdout
        return commit + ("+" if changed.strip() else "")
    return None


def _version(name):
    with contextlib.suppress(metadata.PackageNotFoundError):
        return {name: metadata.version(name)}
    return {}
