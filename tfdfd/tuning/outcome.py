"""Results of a search: a table of all trials, TensorBoard's HParams log, and the best trial's settings."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdfd.data.pair_sets import METHOD
from tfdfd.files import write_atomically
from tfdfd.metrics import auc
from tfdfd.metrics.intervals import LEVEL, bootstrap_interval
from tfdfd.models import load
from tfdfd.text import optional_import
from tfdfd.training.crop_set import VAL, CropSet, score, videos_of
from tfdfd.training.history import csv_text
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import finished_run, read_log, versions
from tfdfd.tuning.hypermodel import assignments
from tfdfd.tuning.oracles import COMPLETED, FAILED, RUNNING, Accounting
from tfdfd.tuning.search import SCHEMA, VIDEO_AUC, Search, read_record, trial_folder
from tfdfd.weights.store import locate

if TYPE_CHECKING:
    from keras_tuner.engine.trial import Trial

TABLE, BEST = "trials.csv", "best.json"
# Settings of the search that do not apply to a training with its result.
_OF_THE_SEARCH = ("limit", "seed", "monitor")
_NOTE = (
    "The best of {count} trials on the split that epoch and trial were chosen on, which flatters it; the interval does "
    "not correct that. Judge the network on test data, which the search never opens."
)


def write_trials(search: Search, oracle: Accounting) -> list[dict]:
    """Writes `trials.csv` and TensorBoard's log of the trials so far; returns the rows in the order of the trials.

    A row has `trial`, `status` (COMPLETED, FAILED or RUNNING), the objective, `best_epoch`, `epochs`, `seconds`, the
    varied settings, and the `message` of a failed trial.
    """
    rows = _rows(search, oracle)
    names = list(dict.fromkeys(name for row in rows for name in row if name != "message"))
    write_atomically(search.folder / TABLE, csv_text([*names, "message"], rows))
    log = search.folder / "tensorboard"
    for trial in [oracle.trials[trial_id] for trial_id in list(oracle.end_order)]:
        if not (log / trial.trial_id).is_dir():
            values = dict(text.split("=", 1) for text in assignments(trial.hyperparameters.values))
            values |= {key: value for key, value in trial.hyperparameters.values.items() if key in values}
            scores = {} if trial.score is None else {search.objective: trial.score}
            _log_trial(log, trial.trial_id, values, scores, trial.status == FAILED)
    return rows


def write_best(search: Search, oracle: Accounting, command: str) -> dict | None:
    """Writes `best.json` for `tfdfd train --config`: the best trial's settings, and how they were found.

    Returns:
        The content of the file; None if no trial succeeded.
    """
    completed = [trial for trial in oracle.trials.values() if trial.status == COMPLETED]
    if not completed:
        return None
    best = max(completed, key=lambda trial: trial.score)
    values = assignments(best.hyperparameters.values)
    recipe = search.recipe.changed(values)
    content = {
        "schema": SCHEMA,
        "network": search.space.network,
        "recipe": search.space.recipe,
        "settings": settings_of(search, recipe, values),
        "score": score_of(search, recipe, trial_folder(search, best.trial_id))
        | {"note": _NOTE.format(count=len(completed))},
        "tuner": search.tuner,
        "seed": search.seed,
        "command": command,
        "commit": _commit(),
        "versions": versions() | _version("keras-tuner"),
        "data": search.digests,
        "searched_with": recipe.settings(),
        "trials": _rows(search, oracle),
    }
    write_atomically(search.folder / BEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return content


def settings_of(search: Search, recipe: Recipe, values: list[str]) -> dict:
    """Returns the settings, by key, with which a training of the recipe repeats a trial.

    Args:
        search: the search.
        recipe: recipe of the trial.
        values: its values, as `KEY=VALUE`.
    """
    known = recipe.settings()
    # Published weights may be read from a file that exists on this machine only.
    kind = (recipe.weights or "").partition(":")[0]
    known["weights"] = kind if kind in ("imagenet", "clip") else recipe.weights
    keys = [text.partition("=")[0] for text in (*search.changed, *values)]
    return {
        key: known["arguments"][key.removeprefix("arguments.")] if key.startswith("arguments.") else known[key]
        for key in dict.fromkeys(keys)
        if key not in _OF_THE_SEARCH
    }


def _log_trial(folder: Path, trial_id: str, values: dict[str, Any], scores: dict[str, float], is_failed: bool) -> None:
    """Writes an ended trial to TensorBoard's HParams log, replacing an earlier log of it."""
    with optional_import("TensorBoard logs need tensorboard", "tune"):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api, api_pb2, summary
        from tensorboard.summary import Writer
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    partial = folder / f".{trial_id}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    status = api_pb2.STATUS_FAILURE if is_failed else api_pb2.STATUS_SUCCESS
    events = EventFileWriter(str(partial))
    for message in (api.hparams_pb(values, trial_id=trial_id), summary.session_end_pb(status)):
        # If TensorFlow is installed, the plugin's messages are of TensorFlow's class.
        message = Summary.FromString(message.SerializeToString())
        events.add_event(Event(wall_time=time.time(), step=0, summary=message))
    events.close()
    writer = Writer(str(partial))
    for name, value in scores.items():
        writer.add_scalar(name, value, step=0)
    writer.close()
    shutil.rmtree(folder / trial_id, ignore_errors=True)
    os.replace(partial, folder / trial_id)


def _rows(search: Search, oracle: Accounting) -> list[dict[str, Any]]:
    # A chief's threads change trials concurrently: ended ones are final, of others only the values are.
    trials, ended = list(oracle.trials.values()), list(oracle.end_order)
    return [_row(search, trial, trial.trial_id in ended) for trial in trials]


def _row(search: Search, trial: Trial, is_ended: bool) -> dict[str, Any]:
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


def score_of(search: Search, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Returns `objective`, `value`, `interval`, `level`, `val_crops` and `val_videos` of a finished training."""
    result = finished_run(folder)["result"]
    entry = {
        "objective": search.objective,
        "value": result[search.objective],
        "interval": None,
        "level": LEVEL,
        "val_crops": result.get("val_crops"),
        "val_videos": result.get("val_videos"),
    }
    if recipe.procedure == "fit":
        model = load(*locate(folder))
        crops = CropSet(search.data, recipe, model.input_shape[1], search.allow_leaks)
        entry["interval"] = list(_interval(*score(model, crops, VAL), search.objective))
    return entry


def _interval(rows: Any, scores: np.ndarray, objective: str) -> tuple[float, float]:
    """Returns the bootstrap interval; a crop and the fake blended from it are in one cluster."""
    if objective == VIDEO_AUC:
        labels: Any
        labels, scores = videos_of(rows, scores)
        rows = {(row.dataset, row.video): row for row in rows}.values()
    else:
        labels = [row.label for row in rows]
    clusters = [(row.dataset, row.video.removesuffix(f"#{METHOD}")) for row in rows]
    return bootstrap_interval(auc, labels, scores, clusters)


def _commit() -> str | None:
    """Returns the commit of the checkout, with `+` if files were changed; None outside of a checkout."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "-C", os.fspath(Path(__file__).parents[1])]
        ask: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 30}
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **ask).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "."], **ask).stdout
        return commit + ("+" if changed.strip() else "")
    return None


def _version(name: str) -> dict[str, str]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return {name: metadata.version(name)}
    return {}
