"""Inception-style blocks as data: a branch is a tuple of rows, a block a tuple of branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from keras import layers


class Conv(NamedTuple):
    """One convolution of a branch. `kernel` is a side or `(height, width)`; `valid` padding is none at all."""

    filters: int
    kernel: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "same"


def max_pool(x, name):
    """3x3, stride 2, no padding."""
    return layers.MaxPooling2D(3, strides=2, name=name)(x)


def average_pool(x, name):
    """3x3, stride 1; a mean at the border is taken over the pixels there are."""
    return layers.AveragePooling2D(3, strides=1, padding="same", name=name)(x)


def run_branch(x, rows, conv: Callable, name: str) -> list:
    """The outputs of one branch.

    Args:
        x: `(batch, height, width, channels)`.
        rows: each a `Conv`, a function `(x, name=...) -> x`, or, at the end, a list of `Conv` side by side.
        conv: `(x, *row, name=...) -> x`, the convolution as the network has it (norm, activation, initialiser).
        name: prefix: `<name>_conv<n>`, of parallel rows `<name>_conv<n>a` and `...b`; `<name>_pool<n>`.
    """
    number = pools = 0
    for row in rows:
        if callable(row):
            pools += 1
            x = row(x, name=f"{name}_pool{pools}")
            continue
        number += 1
        if isinstance(row, list):
            return [conv(x, *part, name=f"{name}_conv{number}{chr(ord('a') + i)}") for i, part in enumerate(row)]
        x = conv(x, *row, name=f"{name}_conv{number}")
    return [x]


def concat_branches(x, branches, conv: Callable, name: str):
    """All branches of `x`, side by side in the order given."""
    outputs = [
        output
        for number, rows in enumerate(branches, start=1)
        for output in run_branch(x, rows, conv, f"{name}_branch{number}")
    ]
    return layers.Concatenate(name=f"{name}_concat")(outputs)
