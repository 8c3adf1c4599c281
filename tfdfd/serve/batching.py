"""Batching: requests that wait for the same signature run in one call.

All decisions are made in the event loop, so nothing is locked; threads only compute.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfdfd.serve import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    ServingError,
    unforeseen,
)
from tfdfd.serve.loaded_model import Signature


@dataclass(frozen=True)
class Limits:
    """Limits of batches and queues.

    Args:
        max_batch: rows of one call; larger requests run in several calls. On CPUs more than a few rows increase latency
            without increasing throughput.
        max_wait: seconds that the first request of a batch waits for others while a thread is free.
        threads: concurrent calls.
        max_rows: rows of one request.
        max_requests: accepted and not yet answered requests.
        max_bytes: largest size of their arrays.
        max_seconds: longest time of one call; a slower model is stopped.
    """

    max_batch: int = 4
    max_wait: float = 0.0
    threads: int = 2
    max_rows: int = 256
    max_requests: int = 512
    max_bytes: int = 1 << 30
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_batch", "threads", "max_rows", "max_requests", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; received {getattr(self, name)}.")
        if not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0; received {self.max_seconds}.")
        if not 0 <= self.max_wait <= 10:
            raise ValueError(f"max_wait must lie in [0, 10] seconds; received {self.max_wait}.")


@dataclass(eq=False)
class _Request:
    arrays: dict[str, np.ndarray]
    rows: int
    until: float | None
    answer: asyncio.Future
    since: float

    def is_wanted(self, now: float) -> bool:
        """Whether the client still waits; fails the request if its deadline has passed."""
        if self.answer.done():
            return False
        if self.until is not None and now >= self.until:
            self.answer.set_exception(ServingError(DEADLINE_EXCEEDED, "the deadline passed before the request's turn."))
            return False
        return True

    @property
    def kind(self) -> tuple:
        """Requests of the same kind can be concatenated."""
        return tuple((array.dtype, array.shape[1:]) for array in self.arrays.values())


@dataclass(eq=False)
class _Queue:
    signature: Signature
    waiting: deque = field(default_factory=deque)
    rows: int = 0
    is_ready: bool = False
    timer: asyncio.TimerHandle | None = None


class Batcher:
    """Runs signatures for concurrent requests; created in the event loop.

    Args:
        limits: limits of batches and queues.
        seen: called for every batch with `(rows, requests, seconds waited by the first)`.
    """

    def __init__(self, limits: Limits, seen: Callable[[int, int, float], None] = lambda *_: None):
        self.limits, self._seen = limits, seen
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="model")
        self._free = limits.threads
        self._queues: dict[Signature, _Queue] = {}
        self._ready: deque[_Queue] = deque()
        self.requests = self.bytes = 0

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Counts a request and its bytes as accepted within the block.

        Raises:
            ServingError: RESOURCE_EXHAUSTED; the client may try again later.
        """
        if self.requests >= self.limits.max_requests:
            raise ServingError(
                RESOURCE_EXHAUSTED,
                f"{self.requests} requests are waiting, the most allowed; try again later.",
            )
        if self.bytes + size > self.limits.max_bytes:
            raise ServingError(
                RESOURCE_EXHAUSTED,
                f"the requests that are waiting fill {self.bytes:,} of {self.limits.max_bytes:,} bytes, and this one "
                f"needs {size:,}; send less at a time, or try again later.",
            )
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size

    async def run(
        self, signature: Signature, arrays: dict[str, np.ndarray], until: float | None = None
    ) -> dict[str, np.ndarray]:
        """Runs one request, possibly together with others; returns its outputs by name.

        Args:
            signature: to run.
            arrays: one for each of its inputs, checked.
            until: deadline, a time of `time.monotonic`; None: no deadline.

        Raises:
            ServingError: too many rows, none, or an error of the model.
        """
        rows = self._rows(signature, arrays)
        request = _Request(arrays, rows, until, self._loop.create_future(), time.monotonic())
        queue = self._queues.get(signature)
        if queue is None:
            queue = self._queues[signature] = _Queue(signature)
        queue.waiting.append(request)
        queue.rows += rows
        if not queue.is_ready:
            if self.limits.max_wait == 0 or queue.rows >= self.limits.max_batch or not signature.takes_batches:
                self._make_ready(queue)
            elif queue.timer is None:
                queue.timer = self._loop.call_later(self.limits.max_wait, self._make_ready, queue)
        self._start()
        return await request.answer

    def forget(self, signatures: Iterable[Signature]) -> None:
        """Drops the queues of signatures that are no longer served."""
        for signature in signatures:
            self._queues.pop(signature, None)

    def close(self) -> None:
        """Fails waiting requests and waits for running calls."""
        for queue in self._queues.values():
            for request in queue.waiting:
                if not request.answer.done():
                    request.answer.set_exception(ServingError(UNAVAILABLE, "the server is stopping."))
        self._queues.clear()
        self._ready.clear()
        self._threads.shutdown()

    def _rows(self, signature: Signature, arrays: dict[str, np.ndarray]) -> int:
        if not signature.takes_batches:
            return 1
        counts = {name: len(array) for name, array in arrays.items()}
        rows = next(iter(counts.values()))
        if any(count != rows for count in counts.values()):
            raise ServingError(INVALID_ARGUMENT, f"the inputs differ in their first size: {counts}.")
        if rows == 0:
            raise ServingError(INVALID_ARGUMENT, "the batch is empty; send at least one row.")
        if rows > self.limits.max_rows:
            raise ServingError(
                INVALID_ARGUMENT,
                f"the batch has {rows} rows; at most {self.limits.max_rows} are taken.",
            )
        return rows

    def _make_ready(self, queue: _Queue) -> None:
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None
        if not queue.is_ready:
            queue.is_ready = True
            self._ready.append(queue)
        self._start()

    def _start(self) -> None:
        while self._free and self._ready:
            queue = self._ready.popleft()
            batch = self._take(queue)
            queue.is_ready = bool(queue.waiting)
            if queue.waiting:
                self._ready.append(queue)  # behind the others
            if batch:
                self._free -= 1
                self._seen(sum(r.rows for r in batch), len(batch), time.monotonic() - batch[0].since)
                self._threads.submit(self._work, queue.signature, batch)

    def _take(self, queue: _Queue) -> list[_Request]:
        """The next requests for one call: of one kind, up to the row limit."""
        batch: list[_Request]
        batch, rows, now = [], 0, time.monotonic()
        most = self.limits.max_batch if queue.signature.takes_batches else 1
        while queue.waiting:
            request = queue.waiting[0]
            if request.is_wanted(now):
                if batch and (rows + request.rows > most or request.kind != batch[0].kind):
                    break
                batch.append(request)
                rows += request.rows
            queue.waiting.popleft()
            queue.rows -= request.rows
        return batch

    def _work(self, signature: Signature, batch: list[_Request]) -> None:
        """Runs in a thread; gives one answer or error for each request."""
        try:
            answers = _answers(signature, batch, self.limits)
        except BaseException as error:
            answers = [ServingError(INTERNAL, unforeseen(error))] * len(batch)
        self._loop.call_soon_threadsafe(self._done, batch, answers)

    def _done(self, batch: list[_Request], answers: Any) -> None:
        self._free += 1
        self._start()  # first, so threads are busy while answers are sent
        for request, answer in zip(batch, answers, strict=True):
            if request.answer.done():  # the client is gone
                continue
            if isinstance(answer, Exception):
                request.answer.set_exception(answer)
            else:
                request.answer.set_result(answer)


