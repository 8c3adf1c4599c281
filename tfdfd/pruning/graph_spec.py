"""Graph specification of a functional Keras 3 network: layers, calls and names of weights, as JSON data."""

from __future__ import annotations

from typing import Any

import keras

from tfdfd.models.counting import key_of, nodes
from tfdfd.models.svm import RbfSvm
from tfdfd.weights.loading import HEAD

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
    layers: dict[str, Any]
    calls: list[dict[str, Any]]
    layers, calls = {}, []
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
