"""The runtimes by name, and which of them this machine has. Importing this module imports none of them."""

from __future__ import annotations

import importlib.util

from tfdfd.near_matches import did_you_mean

AUTO, OPENVINO, TENSORFLOW = "auto", "openvino", "tensorflow"
# The fastest first: "auto" takes the first that is installed.
RUNTIMES = (OPENVINO, TENSORFLOW)


def is_installed(runtime: str) -> bool:
    """Whether the library of a runtime can be imported; found out without importing it."""
    return importlib.util.find_spec(runtime) is not None


def check_runtime(runtime: str) -> None:
    """Raises `ValueError` unless this is `auto` or the name of an installed runtime."""
    known = (AUTO, *RUNTIMES)
    if runtime not in known:
        hint = did_you_mean(runtime, known, 1, "it is none of them.")
        raise ValueError(f"the runtime must be one of {', '.join(known)}; received {runtime!r}; {hint}")
    if runtime == OPENVINO and not is_installed(OPENVINO):
        raise ValueError(
            "the runtime 'openvino' is not installed: pip install 'tfdfd[edge]' brings it; "
            "'auto' takes the fastest there is."
        )
