"""One hyperparameter search: its folder, its trials, and how processes share the work.

search.json         space, recipe and data
oracle.json         state: every trial with its values
trials/<id>/        run folder of a trial, as 'tfdfd train' makes it
trials/<id>.json    record of a trial: interruptions and failure
trials.csv, best.json, tensorboard/   results so far
workers/            output of the processes of --workers
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from tfdfd.data.tables import FaceRow
from tfdfd.files import WorkDir, locked, read_description, refuse_other, write_atomically
from tfdfd.process import oom_kills
from tfdfd.training import TrainingError
from tfdfd.training.crop_set import VAL, CropSet
from tfdfd.training.engine import Report
from tfdfd.training.procedures import initial_network, train
from tfdfd.training.recipe import Recipe, assignment
from tfdfd.training.run_folder import PLACES, model_digests, read_log
from tfdfd.tuning import need_keras_tuner
from tfdfd.tuning.search_space import Space
from tfdfd.version import __version__

if TYPE_CHECKING:
    from tfdfd.tuning.oracles import Accounting

SCHEMA = 1
VIDEO_AUC, CROP_AUC = "val_video_auc", "val_auc"
ALONE, CHIEF, WORKER = "alone", "chief", "worker"
# A trial is not started again if so many of its processes died without completing an epoch: those that the system
# killed for lack of memory, and all of them, which a person or a scheduler may have killed.
MOST_OOM_DEATHS, MOST_DEATHS = 3, 30
_FILE, _HOLDS, _COMMAND = "search.json", "search", "tfdfd tune"
# Not compared: paths of data and models, and the user's notation of what the recipe contains.
_PLACES = (*PLACES, "data", "digests.folder", "changed", "space.fixed")
_NO_RECORD: dict[str, Any] = {"begun": 0, "epochs": 0, "oom_kills": 0, "oom_deaths": 0, "failed": None}
# Seconds that a worker waits for a chief that is started after it.
_WAIT_FOR_CHIEF = 300.0
# Makes the report of one training.
Reports = Callable[[], AbstractContextManager[Report]]
Note = Callable[[str], None]
# One row per trial, and the content of `best.json`: None if no trial succeeded.
Outcome = tuple[list[dict], dict | None]


class NoScoreError(RuntimeError):
    """A trial has no score."""


@dataclass(frozen=True)
class Search:
    """Configuration of a search.

    Attributes:
        folder: folder of the search.
        space: the settings that are varied.
        recipe: the recipe of all trials: that of the space, with the user's settings.
        data: a face set with splits.
        objective: metric to maximize: the validation AUC of videos, or of crops if every video has one crop.
        tuner: one of `tfdfd.tuning.TUNERS`.
        max_trials: largest number of trials.
        seed: seed of the search and of each training.
        allow_leaks: as for `train`.
        changed: changes to recipe and space, as `KEY=VALUE`.
        digests: description of the data, as in a run folder.
    """

    folder: Path
    space: Space
    recipe: Recipe
    data: str
    objective: str
    tuner: str
    max_trials: int
    seed: int
    allow_leaks: bool
    changed: tuple[str, ...]
    digests: dict

    def settings(self) -> dict:
        """Returns JSON-serializable values, without `max_trials`, since a search may be extended."""
        values = asdict(self) | {"recipe": self.recipe.settings(), "models": model_digests(self.recipe)}
        values |= {"schema": SCHEMA, "tfdfd": __version__}
        del values["folder"], values["max_trials"]
        return json.loads(json.dumps(values))


def make_search(
    space: Space,
    data: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    tuner: str = "random",
    max_trials: int = 20,
    seed: int = 0,
    settings: tuple[str, ...] = (),
    quick: bool = False,
    allow_leaks: bool = False,
) -> Search:
    """Returns a search after checking its data.

    Args:
        space: the settings that are varied.
        data: a face set with splits.
        folder: folder of the search.
        tuner: one of `tfdfd.tuning.TUNERS`.
        max_trials: largest number of trials.
        seed: seed of the search and of each training.
        settings: settings of the user as `KEY=VALUE`, which hold in every trial and are not varied.
        quick: whether every trial takes seconds, to check that the search runs.
        allow_leaks: as for `train`.

    Raises:
        ValueError: a setting is unknown, nothing is left to vary, or the face set or the initial weights are invalid.
    """
    if max_trials < 1:
        raise ValueError(f"a search needs at least one trial; received max_trials={max_trials}.")
    fixed = {"seed", "monitor", "epochs"} if tuner == "hyperband" else {"seed", "monitor"}
    recipe, space = space.prepared(settings, quick, fixed)
    recipe = recipe.changed([assignment("seed", seed)])
    crops = CropSet(data, recipe, recipe.input_size(), allow_leaks)
    objective = objective_of(crops.images(VAL)[1])
    if recipe.weights and recipe.procedure in ("fit", "svm") and "weights" not in {each.key for each in space.search}:
        # With wrong weights, every trial would fail one after another.
        initial_network(recipe, crops.size)
        keras.utils.clear_session()
    return Search(
        folder=Path(folder),
        space=space,
        recipe=recipe.changed([assignment("monitor", objective)]),
        data=os.path.abspath(data),
        objective=objective,
        tuner=tuner,
        max_trials=max_trials,
        seed=seed,
        allow_leaks=allow_leaks,
        changed=(*space.fixed, *settings),
        digests=crops.digests(),
    )


def objective_of(rows: list[FaceRow]) -> str:
    """Returns the AUC of videos if a video has several crops, else that of crops, which is equal."""
    return CROP_AUC if len({(row.dataset, row.video) for row in rows}) == len(rows) else VIDEO_AUC


def role(workers: int | None) -> str:
    """Returns the role of this process, from `--workers` and KerasTuner's environment variables.

    Raises:
        ValueError: some of the variables are missing, or a worker is given workers.
    """
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    missing = [name for name in names if name not in os.environ]
    if missing and len(missing) < len(names):
        raise ValueError(f"of KerasTuner's variables {', '.join(missing)} is not set; set all three, or none.")
    if missing:
        return ALONE if workers is None else CHIEF
    if not os.environ["KERASTUNER_ORACLE_PORT"].isdigit():
        raise ValueError(f"KERASTUNER_ORACLE_PORT must be a number; received {os.environ['KERASTUNER_ORACLE_PORT']!r}.")
    if "chief" in os.environ["KERASTUNER_TUNER_ID"]:
        return CHIEF
    if workers is not None:
        raise ValueError(
            f"KERASTUNER_TUNER_ID={os.environ['KERASTUNER_TUNER_ID']} is a worker's, and a worker has no --workers; "
            "the chief's id contains 'chief'."
        )
    return WORKER


def run_alone(search: Search, command: str, reports: Reports, note: Note, train: Callable = train) -> Outcome:
    """Runs the whole search in this process.

    Args:
        search: the search.
        command: the user's command, recorded with the result.
        reports: makes the report of one training.
        note: receives a message about each trial.
        train: as `tfdfd.training.procedures.train`.

    Raises:
        ValueError: the folder contains another search, or KerasTuner is not installed.
        OSError: the folder cannot be written.
    """
    with _opened(search) as oracle:
        run_trials(search, oracle, "alone", _runner(search, reports, train), _Announcer(search, oracle, note))
        return _results(search, oracle, command)


def run_chief(search: Search, command: str, worker: list[str], workers: int, note: Note) -> Outcome:
    """Runs the oracle of a search; workers of this machine and of others run its trials.

    Args:
        search: the search.
        command: the user's command, recorded with the result.
        worker: command that starts a worker.
        workers: number of workers on this machine, at least 0.
        note: receives messages about trials and workers.

    Raises:
        ValueError, OSError: as `run_alone`.
        SearchError: the search cannot continue.
    """
    with _opened(search) as oracle:
        from tfdfd.tuning.oracles import Chief, Crew

        ip = os.environ.get("KERASTUNER_ORACLE_IP", "127.0.0.1")
        chief = Chief(oracle, ip, int(os.environ.get("KERASTUNER_ORACLE_PORT", 0)))
        note(f"chief at {chief.ip}:{chief.port}")
        chief.serve(Crew(worker, workers, search.folder / "workers", note), _Announcer(search, oracle, note))
        return _results(search, oracle, command)


def run_worker(search: Search, reports: Reports, note: Note) -> None:
    """Runs trials for a chief that shares the search's folder.

    Raises:
        ValueError: the folder contains another search, or KerasTuner is not installed.
        SearchError: no chief answers.
    """
    need_keras_tuner()
    from tfdfd.tuning.oracles import work

    file, start_time = search.folder / _FILE, time.monotonic()
    while not file.exists() and time.monotonic() - start_time < _WAIT_FOR_CHIEF:
        note(f"waiting for the chief to start {search.folder}")
        time.sleep(5)
    # The chief has the lock of the folder.
    refuse_other(search.folder, _upgraded(read_description(file, _HOLDS)), search.settings(), _PLACES)
    work(search, _runner(search, reports, train))


@contextlib.contextmanager
def _opened(search: Search) -> Iterator:
    """The oracle of a search, with the lock of its folder."""
    need_keras_tuner()
    from tfdfd.tuning.oracles import make_oracle

    with WorkDir(
        search.folder, _COMMAND, search.settings(), holds=_HOLDS, file=_FILE, places=_PLACES, upgrade=_upgraded
    ):
        (search.folder / "trials").mkdir(exist_ok=True)
        yield make_oracle(
            search.tuner,
            search.space,
            search.objective,
            search.max_trials,
            search.recipe.epochs,
            search.seed,
            search.folder,
        )


def _upgraded(description: dict[str, Any]) -> dict[str, Any]:
    """Adds the digests that a search of an earlier version lacks."""
    try:
        if "models" in description:
            return description
        return description | {"models": model_digests(Recipe.from_settings(description["recipe"]))}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{_FILE} is not a search of '{_COMMAND}': {type(error).__name__}: {error}.") from error


def _runner(search: Search, reports: Any, train: Any) -> Callable[[str, dict[str, Any]], Any]:
    from tfdfd.tuning.hypermodel import assignments

    return lambda trial_id, values: run_trial(search, trial_id, assignments(values), reports, train)


class _Announcer:
    """Rewrites the table and reports the result after each trial."""

    def __init__(self, search: Search, oracle: Accounting, note: Note) -> None:
        self._search, self._oracle, self._note, self._announced = search, oracle, note, set(oracle.end_order)

    def __call__(self) -> None:
        from tfdfd.tuning.outcome import write_trials

        objective = self._search.objective
        for row in write_trials(self._search, self._oracle):
            if row["status"] != "RUNNING" and row["trial"] not in self._announced:
                self._announced.add(row["trial"])
                result = f"failed: {row['message']}" if "message" in row else f"{objective} {row[objective]:.4f}"
                self._note(f"trial {row['trial']} ({len(self._announced)} of {self._search.max_trials}): {result}")


def _results(search: Search, oracle: Accounting, command: str) -> Outcome:
    from tfdfd.tuning.outcome import write_best, write_trials

    return write_trials(search, oracle), write_best(search, oracle, command)


def run_trials(
    search: Search | None, oracle: Any, tuner_id: str, run: Callable, ended: Callable[[], None] = lambda: None
) -> None:
    """Runs trials until there are no more.

    Args:
        search: the search.
        oracle: the oracle, or a client of the chief.
        tuner_id: name of this process.
        run: `run(trial_id, values) -> metrics`, or None if the trial failed.
        ended: called after each trial.
    """
    while True:
        trial = oracle.create_trial(tuner_id)
        if trial.status == "STOPPED":
            return
        if trial.status == "IDLE":
            time.sleep(1)
            continue
        metrics = run(trial.trial_id, trial.hyperparameters.values)
        if metrics is None:
            trial.status = "FAILED"
        else:
            oracle.update_trial(trial.trial_id, metrics)
            trial.status = "COMPLETED"
        oracle.end_trial(trial)
        ended()


def trial_folder(search: Search, trial_id: str) -> Path:
    """Returns the run folder of a trial."""
    return search.folder / "trials" / trial_id


def read_record(search: Search, trial_id: str) -> dict:
    """Returns the record of a trial.

    It holds `epochs`, and of the starts since the last of them the number (`begun`) and those that ended for lack of
    memory (`oom_deaths`); `oom_kills` of the system at the last start; and `failed`.

    Raises:
        ValueError: the record is damaged.
    """
    file = _record_file(search, trial_id)
    try:
        record = json.loads(file.read_bytes())
        numbers, failed = [record["begun"], record["epochs"]], record["failed"]
        # Earlier versions did not write these.
        numbers += [record.setdefault(name, 0) for name in ("oom_kills", "oom_deaths")]
        if not all(isinstance(number, int) for number in numbers) or not (failed is None or failed["error"]):
            raise ValueError(f"received {record}")
        return record
    except FileNotFoundError:
        return dict(_NO_RECORD)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is not a record of a trial: {type(error).__name__}: {error}. Remove it, then repeat the same "
            "command to resume; the trained epochs are in the run folder of the trial."
        ) from error


def run_trial(
    search: Search, trial_id: str, assignments: list[str], reports: Reports, train: Callable = train
) -> dict[str, float] | None:
    """Runs a trial, or resumes it from its run folder.

    Returns:
        The objective's value by name; None for a failed trial, whose record contains the error.

    Raises:
        OSError, TrainingError: the disk is full or missing, so that other trials would fail, too.
    """
    folder = trial_folder(search, trial_id)
    _wait_for_lock(folder)
    record, epochs = read_record(search, trial_id), len(read_log(folder))
    if record["epochs"] != epochs:
        record = _NO_RECORD
    starts, kills = record["begun"] + 1, oom_kills()
    lacked = record["oom_deaths"] + (record["begun"] > 0 and kills > record["oom_kills"])
    known = {"assignments": assignments, "epochs": epochs, "oom_kills": kills, "oom_deaths": lacked}
    _write_record(search, trial_id, known | {"begun": starts, "failed": None})
    try:
        if lacked >= MOST_OOM_DEATHS:
            raise NoScoreError(
                f"the system killed the process that ran it {lacked} times after {epochs} epochs for lack of memory: "
                "vary batch_size less, or start fewer workers."
            )
        if starts > MOST_DEATHS:
            raise NoScoreError(f"the process that ran it died {MOST_DEATHS} times after {epochs} epochs.")
        with reports() as report:
            result = train(search.recipe.changed(assignments), search.data, folder, report, search.allow_leaks)
        return {search.objective: _score(result, search.objective)}
    except Exception as error:
        # The training names the file and what to do in an error of its own.
        if isinstance(error.__cause__ if isinstance(error, TrainingError) else error, OSError):
            _write_record(search, trial_id, known | {"begun": starts - 1, "failed": None})
            raise
        failed = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        _write_record(search, trial_id, known | {"begun": starts, "failed": failed})
        return None
    except BaseException:
        # An interrupt by the user is not a failure of the trial.
        _write_record(search, trial_id, known | {"begun": starts - 1, "failed": None})
        raise
    finally:
        keras.utils.clear_session()


def _score(result: dict[str, Any], objective: str) -> float:
    value = result.get(objective)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NoScoreError(f"the training ended with {objective}={value!r}; a number is needed.")
    return float(value)


def _wait_for_lock(folder: Path) -> None:
    """Waits for a former worker that may still run the trial on another machine; its result counts."""
    while True:
        try:
            with locked(folder, _COMMAND):
                return
        except ValueError:
            time.sleep(2)


def _record_file(search: Search, trial_id: str) -> Path:
    return search.folder / "trials" / f"{trial_id}.json"


def _write_record(search: Search, trial_id: str, record: dict[str, Any]) -> None:
    write_atomically(_record_file(search, trial_id), json.dumps(record, indent=1) + "\n")
