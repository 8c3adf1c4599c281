"""Engines for work on many inputs: decoding processes of this machine, or a Ray cluster.

With Ray, each worker is an actor with one decoding process. Only jobs and results are transferred; workers read the
inputs themselves, so that these must be on a file system that all nodes see in the same place. The bytes are those of
the local engine where the nodes have the same builds of the same libraries.
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
from typing import Any, Generic, Protocol, TypeVar

from tfdfd.extract.pool import FaceExtractor, check_workers

Job = TypeVar("Job")
Result = TypeVar("Result")
_Job = TypeVar("_Job", contravariant=True)
_Result = TypeVar("_Result", covariant=True)

# Largest number of workers lost on one job, or in a row while they start.
MAX_LOST = 3
# Results that may wait for an earlier one, besides one per worker.
AHEAD = 8
KNOCK_SECONDS = 10
_OBJECT_STORE = 100_000_000  # bytes; only results pass through it
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Work(Protocol[_Job, _Result]):
    """Work on independent jobs, for any process that sees the files; can be pickled."""

    def check(self) -> None:
        """Raises `RuntimeError` if this machine would do something else than the one that started the work."""

    def open(self, workers: int) -> Any:
        """The tool that `do` uses, with this number of decoding processes: a `FaceExtractor`, or an object with one."""

    def do(self, job: _Job, tool: Any) -> _Result:
        """Does one job."""

    def give_up(self, job: _Job, status: str, message: str) -> _Result:
        """The result of a job that ends every process working on it."""


class Engine(Protocol):
    """Runs work.

    Attributes:
        sandbox_note: why a decoding process was not sealed, known after the first result; None if all were.
    """

    sandbox_note: str | None

    def run(self, work: Work[Job, Result], phases: Sequence[Sequence[Job]]) -> Iterator[Result]:
        """Calls `work.do` for each job, at most once at a time, and yields the results in the order of the jobs.

        A few jobs are processed ahead of the one whose result is wanted next.

        Args:
            work: the work.
            phases: the jobs; those of a phase need those of all earlier phases done.
        """


class LocalEngine:
    """Engine that decodes in processes of this machine. The tool of its work is a `FaceExtractor`.

    Args:
        workers: number of processes; None: one per core.

    Raises:
        ValueError: the number of workers is below 1.
    """

    def __init__(self, workers: int | None = None):
        check_workers(workers)
        self._workers = workers
        self.sandbox_note: str | None = None

    def run(self, work: Work[Job, Result], phases: Sequence[Sequence[Job]]) -> Iterator[Result]:
        """See `Engine.run`."""
        if not phases:
            return
        workers = self._workers or max(1, min(os.cpu_count() or 1, sum(map(len, phases))))
        extractor: FaceExtractor
        with work.open(workers) as extractor:
            for jobs in phases:
                for result in extractor.map(lambda job: work.do(job, extractor), jobs, len(jobs)):
                    self.sandbox_note = self.sandbox_note or extractor.sandbox_note
                    yield result


class RayEngine:
    """Engine that decodes on a Ray cluster; needs the extra `cluster`.

    Args:
        workers: number of actors; None: one per CPU of the cluster.
        address: address of the cluster (`host:port`, `auto`); None: an embedded Ray is started on this machine for the
            duration of the work, or an existing connection of this process is used.

    Raises:
        ValueError: an invalid number of workers or address, or Ray is not installed.
    """

    def __init__(self, workers: int | None = None, address: str | None = None):
        check_workers(workers)
        if importlib.util.find_spec("ray") is None:
            raise ValueError("the engine 'ray' is not installed: run pip install 'tfdfd[cluster]'.")
        if address is not None and not address.strip():
            raise ValueError("the address of the Ray cluster is empty; give host:port, auto, or none for this machine.")
        self._workers, self._address = workers, address
        self.sandbox_note: str | None = None

    def run(self, work: Work[Job, Result], phases: Sequence[Sequence[Job]]) -> Iterator[Result]:
        """See `Engine.run`.

        A job whose worker is lost (killed, or its node gone) is repeated by another; one that lost `MAX_LOST` workers
        becomes a `decode_error`.

        Raises:
            RuntimeError: no cluster there, or its nodes cannot do the work.
            ValueError, OSError: as `Work.do`.
        """
        if not any(phases):
            return
        import ray

        most = max(map(len, phases))
        embedded = min(self._workers or os.cpu_count() or 1, most)
        with _connected(ray, self._address, embedded):
            cores = int(ray.cluster_resources().get("CPU", 1))
            pool = _Pool(ray, work, max(1, min(self._workers or cores, most)))
            try:
                for jobs in phases:
                    for result, note in pool.map(jobs):
                        self.sandbox_note = self.sandbox_note or note
                        yield result
            finally:
                pool.close()


@contextlib.contextmanager
def _connected(ray: Any, address: str | None, cores: int | None) -> Iterator[None]:
    if address is None and ray.is_initialized():  # the caller's connection, which stays
        yield
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        options["object_store_memory"] = _OBJECT_STORE
    try:
        if address is not None:
            _knock(address)
        with _quiet():
            ray.init(**options)
    except Exception as error:  # Ray raises bare ones, such as for a start that takes too long
        where = "on this machine" if address is None else f"at {address!r}"
        raise RuntimeError(f"Ray is not available {where}: {error}") from error
    try:
        yield
    finally:
        with _quiet():
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises `OSError` where nothing listens: Ray itself would retry forever."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Limits Ray's log to errors and disables its usage statistics."""
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


