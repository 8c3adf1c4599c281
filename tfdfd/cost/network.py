"""The cost of a network: counts from its graph, size on disk, latency on this machine, memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfdfd.cost.defaults import BATCHES, RUNTIME, SECONDS
from tfdfd.cost.hardware import peak_memory
from tfdfd.cost.process import MeasuringFailed, in_process_of_its_own
from tfdfd.cost.runtime import check_measurable, network_on
from tfdfd.models import build, spec

MIN_ROUNDS, MAX_ROUNDS = 3, 50


def network_costs(
    names: Sequence[str], batches: Sequence[int] = BATCHES, seconds: float = SECONDS, runtime: str = RUNTIME
) -> Iterator[dict]:
    """One dict a network, each measured in a process of its own, as they are done.

    Args:
        names: of `tfdfd.models.list_models()`.
        batches: sizes of the batches that latency is measured at; none for counts alone.
        seconds: time for each latency, which ends earlier after 50 rounds and never before 3.
        runtime: what runs the networks.

    Yields:
        `name` with what `measure` returns; or `name` with `error`, a message.

    Raises:
        ValueError: an unknown name or runtime, or sizes or seconds that are not positive; before anything is measured.
    """
    for name in names:
        spec(name)
    if any(size < 1 for size in batches):
        raise ValueError(f"batches must be at least 1; received {', '.join(map(str, batches))}.")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be a positive number; received {seconds}.")
    check_measurable(runtime)
    return _costs(names, {"batches": list(batches), "seconds": seconds, "runtime": runtime})


def _costs(names, arguments):
    for name in names:
        try:
            found = in_process_of_its_own(f"{__name__}:measure", name=name, **arguments)
        except MeasuringFailed as error:
            found = {"error": str(error)}
        yield {"name": name, **found}


def measure(name: str, batches: Sequence[int], seconds: float, runtime: str) -> dict:
    """Builds the network with random weights, which its cost does not depend on, and measures it in this process.

    Returns:
        `input`: `[height, width, 3]`; `learned`, `trainable` (as frozen by default), `parameters` (all weights);
        `macs` and `thesis_macs` of one image; `file_bytes`: of the weights as safetensors; `latency`: for each batch
        `{"batch", "seconds" (median of a call, from uint8 crops to scores), "rounds"}`; `peak_memory_bytes`: of the
        whole process up to the last call, libraries included; None without latency.
    """
    from tfdfd.models import counting

    model = build(name)
    # First, while the peak holds nothing but the network at work.
    score = network_on(runtime, model) if batches else None
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
    """`tfdfd.models.counting.layer_rows` of a network at its published size."""
    from tfdfd.models.counting import layer_rows

    return layer_rows(build(name))


def _latency(score, shape, seconds):
    crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    score(crops)  # compiles
    times = [_seconds(score, crops)]
    if times[0] < seconds / MIN_ROUNDS:
        times.clear()  # one more to warm up, where it costs little
    while len(times) < MIN_ROUNDS or (len(times) < MAX_ROUNDS and sum(times) < seconds):
        times.append(_seconds(score, crops))
    return {"batch": shape[0], "seconds": statistics.median(times), "rounds": len(times)}


def _seconds(score, crops):
    begun = time.perf_counter()
    score(crops)
    return time.perf_counter() - begun


def _file_bytes(model):
    from tfdfd.weights.saving import save_weights

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.safetensors")
        save_weights(model, file)
        return file.stat().st_size
