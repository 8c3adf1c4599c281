"""Mask heads: a second output of a network, trained on blended faces to tell where something was blended in.

The head of NAME.safetensors is kept in NAME.mask_head.safetensors beside it: a 1 x 1 convolution of a few kilobytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tfdfd.files import sha256, write_atomically

MASK_HEAD = "mask_head"
_WEIGHTS = "weights_sha256"


def with_mask_head(model: keras.Model) -> tuple[keras.Model, int]:
    """A network with a second output, a map of where something was blended in, and the side of that map.

    The head stands on a transformer's tokens, or on the last feature map of stride 16 or else the next larger stride.

    Raises:
        ValueError: the network has no such map, or its pictures are no multiple of 16 pixels.
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

    Args:
        model: with the weights loaded.
        weights: their file.
        name: of the model, for errors.

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
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 – is no mapping
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
