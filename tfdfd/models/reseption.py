"""Reseption V1 and V2 (A. Putyra, "DeepFake: algorithms for fake video detection", AGH 2020, chapter 6; S2).

Inception blocks in residual form, without a pooling branch; V2 narrows its branches and maps them back to the width of
the block ("remap"). The tables below follow the author's code (github.com/stygio/DeepFake-Detection, commit
874d045) where the thesis's figures 6.1 to 6.11 are ambiguous: block A has 3x3 kernels, the residual's scale is 1, and
the stem of V2 ends differently.

Both take RGB faces, float32 in [0, 1], `(batch, 299, 299, 3)`, and return P(fake), `(batch, 1)`. Grids: 35 in block A,
17 in B, 8 in C. The author's scaling of pixels is not documented ("normalized"); here it is [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import layers

from tfdfd.models.blocks import Branch, Conv, Row, concat_branches, fake_probability, max_pool, run_branch, symmetric

SLOPE = 0.2


class Plan(NamedTuple):
    """A Reseption network as tables: a block is a tuple of branches, a branch a tuple of rows."""

    stem: Branch
    block_a: tuple[Branch, ...]
    reduction_a: tuple[Branch, ...]
    block_b: tuple[Branch, ...]
    reduction_b: tuple[Branch, ...]
    block_c: tuple[Branch, ...]
    remap: bool


def _stem(*end: Row) -> Branch:
    rows: Branch = (
        Conv(32, 3, 2, "valid"),
        Conv(32, 3, 1, "valid"),
        Conv(64, 3),
        max_pool,
        Conv(80),
    )  # 149, 147, 147, 73, 73
    return (*rows, *end)  # 71, 35


def _block_b(first: int, width: int) -> tuple[Branch, ...]:
    return (
        (Conv(first),),
        (Conv(width), Conv(width, (1, 7)), Conv(width, (7, 1))),
        (Conv(width), Conv(width, (7, 1)), Conv(width, (1, 7)), Conv(width, (7, 1)), Conv(width, (1, 7))),
    )


def _block_c(first: int, reduced: int, square: int, line: int) -> tuple[Branch, ...]:
    fork: Row = [Conv(line, (1, 3)), Conv(line, (3, 1))]
    return ((Conv(first),), (Conv(reduced), fork), (Conv(reduced), Conv(square, 3), fork))


def _reduction_a(direct: int) -> tuple[Branch, ...]:
    return (
        (Conv(direct, 3, 2, "valid"),),
        (Conv(128), Conv(128, 3), Conv(224, 3, 2, "valid")),
        (max_pool,),
    )


def _reduction_b(a: int, b: int, c: int, d: int, e: int, f: int) -> tuple[Branch, ...]:
    return (
        (Conv(a), Conv(b, 3, 2, "valid")),
        (Conv(c), Conv(d, (1, 7)), Conv(e, (7, 1)), Conv(f, 3, 2, "valid")),
        (max_pool,),
    )


V1 = Plan(
    stem=_stem(Conv(192, 3, 1, "valid"), max_pool),
    block_a=((Conv(64),), (Conv(48), Conv(64, 3)), (Conv(48), Conv(64, 3), Conv(64, 3))),
    reduction_a=_reduction_a(224),
    block_b=_block_b(256, 192),
    reduction_b=_reduction_b(192, 320, 192, 192, 256, 320),
    block_c=_block_c(640, 256, 320, 160),
    remap=False,
)
V2 = Plan(
    stem=_stem(Conv(160, 3, 1, "valid"), Conv(224, 3, 2, "valid")),
    block_a=((Conv(32),), (Conv(32), Conv(32, 3)), (Conv(32), Conv(32, 3), Conv(48, 3))),
    reduction_a=_reduction_a(336),
    block_b=_block_b(128, 128),
    reduction_b=_reduction_b(256, 392, 256, 256, 320, 392),
    block_c=_block_c(192, 192, 192, 128),
    remap=True,
)


def reseption_v1(
    input_shape: tuple[int, int, int] = (299, 299, 3), dropout: float = 0.2, name: str = "reseption_v1"
) -> keras.Model:
    """Reseption V1: branches concatenated to the block's width; 16,888,257 learned parameters.

    Args:
        input_shape: `(height, width, 3)`, both at least 75.
        dropout: share of features dropped before the classifier, in [0, 1).
        name: name of the model.
    """
    return _reseption(V1, input_shape, dropout, name)


def reseption_v2(
    input_shape: tuple[int, int, int] = (299, 299, 3), dropout: float = 0.2, name: str = "reseption_v2"
) -> keras.Model:
    """Reseption V2: narrow branches, mapped back to the block's width; 15,751,233 learned parameters.

    Args:
        input_shape: `(height, width, 3)`, both at least 75.
        dropout: share of features dropped before the classifier, in [0, 1).
        name: name of the model.
    """
    return _reseption(V2, input_shape, dropout, name)


def xavier() -> keras.initializers.Initializer:
    """Xavier initialization of the thesis (section 7.1.1): untruncated normal, gain sqrt(2 / (1 + slope^2))."""
    return keras.initializers.VarianceScaling(2 / (1 + SLOPE**2), mode="fan_avg", distribution="untruncated_normal")


def bias_of(fan_in: int) -> keras.initializers.Initializer:
    """PyTorch's default initializer for the bias of a dense layer with `fan_in` inputs, which the author used."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def _reseption(plan: Plan, input_shape: tuple[int, int, int], dropout: float, name: str) -> keras.Model:
    image = keras.Input(input_shape, name="image")
    (x,) = run_branch(symmetric(image), plan.stem, _conv, "stem")  # (batch, 35, 35, 192 or 224)
    for i in range(1, 4):
        x = _residual(x, plan.block_a, plan.remap, f"a{i}")
    x = concat_branches(x, plan.reduction_a, _conv, "reduction_a")  # (batch, 17, 17, 640 or 784)
    for i in range(1, 5):
        x = _residual(x, plan.block_b, plan.remap, f"b{i}")
    x = concat_branches(x, plan.reduction_b, _conv, "reduction_b")  # (batch, 8, 8, 1280 or 1568)
    for i in range(1, 3):
        x = _residual(x, plan.block_c, plan.remap, f"c{i}")
    x = layers.GlobalAveragePooling2D(name="features")(x)  # (batch, 1280 or 1568)
    output = fake_probability(x, dropout, kernel_initializer=xavier(), bias_initializer=bias_of(x.shape[-1]))
    return keras.Model(image, output, name=name)


def _residual(x: keras.KerasTensor, branches: tuple[Branch, ...], remap: bool, name: str) -> keras.KerasTensor:
    y = concat_branches(x, branches, _conv, name)
    if remap:
        y = _conv(y, x.shape[-1], name=f"{name}_remap")
    y = layers.Add(name=f"{name}_add")([y, x])
    return layers.LeakyReLU(SLOPE, name=f"{name}_out")(y)


def _conv(
    x: keras.KerasTensor,
    filters: int,
    kernel: int | tuple[int, int] = 1,
    strides: int = 1,
    padding: str = "same",
    *,
    name: str,
) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, strides, padding, use_bias=False, kernel_initializer=xavier(), name=name)(x)
    # PyTorch's default momentum of 0.1 corresponds to 0.9 in Keras.
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.LeakyReLU(SLOPE, name=f"{name}_act")(x)
