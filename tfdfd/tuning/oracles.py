"""KerasTuner's four oracles with crash-safe accounting of trials.

`Accounting` fixes these limitations of KerasTuner 1.4:
  - its state is in several files written in place, so a kill may leave a search that cannot be resumed;
  - a trial whose worker died stays "ongoing" forever, and the chief waits for it;
  - an oracle that raises keeps its lock, so every later call hangs;
  - workers are stopped while another worker's trial may still have to be repeated;
  - seed 0 means no seed, and a resumed Bayesian search repeats its earlier draws.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras_tuner
import numpy as np
from keras_tuner import Objective, synchronized
from keras_tuner.engine.trial import Trial

from tfdfd.files import write_atomically
from tfdfd.tuning import TUNERS
from tfdfd.tuning.hypermodel import declare, tuner_value
from tfdfd.tuning.search_space import Space

RUNNING, IDLE, STOPPED, COMPLETED, FAILED = "RUNNING", "IDLE", "STOPPED", "COMPLETED", "FAILED"
# Seconds without a heartbeat after which a worker counts as lost (`distributed.HEARTBEAT`).
LOST_AFTER = 120.0
# Number of values that a grid takes from a range.
LEVELS = 3
STATE = "oracle.json"


def _remembered(method: Callable[..., Any]) -> Callable[..., Any]:
    """Records an error, after which KerasTuner never releases its lock, so that the server can end the search."""

    @functools.wraps(method)
    def wrapper(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except Exception as error:
            self.failure = error
            raise

    return wrapper


# Only type checkers know the methods that the mixin extends.
if TYPE_CHECKING:
    from keras_tuner import Oracle as _Oracle
else:
    _Oracle = object


class Accounting(_Oracle):
    """Mixin for oracles.

    Attributes:
        failure: the error of an oracle's method, after which the oracle is unusable.
    """

    def __init__(self, folder: Path, seed: int, **arguments: Any) -> None:
        # KerasTuner takes seed 0 as none. Consecutive failed trials must not raise.
        super().__init__(seed=seed + 1, max_consecutive_failed_trials=1 << 30, **arguments)
        self.verbose = 0
        self.failure: Exception | None = None
        self._file = folder / STATE
        self._last_heard: dict[str, float] = {}
        self._exhausted = False

    @_remembered
    @synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """Returns a trial to run, or one with the status IDLE (ask again) or STOPPED."""
        for trial in list(self.ongoing_trials.values()):
            if self.silent_for(trial.trial_id) > LOST_AFTER:
                self.put_back(trial.trial_id)
        trial = super().create_trial(tuner_id)
        if trial.status == RUNNING:
            self._last_heard[trial.trial_id] = time.monotonic()
        elif trial.status == STOPPED:
            self._exhausted = True
            if self.ongoing_trials:
                # One of them may have to be repeated by this worker.
                trial.status = IDLE
                self.tuner_ids.add(tuner_id)
        return trial

    def get_trial(self, trial_id: str) -> Trial:
        """Returns the trial; the request counts as its worker's heartbeat."""
        self._last_heard[trial_id] = time.monotonic()
        return super().get_trial(trial_id)

    @_remembered
    @synchronized
    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Any:
        return super().update_trial(trial_id, metrics, step)

    @_remembered
    @synchronized
    def end_trial(self, trial: Trial) -> None:
        """Records the result; of a trial that two workers ran, only the first."""
        if trial.trial_id not in self.end_order:
            super().end_trial(trial)

    @synchronized
    def put_back(self, trial_id: str) -> None:
        """Queues a trial whose worker is gone as the next one."""
        for tuner_id, trial in list(self.ongoing_trials.items()):
            if trial.trial_id == trial_id:
                del self.ongoing_trials[tuner_id]
                self.tuner_ids.discard(tuner_id)
                self._retry_queue.append(trial_id)
                self._last_heard.pop(trial_id, None)
        self.save()

    def silent_for(self, trial_id: str) -> float:
        """Returns the seconds since the last heartbeat of a trial's worker."""
        now = time.monotonic()
        return now - self._last_heard.setdefault(trial_id, now)

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended, and there are no more."""
        no_more = self._exhausted or len(self.trials) >= self.max_trials
        return no_more and not self.ongoing_trials and not self._retry_queue

    def save(self) -> None:
        """Writes the whole state to one file, atomically."""
        trials = [trial.get_state() for trial in self.trials.values()]
        write_atomically(self._file, json.dumps(self.get_state() | {"trials": trials}))

    def reload(self) -> None:
        """Restores the state from the file, if it exists. Trials that were running are queued again.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            state = json.loads(self._file.read_bytes())
            self.trials = {trial["trial_id"]: Trial.from_state(trial) for trial in state["trials"]}
            self.set_state(state | {"ongoing_trials": {}})
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self._file} is no state of a search: {type(error).__name__}: {error}. Restore a "
                "copy of it to resume, or give another folder to start over."
            ) from error
        # The queue is a stack.
        self._retry_queue = [one for one in reversed(self.start_order) if one not in self.end_order]

    def _save_trial(self, trial: Trial) -> None:
        """Does nothing: `save` writes all trials."""


class _Random(Accounting, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(Accounting, keras_tuner.oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        self._random_state = np.random.RandomState((self.seed + 7919 * len(self.trials)) % 2**32)
        return super().populate_space(trial_id)


class _Hyperband(Accounting, keras_tuner.oracles.HyperbandOracle):
    pass


class _Grid(Accounting, keras_tuner.Oracle):
    """Product of all levels, the last setting fastest. KerasTuner's own grid loses its position when it is killed.

    Args:
        levels: KerasTuner's values of each setting, by key.
    """

    def __init__(self, levels: dict[str, list], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._levels = levels

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        position, values = len(self.start_order), {}
        if position >= math.prod(map(len, self._levels.values())):
            return {"status": STOPPED}
        for key, levels in reversed(self._levels.items()):
            position, digit = divmod(position, len(levels))
            values[key] = levels[digit]
        return {"status": RUNNING, "values": values}


def make_oracle(
    tuner: str, space: Space, objective: str, max_trials: int, epochs: int, seed: int, folder: str | os.PathLike
) -> Accounting:
    """Returns an oracle with the state that `folder` contains.

    Args:
        tuner: one of `TUNERS`.
        space: the search space.
        objective: name of the metric to maximize.
        max_trials: largest number of trials.
        epochs: largest number of epochs that `hyperband` gives a trial.
        seed: seed of the search.
        folder: folder of the state.

    Raises:
        ValueError: the state is damaged.
    """
    known = {
        "objective": Objective(objective, "max"),
        "hyperparameters": declare(keras_tuner.HyperParameters(), space),
        "seed": seed,
        "folder": Path(folder),
    }
    if tuner not in TUNERS:
        raise ValueError(f"a tuner is one of {', '.join(TUNERS)}; received {tuner!r}.")
    if tuner == "bayesian":
        # KerasTuner's default of three random trials per setting would fill a short search.
        first = min(3 * len(space.search), max(3, max_trials // 3))
        oracle = _Bayesian(num_initial_points=first, **known)
    elif tuner == "hyperband":
        oracle = _Hyperband(max_epochs=epochs, hyperband_iterations=None, **known)
    elif tuner == "grid":
        levels = {
            setting.key: [tuner_value(setting, value) for value in setting.levels(LEVELS)] for setting in space.search
        }
        oracle = _Grid(levels, **known)
    else:
        oracle = _Random(**known)
    oracle.max_trials = max_trials
    oracle.reload()
    return oracle