class _Worker(Generic[Job, Result]):
    """Actor that does one job after another."""

    def __init__(self, work: Work[Job, Result]):
        self._work = work
        self._tool: Any = None

    def check(self) -> None:
        self._work.check()
        self._tool = self._work.open(1)

    def do(self, job: Job) -> tuple[Result, str | None]:
        result, note = self._work.do(job, self._tool), self._tool.sandbox_note
        return result, note and f"{socket.gethostname()}: {note}"


class _Pool(Generic[Job, Result]):
    """Actors and their pending jobs."""

    def __init__(self, ray: Any, work: Work[Job, Result], count: int) -> None:
        self._ray, self._work, self._count = ray, work, count
        self._actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        self._idle: list[Any] = []
        # Pending result -> its actor and the number of the job; None stands for the actor's start.
        self._awaited: dict[Any, tuple[Any, int | None]] = {}
        self._lost_starting = 0
        for _ in range(count):
            self._start()

    def map(self, jobs: Sequence[Job]) -> Iterator[tuple[Result, str | None]]:
        """Yields the result of each job in order, and why the decoding was not sealed or None."""
        todo = list(range(len(jobs)))  # a heap: repeated jobs come before later ones
        done, given = {}, 0
        lost: collections.Counter[int] = collections.Counter()
        number: Any
        while given < len(jobs):
            while self._idle and todo and todo[0] < given + self._count + AHEAD:
                actor, number = self._idle.pop(), heapq.heappop(todo)
                self._awaited[actor.do.remote(jobs[number])] = actor, number
            (answer,), _ = self._ray.wait(list(self._awaited))
            actor, number = self._awaited.pop(answer)
            try:
                result = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, (ValueError, OSError, RuntimeError)):
                    raise error.cause from None  # as the local engine would raise it
                raise
            except self._ray.exceptions.RayError as error:
                # The actor may be alive, but unreachable.
                self._ray.kill(actor)
                if number is None:
                    self._no_start(error)
                # A preempted node is not the input's fault.
                elif not getattr(error, "preempted", False):
                    lost[number] += 1
                if number is not None and lost[number] < MAX_LOST:
                    heapq.heappush(todo, number)
                elif number is not None:
                    message = f"{MAX_LOST} workers were lost while processing this file"
                    done[number] = self._work.give_up(jobs[number], "decode_error", message), None
                self._start()
            else:
                self._idle.append(actor)
                if number is None:
                    self._lost_starting = 0
                else:
                    done[number] = result
            while given in done:
                yield done.pop(given)
                given += 1

    def close(self) -> None:
        """Ends the actors, including busy ones."""
        for actor in [*self._idle, *(actor for actor, _ in self._awaited.values())]:
            self._ray.kill(actor)

    def _start(self) -> None:
        actor = self._actor.remote(self._work)
        self._awaited[actor.check.remote()] = actor, None

    def _no_start(self, error: Exception) -> None:
        self._lost_starting += 1
        if getattr(error, "actor_init_failed", False) or self._lost_starting >= MAX_LOST:
            raise RuntimeError(
                f"no worker starts on the Ray cluster; every node needs the same tfdfd. Ray says: {error}"
            ) from error
