"""CPU cycles of a piece of work, through Linux's `perf stat`, where the machine counts them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

_ATTACHING_SECONDS = 0.5
# It prints one line then.
_ENDING_SECONDS = 30


def why_no_cycles() -> str | None:
    """None where cycles can be counted, else the reason they cannot."""
    perf = shutil.which("perf")
    if perf is None:
        return "perf is not installed"
    told = subprocess.run([perf, *_COUNT, "--", perf, "--version"], capture_output=True, text=True).stderr
    if _parse(told) is not None:
        return None
    answer = re.search(r"<[^>]*>", told)
    return f"perf stat counts none on this machine ({answer[0] if answer else 'it answers nothing'})"


def count_cycles(work: Callable[[], None]) -> int | None:
    """Runs `work()` and returns the cycles that all threads of this process took meanwhile; None where uncounted."""
    perf = subprocess.Popen(
        [shutil.which("perf"), *_COUNT, "-p", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with perf:
        # Nothing tells when it has attached; sleeping takes no cycles.
        time.sleep(_ATTACHING_SECONDS)
        try:
            work()
        finally:
            perf.send_signal(signal.SIGINT)
        try:
            return _parse(perf.communicate(timeout=_ENDING_SECONDS)[1])
        except subprocess.TimeoutExpired:
            perf.kill()
            raise RuntimeError(f"perf did not end within {_ENDING_SECONDS} s of its SIGINT; it was killed.") from None


# Machine-readable: value, unit, event, ... separated by commas, on standard error.
_COUNT = ("stat", "-x", ",", "-e", "cycles")


def _parse(told):
    for line in told.splitlines():
        value, *rest = line.split(",")
        if value.isdigit() and any(field.startswith("cycles") for field in rest):
            return int(value)
    return None
