"""Weights to a safetensors file: arrays by name and nothing else, half the size of Keras's HDF5 for a small network."""

from __future__ import annotations

import os

import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.weights.compact import compact


def save_weights(model: keras.Model, path: str | os.PathLike, form: str = "float32") -> None:
    """Writes all weights of `model`, each under `<layer>/<weight>`; `load_weights` reads them back by these names.

    Args:
        model: a network of ours.
        path: of the file.
        form: `float32`, or smaller: `float16` or `int8`, see `tfdfd.weights.compact`.

    Raises:
        ValueError: two weights have one name, which layers named by hand rule out; or the form cannot hold a weight.
    """
    from safetensors.numpy import save

    # (`ascontiguousarray` would make arrays of single numbers.)
    arrays = {name: np.array(value.numpy(), order="C") for name, value in named_weights(model).items()}
    write_atomically(path, save(compact(arrays, form)))


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """The model's variables by `<layer>/<weight>`, such as `block1_conv/kernel`; those of a model inside it by
    `<model>/<layer>/<weight>`.

    Raises:
        ValueError: two weights have one name.
    """
    pairs = list(_named(model, ""))
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{model.name} has several weights named {', '.join(twice)}; give each layer its own name.")
    return dict(pairs)


def _named(model, prefix):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _named(layer, f"{prefix}{layer.name}/")
        else:
            yield from ((f"{prefix}{layer.name}/{weight.name}", weight) for weight in layer.weights)
