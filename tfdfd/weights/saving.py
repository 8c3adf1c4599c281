"""Weights to a safetensors file: arrays by name and nothing else, half the size of Keras's HDF5 for a small network."""

from __future__ import annotations

import os

import keras
import numpy as np

from tfdfd.files import write_atomically


def save_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes all weights of `model`, each under `<layer>/<weight>`; `load_weights` reads them back by these names.

    Raises:
        ValueError: two weights have one name, which layers named by hand rule out.
    """
    from safetensors.numpy import save

    arrays = named_weights(model)
    write_atomically(path, save({name: np.ascontiguousarray(value.numpy()) for name, value in arrays.items()}))


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """The model's variables by `<layer>/<weight>`, such as `block1_conv/kernel`."""
    names = [f"{layer.name}/{weight.name}" for layer in model.layers for weight in layer.weights]
    weights = [weight for layer in model.layers for weight in layer.weights]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{model.name} has several weights named {', '.join(twice)}; give each layer its own name.")
    return dict(zip(names, weights, strict=True))
