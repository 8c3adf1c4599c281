"""Cost of networks on this machine, measured now: latency, CPU time and cycles, memory, size on disk.

This module holds the instruments: the machine, this process's consumption, cycles through Linux's `perf stat`, and
measurement in a process of its own. The constants are light to import: parsers of the command line need them.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.log_lines import without_log_lines
from tfdfd.runtime import RUNTIMES, TENSORFLOW, check_runtime

if TYPE_CHECKING:
    import subprocess

# Defaults of the latency measurement: batch sizes, and seconds for each.
BATCHES, SECONDS = (1, 32), 5.0
# Defaults of the comparison with Table 3 of document S0. The batch is what `tfdfd detect` scores in one call.
IMAGES, BATCH, ROUNDS = 1000, 8, 3
RUNTIME = TENSORFLOW


def check_measurable(runtime: str) -> None:
    """Raises `ValueError` unless `runtime` is one of `RUNTIMES` and installed; the meaning of `auto` would vary."""
    if runtime not in RUNTIMES:
        raise ValueError(f"the runtime must be one of {', '.join(RUNTIMES)}; received {runtime!r}.")
    check_runtime(runtime)


# Machine and process -------------------------------------------------------------------------------------------------


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, and versions; imports none of the libraries."""
    import platform
    from importlib import metadata

    versions = {name: metadata.version(name) for name in ("tensorflow", "keras")}
    return {"processor": _processor(), "cores": _cores(), "python": platform.python_version(), **versions}


def hardware_line() -> str:
    """The values of `hardware` in one line."""
    machine = hardware()
    cores = f"{machine['cores']} core{'' if machine['cores'] == 1 else 's'}"
    versions = f"Python {machine['python']}, TensorFlow {machine['tensorflow']}, Keras {machine['keras']}"
    return f"{cores} of {machine['processor']}; {versions}"


def _processor() -> str:
    import platform

    file = Path("/proc/cpuinfo")
    if file.exists():
        name = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE)
        if name:
            return name[1].strip()
    return platform.processor() or platform.machine() or "an unknown processor"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss starts at the parent's value when this process started.
        (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())
        return 1024 * int(kilobytes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def cpu_seconds() -> tuple[float, float]:
    """User and system time of all threads of this process so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


# Cycles --------------------------------------------------------------------------------------------------------------

_ATTACH_SECONDS = 0.5
_END_SECONDS = 30  # perf prints one line
# Machine-readable output: value, unit, event, … separated by commas, on standard error.
_COUNT = ("stat", "-x", ",", "-e", "cycles")


def why_no_cycles() -> str | None:
    """The reason that cycles cannot be counted, or None if they can."""
    import shutil
    import subprocess

    perf = shutil.which("perf")
    if perf is None:
        return "perf is not installed"
    output = subprocess.run([perf, *_COUNT, "--", perf, "--version"], capture_output=True, text=True).stderr
    if _parse_cycles(output) is not None:
        return None
    answer = re.search(r"<[^>]*>", output)
    return f"perf stat counts none on this machine ({answer[0] if answer else 'it answers nothing'})"


def count_cycles(work: Callable[[], None]) -> int | None:
    """Runs `work()` and returns the cycles of all threads of this process meanwhile; None if they are not counted.

    Raises:
        RuntimeError: perf did not end.
    """
    import shutil
    import subprocess

    perf = subprocess.Popen(
        [shutil.which("perf") or "perf", *_COUNT, "-p", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with perf:
        # perf does not report when it has attached; sleeping takes no cycles.
        time.sleep(_ATTACH_SECONDS)
        try:
            work()
        finally:
            perf.send_signal(signal.SIGINT)
        try:
            return _parse_cycles(perf.communicate(timeout=_END_SECONDS)[1])
        except subprocess.TimeoutExpired:
            perf.kill()
            raise RuntimeError(f"perf did not end within {_END_SECONDS} s of its SIGINT; it was killed.") from None


def _parse_cycles(output: str) -> int | None:
    for line in output.splitlines():
        value, *rest = line.split(",")
        if value.isdigit() and any(field.startswith("cycles") for field in rest):
            return int(value)
    return None


# Isolation -----------------------------------------------------------------------------------------------------------

# The whole import path is handed over, so that the current folder does not decide which code is measured.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from tfdfd.cost import main; main(sys.argv[1])"


class MeasurementError(RuntimeError):
    """The measured function raised, or its process died; the message says which."""


def run_isolated(target: str, **arguments: Any) -> Any:
    """Calls a function in a new process, so that memory and threads of one measurement do not affect the next.

    Args:
        target: `module:function`; its result must be a JSON value.
        **arguments: its arguments, JSON values.

    Raises:
        MeasurementError: the function raised or its process died. Its standard error does not reach the terminal.
    """
    import subprocess

    request = json.dumps({"target": target, "arguments": arguments})
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(
        [sys.executable, "-c", _BOOT, request, *sys.path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise MeasurementError(_cause_of_death(done)) from None
    if "error" in answer:
        raise MeasurementError(answer["error"])
    return answer["result"]


def main(request: str) -> None:
    """Entry point of the new process: only the answer reaches its standard output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)
        call = json.loads(request)
        module, function = call["target"].split(":")
        try:
            result = {"result": getattr(importlib.import_module(module), function)(**call["arguments"])}
        except Exception as error:
            result = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        json.dump(result, answer)


def _cause_of_death(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"the process was killed ({name})" + ("; out of memory?" if name == "SIGKILL" else "")
    lines = without_log_lines(done.stderr).strip().splitlines() or [""]
    return f"the process ended with code {done.returncode}: {lines[-1]}"
