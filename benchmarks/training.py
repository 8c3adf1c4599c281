"""Training `meso_inception4`, images a second, against a twin in PyTorch, in one run, with the hardware.

    python -m benchmarks.training [--torch-python FILE] [--rounds N] [--steps N]

Batches of 32 images of 256 x 256 pixels that are in memory, Adam at 1e-3, the binary cross-entropy. Ours are the steps
of `tfdfd.training.engine.fit`, on TensorFlow and on JAX. The twin begins with our weights, and is tried in both layouts
of images, as it is and through `torch.compile`. Before anything is timed, scores must agree, and the loss of the first
step without dropout. That is computed in float64 (JAX: float32), since sums of float32 over the 2 million values of a
channel differ by more. Each way is a process with a thread for each core. They take turns, since times on shared
machines drift, and each counts by its best one. The bound is the project's: on TensorFlow, at least as fast as
PyTorch's fastest way.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.turns import Way
from tfdfd.cost import hardware, hardware_line

BATCH, BATCHES, SIZE = 32, 4, 256
# Images of a batch in the steps whose losses are compared; float64 takes its time.
COMPARED = 4
BOUND = 1.0
TOLERANCE = 1e-4
OURS, OURS_ON_JAX = "tfdfd, TensorFlow", "tfdfd, JAX"
COMPILED = ", compiled"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable, metavar="FILE", help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    arguments = parser.parse_args(argv)
    if subprocess.run([arguments.torch_python, "-c", "import torch, numpy"], capture_output=True).returncode:
        parser.error(f"{arguments.torch_python} has no PyTorch to compare with: pip install 'tfdfd[bench]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        write_inputs(Path(folder))
        ways = begin(stack, folder, arguments.torch_python)
        differences = compare(ways)
        turns = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                turns[name].append(way.turn(arguments.steps))

    def rates(key, of):
        """Images a second of each way, and as parts of PyTorch's fastest."""
        rate = {name: BATCH * arguments.steps / of(turn[key] for turn in each) for name, each in turns.items()}
        fastest = max(rate[name] for name in ways if name.startswith("PyTorch"))
        return {name: (rate[name], rate[name] / fastest) for name in ways}

    columns = rates("seconds", min), rates("seconds", statistics.median), rates("processor_seconds", min)
    torch = next(way.told["version"] for name, way in ways.items() if name.startswith("PyTorch"))
    print(f"{hardware_line()}, PyTorch {torch}; batch {BATCH}, {arguments.rounds} rounds of {arguments.steps} steps\n")
    print("| way | images/s, best | of PyTorch's | median | of it | by processor s | of it | loss apart | bound | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    held = columns[0][OURS][1] >= BOUND
    for name in ways:
        figures = (f"{rate:.1f} | {part:.2f}" for rate, part in (column[name] for column in columns))
        bound = f">= {BOUND} | {'ok' if held else 'MISSED'}" if name == OURS else " | "
        print(f"| {name} | {' | '.join(figures)} | {differences[name]:.0e} | {bound} |")
    return 0 if held else 1


def write_inputs(folder: Path) -> None:
    """`weights.npz`, which all begin with; `batches.npz`, and `compared.npz`, a few images of each."""
    import keras

    from tfdfd.models import build
    from tfdfd.weights.saving import named_weights

    keras.utils.set_random_seed(0)
    weights = named_weights(build("meso_inception4"))
    np.savez(folder / "weights.npz", **{name: np.asarray(value) for name, value in weights.items()})
    draw = np.random.default_rng(0)
    # Patches: the activations of noise hardly vary, and a norm then divides by little more than rounding.
    patches = draw.random((BATCHES, BATCH, 16, 16, 3), np.float32)
    images = patches.repeat(SIZE // 16, axis=2).repeat(SIZE // 16, axis=3)
    labels = draw.integers(0, 2, (BATCHES, BATCH, 1)).astype(np.float32)
    np.savez(folder / "batches.npz", image=images, label=labels)
    np.savez(folder / "compared.npz", image=images[:, :COMPARED], label=labels[:, :COMPARED])


def begin(stack, folder: str, torch_python: str) -> dict[str, Way]:
    """The ways by name, ready; one after the other, so that none warms up while another one does."""
    ours = [sys.executable, "-m", "benchmarks.keras_training", folder]
    planned = {OURS: (ours, {"KERAS_BACKEND": "tensorflow"}), OURS_ON_JAX: (ours, {"KERAS_BACKEND": "jax"})}
    for compiled in ("", COMPILED):
        for layout in ("NCHW", "NHWC"):
            twin = [torch_python, "-m", "benchmarks.torch_twin", folder, layout, str(hardware()["cores"])]
            twin += ["--compile"] if compiled else []
            planned[f"PyTorch, {layout}{compiled}"] = twin, {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    ways = {}
    for name, (command, environment) in planned.items():
        way = stack.enter_context(Way(command, os.environ | environment))
        try:
            way.ready()
        except RuntimeError as error:
            if not name.endswith(COMPILED):
                raise
            # It needs a compiler of C++.
            print(f"{name}, is not in it: {error}", file=sys.stderr)
        else:
            ways[name] = way
    return ways


def compare(ways: dict[str, Way]) -> dict[str, float]:
    """How far the first loss of each way is from ours on TensorFlow.

    Raises:
        RuntimeError: it, or a score, is further than rounding goes.
    """
    expected, apart = ways[OURS].told, {}
    for name, way in ways.items():
        scores = np.abs(np.subtract(way.told["scores"], expected["scores"])).max()
        apart[name] = abs(way.told["losses"][0] - expected["losses"][0])
        if not max(scores, apart[name]) <= TOLERANCE:
            raise RuntimeError(
                f"{name} trains another network than ours: scores are {scores:.1e} apart, losses of the first step "
                f"{apart[name]:.1e}; {TOLERANCE} is rounding."
            )
    return apart


if __name__ == "__main__":
    raise SystemExit(main())
