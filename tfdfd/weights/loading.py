"""Loading of weights into networks of `tfdfd.models`, with shapes checked first, and mask heads beside the weights.

Polarity is converted here only. A mask head is a second output of a network, trained on blended faces to tell where
something was blended in.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tfdfd.files import sha256, write_atomically
from tfdfd.weights import WeightRecord, find_record
from tfdfd.weights.reading import check_arrays, open_hdf5, read_safetensors, shapes_in
from tfdfd.weights.saving import SCALE, expand, named_weights
from tfdfd.weights.store import base_file, locate

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
    """Loads a file of `tfdfd.weights.saving.save_weights`, of any form, into `model`.

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


MASK_HEAD = "mask_head"
_WEIGHTS = "weights_sha256"


def with_mask_head(model: keras.Model) -> tuple[keras.Model, int]:
    """A network with a second output, a map of where something was blended in, and the side of that map.

    The head stands on a transformer's tokens, or on the last feature map of stride 16 or else the next larger stride.

    Raises:
        ValueError: the network has no such map, or its pictures are not a multiple of 16 pixels.
    """
    size = model.input_shape[1]
    if size is None or size % 16 or model.input_shape[2] != size:
        raise ValueError(f"pictures of {model.name} are {size} pixels wide; set size to a multiple of 16.")
    side = size // 16
    tokens = [
        layer for layer in model.layers
        if isinstance(layer, layers.LayerNormalization) and len(layer.output.shape) == 3
    ]  # fmt: skip
    if tokens:
        features = tokens[-1].output
        features = layers.Lambda(lambda x: x[:, 1:], name="mask_tokens")(features)
        features = layers.Reshape((side, side, features.shape[-1]), name="mask_map")(features)
    else:
        maps = [layer.output for layer in model.layers if len(getattr(layer.output, "shape", ())) == 4]
        sides = {features.shape[1] for features in maps if features.shape[1] <= side and size % features.shape[1] == 0}
        if not sides:
            raise ValueError(f"{model.name} has no feature map of stride 16 or more for the mask head.")
        side = max(sides)
        features = [features for features in maps if features.shape[1] == side][-1]
    mask = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name=MASK_HEAD)(features)
    return keras.Model(model.input, [model.output, mask]), side


def mask_head_file(weights: str | os.PathLike) -> Path:
    """Path of the mask head of a weights file."""
    path = Path(weights)
    return path.with_name(f"{path.stem}.{MASK_HEAD}.safetensors")


def save_mask_head(arrays: dict[str, np.ndarray], weights: str | os.PathLike) -> None:
    """Writes a mask head (`mask_head/kernel`, `mask_head/bias`) beside its weights file, with that file's digest."""
    from safetensors.numpy import save

    write_atomically(mask_head_file(weights), save(arrays, {_WEIGHTS: sha256(weights)}))


def load_mask_head(model: keras.Model, weights: str | os.PathLike, name: str) -> keras.Model:
    """A network from images to the map of its mask head, `(batch, side, side, 1)` in [0, 1].

    Raises:
        ValueError: there is no mask head, or it belongs to other weights or another network.
    """
    from safetensors import SafetensorError, safe_open

    file = mask_head_file(weights)
    if not file.is_file():
        raise ValueError(
            f"{name} has no mask head: there is no {file}. Only 'python -m tools.train_packed' trains one; use another "
            "method or model."
        )
    both, _ = with_mask_head(model)
    head = both.get_layer(MASK_HEAD)
    try:
        with safe_open(file, "numpy") as stored:
            digest = (stored.metadata() or {}).get(_WEIGHTS)
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 – is not a mapping
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}.") from error
    if digest != sha256(weights):
        raise ValueError(f"{file} is of other weights (sha256 {digest}) than {weights}; remove it or restore them.")
    shapes = {f"{MASK_HEAD}/{weight.name}": tuple(weight.shape) for weight in head.weights}
    if {key: value.shape for key, value in arrays.items()} != shapes:
        found = {key: value.shape for key, value in arrays.items()}
        raise ValueError(f"{file} does not fit {name}: it holds {found}; expected {shapes}.")
    for weight in head.weights:
        weight.assign(arrays[f"{MASK_HEAD}/{weight.name}"])
    return keras.Model(both.input, both.outputs[1])
