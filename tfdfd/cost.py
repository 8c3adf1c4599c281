"""Cost of networks on this machine, measured now: latency, CPU time and cycles, memory, size on disk, and S0's savings.

Cycles are counted by Linux's `perf stat`, and each measurement has a process of its own. The module is light to import,
since parsers of the command line need its constants.

S0 is Wang and Wu, "Lighten the Face Forgery Detection Network by using MobileNet"; its Table 3 gives the CPU cycles
that MobileNetV3 and its reductions R1, R2, R3 need less than MesoInception4 to score 1,000 images.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.files import temporary_folder
from tfdfd.log_lines import without_log_lines
from tfdfd.models import build, spec
from tfdfd.process import import_quickly
from tfdfd.runtime import RUNTIMES, TENSORFLOW, check_runtime

if TYPE_CHECKING:
    import subprocess

    import keras
    import numpy as np

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
    import_quickly()
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


MIN_ROUNDS, MAX_ROUNDS = 3, 50


def network_costs(
    names: Sequence[str], batches: Sequence[int] = BATCHES, seconds: float = SECONDS, runtime: str = RUNTIME
) -> Iterator[dict]:
    """Yields one dict per network, each measured in a process of its own.

    Args:
        names: names from `tfdfd.models.list_models()`.
        batches: batch sizes at which latency is measured; none gives counts alone.
        seconds: duration of each latency measurement, which takes at least 3 and at most 50 rounds.
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
    from tfdfd.runtime.networks import network_on

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
    import numpy as np

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


REFERENCE = "meso_inception4"
# Percent of the reference's cycles.
PAPER_SAVES = {"mobilenet_v3": 6.78, "mobilenet_v3_r1": 19.56, "mobilenet_v3_r2": 23.75, "mobilenet_v3_r3": 29.44}
NETWORKS = (REFERENCE, *PAPER_SAVES)
TEXTURE = 512


def rounds_of(
    names: Sequence[str], images: int = IMAGES, batch: int = BATCH, rounds: int = ROUNDS, runtime: str = RUNTIME
) -> Iterator[dict]:
    """Yields one dict per network and round, each from a process of its own. The networks alternate, so that drift
    affects all of them.

    Yields:
        `name`, `round` (from 1) and the keys of `measure_scoring`; or `name`, `round` and `error`, a message.

    Raises:
        ValueError: a name or runtime is unknown, or a count is below 1; before any measurement.
    """
    for name in names:
        spec(name)
    for option, value in {"images": images, "batch": batch, "rounds": rounds}.items():
        if value < 1:
            raise ValueError(f"{option} must be at least 1; received {value}.")
    check_measurable(runtime)
    arguments = {"images": images, "batch": batch, "runtime": runtime, "cycles": why_no_cycles() is None}
    return _rounds(names, rounds, arguments)


