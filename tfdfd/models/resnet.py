"""ResNet-152 (He et al., arXiv:1512.03385) and ResNeXt-101 32x8d (Xie et al., arXiv:1611.05431), one output each.

Both take RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)`, and return P(fake), `(batch, 1)`. S2 fine-tunes them
(tables 5.1 and 5.2).
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import centered, fake_probability, standardized
from tfdfd.models.blocks import freeze as freeze_layers

GROUPS = 32


def resnet152(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    dropout: float = 0.5,
    freeze: str = "thesis",
    name: str = "resnet152",
) -> keras.Model:
    """Keras's ResNet-152, so that its ImageNet weights fit.

    The thesis used torchvision's network. Its convolutions have no bias (75,712 learned parameters fewer), and the
    stride of a stage is in its first 3x3 convolution; Keras has it in the preceding 1x1 convolution.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"thesis"` (the stem and blocks 1 and 2 of 4, called `conv2` and `conv3` here), `"none"`, `"all"`
            (all but the head), or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `freeze` is not one of these.
    """
    image = keras.Input(input_shape, name="image")
    base = keras.applications.ResNet152(include_top=False, weights=None, input_tensor=centered(image))
    x = layers.GlobalAveragePooling2D(name="features")(base.output)  # (batch, 2048)
    return freeze_layers(keras.Model(image, fake_probability(x, dropout), name=name), freeze, thesis="conv3_block8_out")


def resnext101_32x8d(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    dropout: float = 0.5,
    freeze: str = "thesis",
    name: str = "resnext101_32x8d",
) -> keras.Model:
    """torchvision's ResNeXt-101 with 32 groups of 8 channels; 86,744,385 learned parameters.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"thesis"` (the stem and blocks 1 and 2 of 4, called `conv2` and `conv3` here), `"none"`, `"all"`
            (all but the head), or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `freeze` is not one of these.
    """
    image = keras.Input(input_shape, name="image")
    x = _conv_bn(standardized(image), 64, "conv1", kernel=7, strides=2)  # (batch, 112, 112, 64)
    x = layers.ReLU(name="conv1_relu")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)  # (batch, 56, 56, 64)
    x = _stack(x, 256, 3, 1, "conv2")  # (batch, 56, 56, 256)
    x = _stack(x, 512, 4, 2, "conv3")  # (batch, 28, 28, 512)
    x = _stack(x, 1024, 23, 2, "conv4")  # (batch, 14, 14, 1024)
    x = _stack(x, 2048, 3, 2, "conv5")  # (batch, 7, 7, 2048)
    x = layers.GlobalAveragePooling2D(name="features")(x)  # (batch, 2048)
    return freeze_layers(keras.Model(image, fake_probability(x, dropout), name=name), freeze, thesis="conv3_block4_out")


def _stack(x: keras.KerasTensor, filters: int, blocks: int, strides: int, name: str) -> keras.KerasTensor:
    for i in range(1, blocks + 1):
        x = _grouped_residual(x, filters, strides if i == 1 else 1, f"{name}_block{i}", project=i == 1)
    return x


def _grouped_residual(x: keras.KerasTensor, filters: int, strides: int, name: str, project: bool) -> keras.KerasTensor:
    """1x1, grouped 3x3 with the stride, 1x1. At 32x8d the grouped convolution is as wide as the block's output."""
    shortcut = _conv_bn(x, filters, f"{name}_0", strides=strides) if project else x
    y = _conv_bn(x, filters, f"{name}_1")
    y = layers.ReLU(name=f"{name}_1_relu")(y)
    y = _conv_bn(y, filters, f"{name}_2", kernel=3, strides=strides, groups=GROUPS)
    y = layers.ReLU(name=f"{name}_2_relu")(y)
    y = _conv_bn(y, filters, f"{name}_3")
    y = layers.Add(name=f"{name}_add")([y, shortcut])
    return layers.ReLU(name=f"{name}_out")(y)


def _conv_bn(
    x: keras.KerasTensor, filters: int, name: str, kernel: int = 1, strides: int = 1, groups: int = 1
) -> keras.KerasTensor:
    # PyTorch pads both sides equally; with stride 2, "same" pads only the far side.
    if kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        filters,
        kernel,
        strides,
        groups=groups,
        use_bias=False,
        name=f"{name}_conv",
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
