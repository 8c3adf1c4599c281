"""Decoding of `image_bytes` requests in sealed worker processes; the graph is handed pixels.

A crash of a decoder ends a worker, not the server, and a picture that takes too long holds a worker for a bounded time.
Workers decode and resize with OpenCV, as `tfdfd detect` does. The server lets them answer for a model only if its graph
gives the same answers for pictures as for their pixels.

A request on a worker's standard input, a socket, is a head and the picture; the response is a status byte, followed by
the pixels if it is `_OK`. Nothing that a worker says is shown, parsed or executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfdfd.child_process import python_command
from tfdfd.extract import sandbox
from tfdfd.media import Limits
from tfdfd.process import oom_kills
from tfdfd.publishing import MAX_PIXELS
from tfdfd.serve import DEADLINE_EXCEEDED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE, ServingError

# Of one picture. The largest allowed takes about a second.
MAX_SECONDS = 10.0
# Time for a picture that nobody waits for any more; a worker is then replaced.
_LINGER_SECONDS = 1.0
_START_SECONDS = 120.0
# A new process now and then bounds slow leaks of a decoder, and what a compromised one sees.
_PICTURES_PER_PROCESS = 20_000
_LIMITS = Limits(max_pixels=MAX_PIXELS, max_memory=1 << 30)
_HEAD = struct.Struct(">IH")  # bytes of the picture, side of the result
_OK, _DAMAGED, _NO_MEMORY = range(3)
_READY, _UNSEALED = b"r", b"u"
_CODE = (
    "import json; config = json.loads(sys.argv[1]); from tfdfd.extract.sandbox import leave_network; "
    "leave_network(config['sandbox']); from tfdfd.serve.decoding import work; work(config)"
)


class Decoders:
    """Worker processes that decode pictures; created in the event loop.

    Args:
        count: number of processes.
        sandbox_mode: `auto` or `require`; see `tfdfd.extract.sandbox`.
        note: receives log lines.
        code: what a worker runs.
    """

    def __init__(self, count: int, sandbox_mode: str, note: Callable[[str], None], code: str = _CODE):
        self._command = python_command(code, json.dumps({"sandbox": sandbox_mode}))
        self._note, self._is_unsealed, self._is_closed = note, False, False
        self._loop = asyncio.get_running_loop()
        self._free: list[_Worker] = []
        self._waiting: deque[asyncio.Future[_Worker]] = deque()
        self._workers: set[_Worker] = set()
        self._tasks: set[asyncio.Task] = set()
        self._starting = [self._in_background(self._add()) for _ in range(count)]

    async def ready(self) -> None:
        """Waits for the workers.

        Raises:
            RuntimeError: they do not start, or cannot be sealed although required.
        """
        if self._starting:
            await asyncio.gather(*self._starting)
            self._starting.clear()

    async def decode(self, pictures: Sequence[bytes], side: int, until: float | None = None) -> np.ndarray:
        """Encoded pictures to RGB uint8 `(n, side, side, 3)`.

        Args:
            pictures: JPEG or PNG files, which `tfdfd.serve.tensors.check_encoded` accepted.
            side: height and width of the result.
            until: deadline, a time of `time.monotonic`; None: no deadline but `MAX_SECONDS` for each picture.

        Raises:
            ServingError: a picture is damaged, takes too long or crashes the decoder.
        """
        await self.ready()
        if self._is_closed:
            raise ServingError(UNAVAILABLE, "the server is stopping.")
        pixels = np.empty((len(pictures), side, side, 3), np.uint8)
        if len(pictures) == 1:
            await self._decode(pictures[0], pixels[0], until)
            return pixels
        tasks = [self._in_background(self._decode(*pair, until)) for pair in zip(pictures, pixels, strict=True)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return pixels

    async def close(self) -> None:
        """Ends the workers."""
        self._is_closed = True
        for worker in self._workers:
            worker.kill()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in list(self._workers):
            self._end(worker)

    async def _decode(self, picture: bytes, pixels: np.ndarray, until: float | None) -> None:
        worker = await self._free_worker(until)
        exchange = self._in_background(worker.exchange(picture, pixels))
        try:
            left = MAX_SECONDS if until is None else min(until - time.monotonic(), MAX_SECONDS)
            await asyncio.wait({exchange}, timeout=left)
        finally:
            if not self._is_given_back(worker, exchange):
                self._in_background(self._replace(worker, exchange))
        if not exchange.done():
            what = f"a picture takes more than {MAX_SECONDS:g} s to decode" if left == MAX_SECONDS else None
            raise ServingError(DEADLINE_EXCEEDED, f"{what or 'the deadline passed while a picture was decoded'}.")
        status = exchange.result()
        if status == _DAMAGED:
            raise ServingError(INVALID_ARGUMENT, "image_bytes holds a picture that is damaged or cut short.")
        if status == _NO_MEMORY:
            raise ServingError(RESOURCE_EXHAUSTED, "a picture needs more memory than a decoder may have.")
        if status is None:
            raise worker.post_mortem()

    async def _free_worker(self, until: float | None) -> _Worker:
        """A free worker; those that wait get one in the order in which they came."""
        if self._free:
            return self._free.pop()
        turn = self._loop.create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait({turn}, timeout=None if until is None else until - time.monotonic())
        except asyncio.CancelledError:
            if not turn.cancel():
                self._give(turn.result())
            raise
        if turn.cancel():
            raise ServingError(DEADLINE_EXCEEDED, "the deadline passed before the picture's turn.")
        return turn.result()

    def _give(self, worker: _Worker) -> None:
        """Hands a worker to the first that waits, so that nobody who comes in the meantime takes it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(worker)
                return
        self._free.append(worker)

    def _is_given_back(self, worker: _Worker, exchange: asyncio.Task) -> bool:
        is_well = exchange.done() and not exchange.cancelled() and exchange.result() in (_OK, _DAMAGED)
        if is_well and worker.pictures < _PICTURES_PER_PROCESS:
            self._give(worker)
            return True
        return False

    async def _replace(self, worker: _Worker, exchange: asyncio.Task) -> None:
        """Replaces a worker, unless it still comes to an end soon."""
        await asyncio.wait({exchange}, timeout=_LINGER_SECONDS)
        if self._is_given_back(worker, exchange):
            return
        exchange.cancel()
        await asyncio.wait({exchange})
        self._end(worker)
        while True:
            try:
                return await self._add()
            except (OSError, RuntimeError) as error:
                self._note(f"a decoding process was not replaced, and will be tried again: {error}")
                await asyncio.sleep(1)

    async def _add(self) -> None:
        worker = _Worker(self._command)
        self._workers.add(worker)
        try:
            state = await asyncio.wait_for(worker.state(), _START_SECONDS)
        except asyncio.TimeoutError:
            state = b""
        if state[:1] not in (_READY, _UNSEALED):
            self._end(worker)
            raise RuntimeError(state.decode("ascii", "replace") or "a decoding process did not start.")
        if state[:1] == _UNSEALED and not self._is_unsealed:
            self._is_unsealed = True
            self._note(f"the decoding processes are not sealed against the system: {state[1:].decode('ascii')}")
        self._give(worker)

    def _end(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        worker.kill()
        worker.socket.close()

    def _in_background(self, work: Any) -> asyncio.Task:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Worker:
    """One decoding process.

    Attributes:
        pictures: number that it was given.
        socket: to its standard input.
    """

    def __init__(self, command: list[str]):
        self.pictures, self._killed = 0, False
        self._oom_kills = oom_kills()
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        with theirs:
            # A picture of 256 x 256 pixels, in one go.
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                theirs.setsockopt(socket.SOL_SOCKET, option, 1 << 18)
                self.socket.setsockopt(socket.SOL_SOCKET, option, 1 << 18)
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                command,
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=sandbox.worker_environment(_LIMITS),
            )

    async def state(self) -> bytes:
        """What it says once it has started: `_READY`, `_UNSEALED` with the reason, or why it does not start."""
        with contextlib.suppress(OSError):
            return await asyncio.get_running_loop().sock_recv(self.socket, 1000)
        return b""

    async def exchange(self, picture: bytes, pixels: np.ndarray) -> int | None:
        """Has a picture decoded into `pixels`; returns the status, or None if the process has ended."""
        loop = asyncio.get_running_loop()
        self.pictures += 1
        status = bytearray(1)
        with contextlib.suppress(OSError):
            await loop.sock_sendall(self.socket, _HEAD.pack(len(picture), len(pixels)) + picture)
            if not await loop.sock_recv_into(self.socket, status):
                return None
            view = pixels.data.cast("B") if status[0] == _OK else memoryview(b"")
            while view:
                count = await loop.sock_recv_into(self.socket, view)
                if not count:
                    return None
                view = view[count:]
            return status[0]
        return None

    def post_mortem(self) -> ServingError:
        """The error for a picture on which the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(0.2)
            if code == -signal.SIGKILL:
                if self._killed:
                    return ServingError(UNAVAILABLE, "the server is stopping.")
                if oom_kills() > self._oom_kills:
                    return ServingError(RESOURCE_EXHAUSTED, "the system ran out of memory and killed the decoder.")
                return ServingError(UNAVAILABLE, "the decoder was killed from outside (SIGKILL); try again.")
        return ServingError(INVALID_ARGUMENT, "image_bytes holds a picture on which the decoder crashed.")

    def kill(self) -> None:
        """Ends it at once."""
        self._killed = True
        self._process.kill()
        self._process.wait()


def work(config: dict[str, Any]) -> None:
    """Runs a worker until the server ends.

    Args:
        config: `sandbox`, one of `tfdfd.extract.sandbox.SANDBOXES`.
    """
    # Signals to the whole group are the server's to handle; this process ends with it.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    import cv2

    from tfdfd.extract.worker import end_with_parent

    cv2.setNumThreads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    for ending in (".jpg", ".png"):  # loads what is loaded at the first use
        decode_picture(cv2.imencode(ending, np.zeros((32, 24, 3), np.uint8))[1].tobytes(), 16)
    sandbox.restrict_resources(_LIMITS)
    state = _READY
    try:
        sandbox.seal()
    except sandbox.SandboxError as error:
        state = _UNSEALED + str(error).encode("ascii", "replace")
        if config["sandbox"] == sandbox.REQUIRE:
            _write(f"the decoding processes cannot be sealed: {error}".encode("ascii", "replace"))
            return
    _write(state)
    for picture, side in _requests():
        try:
            pixels = decode_picture(picture, side)
        except MemoryError:
            _write(bytes([_NO_MEMORY]))
        except cv2.error as error:
            _write(bytes([_NO_MEMORY if error.code == cv2.Error.STS_NO_MEM else _DAMAGED]))
        else:
            _write(bytes([_DAMAGED]) if pixels is None else bytes([_OK]) + pixels.tobytes())


def decode_picture(picture: bytes | bytearray, side: int) -> np.ndarray | None:
    """Decodes and resizes a JPEG or PNG as `tfdfd detect` does; None if it is damaged."""
    import cv2

    from tfdfd.faces.crop import resize_crop

    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB)
    return None if pixels is None else resize_crop(pixels, side)


def _requests() -> Iterator[tuple[bytearray, int]]:
    while head := _read(_HEAD.size):
        count, side = _HEAD.unpack(head)
        yield _read(count), side


def _read(count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        received = os.readv(0, [view])
        if not received:
            return bytearray()
        view = view[received:]
    return data


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(0, view) :]
