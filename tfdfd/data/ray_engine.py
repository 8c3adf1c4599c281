"""The work on a face set by the nodes of a Ray cluster, or by an embedded Ray of this machine.

Each worker is an actor with one decoding process. Only jobs and records travel; videos are read and crops are written
by the worker itself, so that data set and face set must be on a file system that all nodes see in the same place. The
bytes are those of the local engine where the nodes have the same builds of the same libraries.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import importlib.util
import logging
import os
import socket
from collections.abc import Iterator, Sequence

from tfdfd.data.face_record import Record
from tfdfd.data.face_work import FaceWork, VideoJob
from tfdfd.data.local_engine import check_workers

# So many workers may end without a word while at one video, or while they start one after another.
MAX_LOST = 3
# Records waiting for their turn, besides one a worker.
AHEAD = 8
KNOCK_SECONDS = 10
_OBJECT_STORE = 100_000_000  # bytes; only records pass through it
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayEngine:
    """Decodes on a Ray cluster; needs the extra `cluster`.

    Args:
        workers: how many; None: one for each CPU of the cluster.
        address: of the cluster (`host:port`, `auto`); None: an embedded Ray is started on this machine for the time of
            the work, or the one used that this process is connected to.

    Raises:
        ValueError: no such number of workers or address, or Ray is not installed.
    """

    def __init__(self, workers: int | None = None, address: str | None = None):
        check_workers(workers)
        if importlib.util.find_spec("ray") is None:
            raise ValueError("the engine 'ray' is not installed: run pip install 'tfdfd[cluster]'.")
        if address is not None and not address.strip():
            raise ValueError("the address of the Ray cluster is empty; give host:port, auto, or none for this machine.")
        self._workers, self._address = workers, address

    def run(self, work: FaceWork, phases: Sequence[Sequence[VideoJob]]) -> Iterator[Record]:
        """As `FaceSet.extract` asks of an engine: the record of each job in order, the jobs of a phase once those of
        all before it are done. A few jobs are worked on ahead of the one whose record is wanted next.

        A job whose worker ends without a word (killed, its node lost) is done again by another; one that took
        `MAX_LOST` workers with it becomes a `decode_error`.

        Raises:
            RuntimeError: no cluster there, or its nodes cannot do the work.
            ValueError, OSError: as `FaceWork.do`.
        """
        if not phases:
            return
        import ray

        most = max(map(len, phases))
        embedded = min(self._workers or os.cpu_count() or 1, most)
        with _connected(ray, self._address, embedded):
            cores = int(ray.cluster_resources().get("CPU", 1))
            pool = _Pool(ray, work, max(1, min(self._workers or cores, most)))
            try:
                for jobs in phases:
                    yield from pool.map(jobs)
            finally:
                pool.close()


@contextlib.contextmanager
def _connected(ray, address, cores):
    if address is None and ray.is_initialized():  # the caller's connection, which stays
        yield
        return
    options = {"address": address, "log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        options["object_store_memory"] = _OBJECT_STORE
    try:
        if address is not None:
            _knock(address)
        with _quiet():
            ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if address is None else f"at {address!r}"
        raise RuntimeError(f"there is no Ray to work with {where}: {error}") from error
    try:
        yield
    finally:
        with _quiet():
            ray.shutdown()


def _knock(address):
    """Raises `OSError` where nobody listens: Ray itself would try for ever."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


@contextlib.contextmanager
def _quiet():
    """Ray says nothing but errors, and tells nobody of its use."""
    logger = logging.getLogger("ray")
    level, before = logger.level, {name: os.environ.get(name) for name in _QUIET}
    logger.setLevel(logging.ERROR)
    os.environ.update(_QUIET)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Worker:
    """On a node: one video after another."""

    def __init__(self, work: FaceWork):
        self._work = work
        self._extractor = work.extractor(1)

    def check(self):
        self._work.check()

    def do(self, job: VideoJob) -> Record:
        return self._work.do(job, self._extractor)


class _Pool:
    """Actors, and which of them is at what."""

    def __init__(self, ray, work, count):
        self._ray, self._work, self._count = ray, work, count
        self._actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        self._idle = []
        # From the answer that is awaited to its actor and the number of the job; None: that it has started.
        self._awaited = {}
        self._lost_starting = 0
        for _ in range(count):
            self._start()

    def map(self, jobs: Sequence[VideoJob]) -> Iterator[Record]:
        todo = list(range(len(jobs)))  # a heap: what is to be done again comes before what has not begun
        done, given = {}, 0
        lost = collections.Counter()
        while given < len(jobs):
            while self._idle and todo and todo[0] < given + self._count + AHEAD:
                actor, number = self._idle.pop(), heapq.heappop(todo)
                self._awaited[actor.do.remote(jobs[number])] = actor, number
            (answer,), _ = self._ray.wait(list(self._awaited))
            actor, number = self._awaited.pop(answer)
            try:
                record = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, (ValueError, OSError, RuntimeError)):
                    raise error.cause from None  # as it would come from here
                raise
            except self._ray.exceptions.RayError as error:
                # It may still be there, but out of reach.
                self._ray.kill(actor)
                if number is None:
                    self._no_start(error)
                # A node that was taken away on notice is not the video's doing.
                elif not getattr(error, "preempted", False):
                    lost[number] += 1
                if number is not None and lost[number] < MAX_LOST:
                    heapq.heappush(todo, number)
                elif number is not None:
                    message = f"{MAX_LOST} workers ended without a word on this file"
                    done[number] = self._work.give_up(jobs[number], "decode_error", message)
                self._start()
            else:
                self._idle.append(actor)
                if number is None:
                    self._lost_starting = 0
                else:
                    done[number] = record
            while given in done:
                yield done.pop(given)
                given += 1

    def close(self) -> None:
        """Ends the actors, also those at work."""
        for actor in [*self._idle, *(actor for actor, _ in self._awaited.values())]:
            self._ray.kill(actor)

    def _start(self):
        actor = self._actor.remote(self._work)
        self._awaited[actor.check.remote()] = actor, None

    def _no_start(self, error):
        self._lost_starting += 1
        if getattr(error, "actor_init_failed", False) or self._lost_starting >= MAX_LOST:
            raise RuntimeError(
                f"no worker starts on the Ray cluster; every node needs the same tfdfd. Ray says: {error}"
            ) from error
