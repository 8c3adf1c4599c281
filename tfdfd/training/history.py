"""Training history: the epoch log as CSV, TensorBoard scalars and PNG curves, gradient flow, and the first kernels."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.text import optional_import
from tfdfd.training.optimizers import GradientRecord
from tfdfd.training.run_folder import LOG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOW_TABLE = "gradient_flow.csv"
FLOW_COLUMNS = ("epoch", "layer", "weight", "size", "max", "mean")
_PLOTS = (
    ("loss", ("loss", "val_loss")),
    (
        "accuracy (at 0.5) and AUC",
        ("accuracy", "val_accuracy", "val_video_balanced_accuracy", "val_auc", "val_video_auc"),
    ),
    ("learning rate", ("learning_rate",)),
)
_NAMES = {
    "loss": "training",
    "val_loss": "validation",
    "accuracy": "training accuracy",
    "val_accuracy": "validation accuracy",
    "val_video_balanced_accuracy": "validation balanced accuracy, videos",
    "val_auc": "validation AUC, crops",
    "val_video_auc": "validation AUC, videos",
    "learning_rate": "rate",
}


def write_history(folder: str | os.PathLike, history: list[dict], title: str, curves: bool = True) -> None:
    """Writes all epochs so far as `log.csv`, `tensorboard/` and `curves.png`.

    The files are rewritten each time, so no epoch appears twice after a run was killed and resumed.

    Args:
        folder: run folder.
        history: one row per epoch, or per step where rows have `step`.
        title: title of the curves.
        curves: draw the curves, which can take longer than a short epoch.

    Raises:
        ValueError: matplotlib or tensorboard is not installed.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    names = list(dict.fromkeys(name for row in history for name in row))
    write_atomically(folder / LOG, csv_text(names, history))
    _write_scalars(folder / "tensorboard", history)
    if curves:
        draw_curves(folder, history, title)


class GradientFlow:
    """Writes the gradients that the optimizer of a model has recorded (the data of S2's gradient flow figures).

    Args:
        model: compiled with an optimizer that contains a `GradientRecord` (`make_optimizer(gradient_flow=True)`).

    Raises:
        ValueError: the optimizer contains none.
    """

    def __init__(self, model: keras.Model):
        optimizer = model.optimizer
        while not isinstance(optimizer, GradientRecord):
            if not hasattr(optimizer, "inner_optimizer"):
                raise ValueError(
                    "the gradients of this model are not recorded: compile it with make_optimizer(..., "
                    f"gradient_flow=True); received the optimizer {optimizer and optimizer.name!r}."
                )
            optimizer = optimizer.inner_optimizer
        self._record = optimizer

    def write(self, path: str | os.PathLike, epoch: int) -> None:
        """Appends an epoch to the table at `path`, replacing this epoch and later ones, then clears the recording.

        Call it before the optimizer's variables are saved for the next epoch. A training that is killed in between
        repeats the epoch and writes the same rows.

        Args:
            path: CSV file with one row per weight and epoch: the layer's path, the weight's name, its number of
                elements, and the largest and the mean |g| of the epoch.
            epoch: the epoch that ended, counted from 1.

        Raises:
            ValueError: the file is not such a table.
            OSError: it cannot be written.
        """
        rows = [row for row in _flow_rows(path) if int(row["epoch"]) < epoch] if Path(path).exists() else []
        for (weight, size), largest, mean in zip(self._record.weight_sizes, *self._record.magnitudes(), strict=True):
            layer, _, name = weight.rpartition("/")
            values = (epoch, layer, name, size, f"{largest:.7g}", f"{mean:.7g}")
            rows.append(dict(zip(FLOW_COLUMNS, values, strict=True)))
        write_atomically(path, csv_text(FLOW_COLUMNS, rows))
        self._record.clear()


@dataclass(frozen=True)
class LayerGradients:
    """Gradient flow by layer.

    Attributes:
        layers: paths of the layers, in the network's order.
        epochs: counted from 1, int64 `(epochs,)`.
        largest: the largest |g| of all weights of a layer in an epoch, float64 `(epochs, layers)`.
        mean: the mean |g|, over steps and elements, float64 `(epochs, layers)`.
    """

    layers: tuple[str, ...]
    epochs: np.ndarray
    largest: np.ndarray
    mean: np.ndarray


