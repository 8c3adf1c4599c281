"""Distributed search: a chief serves its oracle with KerasTuner's gRPC protocol, and workers run trials.

KerasTuner's environment variables assign roles: KERASTUNER_TUNER_ID (the chief's contains "chief"),
KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT. There is no authentication: only trusted machines may reach the
address.

KerasTuner's own chief waits forever for a worker that died. This one queues the trial of a dead worker again, starts
another worker, and ends when every trial is accounted for.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_client
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from tfdfd.tuning.oracles import LOST_AFTER, Accounting
from tfdfd.tuning.search import Search, run_trials

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

        Args:
            crew: workers of this machine.
            ended: called after trials have ended.

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
        self._workers: dict[str, subprocess.Popen]
        self._workers, self._started, self._false_starts = {}, 0, 0

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
    has_ended = threading.Event()

    def beat() -> None:
        answered = time.monotonic()
        request = protos.get_service().GetTrialRequest(trial_id=trial_id)
        while not has_ended.wait(HEARTBEAT):
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
        has_ended.set()
        thread.join()


def _address() -> str:
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
