"""Weights into a network built by our own code: shapes checked first, and the polarity turned here and nowhere else."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import keras
import numpy as np

from tfdfd.weights.compact import expand
from tfdfd.weights.records import WeightRecord, find_record
from tfdfd.weights.saving import named_weights
from tfdfd.weights.store import base_file, locate

HEAD = "fake_probability"
_SAFETENSORS = "safetensors"


def load_weights(model: keras.Model, record: WeightRecord, path: Path) -> None:
    """Fills `model` from the file of `record`; its output is P(fake) afterwards, whatever the file's own is.

    Raises:
        ValueError: the file's arrays do not fit the network, or fill only a part of it; the model is of no use then.
    """
    if record.layout not in _LOADERS:
        known = ", ".join(_LOADERS)
        raise ValueError(f"unknown layout {record.layout!r} in the record of {record.handle}; expected one of {known}.")
    if record.base or record.members:
        if record.layout != _SAFETENSORS:
            raise ValueError(f"{record.handle} builds on other weights; a file of the layout {record.layout!r} cannot.")
        besides = arrays_of_base(model, record) if record.base else {}
        load_safetensors(model, path, besides | arrays_of_members(record.members, model))
    else:
        _LOADERS[record.layout](model, path)
    if record.polarity == "real=1":
        # sigmoid(-z) = 1 - sigmoid(z): the same network then says P(fake).
        head = model.get_layer(HEAD)
        head.set_weights([-values for values in head.get_weights()])


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name.

    Raises:
        ValueError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error


def load_keras_file(model: keras.Model, path: Path, words: str) -> None:
    """Fills `model` from an HDF5 file of Keras's weights; `words` name the network in errors.

    Raises:
        ValueError: the file's arrays do not fit, or fill only a part of the network.
    """
    # Keras only warns about layers that the file lacks, which then stay random. None may: what is not filled is NaN.
    for layer in model.layers:
        layer.set_weights([_nan_like(values) for values in layer.get_weights()])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} does not fit {words}: {error}") from error
    empty = [layer.name for layer in model.layers if any(np.isnan(values).any() for values in layer.get_weights())]
    if empty:
        raise ValueError(f"{path} does not fit {words}: it has no weights for {', '.join(empty)}.")


def _nan_like(values):
    # A count, such as that of Keras's normalisation layer, is whole and decides nothing.
    return np.full_like(values, np.nan) if np.issubdtype(values.dtype, np.floating) else values


def load_safetensors(model: keras.Model, path: Path, besides: dict[str, np.ndarray] | None = None) -> None:
    """Fills `model` from a file of `tfdfd.weights.saving.save_weights`, of any form.

    Args:
        model: a network of ours.
        path: of the file.
        besides: arrays by name that the file lacks, such as those of members.

    Raises:
        ValueError: its names or shapes are others, it has what is given besides, or its compact arrays are of no use.
    """
    besides, stored = besides or {}, expand(read_safetensors(path), str(path))
    twice = sorted(besides.keys() & stored.keys())
    if twice:
        raise ValueError(f"{path} does not fit the network {model.name}: it has {twice}, which come from elsewhere.")
    stored |= besides
    wanted = named_weights(model)
    if wanted.keys() != stored.keys():
        absent, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
        raise ValueError(f"{path} does not fit the network {model.name}: it lacks {absent}, and has {extra} besides.")
    for name, weight in wanted.items():
        if tuple(weight.shape) != stored[name].shape:
            shapes = f"{stored[name].shape}; {model.name} needs {tuple(weight.shape)}"
            raise ValueError(f"{path} does not fit the network {model.name}: {name} has the shape {shapes}.")
    for name, weight in wanted.items():
        weight.assign(stored[name])


def arrays_of_base(network: keras.Model, record: WeightRecord) -> dict[str, np.ndarray]:
    """The frozen arrays of the base of a record, by `<layer>/<weight>`; `network` is not changed.

    Raises:
        ValueError: the file of the base is not on this machine, or another one.
    """
    from tfdfd.weights.clip import frozen_arrays

    return frozen_arrays(network, base_file(record), record.base["sha256"])


def arrays_of_members(members: dict, ensemble: keras.Model | None = None) -> dict[str, np.ndarray]:
    """What an ensemble is built on, as its own file would have it: `<member>/<layer>/<weight>`.

    Args:
        members: by name, `{handle, sha256}` of weights known by a handle.
        ensemble: the network, with a model inside for each member: the last layer of a member comes along where that
            model has it, and its frozen arrays where the member has a base. None for bodies only.

    Raises:
        ValueError: a handle is unknown, its weights are absent, or other ones than the ensemble was built on.
    """
    found = {}
    for name, told in members.items():
        # By its handle only: a card may come from anywhere, and names no files of this machine.
        find_record(told["handle"])
        record, path = locate(told["handle"])
        if record.sha256 != told["sha256"] or record.layout != _SAFETENSORS:
            raise ValueError(
                f"the ensemble was built on weights of {told['handle']} with the sha256 {told['sha256']}; here they "
                f"have {record.sha256}: take the weights of both from one version of tfdfd."
            )
        arrays = expand(read_safetensors(path), str(path))
        network = ensemble.get_layer(name) if ensemble else None
        if network is None or HEAD not in {layer.name for layer in network.layers}:
            arrays = {key: values for key, values in arrays.items() if not key.startswith(f"{HEAD}/")}
        if record.base:
            arrays |= arrays_of_base(network, record)
        found |= {f"{name}/{key}": values for key, values in arrays.items()}
    return found


def _load_keras(model, path):
    load_keras_file(model, path, f"the network {model.name}")


# The authors' layer names count up in order of creation, which is that of our layers, too: within an inception
# block the 1x1 branch first, then reduction and convolution of each dilated branch.
_KINDS = {
    "conv2d": keras.layers.Conv2D,
    "batch_normalization": keras.layers.BatchNormalization,
    "dense": keras.layers.Dense,
}


def _load_mesonet(model, path):
    """The authors' Keras 2.1.5 files (`model.save_weights` of that time): a group a layer, arrays in order."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            stored = {
                name: [file[name][key][()] for key in file[name].attrs["weight_names"].astype(str)]
                for name in file.attrs["layer_names"].astype(str)
            }
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is no file of Keras 2 weights: {error}") from error
    plan = []
    for kind, layer_type in _KINDS.items():
        layers = sorted((layer for layer in model.layers if type(layer) is layer_type), key=_creation_order)
        pattern = re.compile(rf"{kind}_(\d+)")
        sources = sorted((int(match[1]), name) for name in stored if (match := pattern.fullmatch(name)))
        if len(layers) != len(sources):
            raise ValueError(f"{path} has {len(sources)} layers {kind}; {model.name} has {len(layers)}.")
        plan += [(layer, stored[name], name) for layer, (_, name) in zip(layers, sources, strict=True)]
    for layer, values, name in plan:
        expected, found = [tuple(weight.shape) for weight in layer.weights], [value.shape for value in values]
        if expected != found:
            raise ValueError(f"{path}: {name} has the shapes {found}; {layer.name} of {model.name} needs {expected}.")
    for layer, values, _ in plan:
        layer.set_weights(values)


_LOADERS = {_SAFETENSORS: load_safetensors, "keras": _load_keras, "mesonet": _load_mesonet}


def _creation_order(layer):
    """Block, branch, and reduction before convolution; the two dense layers in the order hidden, output."""
    block, branch = re.match(r"block(\d)", layer.name), re.search(r"branch(\d)", layer.name)
    return (
        int(block[1]) if block else 9,
        int(branch[1]) if branch else 0,
        not layer.name.endswith("reduce"),
        layer.name == HEAD,
    )
