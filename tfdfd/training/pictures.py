"""Pictures of a run folder beside its curves: gradient flow by layer, and the kernels of the first layer."""

from __future__ import annotations

import os

import keras
import numpy as np

from tfdfd.training.history import load_pyplot, read_gradient_flow, save_figure

_KERNELS = 64


def draw_gradient_flow(path: str | os.PathLike, table: str | os.PathLike) -> None:
    """Writes a PNG of the largest and the mean |gradient| by layer in the first and last epoch (S2, figure 7.1).

    Args:
        path: of the picture.
        table: `gradient_flow.csv` of a run.
    """
    flow = read_gradient_flow(table)
    figure, axes = load_pyplot().subplots(2, 1, figsize=(15, 9), layout="constrained", sharex=True)
    positions = np.arange(len(flow.layers))
    for axis, number, when in zip(axes, (0, -1), ("early", "late"), strict=True):
        # Zeros have no place on a logarithmic axis.
        axis.bar(positions, np.maximum(flow.largest[number], 1e-12), color="tab:cyan", label="largest")
        axis.bar(positions, np.maximum(flow.mean[number], 1e-12), color="tab:blue", label="mean")
        axis.set(yscale="log", ylabel="|gradient|", title=f"{when}: epoch {flow.epochs[number]}")
        axis.grid(alpha=0.3, axis="y")
        axis.legend()
    axes[-1].set_xticks(positions, flow.layers, rotation=90, fontsize=max(3, 8 - len(positions) // 30))
    save_figure(path, figure)


def draw_first_kernels(path: str | os.PathLike, model: keras.Model) -> bool:
    """Writes a PNG of the kernels of the first convolution, at most 64, each scaled to its own range.

    Args:
        path: of the picture.
        model: a network; without a convolution, nothing is written.

    Returns:
        Whether the picture was written.
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
    size = (columns, rows + 0.4)
    figure, axes = load_pyplot().subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, kernel in zip(axes.flat, scaled, strict=False):
        axis.imshow(kernel, cmap="gray", interpolation="nearest")
    figure.suptitle(f"kernels of {layer.name}, {layer.kernel.shape[0]}x{layer.kernel.shape[1]}")
    save_figure(path, figure)
    return True