def _answers(signature: Signature, batch: list[_Request], limits: Limits) -> list:
    try:
        return _run(signature, batch, limits)
    except ServingError as error:
        if len(batch) == 1 or error.code in (DEADLINE_EXCEEDED, "CANCELLED"):
            return [error] * len(batch)
    # One request is invalid; the others run separately.
    answers = []
    for request in batch:
        try:
            answers += _run(signature, [request], limits)
        except ServingError as error:
            answers.append(error)
    return answers


def _run(signature: Signature, batch: list[_Request], limits: Limits) -> list:
    most = limits.max_batch
    if not signature.takes_batches:
        return [signature.run(request.arrays, _seconds(batch, limits)) for request in batch]
    arrays = batch[0].arrays
    if len(batch) > 1:
        arrays = {name: np.concatenate([request.arrays[name] for request in batch]) for name in arrays}
    rows = sum(request.rows for request in batch)
    parts = [
        signature.run({name: array[start : start + most] for name, array in arrays.items()}, _seconds(batch, limits))
        for start in range(0, rows, most)
    ]
    outputs = parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise ServingError(INTERNAL, f"output {name!r} has the shape {array.shape} for {rows} rows.")
    answers, start = [], 0
    for request in batch:
        answers.append({name: array[start : start + request.rows] for name, array in outputs.items()})
        start += request.rows
    return answers


def _seconds(batch: list[_Request], limits: Limits) -> float:
    """Time limit of a call: the latest deadline of those in the batch who still wait.

    Raises:
        ServingError: nobody does.
    """
    waiting = [request for request in batch if not request.answer.done()]
    if not waiting:
        raise ServingError("CANCELLED", "the client is gone.")
    if any(request.until is None for request in waiting):
        return limits.max_seconds
    left = max(request.until for request in waiting) - time.monotonic()  # type: ignore[operator,type-var]
    if left <= 0:
        raise ServingError(DEADLINE_EXCEEDED, "the deadline passed between the parts of the request.")
    return min(limits.max_seconds, left)
