"""This process: what it imports with TensorFlow, what it keeps of the memory that it freed, and killed processes.

TensorFlow and Keras import scikit-learn, Matplotlib and JAX, where these are installed, for features that nothing here
uses (`keras.wrappers`, `keras.visualization`, conversion of JAX functions to LiteRT): a third of the time that they
take to start. Whoever else imports these libraries gets them. `import_quickly` is for the package's own processes: in a
user's process, those features must work.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

# A library, and the modules that only offer features with it.
_OPTIONAL = {
    "jax": ("tensorflow.lite.", "keras.src.callbacks."),
    "sklearn": ("keras.src.wrappers.",),
    "matplotlib": ("keras.src.visualization.",),
}
# Options of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
# glibc never reuses larger arrays, unless it is told to map none by itself.
_MOST_REUSED, _MOST_KEPT, _GROWTH = 2**25, 2**27, 2**28


class _WithoutOptional:
    """A finder that reports an optional library as missing to the modules that would load it in vain."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        importers = _OPTIONAL.get(name)
        frame = sys._getframe(1) if importers else None
        while importers and frame is not None:
            module = frame.f_globals.get("__name__") or ""
            if module.startswith(importers):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if not module.startswith("importlib."):
                return
            frame = frame.f_back


def import_quickly() -> None:
    """From here on, this process imports TensorFlow and Keras without the libraries that they do not need."""
    if not any(isinstance(finder, _WithoutOptional) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutOptional())


def keep_freed_memory(everything: bool = False) -> None:
    """Makes the process keep freed memory for the arrays to come, where its C library can be told (glibc).

    By default, an operation takes fresh memory for its result and gives it back, and the kernel clears its pages at
    first touch: as much time as all the arithmetic of an augmentation, or a third of a training step.

    Args:
        everything: whether to keep all of it, for arrays of any size; otherwise 128 MiB, for arrays under 32 MiB.
    """
    import ctypes

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
