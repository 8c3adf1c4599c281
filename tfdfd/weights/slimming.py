"""A slimmed MobileNetV3 begun with the weights of the whole one: R1 to R3 are it without some of its rows.

The rows that go are inverted residuals whose input and output agree in shape, so that every other layer is there under
the same name with the same shapes, and its weights are taken as they are. What the rows did is lost: the network is a
start for training, and its scores mean nothing before.
"""

from __future__ import annotations

import re
from pathlib import Path

import keras

from tfdfd.weights.records import WeightRecord
from tfdfd.weights.saving import named_weights
from tfdfd.weights.store import locate

PREFIX = "slim:"
WHOLE = "mobilenet_v3"
SLIMMED = tuple(f"{WHOLE}_r{count}" for count in (1, 2, 3))
_ROW = re.compile(r"expanded_conv_(\d+)_")


def whole_of(network: str, weights: str) -> tuple[WeightRecord, Path]:
    """Record and file of the whole network that `slim:MODEL` names: a handle, a file or the folder of a run.

    Raises:
        ValueError: `network` is not slimmed of `mobilenet_v3`, or MODEL is absent, altered, or of another network.
    """
    if network not in SLIMMED:
        raise ValueError(f"weights={PREFIX}MODEL begins {', '.join(SLIMMED)}; received {weights} for {network}.")
    record, path = locate(weights.removeprefix(PREFIX))
    if record.model != WHOLE:
        raise ValueError(f"{weights} holds weights of {record.model}; {network} is slimmed of {WHOLE}.")
    return record, path


def take_over(slimmed: keras.Model, whole: keras.Model) -> tuple[int, tuple[str, ...]]:
    """Fills every weight of `slimmed` with that of the same layer of `whole`.

    Args:
        slimmed: one of `SLIMMED`, for images of any size.
        whole: `mobilenet_v3` with its weights, for images of any size.

    Returns:
        How many weights were taken, and the numbers of the rows that were left out.

    Raises:
        ValueError: a weight is not in `whole`, or has another shape there; then nothing was taken.
    """
    wanted, there = named_weights(slimmed), named_weights(whole)
    for name, weight in wanted.items():
        found = tuple(there[name].shape) if name in there else "none"
        if found != tuple(weight.shape):
            raise ValueError(
                f"{slimmed.name} is not slimmed of {whole.name}: {name} has the shape {tuple(weight.shape)}, and there "
                f"it is {found}."
            )
    for name, weight in wanted.items():
        weight.assign(there[name])
    left_out = {int(row[1]) for name in there.keys() - wanted.keys() if (row := _ROW.match(name))}
    return len(wanted), tuple(sorted(left_out))
