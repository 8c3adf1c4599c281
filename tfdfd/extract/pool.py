"""Decoding processes and the work they are given: ordered, bounded in memory, no input able to stop another."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from tfdfd.extract import wire
from tfdfd.extract.faces_of import Extraction, Request
from tfdfd.media.environment import decoder_environment
from tfdfd.media.inputs import Input
from tfdfd.media.limits import Limits

START_SECONDS = 120
DYING_SECONDS = 5
# A fresh process now and then keeps a slow leak in a decoder from adding up over a large folder.
INPUTS_PER_PROCESS = 500
MAX_WORKERS = 4
# The parent's whole import path is handed over, so that neither the current folder nor a differing
# environment decides which code decodes.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; import json; from tfdfd.extract.worker import main; "
_BOOT += "main(json.loads(sys.argv[1]))"


_ENDED = "the decoding processes were ended while work was left."
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class FaceExtractor:
    """Cuts faces out of files in processes of their own.

    Args:
        detector: name of the face detector; `none` takes whole frames as faces.
        options: the detector's options.
        limits: what one input may cost.
        workers: how many processes; None: one for each core, at most four, and no more than there are inputs.

    Use as a context manager, or call `close`.
    """

    def __init__(
        self,
        detector: str = "mtcnn",
        options: dict | None = None,
        limits: Limits | None = None,
        workers: int | None = None,
    ):
        if workers is not None and workers < 1:
            raise ValueError(f"the number of workers must be at least 1; received {workers}.")
        self.limits = limits or Limits()
        self._detector, self._options, self._workers = detector, options or {}, workers
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def start(self, inputs: int) -> int:
        """Starts the processes for so many inputs without waiting for them; returns how many work on them."""
        cores = os.cpu_count() or 1
        count = self._workers or max(1, min(inputs, cores, MAX_WORKERS))
        with self._lock:
            self._closed = False
            while inputs and len(self._idle) + len(self._busy) < count:
                self._idle.append(self._process(max(1, cores // count)))
        return count

    def _process(self, threads):
        config = {"detector": self._detector, "options": self._options, "limits": asdict(self.limits)}
        return _Process(config | {"threads": threads}, self.limits)

    def extract(self, items: Iterable[Input], request: Request) -> Iterator[Extraction]:
        """The outcome of each input in order. Work on the first few begins with this call, and on the next few while
        the caller holds one: memory is bounded by the number of processes, not of inputs.

        Raises:
            ValueError: the detector cannot be built as asked for.
            RuntimeError: the decoding process does not start, or `close` was called meanwhile.
        """
        items = list(items)
        return self.map(lambda item: self.extract_one(item, request), items, sum(i.error is None for i in items))

    def map(self, work: Callable[[_Item], _Result], items: Iterable[_Item], processes: int) -> Iterator[_Result]:
        """`work(item)` for each item, in order, in as many threads as there are processes; begun and bounded as in
        `extract`. `work` may call `extract_one`.

        Args:
            work: what is to be done; what it raises is raised here, and ends the processes.
            items: what it is done for.
            processes: of how many there is use.
        """
        items = list(items)
        count = self.start(processes)
        threads = ThreadPoolExecutor(count, thread_name_prefix="extract")
        ahead = count + 2
        waiting = collections.deque(threads.submit(work, item) for item in items[:ahead])

        def outcomes():
            try:
                for item in items[ahead:]:
                    yield waiting.popleft().result()
                    waiting.append(threads.submit(work, item))
                while waiting:
                    yield waiting.popleft().result()
            except BaseException:
                # Interrupted, or not wanted to the end: nobody waits for what is still being decoded.
                self.close()
                raise
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

        return outcomes()

    def extract_one(self, item: Input, request: Request) -> Extraction:
        """The outcome of one input; may be called from several threads.

        Raises:
            ValueError, RuntimeError: as `extract`.
        """
        if item.error is not None:
            return Extraction(item.path, item.kind, item.error.status, item.error.message)
        begun = time.monotonic()
        with self._lock:
            if self._closed:
                raise RuntimeError(_ENDED)
            # None is idle where another call of `extract` is being worked on.
            process = self._idle.pop() if self._idle else self._process(1)
            self._busy.add(process)
        try:
            answer = process.run(item.path, request)
        finally:
            with self._lock:
                self._busy.remove(process)
                if self._closed:
                    process.stop()
                else:
                    self._idle.append(process)
        if answer.process_died and self._closed:
            # Ended by `close`: that says nothing about the input.
            raise RuntimeError(_ENDED)
        answer.kind = answer.kind or item.kind
        answer.elapsed_s = time.monotonic() - begun
        return answer

    def close(self) -> None:
        """Ends the processes, also those at work; `extract` starts new ones."""
        with self._lock:
            self._closed = True
            for process in self._busy:
                process.kill()
            for process in self._idle:
                process.stop()
            self._idle.clear()


class _Process:
    """One decoding process, started at once, and again after a crash or a time-out."""

    def __init__(self, config, limits):
        self._config, self._limits = config, limits
        self._popen = None
        self._served = 0
        self._start()

    def run(self, path: str, request: Request) -> Extraction:
        if self._popen is None or self._popen.poll() is not None or self._served >= INPUTS_PER_PROCESS:
            self._start()
        self._await_ready()
        self._served += 1
        line = json.dumps({"path": os.fsencode(path).hex(), **asdict(request)}) + "\n"
        deadline = time.monotonic() + self._limits.max_seconds
        try:
            self._popen.stdin.write(line.encode())
            self._popen.stdin.flush()
            return self._answer(path, request, deadline)
        except _TimeOut:
            self.stop()
            return Extraction(path, None, "timeout", f"not done after {self._limits.max_seconds:g} s (--max-seconds)")
        except (EOFError, BrokenPipeError):
            return Extraction(path, None, *self._post_mortem(), process_died=True)
        except wire.WireError as error:
            self.stop()
            return Extraction(path, None, "decode_error", f"the decoding process answered nonsense: {error}")

    def kill(self):
        """Ends the process from another thread; the one that waits in `run` sees it and cleans up."""
        popen = self._popen
        if popen is not None:
            popen.kill()

    def stop(self):
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            with contextlib.suppress(BrokenPipeError):  # a request that was never read
                self._popen.stdin.close()
            self._popen.stdout.close()
            self._popen = None

    def _start(self):
        self.stop()
        # This package's own place last, for the case that it was found in the current folder.
        paths = [*(os.path.abspath(entry) for entry in sys.path if entry), str(Path(__file__).parents[2])]
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(self._config), *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | decoder_environment(self._limits),
        )
        self._ready = False
        self._served = 0

    def _await_ready(self):
        if self._ready:
            return
        try:
            header, _ = self._read(time.monotonic() + START_SECONDS)
        except (EOFError, _TimeOut, wire.WireError) as error:
            self.stop()
            raise RuntimeError(
                "the decoding process did not start; --max-memory may be too small for it "
                f"(now {self._limits.max_memory:,} bytes)."
            ) from error
        if "fatal" in header:
            self.stop()
            raise (ValueError if header.get("usage") else RuntimeError)(header["fatal"])
        self._ready = True

    def _answer(self, path, request, deadline):
        header, crops = self._read(deadline, request.size)
        return wire.unpack(path, header, crops, request.size)

    def _read(self, deadline, size=1):
        header_bytes, crop_bytes = wire.lengths(self._receive(wire.PREFIX_BYTES, deadline))
        header = wire.parse(self._receive(header_bytes, deadline))
        wire.check_crop_bytes(header, crop_bytes, size)
        return header, self._receive(crop_bytes, deadline)

    def _receive(self, count, deadline):
        received = bytearray(count)
        view = memoryview(received)
        pipe = self._popen.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while view:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise _TimeOut
                got = os.readv(pipe, [view])
                if not got:
                    raise EOFError
                view = view[got:]
        return bytes(received)

    def _post_mortem(self):
        """Status and message for a process that went away in the middle of an input."""
        try:
            code = self._popen.wait(DYING_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            return "decode_error", "the decoding process stopped answering on this file"
        self.stop()
        if code == -signal.SIGKILL:
            return "too_large", "the decoding process was killed, most likely for its memory"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return "decode_error", f"the decoder crashed on this file ({name}); the crash stayed in its own process"


class _TimeOut(Exception):
    pass
