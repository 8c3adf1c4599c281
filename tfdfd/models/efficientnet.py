"""EfficientNet-B5 (Tan and Le, arXiv:1905.11946) and EfficientNet-Lite0 (Google, 2020) with one output.

Both take RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)`, and return P(fake), `(batch, 1)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, lite, standardized
from tfdfd.models.blocks import freeze as freeze_layers


class Stage(NamedTuple):
    """A row of the paper's table 1."""

    kernel: int
    repeats: int
    filters: int
    expansion: int
    strides: int


class Plan(NamedTuple):
    """An EfficientNet as tables.

    Attributes:
        stem: filters of the first convolution.
        stages: rows of the paper's table 1, scaled.
        top: filters of the last convolution.
        activation: makes an activation layer from the prefix of its name.
        depthwise: name of the depthwise convolution's norm and activation, after the block's prefix.
        squeeze: whether blocks have squeeze-and-excitation.
        letters: whether blocks are named by stage and letter (`block2a_`) or numbered (`block1_`).
    """

    stem: int
    stages: tuple[Stage, ...]
    top: int
    activation: Callable[[str], layers.Layer]
    depthwise: str
    squeeze: bool
    letters: bool


B5 = Plan(
    stem=48,
    # Scaled by width 1.6 and depth 2.2.
    stages=(
        Stage(3, 3, 24, 1, 1),  # (batch, 112, 112, 24)
        Stage(3, 5, 40, 6, 2),  # (batch, 56, 56, 40)
        Stage(5, 5, 64, 6, 2),  # (batch, 28, 28, 64)
        Stage(3, 7, 128, 6, 2),  # (batch, 14, 14, 128)
        Stage(5, 7, 176, 6, 1),
        Stage(5, 9, 304, 6, 2),  # (batch, 7, 7, 304)
        Stage(3, 3, 512, 6, 1),
    ),
    top=2048,
    activation=lambda name: layers.Activation("swish", name=f"{name}activation"),
    depthwise="",
    squeeze=True,
    letters=True,
)
LITE0 = Plan(
    stem=32,
    # Not scaled: width 1, depth 1.
    stages=(
        Stage(3, 1, 16, 1, 1),  # (batch, 112, 112, 16)
        Stage(3, 2, 24, 6, 2),  # (batch, 56, 56, 24)
        Stage(5, 2, 40, 6, 2),  # (batch, 28, 28, 40)
        Stage(3, 3, 80, 6, 2),  # (batch, 14, 14, 80)
        Stage(5, 3, 112, 6, 1),
        Stage(5, 4, 192, 6, 2),  # (batch, 7, 7, 192)
        Stage(3, 1, 320, 6, 1),
    ),
    top=1280,
    activation=lambda name: layers.ReLU(6.0, name=f"{name}relu"),
    depthwise="dw_",
    squeeze=False,
    letters=False,
)
# Drop rate of whole blocks (stochastic depth): 0 at the first block, growing linearly toward this value at the last
# (the paper's "survival probability" of 0.8).
DROP_CONNECT = 0.2


def efficientnet_b5(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    dropout: float = 0.4,
    freeze: str = "thesis",
    name: str = "efficientnet_b5",
) -> keras.Model:
    """EfficientNet-B5 with one output, fine-tuned as in S2 (tables 5.1 and 5.2).

    Layers and names are those of `keras.applications.EfficientNetB5` except its normalization layers, whose constants
    are in the scaling here. The default size is that of the thesis; the paper trained B5 at 456 pixels.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"thesis"` (the stem and blocks 1 to 9, the last being `block3a`; the thesis counts 37 blocks, the
            network has 39), `"none"`, `"all"` (all but the head), or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `freeze` is not one of these.
    """
    image = keras.Input(input_shape, name="image")
    x = _body(standardized(image), B5)  # (batch, 2048)
    # block3a changes the shape, so it ends in its projection's norm.
    model = keras.Model(image, fake_probability(x, dropout), name=name)
    return freeze_layers(model, freeze, thesis="block3a_project_bn")


def efficientnet_lite0(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    dropout: float = 0.2,
    freeze: str = "none",
    name: str = "efficientnet_lite0",
) -> keras.Model:
    """EfficientNet-Lite0 with one output: EfficientNet-B0 without squeeze-and-excitation and with ReLU6.

    The changes are those of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Mobile
    runtimes support all remaining operations, and 8-bit quantization loses little.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"none"`, `"all"` (all but the head), or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `freeze` is not one of these.
    """
    image = keras.Input(input_shape, name="image")
    x = _body(lite(image), LITE0)  # (batch, 1280)
    return freeze_layers(keras.Model(image, fake_probability(x, dropout), name=name), freeze)


def _body(x: keras.KerasTensor, plan: Plan) -> keras.KerasTensor:
    """From the scaled image to the layer `features`, `(batch, plan.top)`."""
    x = _conv_bn(x, plan.stem, "stem_", kernel=3, strides=2)  # (batch, 112, 112, plan.stem)
    x = plan.activation("stem_")(x)
    blocks = [(i, j, stage) for i, stage in enumerate(plan.stages, start=1) for j in range(stage.repeats)]
    for number, (i, j, stage) in enumerate(blocks):
        strides = stage.strides if j == 0 else 1
        name = f"block{i}{chr(ord('a') + j)}_" if plan.letters else f"block{number}_"
        x = _block(x, stage, strides, DROP_CONNECT * number / len(blocks), plan, name)
    x = _conv_bn(x, plan.top, "top_")  # (batch, 7, 7, plan.top)
    x = plan.activation("top_")(x)
    return layers.GlobalAveragePooling2D(name="features")(x)


def _block(x: keras.KerasTensor, stage: Stage, strides: int, drop: float, plan: Plan, name: str) -> keras.KerasTensor:
    """A mobile inverted bottleneck, with squeeze-and-excitation if the plan has it."""
    y, channels = x, x.shape[-1]
    if stage.expansion != 1:
        y = _conv_bn(y, channels * stage.expansion, f"{name}expand_")
        y = plan.activation(f"{name}expand_")(y)
    y = layers.DepthwiseConv2D(
        stage.kernel, strides, "same", use_bias=False, depthwise_initializer=_initializer(), name=f"{name}dwconv"
    )(y)
    y = layers.BatchNormalization(name=f"{name}{plan.depthwise}bn")(y)
    y = plan.activation(f"{name}{plan.depthwise}")(y)
    if plan.squeeze:
        y = _squeeze_excite(y, max(1, channels // 4), name)
    y = _conv_bn(y, stage.filters, f"{name}project_")
    if strides == 1 and channels == stage.filters:
        if drop:
            y = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(y)
        y = layers.Add(name=f"{name}add")([y, x])
    return y


def _squeeze_excite(x: keras.KerasTensor, squeezed: int, name: str) -> keras.KerasTensor:
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}se_squeeze")(x)
    for filters, activation, step in ((squeezed, "swish", "reduce"), (x.shape[-1], "sigmoid", "expand")):
        y = layers.Conv2D(
            filters, 1, activation=activation, kernel_initializer=_initializer(), name=f"{name}se_{step}"
        )(y)
    return layers.Multiply(name=f"{name}se_excite")([x, y])


def _conv_bn(x: keras.KerasTensor, filters: int, name: str, kernel: int = 1, strides: int = 1) -> keras.KerasTensor:
    x = layers.Conv2D(
        filters, kernel, strides, "same", use_bias=False, kernel_initializer=_initializer(), name=f"{name}conv"
    )(x)
    return layers.BatchNormalization(name=f"{name}bn")(x)


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="truncated_normal")
