"""MobileNetV3-Small (Howard et al., arXiv:1905.02244, table 2) and its slimmed variants R1 to R3 (S0).

RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)` -> P(fake) `(batch, 1)`. Layers, names and rounding are those of
`keras.applications.MobileNetV3Small`. S0 states how many blocks it removed, not which. Here they are removed from the
end, and only those whose input and output shapes agree (stride 1, same channels), so the remaining blocks still fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, symmetric


class Row(NamedTuple):
    """A row of the paper's table: an inverted residual."""

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


def mobilenet_v3(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    rows: Sequence[Row] = ROWS,
    dropout: float = 0.2,
    name: str = "mobilenet_v3",
) -> keras.Model:
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


def mobilenet_v3_r1(
    input_shape: tuple[int, int, int] = (224, 224, 3), dropout: float = 0.2, name: str = "mobilenet_v3_r1"
) -> keras.Model:
    """MobileNetV3-Small without its last removable inverted residual (row 10)."""
    return mobilenet_v3(input_shape, slimmed(1), dropout, name)


def mobilenet_v3_r2(
    input_shape: tuple[int, int, int] = (224, 224, 3), dropout: float = 0.2, name: str = "mobilenet_v3_r2"
) -> keras.Model:
    """MobileNetV3-Small without its last two removable inverted residuals (rows 9 and 10)."""
    return mobilenet_v3(input_shape, slimmed(2), dropout, name)


def mobilenet_v3_r3(
    input_shape: tuple[int, int, int] = (224, 224, 3), dropout: float = 0.2, name: str = "mobilenet_v3_r3"
) -> keras.Model:
    """MobileNetV3-Small without its last three removable inverted residuals (rows 7, 9 and 10)."""
    return mobilenet_v3(input_shape, slimmed(3), dropout, name)


def slimmed(count: int) -> tuple[Row, ...]:
    """`ROWS` without the last `count` of the rows whose input and output shapes agree.

    Raises:
        ValueError: `count` is negative or larger than the number of such rows.
    """
    removable = [
        row for before, row in zip(ROWS, ROWS[1:], strict=False) if row.strides == 1 and row.filters == before.filters
    ]
    if not 0 <= count <= len(removable):
        raise ValueError(f"between 0 and {len(removable)} inverted residuals can be removed; received {count!r}.")
    removed = removable[len(removable) - count :]
    return tuple(row for row in ROWS if row not in removed)


def omitted_rows(name: str) -> tuple[int, ...]:
    """Returns the numbers of the rows that `mobilenet_v3_r1`, `_r2` or `_r3` lacks."""
    kept = slimmed(int(name.removeprefix("mobilenet_v3_r")))
    return tuple(row.number for row in ROWS if row not in kept)


def _inverted_residual(x: keras.KerasTensor, row: Row) -> keras.KerasTensor:
    name = f"expanded_conv_{row.number}" if row.number else "expanded_conv"
    y = x
    # The paper's first row expands 16 channels to 16: no expansion.
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


def _squeeze_excite(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Scales each channel by a weight in [0, 1] that depends on the means of all channels."""
    channels = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_avg_pool")(x)
    y = layers.Conv2D(_divisible(channels / 4), 1, activation="relu", name=f"{name}_conv")(y)
    y = layers.Conv2D(channels, 1, activation="hard_sigmoid", name=f"{name}_conv_1")(y)
    return layers.Multiply(name=f"{name}_mul")([x, y])


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that is at most 10 % smaller (the paper's reference code)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv_bn(x: keras.KerasTensor, filters: int, name: str, kernel: int = 1, strides: int = 1) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name=f"{name}_bn")(x)


def _depthwise_bn(x: keras.KerasTensor, row: Row, name: str) -> keras.KerasTensor:
    x = layers.DepthwiseConv2D(row.kernel, row.strides, "same", use_bias=False, name=f"{name}_depthwise")(x)
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name=f"{name}_depthwise_bn")(x)
