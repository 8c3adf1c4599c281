"""EfficientNet-Lite0 (Google, 2020) with one output: EfficientNet-B0 without squeeze-and-excitation, and with ReLU6.

RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)` -> P(fake) `(batch, 1)`. The stages are those of EfficientNet-B0
(Tan and Le, arXiv:1905.11946, table 1); the changes are those of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. What remains are operations that
mobile runtimes support and that can be quantized to 8 bits with little loss.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, lite
from tfdfd.models.blocks import freeze as freeze_layers
from tfdfd.models.efficientnet import Stage

# Not scaled: width 1, depth 1.
LITE0 = (
    Stage(3, 1, 16, 1, 1),  # (batch, 112, 112, 16)
    Stage(3, 2, 24, 6, 2),  # (batch, 56, 56, 24)
    Stage(5, 2, 40, 6, 2),  # (batch, 28, 28, 40)
    Stage(3, 3, 80, 6, 2),  # (batch, 14, 14, 80)
    Stage(5, 3, 112, 6, 1),
    Stage(5, 4, 192, 6, 2),  # (batch, 7, 7, 192)
    Stage(3, 1, 320, 6, 1),
)
STEM, TOP = 32, 1280
# Drop rate of whole blocks (stochastic depth): 0 at the first block, growing linearly towards this after the last.
DROP_CONNECT = 0.2


def efficientnet_lite0(input_shape=(224, 224, 3), dropout=0.2, freeze="none", name="efficientnet_lite0"):
    """EfficientNet-Lite0 with one output.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"none"`, `"all"` (all but the head), or the last frozen layer's name.
        name: name of the model.

    Raises:
        ValueError: `freeze` names nothing.
    """
    image = keras.Input(input_shape, name="image")
    x = _conv_bn(lite(image), STEM, "stem", kernel=3, strides=2)  # (batch, 112, 112, 32)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    blocks = [(stage, stage.strides if j == 0 else 1) for stage in LITE0 for j in range(stage.repeats)]
    for i, (stage, strides) in enumerate(blocks):
        x = _block(x, stage, strides, DROP_CONNECT * i / len(blocks), f"block{i}_")
    x = _conv_bn(x, TOP, "top")  # (batch, 7, 7, 1280)
    x = layers.ReLU(6.0, name="top_relu")(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)  # (batch, 1280)
    return freeze_layers(keras.Model(image, fake_probability(x, dropout), name=name), freeze)


def _block(x, stage, strides, drop, name):
    """A mobile inverted bottleneck."""
    y, channels = x, x.shape[-1]
    if stage.expansion != 1:
        y = _conv_bn(y, channels * stage.expansion, f"{name}expand")
        y = layers.ReLU(6.0, name=f"{name}expand_relu")(y)
    y = layers.DepthwiseConv2D(
        stage.kernel, strides, "same", use_bias=False, depthwise_initializer=_initializer(), name=f"{name}dwconv"
    )(y)
    y = layers.BatchNormalization(epsilon=1e-3, name=f"{name}dw_bn")(y)
    y = layers.ReLU(6.0, name=f"{name}dw_relu")(y)
    y = _conv_bn(y, stage.filters, f"{name}project")
    if strides == 1 and channels == stage.filters:
        y = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(y)
        y = layers.Add(name=f"{name}add")([y, x])
    return y


def _conv_bn(x, filters, name, kernel=1, strides=1):
    x = layers.Conv2D(
        filters, kernel, strides, "same", use_bias=False, kernel_initializer=_initializer(), name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)


def _initializer():
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="truncated_normal")
