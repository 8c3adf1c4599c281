"""InceptionV3 (Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567) with one output.

RGB faces, float32 in [0, 1], `(batch, 299, 299, 3)` -> P(fake) `(batch, 1)`. It is torchvision's network, which S2
fine-tuned (21,787,617 learned parameters with one output, no auxiliary branch). `keras.applications.InceptionV3`
differs in its norms, which have no scale: 17,216 learned parameters fewer (21,770,401), the same function once a scale
is 1, so Keras's ImageNet weights fit. Means at the border are Keras's, over the pixels there are; torchvision's count
the padding as zeros.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import Conv, average_pool, concat_branches, fake_probability, max_pool, run_branch, symmetric
from tfdfd.models.blocks import freeze as freeze_layers

_STEM = (
    Conv(32, 3, 2, "valid"),  # (batch, 149, 149, 32)
    Conv(32, 3, 1, "valid"),
    Conv(64, 3),
    max_pool,  # (batch, 73, 73, 64)
    Conv(80),
    Conv(192, 3, 1, "valid"),
    max_pool,  # (batch, 35, 35, 192)
)


def _block_a(pooled):
    return (
        (Conv(64),),
        (Conv(48), Conv(64, 5)),
        (Conv(64), Conv(96, 3), Conv(96, 3)),
        (average_pool, Conv(pooled)),
    )


def _block_b(width):
    return (
        (Conv(192),),
        (Conv(width), Conv(width, (1, 7)), Conv(192, (7, 1))),
        (Conv(width), Conv(width, (7, 1)), Conv(width, (1, 7)), Conv(width, (7, 1)), Conv(192, (1, 7))),
        (average_pool, Conv(192)),
    )


_FORK = [Conv(384, (1, 3)), Conv(384, (3, 1))]
_BLOCK_C = (
    (Conv(320),),
    (Conv(384), _FORK),
    (Conv(448), Conv(384, 3), _FORK),
    (average_pool, Conv(192)),
)
_REDUCTION_A = (
    (Conv(384, 3, 2, "valid"),),
    (Conv(64), Conv(96, 3), Conv(96, 3, 2, "valid")),
    (max_pool,),
)
_REDUCTION_B = (
    (Conv(192), Conv(320, 3, 2, "valid")),
    (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2, "valid")),
    (max_pool,),
)
# In the order of the paper's table 1; the grid is 35 up to the first reduction, then 17, then 8.
_BLOCKS = (
    *(_block_a(pooled) for pooled in (32, 64, 64)),
    _REDUCTION_A,
    *(_block_b(width) for width in (128, 160, 160, 192)),
    _REDUCTION_B,
    _BLOCK_C,
    _BLOCK_C,
)


def inception_v3(input_shape=(299, 299, 3), dropout=0.5, freeze="thesis", name="inception_v3"):
    """InceptionV3 with one output.

    Args:
        input_shape: `(height, width, 3)`, both at least 75.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"thesis"` (the stem's five convolutions, S2 Table 5.2), `"none"`, `"all"` (all but the head), or the
            last frozen layer's name.
        name: name of the model.

    Raises:
        ValueError: `freeze` names nothing.
    """
    image = keras.Input(input_shape, name="image")
    # "front..." sorts before "mixed...": by their sorted names the layers stand in the order in which Keras's own
    # network, whose names are numbers, creates its layers (`tfdfd.weights.initial`).
    (x,) = run_branch(symmetric(image), _STEM, _conv, "front")
    for i, block in enumerate(_BLOCKS):
        x = concat_branches(x, block, _conv, f"mixed{i}")
    x = layers.GlobalAveragePooling2D(name="features")(x)  # (batch, 2048)
    return freeze_layers(keras.Model(image, fake_probability(x, dropout), name=name), freeze, thesis="front_pool2")


def _conv(x, filters, kernel=1, strides=1, padding="same", *, name):
    x = layers.Conv2D(filters, kernel, strides, padding, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_act")(x)
