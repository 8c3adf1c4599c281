"""KerasTuner's four ways to choose the next values, with an account of every trial that survives whatever dies.

What KerasTuner 1.4 leaves to be done, and `Accounting` does:
  - its state is in several files, each written in place: a kill between or within leaves a search that cannot go on;
  - a trial whose worker is gone stays "ongoing" for ever, and the chief waits for it;
  - an oracle that raises keeps its lock, so that every later call hangs;
  - workers are told to stop while another's trial may still have to be done again;
  - seed 0 means no seed, and a resumed Bayesian search draws what it drew before.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from pathlib import Path

import keras_tuner
import numpy as np
from keras_tuner import Objective, synchronized
from keras_tuner.engine.trial import Trial

from tfdfd.files import write_atomically
from tfdfd.training.config import assignment
from tfdfd.tuning.space import Setting, Space
from tfdfd.tuning.tuners import TUNERS

RUNNING, IDLE, STOPPED, COMPLETED, FAILED = "RUNNING", "IDLE", "STOPPED", "COMPLETED", "FAILED"
# A worker says every few seconds that it is at its trial (`worker.HEARTBEAT`).
LOST_AFTER = 120.0
# Values that a grid takes of a range.
LEVELS = 3
STATE = "oracle.json"


def _remembered(method):
    """KerasTuner does not give a lock back after an error: it is kept here, for whoever serves to end the search."""

    @functools.wraps(method)
    def told(self, *arguments, **named):
        try:
            return method(self, *arguments, **named)
        except Exception as error:
            self.failure = error
            raise

    return told


class Accounting:
    """Mixed into an oracle.

    Attributes:
        failure: what an oracle's method has raised, after which nothing more can be asked of it.
    """

    def __init__(self, folder: Path, seed: int, **arguments):
        # KerasTuner takes 0 for "any"; a failed trial must not raise, however many follow each other.
        super().__init__(seed=seed + 1, max_consecutive_failed_trials=1 << 30, **arguments)
        self.verbose = 0
        self.failure = None
        self._file = folder / STATE
        self._seen = {}
        self._exhausted = False

    @_remembered
    @synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """A trial to run, or one that says IDLE (ask again) or STOPPED."""
        for trial in list(self.ongoing_trials.values()):
            if self.silent_for(trial.trial_id) > LOST_AFTER:
                self.put_back(trial.trial_id)
        trial = super().create_trial(tuner_id)
        if trial.status == RUNNING:
            self._seen[trial.trial_id] = time.monotonic()
        elif trial.status == STOPPED:
            self._exhausted = True
            if self.ongoing_trials:
                # One of them may have to be done again, by who asks now.
                trial.status = IDLE
                self.tuner_ids.add(tuner_id)
        return trial

    def get_trial(self, trial_id: str) -> Trial:
        """The trial; who asks for it is at it."""
        self._seen[trial_id] = time.monotonic()
        return super().get_trial(trial_id)

    @_remembered
    @synchronized
    def update_trial(self, trial_id, metrics, step=0):
        return super().update_trial(trial_id, metrics, step)

    @_remembered
    @synchronized
    def end_trial(self, trial: Trial) -> None:
        """Takes what came out; of a trial that two workers had, once."""
        if trial.trial_id not in self.end_order:
            super().end_trial(trial)

    @synchronized
    def put_back(self, trial_id: str) -> None:
        """A trial whose worker is gone is the next one to be run."""
        for tuner_id, trial in list(self.ongoing_trials.items()):
            if trial.trial_id == trial_id:
                del self.ongoing_trials[tuner_id]
                self.tuner_ids.discard(tuner_id)
                self._retry_queue.append(trial_id)
                self._seen.pop(trial_id, None)
        self.save()

    def silent_for(self, trial_id: str) -> float:
        """Seconds since somebody was heard to be at a trial."""
        now = time.monotonic()
        return now - self._seen.setdefault(trial_id, now)

    @property
    def is_over(self) -> bool:
        """Whether every trial has come to its end, and there are no more."""
        no_more = self._exhausted or len(self.trials) >= self.max_trials
        return no_more and not self.ongoing_trials and not self._retry_queue

    def save(self) -> None:
        """Everything in one file, in one piece."""
        trials = [trial.get_state() for trial in self.trials.values()]
        write_atomically(self._file, json.dumps(self.get_state() | {"trials": trials}))

    def reload(self) -> None:
        """Goes on from the file, if there is one: what ran when it was written is run again.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            told = json.loads(self._file.read_bytes())
            self.trials = {state["trial_id"]: Trial.from_state(state) for state in told["trials"]}
            self.set_state(told | {"ongoing_trials": {}})
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self._file} is no state of a search: {type(error).__name__}: {error}. Put a sound copy of it "
                "there to go on, or give another folder to begin anew."
            ) from error
        # The queue is taken from its end.
        self._retry_queue = [one for one in reversed(self.start_order) if one not in self.end_order]

    def _save_trial(self, trial):
        """`save` has them all."""


