"""Meso4 and MesoInception4 (Afchar et al., "MesoNet", WIFS 2018, arXiv:1809.00888, figures 4 and 5).

Both take RGB faces, float32 in [0, 1], `(batch, 256, 256, 3)`, and return P(fake), `(batch, 1)`. Layer sizes follow the
authors' released networks, whose weights load into these graphs one to one. Where the paper's figure and the released
network disagree (the last branch of the first inception block has 2 filters, not 1), the released network is built,
because the published scores were measured with it.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability


def meso4(input_shape: tuple[int, int, int] = (256, 256, 3), dropout: float = 0.5, name: str = "meso4") -> keras.Model:
    """Meso4: four convolution blocks and one hidden layer; 28,073 parameters at the default size.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of values dropped before each of the two dense layers, in [0, 1).
        name: name of the model.
    """
    x = image = keras.Input(input_shape, name="image")
    x = _conv_bn_pool(x, 8, 3, pool_size=2, name="block1")  # (batch, 128, 128, 8)
    x = _conv_bn_pool(x, 8, 5, pool_size=2, name="block2")  # (batch, 64, 64, 8)
    x = _conv_bn_pool(x, 16, 5, pool_size=2, name="block3")  # (batch, 32, 32, 16)
    x = _conv_bn_pool(x, 16, 5, pool_size=4, name="block4")  # (batch, 8, 8, 16)
    x = _hidden(x, dropout)  # (batch, 16)
    return keras.Model(image, fake_probability(x, dropout), name=name)


def meso_inception4(
    input_shape: tuple[int, int, int] = (256, 256, 3), dropout: float = 0.5, name: str = "meso_inception4"
) -> keras.Model:
    """MesoInception4: the first two blocks of Meso4 become dilated inception blocks; 28,725 parameters.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        dropout: share of values dropped before each of the two dense layers, in [0, 1).
        name: name of the model.
    """
    x = image = keras.Input(input_shape, name="image")
    x = _inception(x, (1, 4, 4, 2), name="block1")  # (batch, 128, 128, 11)
    x = _inception(x, (2, 4, 4, 2), name="block2")  # (batch, 64, 64, 12)
    x = _conv_bn_pool(x, 16, 5, pool_size=2, name="block3")  # (batch, 32, 32, 16)
    x = _conv_bn_pool(x, 16, 5, pool_size=4, name="block4")  # (batch, 8, 8, 16)
    x = _hidden(x, dropout)  # (batch, 16)
    return keras.Model(image, fake_probability(x, dropout), name=name)


def _conv_bn_pool(x: keras.KerasTensor, filters: int, kernel_size: int, pool_size: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel_size, padding="same", activation="relu", name=f"{name}_conv")(x)
    return _bn_pool(x, pool_size, name)


def _inception(x: keras.KerasTensor, filters: tuple[int, int, int, int], name: str) -> keras.KerasTensor:
    """A 1x1 branch and three 1x1 -> 3x3 branches with dilation 1, 2 and 3, concatenated."""
    plain, *dilated = filters
    branches = [layers.Conv2D(plain, 1, padding="same", activation="relu", name=f"{name}_branch0_conv")(x)]
    for rate, count in enumerate(dilated, start=1):
        y = layers.Conv2D(count, 1, padding="same", activation="relu", name=f"{name}_branch{rate}_reduce")(x)
        y = layers.Conv2D(
            count, 3, dilation_rate=rate, padding="same", activation="relu", name=f"{name}_branch{rate}_conv"
        )(y)
        branches.append(y)
    return _bn_pool(layers.Concatenate(name=f"{name}_concat")(branches), 2, name)


def _bn_pool(x: keras.KerasTensor, pool_size: int, name: str) -> keras.KerasTensor:
    # The defaults are those of Keras 2.1.5, which the authors used: epsilon 1e-3, momentum 0.99.
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.MaxPooling2D(pool_size, padding="same", name=f"{name}_pool")(x)


def _hidden(x: keras.KerasTensor, dropout: float) -> keras.KerasTensor:
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(dropout, name="flatten_dropout")(x)
    x = layers.Dense(16, name="hidden")(x)
    return layers.LeakyReLU(negative_slope=0.1, name="features")(x)
