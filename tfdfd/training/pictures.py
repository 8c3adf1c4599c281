"""Pictures of a run folder beside its curves: gradient flow by layer, and the kernels of the first layer."""

from __future__ import annotations

import io
import os

import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.training.curves import _pyplot
from tfdfd.training.gradient_flow import read_gradient_flow

_KERNELS = 64


def draw_gradient_flow(path: str | os.PathLike, table: str | os.PathLike) -> None:
    """Writes a PNG of the largest and the mean |gradient| of each layer in the first and the last epoch.

    That is figure 7.1 of document S2.

    Args:
        path: of the picture.
        table: `gradient_flow.csv` of a run.
    """
    flow, pyplot = read_gradient_flow(table), _pyplot()
    figure, axes = pyplot.subplots(2, 1, figsize=(15, 9), layout="constrained", sharex=True)
    places = np.arange(len(flow.layers))
    for axis, number, when in zip(axes, (0, -1), ("early", "late"), strict=True):
        # Zeros have no place on a logarithmic axis.
        axis.bar(places, np.maximum(flow.largest[number], 1e-12), color="tab:cyan", label="largest")
        axis.bar(places, np.maximum(flow.mean[number], 1e-12), color="tab:blue", label="mean")
        axis.set(yscale="log", ylabel="|gradient|", title=f"{when}: epoch {flow.epochs[number]}")
        axis.grid(alpha=0.3, axis="y")
        axis.legend()
    axes[-1].set_xticks(places, flow.layers, rotation=90, fontsize=max(3, 8 - len(places) // 30))
    _save(path, figure, pyplot)


def draw_first_kernels(path: str | os.PathLike, model: keras.Model) -> bool:
    """Writes a PNG of the kernels of the first convolution, at most 64, each scaled to its own range.

    Args:
        path: of the picture.
        model: a network; of one without a convolution nothing is written.

    Returns:
        Whether there is a picture.
    """
    layer = next((one for one in model._flatten_layers() if isinstance(one, keras.layers.Conv2D)), None)
    if layer is None:
        return False
    kernels = keras.ops.convert_to_numpy(layer.kernel).transpose(3, 0, 1, 2)[:_KERNELS]
    if kernels.shape[-1] != 3:
        kernels = kernels.mean(axis=-1)
    low, high = (pick(kernels.reshape(len(kernels), -1), axis=1) for pick in (np.min, np.max))
    span = np.maximum(high - low, 1e-12)
    shape = (-1, *[1] * (kernels.ndim - 1))
    scaled = (kernels - low.reshape(shape)) / span.reshape(shape)
    columns = min(len(scaled), 8)
    rows = -(-len(scaled) // columns)
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(rows, columns, figsize=(columns, rows + 0.4), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, kernel in zip(axes.flat, scaled, strict=False):
        axis.imshow(kernel, cmap="gray", interpolation="nearest")
    figure.suptitle(f"kernels of {layer.name}, {layer.kernel.shape[0]}x{layer.kernel.shape[1]}")
    _save(path, figure, pyplot)
    return True


def _save(path, figure, pyplot):
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    pyplot.close(figure)
    write_atomically(path, picture.getvalue())
