"""KerasTuner's four oracles with crash-safe accounting of trials, alone or served by a chief to workers.

`Accounting` fixes these limitations of KerasTuner 1.4:
  - its state is in several files written in place, so a kill may leave a search that cannot be resumed;
  - a trial whose worker died stays "ongoing" forever, and the chief waits for it;
  - an oracle that raises keeps its lock, so every later call hangs;
  - workers are stopped while another worker's trial may still have to be repeated;
  - seed 0 means no seed, and a resumed Bayesian search repeats its earlier draws.

The chief speaks KerasTuner's gRPC protocol. KerasTuner's environment variables assign roles: KERASTUNER_TUNER_ID (the
chief's contains "chief"), KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT. There is no authentication: only trusted
machines may reach the address. KerasTuner's own chief waits forever for a worker that died. This one queues the trial
of a dead worker again, starts another worker, and ends when every trial is accounted for.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import keras_tuner
import numpy as np
from keras_tuner import Objective, synchronized
from keras_tuner.engine.trial import Trial
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_client
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from tfdfd.files import write_atomically
from tfdfd.tuning import TUNERS
from tfdfd.tuning.hypermodel import declare, tuner_value
from tfdfd.tuning.search import Search, run_trials
from tfdfd.tuning.search_space import Space

RUNNING, IDLE, STOPPED, COMPLETED, FAILED = "RUNNING", "IDLE", "STOPPED", "COMPLETED", "FAILED"
# Seconds without a heartbeat after which a worker counts as lost (`HEARTBEAT`).
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
        state = self.get_state() | {"trials": [trial.get_state() for trial in self.trials.values()]}
        state["tried_so_far"] = sorted(state["tried_so_far"])  # a set: its order differs between processes
        write_atomically(self._file, json.dumps(state))

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
                f"{self._file} is not a state of a search: {type(error).__name__}: {error}. Restore a "
                "copy of it to resume, or give another folder to start over."
            ) from error
        # The queue is a stack.
        self._retry_queue = [one for one in reversed(self.start_order) if one not in self.end_order]

    def _save_trial(self, trial: Trial) -> None:
        """Does nothing: `save` writes all trials."""


class _OwnFirst(Accounting):
    """The first trial has the recipe's own values, which a search with few trials may not come near again."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if self.start_order:
            return super().populate_space(trial_id)
        values = {each.name: each.default for each in self.hyperparameters.space}
        self._tried_so_far.add(self._compute_values_hash(values))
        return {"status": RUNNING, "values": values}


class _Random(_OwnFirst, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_OwnFirst, keras_tuner.oracles.BayesianOptimizationOracle):
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


# Seconds between heartbeats of a worker, and without an answer after which it gives up the chief.
HEARTBEAT = 5.0
CHIEF_GONE = 60.0
# Results and heartbeats arrive concurrently.
_THREADS = 8
# Seconds that the chief waits at the end for workers on other machines; idle workers ask every second.
_FAREWELL = 30.0
# Largest number of consecutive workers that die before they request a trial.
_MOST_FALSE_STARTS = 3


class SearchError(RuntimeError):
    """The search cannot continue now; the same command resumes it later."""


class Chief:
    """Serves an oracle at `ip`:`port` until the search is over.

    Args:
        oracle: the oracle.
        ip: address to listen on.
        port: port to listen on; 0 for any free port.

    Raises:
        SearchError: the address is not available.
    """

    def __init__(self, oracle: Accounting, ip: str = "127.0.0.1", port: int = 0):
        self._oracle, self._server = oracle, grpc.server(futures.ThreadPoolExecutor(_THREADS))
        protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), self._server)
        try:
            bound = self._server.add_insecure_port(f"{ip}:{port}")
        except RuntimeError as error:
            raise SearchError(f"the chief cannot listen on {ip}:{port}: {error}.") from error
        self.ip, self.port = ip, bound

    def serve(self, crew: Crew, ended: Callable[[], None]) -> None:
        """Serves until every trial is accounted for.

        Raises:
            SearchError: workers cannot run trials, or the oracle failed.
        """
        oracle, known = self._oracle, len(self._oracle.end_order)
        self._server.start()
        try:
            while not oracle.is_over:
                if oracle.failure is not None:
                    error = oracle.failure
                    raise SearchError(f"the chief failed: {type(error).__name__}: {error}.") from error
                crew.look_after(oracle, self.ip, self.port)
                if len(oracle.end_order) > known:
                    known = len(oracle.end_order)
                    ended()
                time.sleep(0.2)
            deadline = time.monotonic() + _FAREWELL
            while (crew.is_running or oracle.tuner_ids) and time.monotonic() < deadline:
                time.sleep(0.2)
        finally:
            crew.dismiss()
            self._server.stop(grace=1).wait()
        ended()


