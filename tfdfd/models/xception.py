"""Xception (Chollet, arXiv:1610.02357, figure 5) with one output, fine-tuned as in S2 (tables 5.1 and 5.2).

RGB faces, float32 in [0, 1], `(batch, 299, 299, 3)` -> P(fake) `(batch, 1)`. Layers and names are those of
`keras.applications.Xception`, which leaves only the four shortcuts unnamed; here they have names, too.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, symmetric
from tfdfd.models.blocks import freeze as freeze_layers


def xception(
    input_shape: tuple[int, int, int] = (299, 299, 3),
    dropout: float = 0.5,
    freeze: str = "thesis",
    name: str = "xception",
) -> keras.Model:
    """Xception with one output.

    Args:
        input_shape: `(height, width, 3)`, both at least 71.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"thesis"` (the stem's two convolutions and blocks 1 to 3 of 12, called `block1` to `block4` here),
            `"none"`, `"all"` (all but the head), or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `freeze` is not one of these.
    """
    image = keras.Input(input_shape, name="image")
    x = _conv_bn_relu(symmetric(image), 32, 2, "block1_conv1")  # (batch, 149, 149, 32)
    x = _conv_bn_relu(x, 64, 1, "block1_conv2")  # (batch, 147, 147, 64)
    x = _shrinking(x, (128, 128), "block2", relu_first=False)  # (batch, 74, 74, 128)
    x = _shrinking(x, (256, 256), "block3")  # (batch, 37, 37, 256)
    x = _shrinking(x, (728, 728), "block4")  # (batch, 19, 19, 728)
    for i in range(5, 13):
        y = x
        for j in range(1, 4):
            y = _relu_separable(y, 728, f"block{i}_sepconv{j}")
        x = layers.Add(name=f"block{i}_add")([y, x])
    x = _shrinking(x, (728, 1024), "block13")  # (batch, 10, 10, 1024)
    for j, filters in enumerate((1536, 2048), start=1):
        x = _separable(x, filters, f"block14_sepconv{j}")
        x = layers.ReLU(name=f"block14_sepconv{j}_act")(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)  # (batch, 2048)
    return freeze_layers(keras.Model(image, fake_probability(x, dropout), name=name), freeze, thesis="block4_add")


def _shrinking(x: keras.KerasTensor, filters: tuple[int, int], name: str, relu_first: bool = True) -> keras.KerasTensor:
    """Two separable convolutions and a pool, beside a strided 1x1 convolution."""
    shortcut = layers.Conv2D(filters[-1], 1, 2, "same", use_bias=False, name=f"{name}_shortcut_conv")(x)
    shortcut = layers.BatchNormalization(name=f"{name}_shortcut_bn")(shortcut)
    y = x
    for j, count in enumerate(filters, start=1):
        step = _relu_separable if relu_first or j > 1 else _separable
        y = step(y, count, f"{name}_sepconv{j}")
    y = layers.MaxPooling2D(3, 2, "same", name=f"{name}_pool")(y)
    return layers.Add(name=f"{name}_add")([y, shortcut])


def _relu_separable(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    return _separable(layers.ReLU(name=f"{name}_act")(x), filters, name)


def _separable(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def _conv_bn_relu(x: keras.KerasTensor, filters: int, strides: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(filters, 3, strides, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_act")(x)
