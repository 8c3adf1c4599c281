"""Weights as safetensors files: float32, or compact with kernels as float16 or as int8 with a scale per channel.

A file contains arrays by name and nothing else. Its arrays determine the form:

    NAME          float16   a rounded kernel
    NAME          int8      a kernel divided by its scale and rounded, from -127 to 127
    NAME.scale    float32   scale of NAME, with the kernel's number of axes; an axis is 1 if its numbers share the scale

All other arrays are float32: biases and the parameters of norms are few, and an error in a variance affects every
output. A network is to be evaluated with the weights after `expand`, not with those before `compact`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdfd.files import write_atomically

if TYPE_CHECKING:
    import keras

FORMS = ("float32", "float16", "int8")
SCALE = ".scale"
_KERNEL = "kernel"
_LARGEST = 127
# In smaller kernels, scales outweigh the savings of int8, and errors matter most (the single channel of a last layer).
_MIN_VALUES, _MIN_A_CHANNEL = 4096, 32
# Largest error relative to the largest number of a kernel; float16 rounds numbers below 2^-14 by more than 2^-11.
_MAX_ERROR = 2.0**-10


def save_weights(model: keras.Model, path: str | os.PathLike, form: str = "float32") -> None:
    """Writes all weights of `model` by the names `<layer>/<weight>`, which `load_weights` reads.

    Args:
        model: a network of `tfdfd.models`.
        path: path of the file.
        form: `float32`, `float16` or `int8`, see `compact`.

    Raises:
        ValueError: two weights have one name, or the form cannot store a weight.
    """
    from safetensors.numpy import save

    # (`ascontiguousarray` would turn scalars into arrays of one element.)
    arrays = {name: np.array(value.numpy(), order="C") for name, value in named_weights(model).items()}
    write_atomically(path, save(compact(arrays, form)))


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the model's variables by `<layer>/<weight>`, such as `block1_conv/kernel`.

    Variables of a nested model have the name `<model>/<layer>/<weight>`.

    Raises:
        ValueError: two weights have one name.
    """
    pairs = list(_named(model, ""))
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{model.name} has several weights named {', '.join(twice)}; give each layer its own name.")
    return dict(pairs)


def _named(model: keras.Model, prefix: str) -> Iterator[tuple[str, Any]]:
    import keras  # here, so that files are read without it

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _named(layer, f"{prefix}{layer.name}/")
        else:
            yield from ((f"{prefix}{layer.name}/{weight.name}", weight) for weight in layer.weights)


def compact(arrays: dict[str, np.ndarray], form: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a network in a storage form.

    `expand` restores a number of a float16 kernel within 2^-11 of its value, or within 2^-25 if that is larger; a
    number of an int8 kernel within 1/254 of the largest of its channel.

    Args:
        arrays: arrays by `<layer>/<weight>`. Names ending in `kernel` are kernels, whose last axis is that of outputs
            (or the one before, if it is 1 in a depthwise kernel).
        form: `float32` (unchanged), `float16`, or `int8`, which stores kernels of fewer than 4,096 numbers, or of fewer
            than 32 per channel, as float16.

    Raises:
        ValueError: the form is unknown, or cannot store a kernel: numbers above 65,504 or not finite, or all so small
            that float16 rounds them by more than 2^-10 of the largest.
    """
    if form not in FORMS:
        raise ValueError(f"weights are written as one of {', '.join(FORMS)}; received {form!r}.")
    stored = {}
    for name, values in arrays.items():
        if form == "float32" or not name.endswith(_KERNEL) or not np.issubdtype(values.dtype, np.floating):
            stored[name] = values
            continue
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has NaN or infinite numbers, which {form} does not store; train it again.")
        channels = _channels(values)
        if form == "int8" and values.size >= _MIN_VALUES and values.size >= _MIN_A_CHANNEL * channels.size:
            scale = np.maximum(channels / _LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
            stored[name] = np.clip(np.round(values / scale), -_LARGEST, _LARGEST).astype(np.int8)
            stored[name + SCALE] = scale
        else:
            stored[name] = _halved(name, values)
    return stored


def expand(stored: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Restores the arrays that `compact` stored, with float32 kernels.

    Raises:
        ValueError: an int8 kernel has no scale, a scale has no kernel or another shape, or numbers are not finite.
    """
    arrays = {}
    for name, values in stored.items():
        if name.endswith(SCALE):
            kernel = stored.get(name.removesuffix(SCALE))
            if kernel is None or kernel.dtype != np.int8:
                raise ValueError(f"{where} has {name}, but no int8 array that it is the scale of.")
        elif values.dtype == np.int8:
            arrays[name] = values.astype(np.float32) * _scale_of(name, values, stored, where)
        elif values.dtype == np.float16:
            if not np.isfinite(values).all():
                raise ValueError(f"{where}: {name} has NaN or infinite numbers; it was not written by save_weights.")
            arrays[name] = values.astype(np.float32)
        else:
            arrays[name] = values
    return arrays


def _channels(values: np.ndarray) -> np.ndarray:
    """Returns the largest magnitude of each channel; all other axes are 1."""
    kept = 2 if values.ndim == 4 and values.shape[-1] == 1 else 1
    return np.abs(values).max(axis=tuple(range(values.ndim - kept)), keepdims=True)


def _halved(name: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        halved = values.astype(np.float16)
    largest = np.abs(values).max(initial=0)
    if np.isinf(halved).any():
        raise ValueError(
            f"{name} has numbers up to {largest:g}, but float16 ends at {np.finfo(np.float16).max:g}; write float32."
        )
    lost = np.abs(halved.astype(np.float32) - values).max(initial=0)
    if lost > _MAX_ERROR * largest:
        raise ValueError(
            f"{name} has no number above {largest:g}, which float16 would change by up to {lost:g}; write float32."
        )
    return halved


def _scale_of(name: str, values: np.ndarray, stored: dict[str, np.ndarray], where: str) -> np.ndarray:
    scale = stored.get(name + SCALE)
    if scale is None:
        raise ValueError(f"{where} has {name} as int8, but no {name}{SCALE} to multiply it by.")
    fits = scale.ndim == values.ndim and all(s in (1, v) for s, v in zip(scale.shape, values.shape, strict=True))
    if scale.dtype != np.float32 or not fits or not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(
            f"{where}: {name}{SCALE} must be float32 numbers above 0 that fit the shape {values.shape}; received "
            f"{scale.dtype} of shape {scale.shape}."
        )
    return scale
