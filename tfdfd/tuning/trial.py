"""One trial: a training in a run folder of its own, that ends in a score or in a reason why not."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from pathlib import Path

import keras

from tfdfd.files import locked_folder, write_atomically
from tfdfd.training.procedures import train
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import read_log
from tfdfd.tuning.search import Reports, Search

# A trial that ends its process so often without an epoch in between (no memory, as a rule) is not begun again.
MOST_DEATHS = 3


class NoScoreError(RuntimeError):
    """A trial that cannot be judged."""


def trial_folder(search: Search, trial_id: str) -> Path:
    """The run folder of a trial."""
    return search.folder / "trials" / trial_id


def trial_recipe(search: Search, assignments: list[str]) -> Recipe:
    """What a trial trains."""
    return search.recipe.changed(assignments)


def read_record(search: Search, trial_id: str) -> dict:
    """What befell a trial: `begun` (how often, since its last epoch), `epochs` (that it had then), `failed`.

    Raises:
        ValueError: the record is damaged.
    """
    file = _record(search, trial_id)
    try:
        told = json.loads(file.read_bytes())
        numbers, failed = [told["begun"], told["epochs"]], told["failed"]
        if not all(isinstance(number, int) for number in numbers) or not (failed is None or failed["error"]):
            raise ValueError(f"received {told}")
        return told
    except FileNotFoundError:
        return {"begun": 0, "epochs": 0, "failed": None}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is no record of a trial: {type(error).__name__}: {error}. Remove it, and the same command goes "
            "on; what the trial has trained stays in its run folder."
        ) from error


def run_trial(
    search: Search, trial_id: str, assignments: list[str], reports: Reports, train=train
) -> dict[str, float] | None:
    """Runs a trial, or goes on with it where its run folder is.

    Args:
        search: which one.
        trial_id: of the trial.
        assignments: its values, as `KEY=VALUE`.
        reports: makes who is told of the training.
        train: as `tfdfd.training.procedures.train`.

    Returns:
        The objective's value by name; None for a trial that failed, whose record says why.

    Raises:
        OSError: the disk is full or gone: no trial would do better.
    """
    folder = trial_folder(search, trial_id)
    _wait_for(folder)
    told, epochs = read_record(search, trial_id), len(read_log(folder))
    begun = told["begun"] + 1 if told["epochs"] == epochs else 1
    kept = {"assignments": assignments, "epochs": epochs}
    _write(search, trial_id, kept | {"begun": begun, "failed": None})
    try:
        if begun > MOST_DEATHS:
            raise NoScoreError(
                f"the process that ran it died {MOST_DEATHS} times after {epochs} epochs; the system may have lacked "
                "memory: vary batch_size less, or start fewer workers."
            )
        with reports() as report:
            result = train(trial_recipe(search, assignments), search.data, folder, report, search.allow_leaks)
        return {search.objective: _score(result, search.objective)}
    except Exception as error:
        if isinstance(error, OSError):
            _write(search, trial_id, kept | {"begun": begun - 1, "failed": None})
            raise
        failed = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        _write(search, trial_id, kept | {"begun": begun, "failed": failed})
        return None
    except BaseException:
        # Whoever interrupts it wants it to go on later.
        _write(search, trial_id, kept | {"begun": begun - 1, "failed": None})
        raise
    finally:
        keras.utils.clear_session()


def _score(result, objective):
    value = result.get(objective)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NoScoreError(f"the training ended with {objective}={value!r}; a number is needed.")
    return float(value)


def _wait_for(folder):
    """Whoever had the trial before may be on another machine, out of hearing but at work: its result is ours, too."""
    while True:
        try:
            lock = locked_folder(folder, "tfdfd tune")
        except ValueError:
            time.sleep(2)
            continue
        if lock is not None:
            os.close(lock)
        return


def _record(search, trial_id):
    return search.folder / "trials" / f"{trial_id}.json"


def _write(search, trial_id, record):
    write_atomically(_record(search, trial_id), json.dumps(record, indent=1) + "\n")
