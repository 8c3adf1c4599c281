"""Process with tf_keras and tfmot (`tfdfd.pruning.twin`): the specification of the network for it, and its start.

Its work folder has the inputs `graph.json` (layers, calls and names of weights of a functional Keras 3 network),
`dense.safetensors`, `proof.safetensors` and, for pruning, `job.json`. The process adds `state.safetensors` and
`best-<epoch>.safetensors` while it runs, then `pruned_proof.safetensors` and last `pruned.safetensors`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdfd.child_process import PythonProcess
from tfdfd.files import write_atomically
from tfdfd.models.counting import key_of, nodes
from tfdfd.models.svm import RbfSvm
from tfdfd.training import TrainingError
from tfdfd.training.engine import Report
from tfdfd.weights.loading import HEAD
from tfdfd.weights.saving import save_weights

FEATURES = "features"
_CONVOLUTION = ("kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias")
_POOLING = ("pool_size", "strides", "padding")
# Settings that determine the computation, by class. A new class is a row here, and a line in `tfdfd.pruning.twin` if
# tf_keras names it differently.
SETTINGS = {
    "Activation": ("activation",),
    "Add": (),
    "AveragePooling2D": _POOLING,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", "groups", *_CONVOLUTION),
    "Dense": ("units", "activation", "use_bias"),
    "DepthwiseConv2D": ("depth_multiplier", *_CONVOLUTION),
    "Dropout": ("rate", "noise_shape"),
    "Flatten": (),
    "GlobalAveragePooling2D": ("keepdims",),
    "GlobalMaxPooling2D": ("keepdims",),
    "Identity": (),
    "LeakyReLU": ("negative_slope",),
    "MaxPooling2D": _POOLING,
    "Multiply": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "SRM": ("kernels", "combine", "truncate"),
    "SeparableConv2D": ("filters", "depth_multiplier", *_CONVOLUTION),
    "ZeroPadding2D": ("padding",),
}
ACTIVATIONS = ("hard_sigmoid", "hard_silu", "linear", "relu", "relu6", "sigmoid", "silu", "tanh")


def describe(model: keras.Model) -> dict:
    """The specification of a network of one image and one score, as JSON values; nested models are expanded.

    Returns:
        A dict: `input_shape`; `layers`: for each path (`body/conv1`) its `class`, `settings`, and names of `weights`;
        `calls`: in order, each with the path of its `layer`, the numbers of the calls whose outputs it takes (-1: the
        image), and whether it takes them as a list (`joins`); `outputs`: the calls of `features` and
        `fake_probability`.

    Raises:
        ValueError: a layer or setting without a counterpart in tf_keras, or a network of another kind.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"{model.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; expected a network of "
            "tfdfd.models, of one image and one score."
        )
    layers: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    made = {key_of(model.inputs[0]): -1}
    _walk(model, "", made, layers, calls)
    outputs = {FEATURES: made[key_of(model.get_layer(FEATURES).output)], HEAD: made[key_of(model.outputs[0])]}
    return {"input_shape": list(model.input_shape[1:]), "layers": layers, "calls": calls, "outputs": outputs}


def _walk(model: keras.Model, prefix: str, made: dict, layers: dict[str, Any], calls: list) -> None:
    for node in nodes(model):
        operation = node.operation
        sources = [made[key_of(tensor)] for tensor in node.input_tensors]
        if isinstance(operation, keras.Model):
            within = dict(zip(map(key_of, operation.inputs), sources, strict=True))
            _walk(operation, f"{prefix}{operation.name}/", within, layers, calls)
            made |= {
                key_of(tensor): within[key_of(inner)]
                for tensor, inner in zip(node.outputs, operation.outputs, strict=True)
            }
            continue
        path = prefix + operation.name
        layers.setdefault(path, _layer(operation, path))
        calls.append({"layer": path, "sources": sources, "joins": _joins(node, path)})
        made[key_of(node.outputs[0])] = len(calls) - 1


def _joins(node: Any, path: str) -> bool:
    args, kwargs = node.arguments.args, node.arguments.kwargs
    # Keras records `training` at construction, but uses that of the call.
    given = {name: value for name, value in kwargs.items() if value is not None and name != "training"}
    if len(args) != 1 or given or len(node.outputs) != 1:
        raise ValueError(
            f"{path} is called with more than tensors ({given or args[1:]}), which is not possible for its twin."
        )
    return isinstance(args[0], list | tuple)


def _layer(layer: keras.Layer, path: str) -> dict[str, Any]:
    kind = type(layer).__name__
    if isinstance(layer, RbfSvm):
        raise ValueError(
            f"{path} is an SVM, which was fitted on the features of the unpruned network: prune the network without "
            "it, then fit a new SVM."
        )
    if kind not in SETTINGS:
        raise ValueError(f"{path} is a {kind}, which has no twin; there are twins of {', '.join(SETTINGS)}.")
    config = layer.get_config()
    if config.get("data_format", "channels_last") != "channels_last":
        raise ValueError(f"{path} has channels first; pruning takes networks with channels last.")
    settings = {name: config[name] for name in SETTINGS[kind]}
    if settings.get("activation", "linear") not in ACTIVATIONS:
        raise ValueError(
            f"{path} has the activation {settings['activation']!r}, which has no twin; there are twins of "
            f"{', '.join(ACTIVATIONS)}."
        )
    return {
        "class": kind,
        "settings": settings,
        "weights": {weight.name: f"{path}/{weight.name}" for weight in layer.weights},
    }


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
        model: a network of `tfdfd.models`, with weights.
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
