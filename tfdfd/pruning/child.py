"""The process in which tf_keras and tfmot are: what it is given, and what it says.

A folder of work holds, of what is given, `graph.json`, `dense.safetensors`, `proof.safetensors` and, where it is to be
pruned, `job.json`; of what comes, `state.safetensors` and `best-<epoch>.safetensors` while it is at work, then
`pruned_proof.safetensors` and last `pruned.safetensors`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.log_lines import without_log_lines
from tfdfd.pruning.described import FEATURES, describe
from tfdfd.training import TrainingError
from tfdfd.training.engine import Report
from tfdfd.weights.loading import HEAD
from tfdfd.weights.saving import save_weights

_LIBRARIES = ("tf_keras", "tensorflow_model_optimization")
_END_OF_STDERR = 2000


def check_libraries() -> None:
    """Raises `ValueError` where tf_keras or tfmot are not installed."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"pruning needs {', '.join(missing)}, not installed here: run pip install 'tfdfd[prune]'.")


def give(model: keras.Model, crops: np.ndarray, folder: Path) -> None:
    """Writes a network, and what it answers to the crops of the proof, for the twin.

    Args:
        model: of `tfdfd.models`, with weights.
        crops: float32 in [0, 1], `(n, height, width, 3)`.
        folder: of the work; made where it is not there.

    Raises:
        ValueError: the network has no twin.
    """
    from safetensors.numpy import save

    described = describe(model)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "graph.json", json.dumps(described) + "\n")
    save_weights(model, folder / "dense.safetensors")
    write_atomically(folder / "proof.safetensors", save({"crops": crops} | answers(model, crops)))


def answers(model: keras.Model, crops: np.ndarray) -> dict[str, np.ndarray]:
    """`features` and `fake_probability` of crops, float32."""
    both = keras.Model(model.input, [model.get_layer(FEATURES).output, model.output])
    found = both(crops, training=False)
    return {
        name: np.ascontiguousarray(keras.ops.convert_to_numpy(value))
        for name, value in zip((FEATURES, HEAD), found, strict=True)
    }


def run_twin(folders: Sequence[Path], report: Report) -> list[dict]:
    """Runs the process over folders of work, one after the other.

    Returns:
        What it said besides progress: dicts with `proved` and `apart`, or `done`.

    Raises:
        ValueError: a twin that is not the network, libraries that are missing, or data of no use.
        TrainingError: it cannot go on, or has ended without a word.
    """
    check_libraries()
    told, failure = [], None
    # It must find what this process has found, wherever it was started.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Keras 3 itself, which pipelines bring along there, needs no other backend.
    environment.pop("KERAS_BACKEND", None)
    command = [sys.executable, "-m", "tfdfd.pruning.twin", *map(str, folders)]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=environment, encoding="utf-8"
        ) as child,
    ):
        try:
            for line in child.stdout:
                words = json.loads(line)
                if "step" in words:
                    report.step(**words["step"])
                elif "row" in words:
                    report.epoch(words["row"])
                elif "error" in words:
                    failure = words
                else:
                    told.append(words)
        except BaseException:
            child.kill()
            raise
        code = child.wait()
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - _END_OF_STDERR))
        end = without_log_lines(complaints.read().decode("utf-8", "replace")).strip()
    if failure:
        raise (ValueError if failure["kind"] == "ValueError" else TrainingError)(failure["error"])
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise TrainingError(f"the process that prunes {how}; the last saved state stays. Its last words: {end}")
    return told


def prove(model: keras.Model, crops: np.ndarray, report: Report) -> dict:
    """How far the tf_keras twin of a network is from it, as `tfdfd.pruning.proof.differences` says.

    Raises:
        ValueError: there is no twin, or it is another function.
    """
    with tempfile.TemporaryDirectory() as folder:
        give(model, crops, Path(folder))
        return run_twin([Path(folder)], report)[0]["apart"]