def read_gradient_flow(path: str | os.PathLike) -> LayerGradients:
    """Reads a table of `GradientFlow`.

    Raises:
        ValueError: the file is not such a table, or contains no epoch.
        OSError: it cannot be read.
    """
    rows = _flow_rows(path)
    layers, epochs = list(dict.fromkeys(row["layer"] for row in rows)), sorted({int(row["epoch"]) for row in rows})
    if not rows:
        raise ValueError(f"{path} contains no epoch yet.")
    cells = [epochs.index(int(row["epoch"])) for row in rows], [layers.index(row["layer"]) for row in rows]
    size, most, mean = (np.array([float(row[name]) for row in rows]) for name in ("size", "max", "mean"))
    largest, total, elements = (np.zeros((len(epochs), len(layers))) for _ in range(3))
    np.maximum.at(largest, cells, most)
    np.add.at(total, cells, size * mean)
    np.add.at(elements, cells, size)
    return LayerGradients(tuple(layers), np.array(epochs), largest, total / elements)


def _flow_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FLOW_COLUMNS:
            raise ValueError(
                f"{path} is not a gradient flow table: expected the columns {', '.join(FLOW_COLUMNS)}; received "
                f"{', '.join(reader.fieldnames or ('none',))}."
            )
        rows = list(reader)
    # Earlier versions counted epochs from 0.
    first = min((int(row["epoch"]) for row in rows), default=1)
    return rows if first else [row | {"epoch": str(int(row["epoch"]) + 1)} for row in rows]


def csv_text(names: Collection[str], rows: Iterable[Mapping]) -> str:
    """Returns rows as CSV with a header and Unix line ends."""
    text = io.StringIO()
    writer: csv.DictWriter = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_scalars(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    with optional_import("TensorBoard logs need tensorboard", "train"):
        from tensorboard.summary import Writer
    partial = folder.with_name(".tensorboard.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    writer = Writer(str(partial))
    for row in history:
        unit = _unit(row)
        for name, value in row.items():
            if name != unit and value is not None:
                writer.add_scalar(name, value, step=row[unit])
    writer.close()
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def draw_curves(folder: Path, history: Sequence[dict[str, Any]], title: str) -> None:
    """Draws `curves.png` as `write_history` does."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, len(_PLOTS), figsize=(15, 4), layout="constrained")
    unit = _unit(history[0])
    positions = [row[unit] for row in history]
    for axis, (heading, names) in zip(axes, _PLOTS, strict=True):
        for name in names:
            values = [row.get(name) for row in history]
            axis.plot(positions, values, label=_NAMES[name], marker=".")
        axis.set(xlabel=unit, title=heading)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[-1].set_yscale("log")
    figure.suptitle(title)
    save_figure(folder / "curves.png", figure)


def load_pyplot(otherwise: str = "") -> ModuleType:
    """Returns `matplotlib.pyplot` with the backend that draws into files; the error for a missing one ends in
    `otherwise`.

    Raises:
        ValueError: matplotlib is not installed.
    """
    with optional_import("plots need matplotlib", "train", otherwise):
        import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Writes a matplotlib figure as PNG and closes it."""
    write_atomically(path, png_of(figure))


def png_of(figure: Figure, **options: Any) -> bytes:
    """Returns a matplotlib figure as PNG and closes it; the options are those of `savefig`."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", **{"dpi": 100} | options)
    load_pyplot().close(figure)
    return picture.getvalue()


def _unit(row: dict[str, Any]) -> str:
    return "step" if "step" in row else "epoch"


_KERNELS = 64


def draw_gradient_flow(path: str | os.PathLike, table: str | os.PathLike) -> None:
    """Writes a PNG of the largest and the mean |gradient| by layer in the first and last epoch (S2, figure 7.1).

    Args:
        path: path of the picture.
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
        path: path of the picture.
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
