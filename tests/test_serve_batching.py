"""Batching of requests, and their isolation from each other, with a model in plain NumPy."""

import asyncio
import threading
import time

import numpy as np
import pytest

from tfdfd.serve import ServingError
from tfdfd.serve.batching import Batcher, Limits
from tfdfd.serve.receiving import ReceiveBudget


class Doubling:
    """Doubles; refuses NaN; holds every call until it may go on."""

    takes_batches = True

    def __init__(self):
        self.calls, self.may_go_on = [], threading.Event()
        self.may_go_on.set()

    def run(self, arrays, seconds):
        self.calls.append(len(arrays["x"]))
        assert self.may_go_on.wait(20)
        if np.isnan(arrays["x"]).any():
            raise ServingError("INVALID_ARGUMENT", "not a number")
        return {"y": arrays["x"] * 2}


def column(*values):
    return {"x": np.asarray(values, np.float32)[:, None]}


def run(work, **limits):
    """Runs `work(batcher, signature)` and gives what it gives."""

    async def within():
        signature = Doubling()
        batcher = Batcher(Limits(**{"threads": 1, "max_batch": 4} | limits))
        try:
            return await work(batcher, signature)
        finally:
            signature.may_go_on.set()
            batcher.close()

    return asyncio.run(within())


async def settled():
    await asyncio.sleep(0.05)


def test_what_waits_is_run_together_and_each_gets_its_own():
    async def work(batcher, signature):
        signature.may_go_on.clear()
        tasks = [asyncio.ensure_future(batcher.run(signature, column(n, n + 100))) for n in range(4)]
        await settled()
        signature.may_go_on.set()
        answers = await asyncio.gather(*tasks)
        assert [answer["y"].ravel().tolist() for answer in answers] == [[2 * n, 2 * n + 200] for n in range(4)]
        return signature.calls

    assert run(work) == [2, 4, 2]


def test_the_first_waits_for_others_when_asked_to():
    async def work(batcher, signature):
        await asyncio.gather(*(batcher.run(signature, column(n)) for n in range(3)))
        begun = time.monotonic()
        await asyncio.gather(*(batcher.run(signature, column(n)) for n in range(4)))
        assert time.monotonic() - begun < 5  # a full batch waits for nobody
        return signature.calls

    assert run(work, max_wait=0.2) == [3, 4]


def test_a_bad_request_harms_no_other():
    async def work(batcher, signature):
        signature.may_go_on.clear()
        tasks = [asyncio.ensure_future(batcher.run(signature, column(x))) for x in (0, 1, np.nan, 3)]
        await settled()
        signature.may_go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(work)
    assert [answer["y"].item() for answer in answers[:2] + answers[3:]] == [0, 2, 6]
    assert isinstance(answers[2], ServingError) and answers[2].code == "INVALID_ARGUMENT"


def test_a_request_larger_than_a_batch_is_run_in_parts():
    async def work(batcher, signature):
        answer = await batcher.run(signature, column(*range(10)))
        assert answer["y"].ravel().tolist() == [2 * n for n in range(10)]
        return signature.calls

    assert run(work) == [4, 4, 2]


def test_shapes_that_differ_are_not_mixed():
    async def work(batcher, signature):
        signature.may_go_on.clear()
        wide = {"x": np.zeros((1, 3), np.float32)}
        tasks = [asyncio.ensure_future(batcher.run(signature, x)) for x in (column(1), column(2), wide, column(3))]
        await settled()
        signature.may_go_on.set()
        assert [answer["y"].shape for answer in await asyncio.gather(*tasks)] == [(1, 1), (1, 1), (1, 3), (1, 1)]
        return signature.calls

    assert run(work) == [1, 1, 1, 1]


def test_whoever_has_gone_or_waited_too_long_is_not_computed():
    async def work(batcher, signature):
        signature.may_go_on.clear()
        first = asyncio.ensure_future(batcher.run(signature, column(1)))
        await settled()
        late = asyncio.ensure_future(batcher.run(signature, column(2), until=time.monotonic() + 0.01))
        gone = asyncio.ensure_future(batcher.run(signature, column(3)))
        last = asyncio.ensure_future(batcher.run(signature, column(4)))
        await settled()
        gone.cancel()
        signature.may_go_on.set()
        assert (await first)["y"].item() == 2
        assert (await last)["y"].item() == 8
        with pytest.raises(ServingError) as caught:
            await late
        assert caught.value.code == "DEADLINE_EXCEEDED"
        return signature.calls

    assert run(work) == [1, 1]


