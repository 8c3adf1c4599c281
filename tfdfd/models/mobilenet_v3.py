"""MobileNetV3-Small (Howard et al., arXiv:1905.02244, table 2), and slimmed as in S0 ("R1" to "R3").

RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)` -> P(fake) `(batch, 1)`. Layers, names and rounding are those of
`keras.applications.MobileNetV3Small`. S0 says how many blocks it removed, not which: here from the end, and only such
as leave the shapes around them as they are (stride 1, as many channels out as in), so that the rest still fits.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, symmetric


class Row(NamedTuple):
    """A line of the paper's table: an inverted residual."""

    number: int
    kernel: int
    expanded: int
    filters: int
    squeeze: bool
    activation: str
    strides: int


ROWS = (
    Row(0, 3, 16, 16, True, "relu", 2),  # (batch, 56, 56, 16)
    Row(1, 3, 72, 24, False, "relu", 2),  # (batch, 28, 28, 24)
    Row(2, 3, 88, 24, False, "relu", 1),
    Row(3, 5, 96, 40, True, "hard_swish", 2),  # (batch, 14, 14, 40)
    Row(4, 5, 240, 40, True, "hard_swish", 1),
    Row(5, 5, 240, 40, True, "hard_swish", 1),
    Row(6, 5, 120, 48, True, "hard_swish", 1),
    Row(7, 5, 144, 48, True, "hard_swish", 1),
    Row(8, 5, 288, 96, True, "hard_swish", 2),  # (batch, 7, 7, 96)
    Row(9, 5, 576, 96, True, "hard_swish", 1),
    Row(10, 5, 576, 96, True, "hard_swish", 1),
)


def mobilenet_v3(input_shape=(224, 224, 3), rows=ROWS, dropout=0.2, name="mobilenet_v3"):
    """MobileNetV3-Small with one output.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        rows: the inverted residuals, in order.
        dropout: share of features dropped before the classifier, in [0, 1).
        name: name of the model.
    """
    image = keras.Input(input_shape, name="image")
    x = _conv_bn(symmetric(image), 16, "conv", kernel=3, strides=2)  # (batch, 112, 112, 16)
    x = layers.Activation("hard_swish", name="conv_act")(x)
    for row in rows:
        x = _inverted_residual(x, row)
    x = _conv_bn(x, 576, "conv_1")  # (batch, 7, 7, 576)
    x = layers.Activation("hard_swish", name="conv_1_act")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
    x = layers.Conv2D(1024, 1, activation="hard_swish", name="conv_2")(x)
    x = layers.Flatten(name="features")(x)  # (batch, 1024)
    return keras.Model(image, fake_probability(x, dropout), name=name)


def mobilenet_v3_r1(input_shape=(224, 224, 3), dropout=0.2, name="mobilenet_v3_r1"):
    """MobileNetV3-Small without its last removable inverted residual (row 10)."""
    return mobilenet_v3(input_shape, slimmed(1), dropout, name)


def mobilenet_v3_r2(input_shape=(224, 224, 3), dropout=0.2, name="mobilenet_v3_r2"):
    """MobileNetV3-Small without its last two removable inverted residuals (rows 9 and 10)."""
    return mobilenet_v3(input_shape, slimmed(2), dropout, name)


def mobilenet_v3_r3(input_shape=(224, 224, 3), dropout=0.2, name="mobilenet_v3_r3"):
    """MobileNetV3-Small without its last three removable inverted residuals (rows 7, 9 and 10)."""
    return mobilenet_v3(input_shape, slimmed(3), dropout, name)


def slimmed(count: int) -> tuple[Row, ...]:
    """The rows without the last `count` of those whose input and output agree in shape.

    Raises:
        ValueError: there are not as many.
    """
    removable = [
        row for before, row in zip(ROWS, ROWS[1:], strict=False) if row.strides == 1 and row.filters == before.filters
    ]
    if not 0 <= count <= len(removable):
        raise ValueError(f"between 0 and {len(removable)} inverted residuals can be removed; received {count!r}.")
    removed = removable[len(removable) - count :]
    return tuple(row for row in ROWS if row not in removed)


def _inverted_residual(x, row):
    name = f"expanded_conv_{row.number}" if row.number else "expanded_conv"
    y = x
    # The paper's first row expands 16 channels to 16: there is nothing to expand.
    if row.expanded != x.shape[-1] or row.number:
        y = _conv_bn(y, row.expanded, f"{name}_expand")
        y = layers.Activation(row.activation, name=f"{name}_expand_act")(y)
    y = _depthwise_bn(y, row, name)
    y = layers.Activation(row.activation, name=f"{name}_depthwise_act")(y)
    if row.squeeze:
        y = _squeeze_excite(y, f"{name}_squeeze_excite")
    y = _conv_bn(y, row.filters, f"{name}_project")
    if row.strides == 1 and x.shape[-1] == row.filters:
        y = layers.Add(name=f"{name}_add")([y, x])
    return y


def _squeeze_excite(x, name):
    """A weight in [0, 1] for each channel, from the channels' means."""
    channels = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_avg_pool")(x)
    y = layers.Conv2D(_divisible(channels / 4), 1, activation="relu", name=f"{name}_conv")(y)
    y = layers.Conv2D(channels, 1, activation="hard_sigmoid", name=f"{name}_conv_1")(y)
    return layers.Multiply(name=f"{name}_mul")([x, y])


def _divisible(channels):
    """The nearest multiple of 8 that is not more than a tenth below (the paper's reference code)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv_bn(x, filters, name, kernel=1, strides=1):
    x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name=f"{name}_bn")(x)


def _depthwise_bn(x, row, name):
    x = layers.DepthwiseConv2D(row.kernel, row.strides, "same", use_bias=False, name=f"{name}_depthwise")(x)
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name=f"{name}_depthwise_bn")(x)