class _Random(Accounting, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(Accounting, keras_tuner.oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id):
        self._random_state = np.random.RandomState((self.seed + 7919 * len(self.trials)) % 2**32)
        return super().populate_space(trial_id)


class _Hyperband(Accounting, keras_tuner.oracles.HyperbandOracle):
    pass


class _Grid(Accounting, keras_tuner.Oracle):
    """The product of all levels, the last setting first. KerasTuner's own grid forgets where it was when it is killed.

    Args:
        levels: of each setting, by key, as KerasTuner names its values.
    """

    def __init__(self, levels: dict[str, list], **arguments):
        super().__init__(**arguments)
        self._levels = levels

    def populate_space(self, trial_id):
        place, values = len(self.start_order), {}
        if place >= math.prod(map(len, self._levels.values())):
            return {"status": STOPPED}
        for key, levels in reversed(self._levels.items()):
            place, digit = divmod(place, len(levels))
            values[key] = levels[digit]
        return {"status": RUNNING, "values": values}


def make_oracle(
    tuner: str, space: Space, objective: str, max_trials: int, epochs: int, seed: int, folder: str | os.PathLike
) -> Accounting:
    """One of the four, where it was left in `folder`.

    Args:
        tuner: one of `TUNERS`.
        space: what is varied.
        objective: name of what is to be great.
        max_trials: that are begun.
        epochs: the most that `hyperband` gives a trial.
        seed: of what is drawn.
        folder: that keeps its state.

    Raises:
        ValueError: the folder holds a damaged state.
    """
    known = {
        "objective": Objective(objective, "max"),
        "hyperparameters": _hyperparameters(space),
        "seed": seed,
        "folder": Path(folder),
    }
    if tuner not in TUNERS:
        raise ValueError(f"a tuner is one of {', '.join(TUNERS)}; received {tuner!r}.")
    if tuner == "bayesian":
        # By default three random trials a setting come first, which in a short search would be all of it.
        first = min(3 * len(space.search), max(3, max_trials // 3))
        oracle = _Bayesian(num_initial_points=first, **known)
    elif tuner == "hyperband":
        oracle = _Hyperband(max_epochs=epochs, hyperband_iterations=None, **known)
    elif tuner == "grid":
        levels = {setting.key: [_named(setting, value) for value in setting.levels(LEVELS)] for setting in space.search}
        oracle = _Grid(levels, **known)
    else:
        oracle = _Random(**known)
    oracle.max_trials = max_trials
    oracle.reload()
    return oracle


def assignments(values: dict) -> list[str]:
    """What a trial's values are in the words of `Recipe.changed`."""
    epochs = [f"epochs={values['tuner/epochs']}"] if "tuner/epochs" in values else []
    return epochs + [f"{key}={value}" for key, value in values.items() if not key.startswith("tuner/")]


def _hyperparameters(space):
    found = keras_tuner.HyperParameters()
    for setting in space.search:
        if setting.choices:
            named = [_named(setting, choice) for choice in setting.choices]
            found.Choice(setting.key, named, ordered=not isinstance(named[0], str))
        elif setting.is_whole:
            found.Int(setting.key, setting.low, setting.high, sampling=setting.scale)
        else:
            found.Float(setting.key, float(setting.low), float(setting.high), sampling=setting.scale)
    return found


def _named(setting: Setting, value):
    """KerasTuner's choices are all numbers or all words, and never None."""
    if not setting.choices:
        return value if setting.is_whole else float(value)
    if all(isinstance(choice, int) and not isinstance(choice, bool) for choice in setting.choices):
        return value
    if all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in setting.choices):
        return float(value)
    return assignment(setting.key, value).partition("=")[2]
