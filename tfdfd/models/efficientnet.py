"""EfficientNet-B5 (Tan and Le, arXiv:1905.11946) with one output, fine-tuned as in S2 (Tables 5.1 and 5.2).

RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)` (the thesis's size; the paper trained B5 at 456) -> P(fake)
`(batch, 1)`. Layers and names are those of `keras.applications.EfficientNetB5`, without its normalisation layers,
whose constants are in the scaling here.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, standardised
from tfdfd.models.blocks import freeze as freeze_layers


class Stage(NamedTuple):
    """A line of the paper's table 1."""

    kernel: int
    repeats: int
    filters: int
    expansion: int
    strides: int


# Scaled: width 1.6, depth 2.2.
B5 = (
    Stage(3, 3, 24, 1, 1),  # (batch, 112, 112, 24)
    Stage(3, 5, 40, 6, 2),  # (batch, 56, 56, 40)
    Stage(5, 5, 64, 6, 2),  # (batch, 28, 28, 64)
    Stage(3, 7, 128, 6, 2),  # (batch, 14, 14, 128)
    Stage(5, 7, 176, 6, 1),
    Stage(5, 9, 304, 6, 2),  # (batch, 7, 7, 304)
    Stage(3, 3, 512, 6, 1),
)
# Of whole blocks, growing from none at the first to this at the last (the paper's "survival probability" of 0.8).
DROP_CONNECT = 0.2


def efficientnet_b5(input_shape=(224, 224, 3), dropout=0.4, freeze="thesis", name="efficientnet_b5"):
    """EfficientNet-B5 with one output.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"thesis"` (the stem and blocks 1 to 9, the last being `block3a`; the thesis counts 37 blocks, the
            network has 39), `"none"`, `"all"` (all but the head), or the last frozen layer's name.
        name: name of the model.

    Raises:
        ValueError: `freeze` names nothing.
    """
    image = keras.Input(input_shape, name="image")
    x = _conv_bn(standardised(image), 48, "stem_conv", kernel=3, strides=2, norm="stem_bn")  # (batch, 112, 112, 48)
    x = layers.Activation("swish", name="stem_activation")(x)
    blocks = sum(stage.repeats for stage in B5)
    done = 0
    for i, stage in enumerate(B5, start=1):
        for j in range(stage.repeats):
            strides = stage.strides if j == 0 else 1
            x = _block(x, stage, strides, DROP_CONNECT * done / blocks, f"block{i}{chr(ord('a') + j)}_")
            done += 1
    x = _conv_bn(x, 2048, "top_conv", norm="top_bn")  # (batch, 7, 7, 2048)
    x = layers.Activation("swish", name="top_activation")(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)  # (batch, 2048)
    # block3a changes the shape, so it ends in its projection's norm.
    model = keras.Model(image, fake_probability(x, dropout), name=name)
    return freeze_layers(model, freeze, thesis="block3a_project_bn")


def _block(x, stage, strides, drop, name):
    """A mobile inverted bottleneck with squeeze-and-excitation."""
    y, channels = x, x.shape[-1]
    if stage.expansion != 1:
        y = _conv_bn(y, channels * stage.expansion, f"{name}expand_conv", norm=f"{name}expand_bn")
        y = layers.Activation("swish", name=f"{name}expand_activation")(y)
    y = layers.DepthwiseConv2D(
        stage.kernel, strides, "same", use_bias=False, depthwise_initializer=_initializer(), name=f"{name}dwconv"
    )(y)
    y = layers.BatchNormalization(name=f"{name}bn")(y)
    y = layers.Activation("swish", name=f"{name}activation")(y)
    y = _squeeze_excite(y, max(1, channels // 4), name)
    y = _conv_bn(y, stage.filters, f"{name}project_conv", norm=f"{name}project_bn")
    if strides == 1 and channels == stage.filters:
        if drop:
            y = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(y)
        y = layers.Add(name=f"{name}add")([y, x])
    return y


def _squeeze_excite(x, squeezed, name):
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}se_squeeze")(x)
    for filters, activation, step in ((squeezed, "swish", "reduce"), (x.shape[-1], "sigmoid", "expand")):
        y = layers.Conv2D(
            filters, 1, activation=activation, kernel_initializer=_initializer(), name=f"{name}se_{step}"
        )(y)
    return layers.Multiply(name=f"{name}se_excite")([x, y])


def _conv_bn(x, filters, name, norm, kernel=1, strides=1):
    x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False, kernel_initializer=_initializer(), name=name)(x)
    return layers.BatchNormalization(name=norm)(x)


def _initializer():
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="truncated_normal")
