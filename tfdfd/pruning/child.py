"""Starter of the process with tf_keras and tfmot (`tfdfd.pruning.twin`).

Its work folder has the inputs `graph.json`, `dense.safetensors`, `proof.safetensors` and, for pruning, `job.json`. The
process adds `state.safetensors` and `best-<epoch>.safetensors` while it runs, then `pruned_proof.safetensors` and last
`pruned.safetensors`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfdfd.child_process import PythonProcess
from tfdfd.files import write_atomically
from tfdfd.pruning.graph_spec import FEATURES, describe
from tfdfd.training import TrainingError
from tfdfd.training.engine import Report
from tfdfd.weights.loading import HEAD
from tfdfd.weights.saving import save_weights

_LIBRARIES = ("tf_keras", "tensorflow_model_optimization")
_CODE = "from tfdfd.pruning.twin import main; sys.exit(main(sys.argv[1:]))"


def check_libraries() -> None:
    """Raises `ValueError` if tf_keras or tfmot is not installed."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"pruning needs {', '.join(missing)}: run pip install 'tfdfd[prune]'.")


def write_work(model: keras.Model, crops: np.ndarray, folder: Path) -> None:
    """Writes a network and its answers for the proof crops into a work folder.

    Args:
        model: of `tfdfd.models`, with weights.
        crops: float32 in [0, 1], `(n, height, width, 3)`.
        folder: work folder; made if absent.

    Raises:
        ValueError: the network has no twin.
    """
    from safetensors.numpy import save

    spec = describe(model)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "graph.json", json.dumps(spec) + "\n")
    save_weights(model, folder / "dense.safetensors")
    write_atomically(folder / "proof.safetensors", save({"crops": crops} | answers(model, crops)))


def answers(model: keras.Model, crops: np.ndarray) -> dict[str, np.ndarray]:
    """`features` and `fake_probability` of crops, float32."""
    both = keras.Model(model.input, [model.get_layer(FEATURES).output, model.output])
    values = map(keras.ops.convert_to_numpy, both(crops, training=False))
    return {name: np.ascontiguousarray(value) for name, value in zip((FEATURES, HEAD), values, strict=True)}


def run_twin(folders: Sequence[Path], report: Report) -> list[dict]:
    """Runs the process over work folders, one after the other.

    Returns:
        Its messages other than progress: dicts with `proved` and `apart`, or `done`.

    Raises:
        ValueError: a twin differs from its network, libraries are missing, or the data is invalid.
        TrainingError: it cannot go on, or ended without a message.
    """
    check_libraries()
    answers, failure = [], None
    # Keras 3, which the pipelines import there, must not ask for another backend.
    with PythonProcess(_CODE, *map(str, folders), environment={"KERAS_BACKEND": None}) as child:
        for message in child.messages():
            if "step" in message:
                report.step(**message["step"])
            elif "row" in message:
                report.epoch(message["row"])
            elif "error" in message:
                failure = message
            else:
                answers.append(message)
        code = child.wait()
    if failure:
        raise (ValueError if failure["kind"] == "ValueError" else TrainingError)(failure["error"])
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise TrainingError(f"the pruning process {how}; the last saved state stays. End of its output: {child.errors}")
    return answers
