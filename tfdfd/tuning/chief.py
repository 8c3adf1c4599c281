"""The process that says what to try next, over gRPC as KerasTuner's workers ask it, and looks after its own workers.

KerasTuner's variables say who is who: KERASTUNER_TUNER_ID (the chief's holds "chief"), KERASTUNER_ORACLE_IP and
KERASTUNER_ORACLE_PORT. Nobody is asked who they are: the address must be one that only trusted machines reach.

KerasTuner's own chief waits for ever for a worker that died. This one puts the trial of a dead worker back, starts
another worker, and ends when every trial is accounted for.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from tfdfd.tuning.oracles import LOST_AFTER, Accounting

# Workers are asked for their answer, and heard, at the same time.
_THREADS = 8
# Workers that have nothing to do ask every second; those on other machines are waited for so long at the end.
_FAREWELL = 30.0
# Of workers that end before they ask for a trial, one after another.
_MOST_FALSE_STARTS = 3


class SearchError(RuntimeError):
    """The search cannot go on now; the same command goes on with it later."""


class Chief:
    """Serves an oracle at `ip`:`port` until the search is over.

    Args:
        oracle: that is asked.
        ip: address to be reached at.
        port: 0 for any that is free.

    Raises:
        SearchError: the address cannot be had.
    """

    def __init__(self, oracle: Accounting, ip: str = "127.0.0.1", port: int = 0):
        self._oracle, self._server = oracle, grpc.server(futures.ThreadPoolExecutor(_THREADS))
        protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), self._server)
        try:
            found = self._server.add_insecure_port(f"{ip}:{port}")
        except RuntimeError as error:
            raise SearchError(f"the chief cannot have the address {ip}:{port}: {error}.") from error
        self.ip, self.port = ip, found

    def serve(self, crew: Crew, ended: Callable[[], None]) -> None:
        """Until every trial is accounted for.

        Args:
            crew: workers of this machine.
            ended: called when trials have come to their end.

        Raises:
            SearchError: nobody is left to run trials, or the oracle failed.
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
            until = time.monotonic() + _FAREWELL
            while (crew.is_there or oracle.tuner_ids) and time.monotonic() < until:
                time.sleep(0.2)
        finally:
            crew.dismiss()
            self._server.stop(grace=1).wait()
        ended()


class Crew:
    """Workers of this machine, each a process: one that is killed is replaced.

    Args:
        command: that makes a worker.
        count: how many.
        folder: where what they say is kept, a file each.
        note: told what befalls them.
    """

    def __init__(self, command: list[str], count: int, folder: Path, note: Callable[[str], None]):
        self._command, self._count, self._folder, self._note = command, count, Path(folder), note
        self._workers, self._started, self._false_starts = {}, 0, 0

    @property
    def is_there(self) -> bool:
        """Whether one of them still runs."""
        return any(worker.poll() is None for worker in self._workers.values())

    def look_after(self, oracle: Accounting, ip: str, port: int) -> None:
        """Replaces those that were killed, and kills those that hang.

        Raises:
            SearchError: one ended by itself with an error, or none comes as far as to ask for a trial.
        """
        for name, worker in list(self._workers.items()):
            trial = oracle.ongoing_trials.get(name)
            if trial is not None and worker.poll() is None and oracle.silent_for(trial.trial_id) > LOST_AFTER:
                self._note(f"{name} has not been heard of for {LOST_AFTER:.0f} s at trial {trial.trial_id}; killed")
                worker.kill()
                worker.wait()
            code = worker.poll()
            if code is None:
                continue
            del self._workers[name]
            trial = oracle.ongoing_trials.get(name)
            if code > 0:
                raise SearchError(f"{name} ended with an error; {self._file(name)} says:\n{self._last_words(name)}")
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
                        f"memory: start fewer. {self._file(name)} says:\n{self._last_words(name)}"
                    )
        while len(self._workers) < self._count and not oracle.is_over:
            self._start(ip, port)

    def dismiss(self) -> None:
        """Ends those that are left; what they were at goes on later."""
        for worker in self._workers.values():
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        self._workers.clear()

    def _start(self, ip, port):
        self._folder.mkdir(exist_ok=True)
        while True:
            self._started += 1
            name = f"worker-{self._started}"
            if not self._file(name).exists():
                break
        address = {"KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": ip, "KERASTUNER_ORACLE_PORT": str(port)}
        with open(self._file(name), "xb") as file:
            # A proxy of the environment is not for a process beside us.
            self._workers[name] = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | address | {"no_grpc_proxy": ip},
            )

    def _file(self, name):
        return self._folder / f"{name}.log"

    def _last_words(self, name):
        return self._file(name).read_text(encoding="utf-8", errors="replace")[-2000:].strip()
