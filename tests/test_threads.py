"""`map_in_threads`: results in order, a bounded number ahead, and an end after any interrupt."""

import gc
import itertools
import subprocess
import sys
import threading
import time

import pytest

from tfdfd.threads import map_in_threads


def test_results_come_in_order():
    def slow_at_first(number):
        time.sleep(0.002 * (10 - number))
        return number * number

    assert list(map_in_threads(slow_at_first, range(10), 4)) == [number * number for number in range(10)]
    assert list(map_in_threads(str, [], 2)) == []


@pytest.mark.parametrize(("ahead", "most"), [(3, 3), (None, 4)])
def test_items_are_taken_as_they_are_needed(ahead, most):
    taken = []
    numbers = (taken.append(number) or number for number in itertools.count())
    results = map_in_threads(lambda number: number, numbers, 2, ahead=ahead)
    assert len(taken) == most, "work starts with the call"
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) == most + 2, "the caller holds the last result still"
    results.close()


def test_an_error_is_raised_at_its_turn_and_ends_the_work():
    begun, abandoned = [], []

    def work(number):
        begun.append(number)
        if number == 2:
            raise KeyError(number)
        return number

    results = map_in_threads(work, range(100), 2, abandon=lambda: abandoned.append(True))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="2"):
        next(results)
    assert abandoned == [True] and len(begun) <= 6
    assert list(results) == []


def test_threads_end_with_results_that_nobody_asks_for():
    before = threading.active_count()
    results = map_in_threads(str, range(100), 3)
    assert threading.active_count() == before + 3
    del results
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_without_threads_there_is_an_error():
    with pytest.raises(ValueError, match="at least 1; received 0"):
        map_in_threads(str, [1], 0)


# Raises KeyboardInterrupt, as a signal may, at the first, second, … traced event of the main thread while it takes
# results. With the pools of concurrent.futures, some of them leave the lock of a future taken for good.
INTERRUPTED = """
import sys, threading, time
from tfdfd.threads import map_in_threads

def interrupt(frame, event, argument):
    global left
    left -= 1
    if left == 0:
        raise KeyboardInterrupt
    return interrupt

for moment in range(1, 10_000):
    left, before = moment, threading.active_count()
    results = map_in_threads(lambda number: time.sleep(0.001), range(4), 2, ahead=2)
    sys.settrace(interrupt)
    try:
        for _ in results:
            pass
        sys.settrace(None)
        break
    except KeyboardInterrupt:
        pass
    del results
    late = time.monotonic() + 20
    while threading.active_count() > before:
        if time.monotonic() > late:
            sys.exit(f"threads wait after an interrupt at event {moment}")
        time.sleep(0.001)
print(moment)
"""


def test_an_interrupt_at_any_moment_leaves_nothing_that_waits():
    command = [sys.executable, "-c", INTERRUPTED]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) > 50
