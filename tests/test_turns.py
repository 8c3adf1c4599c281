"""Benchmarks whose ways take turns: what a way says reaches the benchmark, and one that ends is an error."""

import os
import sys

import pytest

from benchmarks.turns import Way

WAY = """
from benchmarks.turns import say, turns
say({"ready": True})
for steps in turns():
    sum(range(steps * 100_000))
"""


def way(program):
    return Way([sys.executable, "-c", program], dict(os.environ))


def test_a_turn_is_timed():
    with way(WAY) as counting:
        counting.ready()
        assert counting.info == {"ready": True}
        few, many = counting.turn(1), counting.turn(100)
    assert few["processor_seconds"] < many["processor_seconds"]


def test_two_ways_do_not_disturb_each_other():
    with way(WAY) as one, way(WAY) as other:
        one.ready()
        other.ready()
        assert one.turn(1)["seconds"] > 0
        assert other.turn(1)["seconds"] > 0


def test_a_way_that_ends_is_an_error():
    with way("raise SystemExit(3)") as ended, pytest.raises(RuntimeError, match="exit code 3"):
        ended.ready()
