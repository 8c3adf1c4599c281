"""Training throughput of `meso_inception4` against a twin in PyTorch, in one run.

    python -m benchmarks.training [--torch-python FILE] [--rounds N] [--steps N]

Batches of 32 images of 256 x 256 pixels in memory, Adam at 1e-3, binary cross-entropy. Ours are the steps of
`tfdfd.training.engine.fit` on TensorFlow and on JAX. The twin starts from our weights and runs in both image layouts,
eager and with `torch.compile`. Before timing, the scores and the loss of the first step without dropout must agree; the
loss is computed in float64 (JAX: float32), because float32 sums over the 2 million values of a channel differ by more.
Each way is a process with one thread per core. They alternate, because times on shared machines drift, and the best
turn counts. Bound: on TensorFlow, at least as fast as the fastest PyTorch way.
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

from benchmarks.common import print_table, verdict
from benchmarks.turns import Way
from tfdfd.cost import hardware, hardware_line

BATCH, BATCHES, SIZE = 32, 4, 256
# Images per batch in the steps whose losses are compared; float64 is slow.
COMPARED = 4
BOUND = 1.0
TOLERANCE = 1e-4
OURS, OURS_ON_JAX = "tfdfd, TensorFlow", "tfdfd, JAX"
COMPILED = ", compiled"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch-python", default=sys.executable, metavar="FILE", help="interpreter with torch installed"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps per turn")
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
        """Images per second of each way, and relative to the fastest PyTorch way."""
        rate = {name: BATCH * arguments.steps / of(turn[key] for turn in each) for name, each in turns.items()}
        fastest = max(rate[name] for name in ways if name.startswith("PyTorch"))
        return {name: (rate[name], rate[name] / fastest) for name in ways}

    columns = rates("seconds", min), rates("seconds", statistics.median), rates("processor_seconds", min)
    torch = next(way.info["version"] for name, way in ways.items() if name.startswith("PyTorch"))
    print(f"{hardware_line()}, PyTorch {torch}; batch {BATCH}, {arguments.rounds} rounds of {arguments.steps} steps\n")
    held, rows = columns[0][OURS][1] >= BOUND, []
    for name in ways:
        cells = [text for column in columns for text in (f"{column[name][0]:.1f}", f"{column[name][1]:.2f}")]
        bound = (f">= {BOUND}", verdict(held)) if name == OURS else ("", "")
        rows.append((name, *cells, f"{differences[name]:.0e}", *bound))
    heads = ("images/s, best", "of PyTorch's", "median", "of it", "by processor s", "of it", "loss apart", "bound", "")
    print_table(("way", *heads), rows)
    return 0 if held else 1


def write_inputs(folder: Path) -> None:
    """Writes `weights.npz`, the initial weights; `batches.npz`; and `compared.npz`, a few images of each batch."""
    import keras

    from tfdfd.models import build
    from tfdfd.weights.saving import named_weights

    keras.utils.set_random_seed(0)
    weights = named_weights(build("meso_inception4"))
    np.savez(folder / "weights.npz", **{name: np.asarray(value) for name, value in weights.items()})
    draw = np.random.default_rng(0)
    # Patches, because activations of noise hardly vary and a norm would divide by little more than rounding.
    patches = draw.random((BATCHES, BATCH, 16, 16, 3), np.float32)
    images = patches.repeat(SIZE // 16, axis=2).repeat(SIZE // 16, axis=3)
    labels = draw.integers(0, 2, (BATCHES, BATCH, 1)).astype(np.float32)
    np.savez(folder / "batches.npz", image=images, label=labels)
    np.savez(folder / "compared.npz", image=images[:, :COMPARED], label=labels[:, :COMPARED])


def begin(stack, folder: str, torch_python: str) -> dict[str, Way]:
    """The ways by name, started one after the other, so that none warms up beside another."""
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
            # torch.compile needs a C++ compiler.
            print(f"{name} is left out: {error}", file=sys.stderr)
        else:
            ways[name] = way
    return ways


def compare(ways: dict[str, Way]) -> dict[str, float]:
    """Difference of each way's first loss from ours on TensorFlow.

    Raises:
        RuntimeError: a loss or score differs by more than rounding.
    """
    expected, apart = ways[OURS].info, {}
    for name, way in ways.items():
        scores = np.abs(np.subtract(way.info["scores"], expected["scores"])).max()
        apart[name] = abs(way.info["losses"][0] - expected["losses"][0])
        if not max(scores, apart[name]) <= TOLERANCE:
            raise RuntimeError(
                f"{name} does not train our network: scores differ by {scores:.1e}, losses of the first step by "
                f"{apart[name]:.1e}; expected at most {TOLERANCE}."
            )
    return apart


if __name__ == "__main__":
    raise SystemExit(main())
