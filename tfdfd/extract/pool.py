"""Pool of decoding processes: ordered results, bounded memory, and no input that can stop or spoil another."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from tfdfd.extract import worker
from tfdfd.extract.extraction import Extraction, Request
from tfdfd.extract.sandbox import AUTO, check_sandbox, worker_environment
from tfdfd.media import Limits, MediaError, provenance
from tfdfd.media.formats import HEAD_BYTES, IMAGE_FORMATS, image_format
from tfdfd.media.inputs import Input
from tfdfd.process import oom_kills
from tfdfd.threads import map_in_threads

START_SECONDS = 120
DYING_SECONDS = 5
# A new process now and then keeps a slow leak in a decoder from adding up over a large folder.
INPUTS_PER_PROCESS = 500
MAX_WORKERS = 4
# A process that reported one of these ends: what a decoder left in it must not affect the next input.
FAILURES = {"decode_error", "too_large"}
# The parent's import path is handed over, so that neither the current folder nor the environment decides which code
# runs.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; import json; config = json.loads(sys.argv[1]); "
    "from tfdfd.extract.sandbox import leave_network; leave_network(config['sandbox']); "
    "from tfdfd.extract.worker import main; main(config)"
)
# The request before the first one: its answer, `ready`, has no pixels.
_NOTHING = Request()
_ENDED = "the decoding processes were ended while work was left."
_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class FaceExtractor:
    """Crops faces from files in decoding processes. Use as a context manager, or call `close`.

    Args:
        detector: name of the face detector; `none` takes whole frames as face crops.
        options: keyword arguments of the detector.
        limits: budget of one input.
        workers: number of processes; None: one per core, at most four, and no more than there are inputs.
        sandbox: `auto`, `require` or `off`; see `tfdfd.extract.sandbox`.
        provenance: reads what each file states about its origin, too: `Extraction.provenance`.

    Attributes:
        limits: budget of one input.
        sandbox_note: why the processes are not sealed, known once one is ready; None if they are, or need not be.

    Raises:
        ValueError: `workers` is below 1, or `sandbox` is unknown.
    """

    def __init__(
        self,
        detector: str = "mtcnn",
        options: dict[str, Any] | None = None,
        limits: Limits | None = None,
        workers: int | None = None,
        sandbox: str = AUTO,
        provenance: bool = False,
    ):
        check_workers(workers)
        check_sandbox(sandbox)
        self.limits = limits or Limits()
        self.sandbox_note: str | None = None
        self._config: dict[str, Any] = {"detector": detector, "options": options or {}, "limits": asdict(self.limits)}
        self._config |= {"sandbox": sandbox, "provenance": provenance}
        self._workers = workers
        # Modules that a process loads before it is sealed. Images do not wait for FFmpeg.
        self._libraries = {"video"}
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> FaceExtractor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, inputs: int) -> int:
        """Starts processes for this many inputs without waiting for them; returns the number of processes."""
        cores = os.cpu_count() or 1
        count = self._workers or max(1, min(inputs, cores, MAX_WORKERS))
        with self._lock:
            self._closed = False
            while inputs and len(self._idle) + len(self._busy) < count:
                self._idle.append(self._process(max(1, cores // count)))
        return count

    def _process(self, threads: int) -> _Process:
        return _Process(self._config | {"threads": threads}, self._libraries, self.limits)

    def extract(self, items: Iterable[Input], request: Request) -> Iterator[Extraction]:
        """Yields the outcome of each input in order.

        Work on the first inputs starts with this call, and on the next ones while the caller holds one: the number of
        processes, not of inputs, bounds the memory.

        Raises:
            ValueError: the detector cannot be built as requested.
            RuntimeError: a decoding process does not start, or `close` was called meanwhile.
        """
        items = list(items)
        return self.map(lambda item: self.extract_one(item, request), items, sum(i.error is None for i in items))

    def map(self, work: Callable[[_Item], _Result], items: Iterable[_Item], processes: int) -> Iterator[_Result]:
        """Yields `work(item)` for each item in order, from as many threads as there are processes; see `extract`.

        Args:
            work: may call `extract_one`. An exception is raised here and ends the processes.
            items: arguments of `work`.
            processes: maximum number of processes that are useful.
        """
        items = list(items)
        with self._lock:
            self._libraries = _libraries_by_name(items)
        count = self.start(processes)
        # Interrupted, or abandoned by the caller: nobody waits for what is still being decoded.
        return map_in_threads(work, items, count, ahead=count + 2, abandon=self.close)

    def extract_one(self, item: Input, request: Request) -> Extraction:
        """The outcome of one input; may be called from several threads.

        Raises:
            ValueError, RuntimeError: as `extract`.
        """
        if item.error is not None:
            return Extraction(item.path, item.kind, item.error.status, item.error.message)
        start = time.monotonic()
        try:
            file, kind = item.open(self.limits)
        except MediaError as error:
            response = Extraction(item.path, item.kind, error.status, error.message)
        else:
            with file:
                response = self._run(item.path, file.fileno(), kind, request)
            response.kind = response.kind or item.kind
        response.elapsed_s = time.monotonic() - start
        return response

    def _run(self, path: str, descriptor: int, kind: str | None, request: Request) -> Extraction:
        with self._lock:
            if self._closed:
                raise RuntimeError(_ENDED)
            # No process is idle while another call of `extract` uses them all.
            process = self._idle.pop() if self._idle else self._process(1)
            self._busy.add(process)
        try:
            response = process.run(path, descriptor, _library(descriptor, kind), request)
            if self._config["provenance"] and response.status in ("ok", "no_face"):
                response.provenance = process.provenance(descriptor)
        finally:
            with self._lock:
                self.sandbox_note = self.sandbox_note or process.sandbox_note
                self._busy.remove(process)
                if self._closed:
                    process.stop()
                else:
                    self._idle.append(process)
        if response.process_died and self._closed:
            # `close` ended it, which says nothing about the input.
            raise RuntimeError(_ENDED)
        return response

    def close(self) -> None:
        """Ends the processes, busy ones included; `extract` starts new ones."""
        with self._lock:
            self._closed = True
            for process in self._busy:
                process.kill()
            for process in self._idle:
                process.stop()
            self._idle.clear()


def check_workers(workers: int | None) -> None:
    """Refuses a number of workers below 1; None is the default."""
    if workers is not None and workers < 1:
        raise ValueError(f"the number of workers must be at least 1; received {workers}.")


def _libraries_by_name(items: Iterable[Any]) -> set[str]:
    """The libraries that these inputs need, judged by name; items of another type may be videos."""
    if not all(isinstance(item, Input) and item.kind == "image" for item in items):
        return {"video"}
    heif = any(item.path.lower().endswith(IMAGE_FORMATS["heif"]) for item in items)
    return {"heif"} if heif else set()


def _library(descriptor: int, kind: str | None) -> str | None:
    """The library that an open file needs, judged by content, or None."""
    if kind == "video":
        return "video"
    return "heif" if image_format(os.pread(descriptor, HEAD_BYTES, 0)) == "heif" else None


class _Process:
    """One decoding process, started at once, and again after a crash, a time-out or another failure."""

    def __init__(self, config: dict[str, Any], libraries: Collection[str], limits: Limits) -> None:
        self._config, self._libraries, self._limits = config, set(libraries), limits
        self._popen: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._served = 0
        self._oom_kills = 0  # before the present input
        self.sandbox_note: str | None = None
        self._start()

    def run(self, path: str, descriptor: int, library: str | None, request: Request) -> Extraction:
        """The outcome for an open file that needs `library` (a key of `tfdfd.extract.worker.LIBRARIES`, or None)."""
        missing: set[Any] = {library} - self._libraries - {None}
        self._libraries |= missing
        if missing or self._popen is None or self._popen.poll() is not None or self._served >= INPUTS_PER_PROCESS:
            self._start()
        self._await_ready()
        self._served += 1
        self._oom_kills = oom_kills()
        deadline = time.monotonic() + self._limits.max_seconds
        try:
            self._send(asdict(request), descriptor)
            response = self._response(path, request, deadline)
        except TimeoutError:
            _log.info("%s: the decoding process is killed: it took too long", path)
            self.stop()
            return Extraction(path, None, "timeout", f"not done after {self._limits.max_seconds:g} s (--max-seconds)")
        except (EOFError, ConnectionError):
            status, message = self._post_mortem()
            _log.info("%s: the decoding process ended: %s", path, message)
            return Extraction(path, None, status, message, process_died=True)
        except worker.ProtocolError as error:
            self.stop()
            return Extraction(path, None, "decode_error", f"the decoding process sent a malformed response: {error}")
        if response.status in FAILURES:
            self.stop()
        return response

    def provenance(self, descriptor: int) -> dict[str, Any]:
        """What an open file states about its origin. A file that stops the process, or takes too long, is not read."""
        seconds = min(provenance.MAX_SECONDS, self._limits.max_seconds)
        try:
            self._send({worker.PROVENANCE: True}, descriptor)
            header, _ = self._read(time.monotonic() + seconds)
            return provenance.checked(header[worker.PROVENANCE])
        except TimeoutError:
            reason = f"not done after {seconds:g} s"
        except (EOFError, ConnectionError):
            reason = self._post_mortem()[1]
        except (worker.ProtocolError, KeyError, ValueError) as error:
            reason = provenance.clean(f"the decoding process sent a malformed response: {error}")
        self.stop()
        return provenance.not_read(reason)

    def kill(self) -> None:
        """Ends the process from another thread; the thread that waits in `run` notices and cleans up."""
        popen = self._popen
        if popen is not None:
            popen.kill()

    def stop(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen.stdout.close()  # type: ignore[union-attr]
            self._channel.close()  # type: ignore[union-attr]
            self._popen = self._channel = None

    def _start(self) -> None:
        self.stop()
        # The folder of this package comes last, for the case that it was imported from the current folder.
        paths = [*(os.path.abspath(entry) for entry in sys.path if entry), str(Path(__file__).parents[2])]
        config = self._config | {"libraries": sorted(self._libraries)}
        self._channel, requests = socket.socketpair()
        self._channel.settimeout(self._limits.max_seconds)
        with requests:
            self._popen = subprocess.Popen(  # type: ignore[call-overload]
                [sys.executable, "-c", _BOOT, json.dumps(config), *paths],
                stdin=requests,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=worker_environment(self._limits),
            )
        self._ready = False
        self._served = 0
        _log.debug("decoding process %d started, with %s", self._popen.pid, ", ".join(config["libraries"]) or "OpenCV")

    def _await_ready(self) -> None:
        if self._ready:
            return
        try:
            header, _ = self._read(time.monotonic() + START_SECONDS)
        except (EOFError, TimeoutError, worker.ProtocolError) as error:
            self.stop()
            raise RuntimeError(
                "the decoding process did not start; --max-memory may be too small for it "
                f"(now {self._limits.max_memory:,} bytes)."
            ) from error
        if "fatal" in header:
            self.stop()
            raise (ValueError if header.get("usage") else RuntimeError)(header["fatal"])
        note = header.get("sandbox_note")
        self.sandbox_note = note if isinstance(note, str) else None
        self._ready = True
        seal = "off" if self._config["sandbox"] == "off" else self.sandbox_note or "sealed"
        _log.debug("decoding process %d is ready: %s", self._popen.pid, seal)  # type: ignore[union-attr]

    def _send(self, request: dict[str, Any], descriptor: int) -> None:
        line = json.dumps(request).encode() + b"\n"
        # The descriptor goes with the first byte.
        sent = socket.send_fds(self._channel, [line], [descriptor])  # type: ignore[arg-type]
        self._channel.sendall(line[sent:])  # type: ignore[union-attr]

    def _response(self, path: str, request: Request, deadline: float) -> Extraction:
        header, pixels = self._read(deadline, request)
        return worker.unpack(path, header, pixels, request)

    def _read(self, deadline: float, request: Request = _NOTHING) -> tuple[dict[str, Any], bytes]:
        header_bytes, pixel_bytes = worker.lengths(self._receive(worker.PREFIX_BYTES, deadline))
        header = worker.parse(self._receive(header_bytes, deadline))
        worker.check_pixel_bytes(header, pixel_bytes, request)
        return header, self._receive(pixel_bytes, deadline)

    def _receive(self, count: int, deadline: float) -> bytes:
        received = bytearray(count)
        view = memoryview(received)
        pipe = self._popen.stdout.fileno()  # type: ignore[union-attr]
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while view:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                got = os.readv(pipe, [view])
                if not got:
                    raise EOFError
                view = view[got:]
        return bytes(received)

    def _post_mortem(self) -> tuple[str, str]:
        """Status and message for a process that ended while it had an input."""
        try:
            code = self._popen.wait(DYING_SECONDS)  # type: ignore[union-attr]
        except subprocess.TimeoutExpired:
            self.stop()
            return "decode_error", "the decoding process stopped answering on this file"
        self.stop()
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return "too_large", "the system ran out of memory and killed the decoding process"
        if code == -signal.SIGKILL:
            return "decode_error", "the decoding process was killed from outside (SIGKILL)"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return "decode_error", f"the decoder crashed on this file ({name}); the crash stayed in its own process"
