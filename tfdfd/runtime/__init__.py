"""Runtimes for the networks, by name. Importing this package imports none of them."""

from __future__ import annotations

import importlib.util

from tfdfd.text import did_you_mean

AUTO, OPENVINO, TENSORFLOW = "auto", "openvino", "tensorflow"
# In descending order of speed: `auto` takes the first that is installed.
RUNTIMES = (OPENVINO, TENSORFLOW)


def is_installed(runtime: str) -> bool:
    """Whether the library of a runtime can be imported; does not import it."""
    return importlib.util.find_spec(runtime) is not None


def check_runtime(runtime: str) -> None:
    """Raises `ValueError` unless `runtime` is `auto` or the name of an installed runtime."""
    names = (AUTO, *RUNTIMES)
    if runtime not in names:
        hint = did_you_mean(runtime, names, 1, "it is none of them.")
        raise ValueError(f"the runtime must be one of {', '.join(names)}; received {runtime!r}; {hint}")
    if runtime == OPENVINO and not is_installed(OPENVINO):
        raise ValueError(
            "the runtime 'openvino' is not installed: pip install 'tfdfd[edge]' brings it; "
            "'auto' takes the fastest there is."
        )
