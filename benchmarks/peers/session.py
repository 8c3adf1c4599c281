"""A peer's process: requests with a time limit, its peak memory, and its end, whatever the peer does."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

# Outcomes of a request: an answer, an exception of the peer's, and three after which the process is gone.
ANSWER, ERROR, CRASH, HANG, GARBAGE = "answer", "error", "crash", "hang", "garbage"
# Longest line of an answer, in bytes.
MOST = 16 * 2**20


class Session:
    """A process that answers each line of JSON on standard input by one on standard output. A context manager.

    It leads a process group, which is killed at the time limit, after garbage and at the end.

    Args:
        command: command line; its first line is `{"ready_s": seconds}`, or an error.
        environment: all of its variables.

    Attributes:
        peak: peak resident memory in bytes of it and its children, shared pages counted in each.
        outcome, detail: of the start: `ANSWER` if it is ready, and why not.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], limit: float):
        self.peak, self._rest = 0, b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        first = self._answer(limit)
        self.outcome, self.detail = first["outcome"], first.get("detail")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._watcher.join()
        self._process.stdout.close()
        self._errors.close()

    @property
    def alive(self) -> bool:
        return self.outcome == ANSWER and self._process.poll() is None

    def ask(self, request: dict, limit: float) -> dict:
        """The answer, with its `outcome` and a `detail` unless it is `ANSWER`.

        It has wall-clock `seconds` and the `processor_s` of all of the peer's processes, unless it states its own.
        """
        if not self.alive:
            return {"outcome": CRASH, "detail": "the process has ended", "seconds": 0.0, "processor_s": 0.0}
        start, before = time.perf_counter(), self._processor_seconds()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._answer(limit)
        took = {"seconds": time.perf_counter() - start, "processor_s": self._processor_seconds() - before}
        return took | answer

    def kill(self) -> None:
        """Kills the process group; the exit status is then known."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self, limit: float) -> dict:
        try:
            line = self._line(time.monotonic() + limit)
        except TimeoutError:
            self.kill()
            return {"outcome": HANG, "detail": f"no answer in {limit:g} s; killed"}
        except EOFError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self.kill()
            return {"outcome": CRASH, "detail": f"{_end(self._process.returncode)}: {self._last_error()}"}
        except OverflowError:
            line = b""
        try:
            answer = json.loads(line)
            if not isinstance(answer, dict):
                raise ValueError("not an object")
        except ValueError:
            self.kill()
            return {"outcome": GARBAGE, "detail": f"no JSON object: {line[:80]!r}; killed"}
        if "error" in answer:
            return answer | {"outcome": ERROR, "detail": str(answer["error"])}
        return answer | {"outcome": ANSWER}

    def _line(self, deadline: float) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if len(self._rest) > MOST:
                    raise OverflowError
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                piece = os.read(self._process.stdout.fileno(), 2**16)
                if not piece:
                    raise EOFError
                self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _last_error(self) -> str:
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4000))
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "no message"

    def _watch(self) -> None:
        while self._process.poll() is None:
            with contextlib.suppress(psutil.Error):
                self.peak = max(self.peak, sum(member.memory_info().rss for member in self._family()))
            time.sleep(0.1)

    def _processor_seconds(self) -> float:
        with contextlib.suppress(psutil.Error):
            return sum(sum(member.cpu_times()[:2]) for member in self._family())
        return 0.0

    def _family(self) -> list[psutil.Process]:
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]


def _end(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def install(folder: Path, python: str, packages: Sequence[str], limit: float, key: str = "") -> dict:
    """Makes a virtual environment with these packages; one that is there with the same `key` remains.

    Returns `bytes` and `packages` that were added to the empty environment, and `versions`; or `failed`.
    """
    marker = folder / "installed.json"
    if marker.exists() and (found := json.loads(marker.read_text())).get("key") == key:
        return found
    subprocess.run([python, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    before, pip = _bytes(folder), [python, "-m", "pip", "--python", str(folder / "bin/python")]
    process = subprocess.Popen(
        [*pip, "install", "--quiet", *packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return {"failed": f"pip install took more than {limit:g} s"}
    if process.returncode:
        errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
        return {"failed": "pip: " + (errors or output.splitlines() or ["no message"])[0][:300]}
    listed = json.loads(subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True).stdout)
    versions = {row["name"]: row["version"] for row in listed}
    installed = {"key": key, "bytes": _bytes(folder) - before, "packages": len(versions), "versions": versions}
    marker.write_text(json.dumps(installed))
    return installed


def _bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