def test_a_full_house_says_so():
    async def work(batcher, signature):
        with batcher.room(60), batcher.room(30):
            assert (batcher.requests, batcher.bytes) == (2, 90)
            with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED.*2 requests are waiting"), batcher.room(1):
                raise AssertionError("it was let in")
        with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED.*0 of 100 bytes"), batcher.room(101):
            raise AssertionError("it was let in")
        assert (batcher.requests, batcher.bytes) == (0, 0)

    run(work, max_requests=2, max_bytes=100)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (column(), "the batch is empty"),
        (column(*range(7)), "7 rows"),
        (column(1) | {"z": np.zeros((2, 1), np.float32)}, "differ in their first size"),
    ],
)
def test_batches_that_are_none(arrays, words):
    async def work(batcher, signature):
        with pytest.raises(ServingError, match=words) as caught:
            await batcher.run(signature, arrays)
        assert caught.value.code == "INVALID_ARGUMENT"

    run(work, max_rows=6)


def test_what_cannot_be_laid_end_to_end_is_run_alone():
    async def work(batcher, signature):
        signature.takes_batches = False
        await asyncio.gather(*(batcher.run(signature, column(n)) for n in range(3)))
        return signature.calls

    assert run(work) == [1, 1, 1]


def test_signatures_take_turns():
    async def work(batcher, signature):
        other, order = Doubling(), []
        for one, name in ((signature, "a"), (other, "b")):
            one.run = lambda arrays, seconds, name=name: order.append(name) or time.sleep(0.01) or {"y": arrays["x"]}
        await asyncio.gather(
            *(batcher.run(signature, column(n)) for n in range(3)), *(batcher.run(other, column(n)) for n in range(3))
        )
        return order

    assert run(work, max_batch=1) == ["a", "a", "b", "a", "b", "b"]


def test_an_output_without_rows_is_the_models_fault():
    async def work(batcher, signature):
        signature.run = lambda arrays, seconds: {"y": np.float32(1)}
        with pytest.raises(ServingError, match="INTERNAL.*output 'y'"):
            await batcher.run(signature, column(1))

    run(work)


def test_an_end_tells_whoever_waits():
    async def work(batcher, signature):
        signature.may_go_on.clear()
        first, second = (asyncio.ensure_future(batcher.run(signature, column(n))) for n in range(2))
        await settled()
        threading.Timer(0.1, signature.may_go_on.set).start()
        batcher.close()
        assert (await first)["y"].item() == 0
        with pytest.raises(ServingError, match="UNAVAILABLE"):
            await second

    run(work)


def test_bytes_are_given_in_order_of_arrival():
    """Room that becomes free goes to the first that waits, not to one that comes at that moment."""

    async def work():
        budget, order = ReceiveBudget(100 << 10), []

        async def receive(name, times=1):
            for _ in range(times):
                with budget.reception() as reception:
                    await reception.grow(100 << 10)
                    await asyncio.sleep(0.05)
                    order.append(name)

        first = asyncio.ensure_future(receive("one of two", 2))
        await asyncio.sleep(0)
        gone, second = (asyncio.ensure_future(receive(name)) for name in ("gone", "another"))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(first, second)
        assert budget.held == 0
        return order

    assert asyncio.run(work()) == ["one of two", "another", "one of two"]


def test_limits_are_checked():
    with pytest.raises(ValueError, match="max_batch must be at least 1; received 0"):
        Limits(max_batch=0)
    with pytest.raises(ValueError, match="max_wait"):
        Limits(max_wait=11)


def test_a_request_in_several_parts_ends_at_its_deadline():
    async def work(batcher, signature):
        signature.run, slow = lambda arrays, seconds: (time.sleep(0.2), slow(arrays, seconds))[1], signature.run
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: the deadline passed between the parts"):
            await batcher.run(signature, column(*range(40)), time.monotonic() + 0.5)
        return signature.calls

    assert len(run(work)) < 6


def test_a_request_in_several_parts_ends_when_its_client_has_gone():
    async def work(batcher, signature):
        signature.may_go_on.clear()
        task = asyncio.ensure_future(batcher.run(signature, column(*range(40))))
        await settled()
        task.cancel()
        await settled()
        signature.may_go_on.set()
        await batcher.run(signature, column(1))
        return signature.calls

    assert run(work) == [4, 1]
