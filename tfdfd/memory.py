"""Memory: what this process keeps of what it freed, and which processes the system killed for lack of it."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# Options of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
# glibc never reuses larger arrays, unless it is told to map none by itself.
_MOST_REUSED, _MOST_KEPT, _GROWTH = 2**25, 2**27, 2**28


def keep_freed_memory(everything: bool = False) -> None:
    """Makes the process keep freed memory for the arrays to come, where its C library can be told (glibc).

    By default, an operation takes fresh memory for its result and gives it back, and the kernel clears its pages at
    first touch: as much time as all the arithmetic of an augmentation, or a third of a training step.

    Args:
        everything: whether to keep all of it, for arrays of any size; otherwise 128 MiB, for arrays under 32 MiB.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    if everything:
        options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: _GROWTH}
    else:
        options = {_MMAP_THRESHOLD: _MOST_REUSED, _TRIM_THRESHOLD: _MOST_KEPT}
    for option, value in options.items():
        library.mallopt(option, value)


def oom_kills() -> int:
    """The number of processes that the system has killed for lack of memory; always 0 where it does not count them.

    Linux counts a process before it ends it, one in a control group, too.
    """
    with contextlib.suppress(OSError), open("/proc/vmstat", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    return 0
