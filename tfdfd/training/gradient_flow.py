"""How large the gradients of each weight are, epoch by epoch: the figures behind S2's picture of gradient flow."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfdfd.files import write_atomically
from tfdfd.training.wrapped import WrappedOptimizer

COLUMNS = ("epoch", "layer", "weight", "size", "max", "mean")


@keras.saving.register_keras_serializable(package="tfdfd")
class GradientRecord(WrappedOptimizer):
    """Keeps, for each weight, the largest |g| and the mean |g| of the steps since `clear`; changes nothing.

    Args:
        inner_optimizer: the one that takes the step; see `WrappedOptimizer`. A weight without a gradient counts as 0.
        name: of this optimizer.
    """

    def build(self, variables):
        super().build(variables)
        self.weights_seen = tuple((variable.path, int(np.prod(variable.shape))) for variable in variables)
        count = len(self.weights_seen)
        self._largest = self.add_variable((count,), dtype="float32", name="largest_gradients")
        self._total = self.add_variable((count,), dtype="float32", name="sum_of_mean_gradients")
        self._steps = self.add_variable((), dtype="int32", name="recorded_steps")

    def passed_on(self, gradients):
        sizes = [None if gradient is None else ops.abs(ops.cast(gradient, "float32")) for gradient in gradients]
        largest = ops.stack([ops.zeros(()) if size is None else ops.max(size) for size in sizes])
        mean = ops.stack([ops.zeros(()) if size is None else ops.mean(size) for size in sizes])
        self._largest.assign(ops.maximum(self._largest, largest))
        self._total.assign(self._total + mean)
        self._steps.assign(self._steps + 1)
        return gradients

    def figures(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest and the mean |g| of each weight, float64 `(weights,)`; NaN before the first step."""
        steps = int(ops.convert_to_numpy(self._steps))
        if not steps:
            nothing = np.full(len(self.weights_seen), np.nan)
            return nothing, nothing
        largest, total = (ops.convert_to_numpy(part).astype(np.float64) for part in (self._largest, self._total))
        return largest, total / steps

    def clear(self) -> None:
        """Begins anew, as with each epoch."""
        for variable in (self._largest, self._total, self._steps):
            variable.assign(ops.zeros(variable.shape, variable.dtype))


class GradientFlow:
    """Writes what the optimizer of a model has recorded.

    Args:
        model: compiled with an optimizer that has a `GradientRecord` in it (`make_optimizer(gradient_flow=True)`).

    Raises:
        ValueError: it has none.
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
        """Adds an epoch to the table at `path`, in the place of this epoch and later ones, then begins anew.

        To be called before the optimizer's variables are saved for the next epoch: a training that is killed in between
        goes through the epoch again and writes the same rows.

        Args:
            path: a CSV file, made where there is none: a row for each weight and epoch (counted from 1) with the
                layer's path, the weight's name, its number of elements, and the largest and the mean |g| of the epoch.
            epoch: the one that is over.

        Raises:
            ValueError: the file is no such table.
            OSError: it cannot be written.
        """
        kept = [row for row in _rows(path) if int(row["epoch"]) < epoch] if Path(path).exists() else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        for (weight, size), largest, mean in zip(self._record.weights_seen, *self._record.figures(), strict=True):
            layer, _, name = weight.rpartition("/")
            writer.writerow(
                dict(zip(COLUMNS, (epoch, layer, name, size, f"{largest:.7g}", f"{mean:.7g}"), strict=True))
            )
        write_atomically(path, text.getvalue())
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
    """What `GradientFlow` wrote, for a picture.

    Raises:
        ValueError: the file is no such table, or holds no epoch.
        OSError: it cannot be read.
    """
    rows = _rows(path)
    layers, epochs = list(dict.fromkeys(row["layer"] for row in rows)), sorted({int(row["epoch"]) for row in rows})
    if not rows:
        raise ValueError(f"{path} holds no epoch yet.")
    places = [epochs.index(int(row["epoch"])) for row in rows], [layers.index(row["layer"]) for row in rows]
    size, most, mean = (np.array([float(row[name]) for row in rows]) for name in ("size", "max", "mean"))
    largest, total, elements = (np.zeros((len(epochs), len(layers))) for _ in range(3))
    np.maximum.at(largest, places, most)
    np.add.at(total, places, size * mean)
    np.add.at(elements, places, size)
    return LayerGradients(tuple(layers), np.array(epochs), largest, total / elements)


def _rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path} is no table of gradient flow: expected the columns {', '.join(COLUMNS)}; received "
                f"{', '.join(reader.fieldnames or ('none',))}."
            )
        rows = list(reader)
    # Tables of earlier versions count from 0.
    first = min((int(row["epoch"]) for row in rows), default=1)
    return rows if first else [row | {"epoch": str(int(row["epoch"]) + 1)} for row in rows]