def _rounds(names: Sequence[str], rounds: int, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for number in range(1, rounds + 1):
        for name in names:
            start_time = time.perf_counter()
            try:
                result = run_isolated(f"{__name__}:measure_scoring", name=name, **arguments)
                result["start_wall_s"] = time.perf_counter() - start_time - result["wall_s"]
            except MeasurementError as error:
                result = {"error": str(error)}
            yield {"name": name, "round": number, **result}


def measure_scoring(name: str, images: int, batch: int, runtime: str, cycles: bool) -> dict:
    """Scores the images in this process with random weights (seeded), which do not affect the cost.

    The measurement covers the steps from uint8 crops at the network's size to P(fake): gathering a batch, scaling it to
    [0, 1], the network. It excludes the start of Python and TensorFlow, building, converting, compiling, and the
    generation of the images.

    Returns:
        `user_s` and `system_s`, CPU time of all threads; `wall_s`; `cycles`, or None; `start_cpu_s`, CPU time before;
        `peak_memory_bytes` of the whole process, libraries included.
    """
    import keras

    from tfdfd.runtime.networks import network_on

    keras.utils.set_random_seed(0)
    model = build(name)
    score = network_on(runtime, model)
    crops = Crops(images, *model.input_shape[1:3])
    for size in {min(batch, images), images % batch or batch}:  # the last batch may be smaller
        for _ in range(2):
            score(crops.batch(0, size))
    result = {}

    def work() -> None:
        user, system = cpu_seconds()
        result["start_cpu_s"] = user + system
        start_time = time.perf_counter()
        for start in range(0, images, batch):
            score(crops.batch(start, min(start + batch, images)))
        result["wall_s"] = time.perf_counter() - start_time
        result["user_s"], result["system_s"] = (
            now - then for now, then in zip(cpu_seconds(), (user, system), strict=True)
        )

    if cycles:
        counted = count_cycles(work)
    else:
        counted = None
        work()
    return {**result, "cycles": counted, "peak_memory_bytes": peak_memory()}


class Crops:
    """Images that share the memory of one texture: windows of it, at the same relative positions at every size."""

    def __init__(self, count: int, height: int, width: int):
        import numpy as np

        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (TEXTURE // 16, TEXTURE // 16, 3))
        fine = rng.integers(-32, 33, (TEXTURE, TEXTURE, 3))
        texture = np.clip(coarse.repeat(16, 0).repeat(16, 1) + fine, 0, 255).astype(np.uint8)
        # A window is half the texture's side: the nearest pixel of the texture for each of twice the image's.
        rows, columns = (np.arange(2 * side) * TEXTURE // (2 * side) for side in (height, width))
        self._texture = texture[rows][:, columns]
        self._size = height, width
        self._corners = (rng.random((count, 2)) * (height, width)).astype(int)

    def batch(self, start: int, stop: int) -> np.ndarray:
        """Images `start` to `stop`, uint8 `(n, height, width, 3)`."""
        height, width = self._size
        import numpy as np

        return np.stack([self._texture[y : y + height, x : x + width] for y, x in self._corners[start:stop]])


def compare(measured: Sequence[dict]) -> list[dict]:
    """The best round of each network by CPU time, with its savings relative to the first network.

    Args:
        measured: the dicts of `rounds_of`, or some of them.

    Returns:
        One dict per network in order of appearance: `name`, and `cpu_s` and the keys of `measure_scoring` of its best
        round; `saves_cpu` and `saves_cycles`, percent of the first network's (None if unknown); `paper_saves`, the
        paper's percent of cycles, or None; `holds`, whether the savings reach the paper's (by cycles if they are
        counted, else by CPU time), or None if there is nothing to compare. A network without a round: `name` and
        `error`.
    """
    best: dict[str, list[dict]] = {}
    for row in measured:
        rounds = best.setdefault(row["name"], [])
        rounds.append(row)
    result = [_best(name, rounds) for name, rounds in best.items()]
    return [_against(row, result[0]) for row in result]


def _best(name: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    done = [row | {"cpu_s": row["user_s"] + row["system_s"]} for row in rounds if "error" not in row]
    if not done:
        return {"name": name, "error": rounds[0]["error"]}
    best = min(done, key=lambda row: row["cpu_s"])
    return {key: value for key, value in best.items() if key != "round"} | {"rounds": len(done)}


def _against(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    if "error" in row:
        return row
    saves_cpu = saves_cycles = None
    if row is not first and "error" not in first:
        saves_cpu = 100 * (1 - row["cpu_s"] / first["cpu_s"])
        if row["cycles"] and first["cycles"]:
            saves_cycles = 100 * (1 - row["cycles"] / first["cycles"])
    paper = PAPER_SAVES.get(row["name"]) if first["name"] == REFERENCE else None
    ours = saves_cpu if saves_cycles is None else saves_cycles
    holds = None if paper is None or ours is None else ours >= paper
    return row | {"saves_cpu": saves_cpu, "saves_cycles": saves_cycles, "paper_saves": paper, "holds": holds}
