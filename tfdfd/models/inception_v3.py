"""InceptionV3 (Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567) with one output.

RGB faces, float32 in [0, 1], `(batch, 299, 299, 3)` -> P(fake) `(batch, 1)`. This is torchvision's network, which S2
fine-tuned (21,787,617 learned parameters with one output, no auxiliary branch). The norms of
`keras.applications.InceptionV3` have no scale: 17,216 learned parameters fewer (21,770,401), and the same function if
the scale is 1, so Keras's ImageNet weights fit. Average pooling at the border ignores the padding, as in Keras;
torchvision counts the padding as zeros.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import (
    Branch,
    Conv,
    Row,
    average_pool,
    concat_branches,
    fake_probability,
    max_pool,
    run_branch,
    symmetric,
)
from tfdfd.models.blocks import freeze as freeze_layers

_STEM: Branch = (
    Conv(32, 3, 2, "valid"),  # (batch, 149, 149, 32)
    Conv(32, 3, 1, "valid"),
    Conv(64, 3),
    max_pool,  # (batch, 73, 73, 64)
    Conv(80),
    Conv(192, 3, 1, "valid"),
    max_pool,  # (batch, 35, 35, 192)
)


def _block_a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Conv(64),),
        (Conv(48), Conv(64, 5)),
        (Conv(64), Conv(96, 3), Conv(96, 3)),
        (average_pool, Conv(pooled)),
    )


def _block_b(width: int) -> tuple[Branch, ...]:
    return (
        (Conv(192),),
        (Conv(width), Conv(width, (1, 7)), Conv(192, (7, 1))),
        (Conv(width), Conv(width, (7, 1)), Conv(width, (1, 7)), Conv(width, (7, 1)), Conv(192, (1, 7))),
        (average_pool, Conv(192)),
    )


_FORK: Row = [Conv(384, (1, 3)), Conv(384, (3, 1))]
_BLOCK_C: tuple[Branch, ...] = (
    (Conv(320),),
    (Conv(384), _FORK),
    (Conv(448), Conv(384, 3), _FORK),
    (average_pool, Conv(192)),
)
_REDUCTION_A: tuple[Branch, ...] = (
    (Conv(384, 3, 2, "valid"),),
    (Conv(64), Conv(96, 3), Conv(96, 3, 2, "valid")),
    (max_pool,),
)
_REDUCTION_B: tuple[Branch, ...] = (
    (Conv(192), Conv(320, 3, 2, "valid")),
    (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2, "valid")),
    (max_pool,),
)
# In the order of the paper's table 1; the grid is 35 up to the first reduction, then 17, then 8.
_BLOCKS: tuple[tuple[Branch, ...], ...] = (
    *(_block_a(pooled) for pooled in (32, 64, 64)),
    _REDUCTION_A,
    *(_block_b(width) for width in (128, 160, 160, 192)),
    _REDUCTION_B,
    _BLOCK_C,
    _BLOCK_C,
)


def inception_v3(
    input_shape: tuple[int, int, int] = (299, 299, 3),
    dropout: float = 0.5,
    freeze: str = "thesis",
    name: str = "inception_v3",
) -> keras.Model:
    """InceptionV3 with one output.

    Args:
        input_shape: `(height, width, 3)`, both at least 75.
        dropout: share of features dropped before the classifier, in [0, 1).
        freeze: `"thesis"` (the stem's five convolutions, S2 table 5.2), `"none"`, `"all"` (all but the head), or the
            name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `freeze` is not one of these.
    """
    image = keras.Input(input_shape, name="image")
    # "front..." sorts before "mixed...": sorted by name, the layers are in the order in which Keras's network, whose
    # layers are numbered, creates them (`tfdfd.weights.initial`).
    (x,) = run_branch(symmetric(image), _STEM, _conv, "front")
    for i, block in enumerate(_BLOCKS):
        x = concat_branches(x, block, _conv, f"mixed{i}")
    x = layers.GlobalAveragePooling2D(name="features")(x)  # (batch, 2048)
    return freeze_layers(keras.Model(image, fake_probability(x, dropout), name=name), freeze, thesis="front_pool2")


def _conv(
    x: keras.KerasTensor,
    filters: int,
    kernel: int | tuple[int, int] = 1,
    strides: int = 1,
    padding: str = "same",
    *,
    name: str,
) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, strides, padding, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_act")(x)
