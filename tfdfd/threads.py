"""Work on many items in threads, in order, that an interrupt can end at any moment."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from weakref import finalize

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Seconds that interrupted work may take to end; threads that are still busy then do not keep the process alive.
_PATIENCE = 10.0


def map_in_threads(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    threads: int | None = None,
    *,
    ahead: int | None = None,
    abandon: Callable[[], None] | None = None,
) -> Iterator[_Result]:
    """Yields `work(item)` for each item in order.

    Work on the first items starts with this call, and on the next ones while the caller holds a result: the number of
    items ahead bounds the memory, not that of all items.

    In place of `concurrent.futures`, whose locks are Python code: if a signal raises an exception (Ctrl-C) while the
    main thread has just taken the lock of a future or of its pool, nobody ever releases it; the worker thread waits for
    it, and the process for the thread, for good. The queues here are C code, which signals do not interrupt halfway.

    Args:
        work: called in several threads. Its exception is raised here, when it is this item's turn.
        items: arguments of `work`, taken as they are needed.
        threads: number of threads; None: one for each core and four more, at most 32.
        ahead: number of items that are worked on or wait with their result; None: twice as many as threads.
        abandon: called when the work ends early, by an error or by the caller, before its threads are waited for.

    Raises:
        ValueError: `threads` is below 1.
    """
    threads = min(32, (os.cpu_count() or 1) + 4) if threads is None else threads
    if threads < 1:
        raise ValueError(f"the number of threads must be at least 1; received {threads}.")
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiting: deque[queue.SimpleQueue[Any]] = deque()
    rest = iter(items)

    def add(count: int) -> None:
        for item in itertools.islice(rest, count):
            waiting.append(queue.SimpleQueue())
            tasks.put((item, waiting[-1]))

    add(2 * threads if ahead is None else ahead)
    crew = [threading.Thread(target=_serve, args=(work, tasks), daemon=True) for _ in range(threads)]
    for thread in crew:
        thread.start()
    results = _results(waiting, add, crew, tasks, abandon)
    # Results that nobody asks for never reach their end.
    finalize(results, _dismiss, tasks, threads).atexit = False
    return results


def _serve(work: Callable[[Any], Any], tasks: queue.SimpleQueue[Any]) -> None:
    while (task := tasks.get()) is not None:
        item, answer = task
        try:
            answer.put((work(item), None))
        except BaseException as error:
            answer.put((None, error))
        del task, item, answer  # a large result lives only as long as the caller holds it


def _results(
    waiting: deque[queue.SimpleQueue[Any]],
    add: Callable[[int], None],
    crew: list[threading.Thread],
    tasks: queue.SimpleQueue[Any],
    abandon: Callable[[], None] | None,
) -> Iterator[Any]:
    is_whole = False
    try:
        while waiting:
            result, error = waiting.popleft().get()
            if error is not None:
                raise error
            yield result
            del result
            add(1)
        is_whole = True
    finally:
        _dismiss(tasks, len(crew))
        if abandon is not None and not is_whole:
            abandon()
        deadline = time.monotonic() + _PATIENCE
        for thread in crew:
            thread.join(max(0.0, deadline - time.monotonic()))


def _dismiss(tasks: queue.SimpleQueue[Any], threads: int) -> None:
    """Has the threads end after what they are doing, and drops what none of them has begun."""
    try:
        while True:
            tasks.get_nowait()
    except queue.Empty:
        for _ in range(threads):
            tasks.put(None)
