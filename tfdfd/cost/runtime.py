"""A network on the runtime that it is measured on."""

from __future__ import annotations

from tfdfd.runtime.names import OPENVINO, RUNTIMES, check_runtime
from tfdfd.runtime.network import Network


def network_on(runtime: str, model) -> Network:
    """`model`, as `detect` runs it there: RGB crops, uint8 `(n, height, width, 3)` -> P(fake), float32 `(n,)`."""
    if runtime == OPENVINO:
        from tfdfd.runtime.with_openvino import OpenvinoNetwork, convert

        return OpenvinoNetwork(model.name, *convert(model))
    from tfdfd.runtime.with_keras import KerasNetwork

    return KerasNetwork(model)


def check_measurable(runtime: str) -> None:
    """Raises `ValueError` unless `runtime` is one of those by name, and installed; `auto` would measure a guess."""
    if runtime not in RUNTIMES:
        raise ValueError(f"the runtime must be one of {', '.join(RUNTIMES)}; received {runtime!r}.")
    check_runtime(runtime)
