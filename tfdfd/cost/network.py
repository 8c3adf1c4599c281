"""Cost of a network: counts from its graph, size on disk, latency on this machine, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdfd.cost import BATCHES, RUNTIME, SECONDS, MeasurementError, check_measurable, peak_memory, run_isolated
from tfdfd.files import temporary_folder
from tfdfd.models import build, spec
from tfdfd.runtime.networks import network_on

if TYPE_CHECKING:
    import keras

MIN_ROUNDS, MAX_ROUNDS = 3, 50


def network_costs(
    names: Sequence[str], batches: Sequence[int] = BATCHES, seconds: float = SECONDS, runtime: str = RUNTIME
) -> Iterator[dict]:
    """Yields one dict per network, each measured in a process of its own.

    Args:
        names: of `tfdfd.models.list_models()`.
        batches: batch sizes at which latency is measured; none gives counts alone.
        seconds: duration of each latency measurement; it has at least 3 rounds and at most 50.
        runtime: one of `tfdfd.runtime.RUNTIMES`.

    Yields:
        `name` and the keys of `measure`; or `name` and `error`, a message.

    Raises:
        ValueError: a name or runtime is unknown, or a size or the seconds are not positive; before any measurement.
    """
    for name in names:
        spec(name)
    if any(size < 1 for size in batches):
        raise ValueError(f"batches must be at least 1; received {', '.join(map(str, batches))}.")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be a positive number; received {seconds}.")
    check_measurable(runtime)
    return _costs(names, {"batches": list(batches), "seconds": seconds, "runtime": runtime})


def _costs(names: Sequence[str], arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in names:
        try:
            result = run_isolated(f"{__name__}:measure", name=name, **arguments)
        except MeasurementError as error:
            result = {"error": str(error)}
        yield {"name": name, **result}


def measure(name: str, batches: Sequence[int], seconds: float, runtime: str) -> dict:
    """Builds the network with random weights, which do not affect its cost, and measures it in this process.

    Returns:
        `input`: `[height, width, 3]`; `learned`, `trainable` (with the default freezing), `parameters` (all weights);
        `macs` and `thesis_macs` of one image; `file_bytes` of the weights as safetensors; `latency`, for each batch
        size `{"batch", "seconds" (median of a call, from uint8 crops to scores), "rounds"}`; `peak_memory_bytes` of
        the whole process up to the last call, libraries included; None without latency.
    """
    from tfdfd.models import counting

    model = build(name)
    # First, while the peak includes nothing but the running network.
    score: Any = network_on(runtime, model) if batches else None
    latency = [_latency(score, (size, *model.input_shape[1:]), seconds) for size in batches]
    peak = peak_memory() if batches else None
    return {
        "input": list(model.input_shape[1:]),
        "learned": counting.learned(model),
        "trainable": counting.trainable(model),
        "parameters": counting.total(model),
        "macs": counting.macs(model),
        "thesis_macs": counting.thesis_macs(model),
        "file_bytes": _file_bytes(model),
        "latency": latency,
        "peak_memory_bytes": peak,
    }


def layers_of(name: str) -> list[dict]:
    """Rows of `tfdfd.models.counting.layer_rows` for a network at its published size."""
    from tfdfd.models.counting import layer_rows

    return layer_rows(build(name))


def _latency(score: Callable[[np.ndarray], Any], shape: tuple[int, ...], seconds: float) -> dict[str, Any]:
    crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    score(crops)  # compiles
    times = [_seconds(score, crops)]
    if times[0] < seconds / MIN_ROUNDS:
        times.clear()  # one more warm-up call, where it costs little
    while len(times) < MIN_ROUNDS or (len(times) < MAX_ROUNDS and sum(times) < seconds):
        times.append(_seconds(score, crops))
    return {"batch": shape[0], "seconds": statistics.median(times), "rounds": len(times)}


def _seconds(score: Callable[[np.ndarray], Any], crops: np.ndarray) -> float:
    start_time = time.perf_counter()
    score(crops)
    return time.perf_counter() - start_time


def _file_bytes(model: keras.Model) -> int:
    from tfdfd.weights.saving import save_weights

    with temporary_folder() as folder:
        file = folder / "weights.safetensors"
        save_weights(model, file)
        return file.stat().st_size
