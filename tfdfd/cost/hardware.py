"""The machine that a measurement is of, and what this process has taken of it."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from importlib import metadata
from pathlib import Path


def hardware() -> dict:
    """Processor, cores that this process may use, and versions; imports none of the libraries."""
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras")}
    return {"processor": _processor(), "cores": _cores(), "python": platform.python_version(), **versions}


def hardware_line() -> str:
    """The same in one line."""
    machine = hardware()
    cores = f"{machine['cores']} core{'' if machine['cores'] == 1 else 's'}"
    versions = f"Python {machine['python']}, TensorFlow {machine['tensorflow']}, Keras {machine['keras']}"
    return f"{cores} of {machine['processor']}; {versions}"


def peak_memory() -> int:
    """The most bytes that this process has held at once."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss starts at what the parent held when it started us.
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def cpu_seconds() -> tuple[float, float]:
    """User and system time of all threads of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def _processor():
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", listed.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine() or "an unknown processor"


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
