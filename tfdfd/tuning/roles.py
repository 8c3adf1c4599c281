"""Who does what in a search: one process alone, a chief with workers, or a worker of a chief elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from tfdfd.files import locked_folder
from tfdfd.training.procedures import train
from tfdfd.tuning.search import Reports, Search, compare, keep, run_trials

ALONE, CHIEF, WORKER = "alone", "chief", "worker"
# So long a worker waits for a chief that is started after it: seconds.
_WAIT_FOR_CHIEF = 300.0
Note = Callable[[str], None]
# A row for each trial, and what `best.json` holds: None if no trial ended well.
Outcome = tuple[list[dict], dict | None]


def role(workers: int | None) -> str:
    """What this process is, by `--workers` and KerasTuner's variables.

    Raises:
        ValueError: half of the variables are set, or a worker is told to have workers.
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
            "the chief's id holds 'chief'."
        )
    return WORKER


def run_alone(search: Search, command: str, reports: Reports, note: Note, train=train) -> Outcome:
    """The whole search in this process.

    Args:
        search: which one.
        command: that was given, to be kept with the result.
        reports: makes who is told of one training.
        note: told of each trial.
        train: as `tfdfd.training.procedures.train`.

    Returns:
        What came out.

    Raises:
        ValueError: the folder holds another search, or KerasTuner is not installed.
        OSError: the folder cannot be written.
    """
    with _opened(search) as oracle:
        ended = _Teller(search, oracle, note)
        run_trials(search, oracle, "alone", _runner(search, reports, train), ended)
        return _conclude(search, oracle, command)


def run_chief(search: Search, command: str, worker: list[str], workers: int, note: Note) -> Outcome:
    """Says what to try, and has it tried by workers of this machine and by those that come.

    Args:
        search: which one.
        command: that was given, to be kept with the result.
        worker: command that makes a worker.
        workers: how many of them, from 0.
        note: told of trials and workers.

    Returns:
        What came out.

    Raises:
        ValueError, OSError: as `run_alone`.
        SearchError: it cannot go on.
    """
    with _opened(search) as oracle:
        from tfdfd.tuning.chief import Chief, Crew

        ip = os.environ.get("KERASTUNER_ORACLE_IP", "127.0.0.1")
        chief = Chief(oracle, ip, int(os.environ.get("KERASTUNER_ORACLE_PORT", 0)))
        note(f"chief at {chief.ip}:{chief.port}")
        chief.serve(Crew(worker, workers, search.folder / "workers", note), _Teller(search, oracle, note))
        return _conclude(search, oracle, command)


def run_worker(search: Search, reports: Reports, note: Note) -> None:
    """Runs trials of a chief that has this folder, too.

    Raises:
        ValueError: the folder holds another search, or KerasTuner is not installed.
        SearchError: no chief answers.
    """
    _need_keras_tuner()
    from tfdfd.tuning.worker import work

    begun = time.monotonic()
    while not (search.folder / "search.json").exists() and time.monotonic() - begun < _WAIT_FOR_CHIEF:
        note(f"waiting for the chief to begin {search.folder}")
        time.sleep(5)
    compare(search)
    work(search, _runner(search, reports, train))


@contextlib.contextmanager
def _opened(search) -> Iterator:
    """The oracle of the search's folder, which nobody else has meanwhile."""
    _need_keras_tuner()
    from tfdfd.tuning.oracles import make_oracle

    lock = locked_folder(search.folder, "tfdfd tune")
    try:
        keep(search)
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
    finally:
        if lock is not None:
            os.close(lock)


def _runner(search, reports, train):
    from tfdfd.tuning.oracles import assignments
    from tfdfd.tuning.trial import run_trial

    return lambda trial_id, values: run_trial(search, trial_id, assignments(values), reports, train)


class _Teller:
    """After each trial: the table anew, and a line."""

    def __init__(self, search, oracle, note):
        self._search, self._oracle, self._note, self._told = search, oracle, note, set(oracle.end_order)

    def __call__(self):
        from tfdfd.tuning.outcome import write_table

        for row in write_table(self._search, self._oracle):
            if row["status"] != "RUNNING" and row["trial"] not in self._told:
                self._told.add(row["trial"])
                score, objective = row[self._search.objective], self._search.objective
                came_out = f"{objective} {score:.4f}" if "message" not in row else f"failed: {row['message']}"
                self._note(f"trial {row['trial']} ({len(self._told)} of {self._search.max_trials}): {came_out}")


def _conclude(search, oracle, command):
    from tfdfd.tuning.outcome import write_best, write_table

    return write_table(search, oracle), write_best(search, oracle, command)


def _need_keras_tuner():
    try:
        import keras_tuner  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "a search runs on KerasTuner, which is not installed: run pip install 'tfdfd[tune]'."
        ) from error
