"""A process that runs trials for a chief, on this machine or on another that sees the same folders."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_client

from tfdfd.tuning.chief import SearchError
from tfdfd.tuning.search import Search, run_trials

# How often a worker says that it is at its trial, and after how long without an answer the chief is gone: seconds.
HEARTBEAT = 5.0
CHIEF_GONE = 60.0


def work(search: Search, run: Callable) -> None:
    """Runs trials until the chief says that there are no more.

    Args:
        search: which one.
        run: `run(trial_id, values) -> metrics`, or None if it failed.

    Raises:
        SearchError: the chief does not answer, or failed.
    """
    # KerasTuner's hour is for chiefs that need long to start; one that died is waited for as long.
    oracle_client.TIMEOUT = 2 * CHIEF_GONE
    chief = oracle_client.OracleClient(None)

    def heard(trial_id, values):
        with _heartbeat(chief, trial_id):
            return run(trial_id, values)

    try:
        run_trials(search, chief, chief.tuner_id, heard)
    except grpc.RpcError as error:
        told = f"{error.code().name}: {error.details()}"
        raise SearchError(f"the chief at {_address()} does not answer: {told}.") from error


@contextlib.contextmanager
def _heartbeat(chief, trial_id) -> Iterator[None]:
    over = threading.Event()

    def beat():
        answered = time.monotonic()
        request = protos.get_service().GetTrialRequest(trial_id=trial_id)
        while not over.wait(HEARTBEAT):
            try:
                chief.stub.GetTrial(request, timeout=HEARTBEAT)
                answered = time.monotonic()
            except grpc.RpcError as error:
                if time.monotonic() - answered > CHIEF_GONE:
                    sys.stderr.write(f"tfdfd: the chief at {_address()} is gone ({error.code().name})\n")
                    sys.stderr.flush()
                    # The training is in the main thread, deep in TensorFlow; it goes on from its run folder later.
                    os._exit(1)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _address():
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
