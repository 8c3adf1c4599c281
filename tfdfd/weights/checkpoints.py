"""Weights of networks in files: saved as safetensors, float32 or compact, and loaded with shapes checked first.

Polarity is converted here only, at loading. A safetensors file contains arrays by name and nothing else. Its arrays
determine the form:

    NAME          float16   a rounded kernel
    NAME          int8      a kernel divided by its scale and rounded, from -127 to 127
    NAME.scale    float32   scale of NAME, with the kernel's number of axes; an axis is 1 if its numbers share the scale

All other arrays are float32: biases and the parameters of norms are few, and an error in a variance affects every
output. A network is to be evaluated with the weights after `expand`, not with those before `compact`.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.weights import WeightRecord, find_record
from tfdfd.weights.reading import check_arrays, open_hdf5, read_safetensors, shapes_in
from tfdfd.weights.store import base_file, locate

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

    Args:
        stored: arrays by name.
        where: origin of the arrays, for errors.

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


HEAD = "fake_probability"
_SAFETENSORS = "safetensors"


def load_weights(model: keras.Model, record: WeightRecord, path: Path) -> None:
    """Loads the file of `record` into `model`, whose output is P(fake) afterwards, whatever the file's polarity.

    Raises:
        ValueError: the file's arrays do not match those of the network; the model is invalid then.
    """
    if record.layout not in _LOADERS:
        known = ", ".join(_LOADERS)
        raise ValueError(f"unknown layout {record.layout!r} in the record of {record.handle}; expected one of {known}.")
    if record.base or record.members:
        if record.layout != _SAFETENSORS:
            raise ValueError(f"{record.handle} builds on other weights; a file of the layout {record.layout!r} cannot.")
        inherited = arrays_of_base(model, record) if record.base else {}
        load_safetensors(model, path, inherited | arrays_of_members(record.members, model))
    else:
        _LOADERS[record.layout](model, path)
    if record.polarity == "real=1":
        # sigmoid(-z) = 1 - sigmoid(z), which is P(fake).
        head = model.get_layer(HEAD)
        head.set_weights([-values for values in head.get_weights()])


def load_keras_file(model: keras.Model, path: Path, name: str) -> None:
    """Loads an HDF5 file of Keras weights into `model`; `name` is that of the network in errors.

    Raises:
        ValueError: the file's arrays do not match, or cover only a part of the network.
    """
    check_arrays(path, name, [tuple(weight.shape) for weight in model.variables])
    # Keras only warns about layers that the file lacks, which would stay random. NaN marks them.
    for layer in model.layers:
        layer.set_weights([_nan_like(values) for values in layer.get_weights()])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, AttributeError) as error:
        # h5py and Keras raise any of these for a damaged file.
        raise ValueError(f"{path} does not fit {name}: {error}") from error
    empty = [layer.name for layer in model.layers if any(np.isnan(values).any() for values in layer.get_weights())]
    if empty:
        raise ValueError(f"{path} does not fit {name}: it has no weights for {', '.join(empty)}.")


def _nan_like(values: np.ndarray) -> np.ndarray:
    # Integers are counts, as in Keras's normalization layer, which do not affect outputs.
    return np.full_like(values, np.nan) if np.issubdtype(values.dtype, np.floating) else values


def load_safetensors(model: keras.Model, path: Path, inherited: dict[str, np.ndarray] | None = None) -> None:
    """Loads a file of `tfdfd.weights.checkpoints.save_weights`, of any form, into `model`.

    Args:
        model: a network of `tfdfd.models`.
        path: path of the file.
        inherited: arrays by name that the file lacks, such as those of members.

    Raises:
        ValueError: names or shapes do not match, an array is in both, or compact arrays are invalid.
    """
    inherited, every = inherited or {}, shapes_in(path)
    # A scale has at most one number for each of its kernel; `expand` checks which.
    scales = {name for name in every if math.prod(every[name]) <= math.prod(every.get(name.removesuffix(SCALE), (0,)))}
    shapes = {name: shape for name, shape in every.items() if not (name.endswith(SCALE) and name in scales)}
    twice = sorted(inherited.keys() & shapes.keys())
    if twice:
        raise ValueError(f"{path} does not fit the network {model.name}: it has {twice}, which come from elsewhere.")
    shapes |= {name: values.shape for name, values in inherited.items()}
    wanted = named_weights(model)
    if wanted.keys() != shapes.keys():
        absent, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
        raise ValueError(f"{path} does not fit the network {model.name}: it lacks {absent}, and has {extra} besides.")
    for name, weight in wanted.items():
        if tuple(weight.shape) != shapes[name]:
            both = f"{shapes[name]}; {model.name} needs {tuple(weight.shape)}"
            raise ValueError(f"{path} does not fit the network {model.name}: {name} has the shape {both}.")
    stored = inherited | expand(read_safetensors(path), str(path))
    for name, weight in wanted.items():
        weight.assign(stored[name])


def arrays_of_base(network: keras.Model, record: WeightRecord) -> dict[str, np.ndarray]:
    """Returns the frozen arrays of a record's base, by `<layer>/<weight>`; `network` stays unchanged.

    Raises:
        ValueError: the file of the base is not on this machine, or has another digest.
    """
    from tfdfd.weights.clip import frozen_arrays

    return frozen_arrays(network, base_file(record), record.base["sha256"])


def arrays_of_members(members: dict, ensemble: keras.Model | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of an ensemble's members by `<member>/<layer>/<weight>`.

    Args:
        members: `{handle, sha256}` by name.
        ensemble: the network, with a nested model for each member. A member's last layer is included if that model has
            it, and its frozen arrays if the member has a base. None for bodies only.

    Raises:
        ValueError: a handle is unknown, or its weights are missing or not those that the ensemble was built on.
    """
    every: dict[str, np.ndarray] = {}
    for name, member in members.items():
        # By handle only: a card may come from anywhere, and must not name files of this machine.
        find_record(member["handle"])
        record, path = locate(member["handle"])
        if record.sha256 != member["sha256"] or record.layout != _SAFETENSORS:
            raise ValueError(
                f"the ensemble was built on weights of {member['handle']} with the sha256 {member['sha256']}; here "
                f"they have {record.sha256}: take the weights of both from one version of tfdfd."
            )
        arrays = expand(read_safetensors(path), str(path))
        network = ensemble.get_layer(name) if ensemble else None
        if network is None or HEAD not in {layer.name for layer in network.layers}:
            arrays = {key: values for key, values in arrays.items() if not key.startswith(f"{HEAD}/")}
        if record.base:
            arrays |= arrays_of_base(network, record)
        every |= {f"{name}/{key}": values for key, values in arrays.items()}
    return every


