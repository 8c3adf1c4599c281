"""Parts shared by the networks: input scaling, Inception-style branches, the head, copies of bodies, freezing.

Scaling maps RGB in [0, 1] to the range a network was trained on. It is part of the network, so no caller needs to know
a mean. A branch is a tuple of rows, an Inception-style block a tuple of branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import layers

from tfdfd.text import did_you_mean

# ImageNet, RGB in [0, 1]; and the means in [0, 255] that Caffe's networks subtract, in RGB order.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
# CLIP's training images, RGB in [0, 1] (Radford et al., arXiv:2103.00020, released code).
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def symmetric(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB in [0, 1] -> [-1, 1] (TensorFlow's networks)."""
    return layers.Rescaling(2.0, offset=-1.0, name="scaling")(image)


def standardized(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB in [0, 1] -> zero mean and unit variance over ImageNet (PyTorch's networks, EfficientNet)."""
    return _standardized(image, _MEAN, _STD)


def standardized_for_clip(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB in [0, 1] -> zero mean and unit variance over CLIP's images."""
    return _standardized(image, _CLIP_MEAN, _CLIP_STD)


def centered(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB in [0, 1] -> [0, 255] minus ImageNet's mean (Caffe's networks).

    These networks expect BGR. The channels keep their order here; `tfdfd.weights.initial` reverses the first kernel.
    """
    return layers.Rescaling(255.0, offset=[-mean for mean in _CAFFE_MEAN], name="scaling")(image)


def lite(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB in [0, 1] -> (255 x - 127) / 128, in [-0.993, 1] (EfficientNet-Lite)."""
    return layers.Rescaling(255 / 128, offset=-127 / 128, name="scaling")(image)


def _standardized(image: keras.KerasTensor, means: Sequence[float], deviations: Sequence[float]) -> keras.KerasTensor:
    offset = [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)]
    return layers.Rescaling([1 / deviation for deviation in deviations], offset=offset, name="scaling")(image)


class Conv(NamedTuple):
    """One convolution of a branch; `kernel` is a side or `(height, width)`."""

    filters: int
    kernel: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "same"


Row = Conv | Callable[..., Any] | list[Conv]
Branch = tuple[Row, ...]


def max_pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Max pooling, 3x3, stride 2, no padding."""
    return layers.MaxPooling2D(3, strides=2, name=name)(x)


def average_pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Average pooling, 3x3, stride 1; at the border, padding does not count."""
    return layers.AveragePooling2D(3, strides=1, padding="same", name=name)(x)


def run_branch(
    x: keras.KerasTensor, rows: Branch, conv: Callable[..., keras.KerasTensor], name: str
) -> list[keras.KerasTensor]:
    """The outputs of one branch: one, or several if its last row is a list.

    Args:
        x: `(batch, height, width, channels)`.
        rows: each a `Conv`, a function `(x, name=...) -> x`, or, at the end, a list of `Conv` side by side.
        conv: `(x, *row, name=...) -> x`, the network's convolution with its norm, activation and initializer.
        name: prefix of the layer names: `<name>_conv<n>`, in a list `<name>_conv<n>a`, `...b`; `<name>_pool<n>`.
    """
    number = pools = 0
    for row in rows:
        if callable(row):
            pools += 1
            x = row(x, name=f"{name}_pool{pools}")
            continue
        number += 1
        if isinstance(row, list):
            return [conv(x, *part, name=f"{name}_conv{number}{chr(ord('a') + i)}") for i, part in enumerate(row)]
        x = conv(x, *row, name=f"{name}_conv{number}")
    return [x]


def concat_branches(
    x: keras.KerasTensor, branches: Sequence[Branch], conv: Callable[..., keras.KerasTensor], name: str
) -> keras.KerasTensor:
    """The outputs of all branches of `x`, concatenated in the given order."""
    outputs = [
        output
        for number, rows in enumerate(branches, start=1)
        for output in run_branch(x, rows, conv, f"{name}_branch{number}")
    ]
    return layers.Concatenate(name=f"{name}_concat")(outputs)


def fake_probability(features: keras.KerasTensor, dropout: float = 0.0, **initializers: Any) -> keras.KerasTensor:
    """`(batch, n)` features -> P(fake), `(batch, 1)` in [0, 1], 1 = fake.

    The output stays float32 under mixed precision, because a half-precision sigmoid loses the small probabilities at
    which operating points are set.

    Args:
        features: `(batch, n)`.
        dropout: share of features dropped in training, in [0, 1).
        **initializers: `kernel_initializer`, `bias_initializer`.
    """
    if dropout:
        features = layers.Dropout(dropout, name="head_dropout")(features)
    return layers.Dense(1, activation="sigmoid", dtype="float32", name="fake_probability", **initializers)(features)


def copy_body(model: keras.Model, name: str) -> keras.Model:
    """A copy of `model` from its image to its layer `features`, weights included; `model` is not changed.

    Raises:
        ValueError: `model` has no layer `features`.
    """
    if "features" not in {layer.name for layer in model.layers}:
        raise ValueError(
            f"{model.name}, given as {name}, has no layer 'features'; give a network of tfdfd.models.build."
        )
    body = keras.Model(model.input, model.get_layer("features").output, name=name)
    copied = keras.models.clone_model(body)
    copied.set_weights(body.get_weights())
    return copied


def freeze(model: keras.Model, until: str, thesis: str | None = None, kernels: tuple[str, ...] = ()) -> keras.Model:
    """Freezes a part of `model` and returns `model`.

    A frozen norm keeps its statistics. (In the thesis, `requires_grad` alone froze them, and PyTorch's norms then keep
    updating their statistics.)

    Args:
        model: a network with a layer `features`.
        until: `"none"`; `"all"`, everything up to `features`, so that only the head trains; `"thesis"`, what S2 freezes
            (table 5.2); `"kernels"`, only the layers `kernels`; or the name of a layer, which is frozen with everything
            it depends on.
        thesis: name of the last layer frozen in S2's table 5.2; None for a network that is not in it.
        kernels: names of the layers that `"kernels"` freezes entirely; empty for a network without that choice. (In
            layers with kernel and bias, the builder freezes the kernel.)

    Raises:
        ValueError: `until` is not one of these; the message suggests similar names.
    """
    choices: dict[str, str | None] = (
        {"none": None, "all": "features"}
        | ({"thesis": thesis} if thesis else {})
        | ({"kernels": None} if kernels else {})
    )
    names = [layer.name for layer in model.layers]
    if until not in choices and until not in names:
        hint = did_you_mean(until, [*choices, *names], otherwise="it is none of them.")
        raise ValueError(
            f"{model.name} can be frozen as {', '.join(choices)}, or up to a layer by name; received {until!r}; {hint}"
        )
    if kernels and until == "kernels":
        for name in kernels:
            model.get_layer(name).trainable = False
    last = choices.get(until, until)
    if last is not None:
        for layer in keras.Model(model.input, model.get_layer(last).output).layers:
            layer.trainable = False
    return model