class Crew:
    """Worker processes of this machine. A killed worker is replaced.

    Args:
        command: command that starts a worker.
        count: number of workers.
        folder: folder of their output, one file each.
        note: receives messages about workers.
    """

    def __init__(self, command: list[str], count: int, folder: Path, note: Callable[[str], None]):
        self._command, self._count, self._folder, self._note = command, count, Path(folder), note
        self._started, self._false_starts = 0, 0
        self._workers: dict[str, subprocess.Popen] = {}

    @property
    def is_running(self) -> bool:
        """Whether any worker is running."""
        return any(worker.poll() is None for worker in self._workers.values())

    def look_after(self, oracle: Accounting, ip: str, port: int) -> None:
        """Replaces killed workers, and kills unresponsive ones.

        Raises:
            SearchError: a worker exited with an error, or several were killed before they requested a trial.
        """
        for name, worker in list(self._workers.items()):
            trial = oracle.ongoing_trials.get(name)
            if trial is not None and worker.poll() is None and oracle.silent_for(trial.trial_id) > LOST_AFTER:
                self._note(f"{name} sent no heartbeat for {LOST_AFTER:.0f} s at trial {trial.trial_id}; killed")
                worker.kill()
                worker.wait()
            code = worker.poll()
            if code is None:
                continue
            del self._workers[name]
            trial = oracle.ongoing_trials.get(name)
            if code > 0:
                raise SearchError(f"{name} ended with an error; {self._file(name)} says: {self._output_end(name)}")
            if trial is not None:
                oracle.put_back(trial.trial_id)
                self._note(f"{name} died (signal {-code}) at trial {trial.trial_id}, which goes on with another")
                self._false_starts = 0
            elif code < 0:
                oracle.tuner_ids.discard(name)
                self._note(f"{name} died (signal {-code})")
                self._false_starts += 1
                if self._false_starts >= _MOST_FALSE_STARTS:
                    raise SearchError(
                        f"{self._false_starts} workers were killed before they had a trial; the system may lack "
                        f"memory: start fewer. {self._file(name)} says: {self._output_end(name)}"
                    )
        while len(self._workers) < self._count and not oracle.is_over:
            self._start(ip, port)

    def dismiss(self) -> None:
        """Kills all workers; their trials are resumed later."""
        for worker in self._workers.values():
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        self._workers.clear()

    def _start(self, ip: str, port: int) -> None:
        self._folder.mkdir(exist_ok=True)
        while True:
            self._started += 1
            name = f"worker-{self._started}"
            if not self._file(name).exists():
                break
        address = {"KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": ip, "KERASTUNER_ORACLE_PORT": str(port)}
        with open(self._file(name), "xb") as file:
            # A proxy of the environment does not apply to local processes.
            self._workers[name] = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | address | {"no_grpc_proxy": ip},
            )

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _output_end(self, name: str) -> str:
        text = self._file(name).read_text(encoding="utf-8", errors="replace")[-2000:].strip()
        return " | ".join(text.splitlines())


def work(search: Search, run: Callable) -> None:
    """Runs trials as a worker until the chief has no more.

    Args:
        search: the search.
        run: `run(trial_id, values) -> metrics`, or None if the trial failed.

    Raises:
        SearchError: the chief does not answer, or failed.
    """
    # KerasTuner's timeout of an hour would also apply to a chief that died.
    oracle_client.TIMEOUT = 2 * CHIEF_GONE
    chief = oracle_client.OracleClient(None)

    def run_with_heartbeat(trial_id: str, values: dict[str, Any]) -> Any:
        with _heartbeat(chief, trial_id):
            return run(trial_id, values)

    try:
        run_trials(search, chief, chief.tuner_id, run_with_heartbeat)
    except grpc.RpcError as error:
        reason = f"{error.code().name}: {error.details()}"
        raise SearchError(f"the chief at {_address()} does not answer: {reason}.") from error


@contextlib.contextmanager
def _heartbeat(chief: Any, trial_id: str) -> Iterator[None]:
    # Not an event, whose lock an interrupt can leave taken.
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def beat() -> None:
        answered = time.monotonic()
        request = protos.get_service().GetTrialRequest(trial_id=trial_id)
        while True:
            with contextlib.suppress(queue.Empty):
                return ended.get(timeout=HEARTBEAT)
            try:
                chief.stub.GetTrial(request, timeout=HEARTBEAT)
                answered = time.monotonic()
            except grpc.RpcError as error:
                if time.monotonic() - answered > CHIEF_GONE:
                    sys.stderr.write(f"tfdfd: the chief at {_address()} is gone ({error.code().name})\n")
                    sys.stderr.flush()
                    # The main thread is training inside TensorFlow; the run folder resumes it later.
                    os._exit(1)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.put(None)
        thread.join()


def _address() -> str:
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