def _load_keras(model: keras.Model, path: Path) -> None:
    load_keras_file(model, path, f"the network {model.name}")


# The authors' layer names are numbered in order of creation, which is the order of our layers, too: within an
# inception block, the 1x1 branch first, then reduction and convolution of each dilated branch.
_KINDS = {
    "conv2d": keras.layers.Conv2D,
    "batch_normalization": keras.layers.BatchNormalization,
    "dense": keras.layers.Dense,
}


def _load_mesonet(model: keras.Model, path: Path) -> None:
    """Loads the authors' Keras 2.1.5 files: one HDF5 group per layer, arrays in order."""
    with open_hdf5(path) as file:
        stored = {
            name: [file[name][key] for key in file[name].attrs["weight_names"].astype(str)]
            for name in file.attrs["layer_names"].astype(str)
        }
        plan = _mesonet_plan(model, path, stored)
        for layer, arrays in plan:
            layer.set_weights([array[()] for array in arrays])


def _mesonet_plan(model: keras.Model, path: Path, stored: dict[str, list]) -> list[tuple[keras.Layer, list]]:
    """The layers, and the file's arrays for each; shapes are compared, and no array is read."""
    plan = []
    for kind, layer_type in _KINDS.items():
        layers = sorted((layer for layer in model.layers if type(layer) is layer_type), key=_creation_order)
        pattern = re.compile(rf"{kind}_(\d+)")
        sources = sorted((int(match[1]), name) for name in stored if (match := pattern.fullmatch(name)))
        if len(layers) != len(sources):
            raise ValueError(f"{path} has {len(sources)} layers {kind}; {model.name} has {len(layers)}.")
        plan += [(layer, stored[name], name) for layer, (_, name) in zip(layers, sources, strict=True)]
    for layer, values, name in plan:
        expected, shapes = [tuple(weight.shape) for weight in layer.weights], [value.shape for value in values]
        if expected != shapes:
            raise ValueError(f"{path}: {name} has the shapes {shapes}; {layer.name} of {model.name} needs {expected}.")
    return [(layer, values) for layer, values, _ in plan]


_LOADERS = {_SAFETENSORS: load_safetensors, "keras": _load_keras, "mesonet": _load_mesonet}


def _creation_order(layer: keras.Layer) -> tuple:
    """Sorts by block, branch, and reduction before convolution; then the hidden and the output dense layer."""
    block, branch = re.match(r"block(\d)", layer.name), re.search(r"branch(\d)", layer.name)
    return (
        int(block[1]) if block else 9,
        int(branch[1]) if branch else 0,
        not layer.name.endswith("reduce"),
        layer.name == HEAD,
    )
