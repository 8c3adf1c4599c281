"""Byte budget for requests while they are received, shared by all connections of gRPC and REST.

A request that arrives slowly holds memory for nothing. Once the budget is used up, larger requests wait for room, and
the oldest one that has been arriving for longer than `patience` is refused in favor of those that wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from typing import TypeVar

from tfdfd.serve import RESOURCE_EXHAUSTED, ServingError

_T = TypeVar("_T")
_POLL_SECONDS = 0.1
# Requests up to this size never wait: as many as there may be connections take little.
_SMALL = 64 << 10


class ReceiveBudget:
    """Bytes of all requests that are being received.

    Args:
        limit: bytes in total.
        patience: seconds after which a request that is still arriving may be refused if others need its room.

    Attributes:
        held: bytes in use.
    """

    def __init__(self, limit: int, patience: float = 1.0):
        self.limit, self._patience = limit, patience
        self.held = 0
        self._arriving: dict[Reception, None] = {}  # oldest first
        self._waiting: dict[asyncio.Future, tuple[Reception, int]] = {}  # oldest first

    @contextlib.contextmanager
    def reception(self) -> Iterator[Reception]:
        """A request that is being received; its bytes are free again after the block."""
        reception = Reception(self)
        self._arriving[reception] = None
        try:
            yield reception
        finally:
            self._arriving.pop(reception, None)
            reception._release(0)

    def _admit(self) -> None:
        """Gives free bytes to those that wait, in the order in which they came."""
        while self._waiting:
            turn, (reception, count) = next(iter(self._waiting.items()))
            if self.held + count > self.limit:
                return
            del self._waiting[turn]
            reception._take(count)
            turn.set_result(None)

    def _refuse_oldest(self, but: Reception) -> None:
        for oldest in self._arriving:
            if oldest is not but and oldest.size > _SMALL and not oldest.refused.done():
                if time.monotonic() - oldest.start > self._patience:
                    oldest.refused.set_result(None)
                return


class Reception:
    """One request that is being received.

    Attributes:
        size: its bytes.
        start: time of `time.monotonic` at which it began.
        refused: done if its room is needed for others.
    """

    def __init__(self, budget: ReceiveBudget):
        self._budget = budget
        self.size, self.start = 0, time.monotonic()
        self.refused: asyncio.Future = asyncio.get_running_loop().create_future()

    async def grow(self, count: int) -> None:
        """Takes `count` more bytes of the budget; waits until they are free.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, others need the room of this request.
        """
        budget = self._budget
        if self.size + count <= _SMALL or not budget._waiting and budget.held + count <= budget.limit:
            self._take(count)
            return
        turn = asyncio.get_running_loop().create_future()
        budget._waiting[turn] = self, count
        try:
            while not turn.done():
                budget._refuse_oldest(self)
                await self.receive(asyncio.wait({turn}, timeout=_POLL_SECONDS))
        finally:
            if budget._waiting.pop(turn, None):
                budget._admit()

    def _take(self, count: int) -> None:
        self._budget.held += count
        self.size += count

    def arrived(self, size: int) -> None:
        """The request is complete and has `size` bytes, which it keeps until the end of the reception."""
        self._budget._arriving.pop(self, None)
        self._release(size)

    def _release(self, size: int) -> None:
        self._budget.held -= self.size - size
        self.size = size
        self._budget._admit()

    async def receive(self, part: Awaitable[_T]) -> _T:
        """Waits for a part of the request.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, others need the room of this request.
        """
        waiting = asyncio.ensure_future(part)
        # The error of a client that is gone interests nobody; asyncio would log it.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({waiting, self.refused}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
        raise ServingError(
            RESOURCE_EXHAUSTED,
            f"the request arrived too slowly while others of {self._budget.held:,} bytes were being received, "
            "the most allowed; try again later.",
        )
