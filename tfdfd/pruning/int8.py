"""Post-training quantization to int8 for LiteRT: a quarter of the bytes, and P(fake) that is close, not equal.

In 8 bits all channels of a tensor share one scale, so a channel of small values is lost beside one of large values;
norms and parallel branches produce such channels. If the layers after a channel are linear in it, the channel can be
multiplied by a number that the next layer divides by (Nagel et al., Data-Free Quantization, arXiv:1906.04721, 4.1; here
with measured ranges). The numbers are powers of two, which round nothing.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdfd.files import temporary_folder, write_atomically
from tfdfd.metrics.intervals import compare
from tfdfd.models import load
from tfdfd.pruning import sizes
from tfdfd.pruning.child import describe
from tfdfd.pruning.prune import score_rows
from tfdfd.publishing.saved_model import write_saved_model
from tfdfd.text import optional_import
from tfdfd.training.crop_set import TRAIN, VAL, CropSet
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import finished_run
from tfdfd.weights.loading import HEAD
from tfdfd.weights.saving import named_weights
from tfdfd.weights.store import locate

# How far P(fake) of the quantized network may be from the Keras model's: for any crop, and on average. Traces of
# blending are as faint as the rounding of 8 bits.
LARGEST, MEAN = 0.35, 0.07
# As recommended in LiteRT's guide; more crops change the ranges little.
REPRESENTATIVE = 200


def quantize_int8(
    model: keras.Model, representative: np.ndarray, batches: Iterable[np.ndarray], path: str | os.PathLike
) -> dict:
    """Writes `model` as a LiteRT file whose weights and activations are int8, input and output float32 as they were.

    Ranges of values are measured on representative crops; the file is opened again and compared on other crops before
    it is kept.

    Args:
        model: a network of `tfdfd.models`, with weights.
        representative: typical crops of the training split, float32 in [0, 1], `(n, height, width, 3)`.
        batches: batches of other crops, of the same form, for the comparison.
        path: path of the file, `.tflite`.

    Returns:
        `apart`, `apart_mean`: largest and mean distance of P(fake); `scores` and `expected`: P(fake) of the crops by
        the file and by the Keras model, float64 `(n,)`.

    Raises:
        ValueError: LiteRT is not installed or does not support a layer, a score is not finite, or P(fake) differs by
            more than `LARGEST` for a crop or `MEAN` on average; nothing is written.
    """
    runtime = _runtime()
    representative = representative[:REPRESENTATIVE]
    data = _converted(equalized(model, representative), representative)
    # The interpreter gets the bytes that are written, so exactly these are proved.
    interpreter = runtime.Interpreter(model_content=data)
    run = interpreter.get_signature_runner("serving_default")
    expected: Any = []
    found: Any = []
    for batch in batches:
        expected.append(keras.ops.convert_to_numpy(model(batch, training=False)))
        found.append(run(image=batch)["fake_probability"])
    expected, found = (np.concatenate(several).astype(np.float64).reshape(-1) for several in (expected, found))
    apart = np.abs(expected - found)
    if not (apart.max() <= LARGEST and apart.mean() <= MEAN):  # NaN is not either
        raise ValueError(
            f"in 8 bits {model.name} scores up to {apart.max():.3f} apart, {apart.mean():.4f} on average, on "
            f"{len(found):,} crops; {LARGEST} and {MEAN} are allowed. Keep it in float32."
        )
    write_atomically(path, data)
    return {"apart": float(apart.max()), "apart_mean": float(apart.mean()), "scores": found, "expected": expected}


def _converted(model: Any, representative: np.ndarray) -> bytes:
    import tensorflow as tf

    with temporary_folder() as folder:
        # int8 has no NaN, so there is nothing to check.
        write_saved_model(model, folder, any_size=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([crop[None]] for crop in representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        try:
            return converter.convert()
        except Exception as error:  # the converter's own classes are not public
            last = str(error).strip().splitlines()[-1]
            raise ValueError(f"LiteRT cannot take {model.name} in 8 bits: {type(error).__name__}: {last}") from error


def _runtime() -> Any:
    with optional_import("a network in 8 bits needs ai-edge-litert", "prune"):
        module = importlib.import_module("ai_edge_litert.interpreter")
    return module


FILE = "int8.tflite"


def quantize_run(folder: str | os.PathLike, data: str | os.PathLike) -> dict:
    """Writes `int8.tflite` into the folder of a finished run, and the returned figures beside it as `int8.json`.

    Args:
        folder: run folder of a network that takes single faces.
        data: its face set: ranges are measured on crops of `train`, the file is evaluated on `val`.

    Returns:
        `file`, `bytes`, `gzip_bytes`; `apart` and `apart_mean`: difference of P(fake) from the Keras model's, on
        all `crops` of the validation split; `auc`: the comparison of both there (`tfdfd.metrics.intervals.compare`).

    Raises:
        ValueError: no finished run, another set, or a network for which 8 bits are too few.
    """
    run = finished_run(folder)
    recipe = Recipe.from_settings(run["recipe"])
    model = load(*locate(folder))
    size = model.input_shape[1]
    crops = CropSet(data, recipe, size, allow_leaks=True)  # the run has checked for leaks
    what = f"{os.fspath(data)} is not the set of {os.fspath(folder)}, or has changed"
    crops.refuse_other(run["data"], what)
    few = CropSet(data, replace(recipe, limit=REPRESENTATIVE), size, allow_leaks=True)
    representative = np.concatenate([np.asarray(image) for image, _ in few.images(TRAIN)[0]])
    images, rows = crops.images(VAL)
    path = Path(folder) / FILE
    found = quantize_int8(model, representative, (np.asarray(image) for image, _ in images), path)
    of_both = (score_rows(rows, found.pop(name)) for name in ("expected", "scores"))
    found |= {"file": str(path), "crops": len(rows), "auc": compare(*of_both, cluster="source")} | sizes(path)
    write_atomically(path.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    return found


# Layers that commute with multiplying a channel by a positive number.
_PASSING = {
    "AveragePooling2D", "Dropout", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Identity", "LeakyReLU",
    "MaxPooling2D", "ZeroPadding2D",
}  # fmt: skip
_LINEAR = {"BatchNormalization", "Conv2D", "Dense", "DepthwiseConv2D"}
_LARGEST_EXPONENT = 12
_BATCH = 8


def equalized(model: keras.Model, crops: np.ndarray) -> keras.Model:
    """A copy of `model` with the same score, whose channels have a largest magnitude near 1 if possible.

    Its features are multiples of the model's.

    Args:
        model: a network of `tfdfd.models`, with weights. A model with nested models is copied unchanged.
        crops: for measuring ranges, float32 in [0, 1], `(n, height, width, 3)`.

    Raises:
        ValueError: a layer that `tfdfd.pruning.child` does not know.
    """
    graph = describe(model)
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    if any("/" in path for path in graph["layers"]):
        return copied
    channels, free = _channels(model, graph)
    factors = np.ones(len(free))
    for path, ranges in _ranges(model, crops, channels, free).items():
        # A channel that is always 0 gets the largest factor, since the large factor of its norm would set the scale.
        exponent = -np.round(np.log2(np.maximum(ranges, 2.0**-_LARGEST_EXPONENT)))
        factors[channels[path][1]] = 2.0 ** np.clip(exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    factors[~free] = 1.0
    weights = named_weights(copied)
    for path, layer in graph["layers"].items():
        if path in channels:
            given, made = (factors[numbers] for numbers in channels[path])
            own = {kind: weights[name] for kind, name in layer["weights"].items()}
            _rescale(layer["class"], own, given.astype(np.float32), made.astype(np.float32))
    return copied


def _channels(model: Any, graph: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Indices of the channels that each linear layer takes and makes; and which channels may be multiplied."""
    times = Counter(call["layer"] for call in graph["calls"])
    free, channels, numbers = [], {}, {}

    def new(count: int, is_free: bool) -> np.ndarray:
        free.extend([is_free] * count)
        return np.arange(len(free) - count, len(free))

    numbers[-1] = new(graph["input_shape"][-1], False)
    for index, call in enumerate(graph["calls"]):
        path = call["layer"]
        layer, given = graph["layers"][path], [numbers[source] for source in call["sources"]]
        kind, width = layer["class"], model.get_layer(path).output.shape[-1]
        if kind == "Concatenate" and layer["settings"]["axis"] in (-1, 3):
            numbers[index] = np.concatenate(given)
        elif kind == "Flatten":
            numbers[index] = np.tile(given[0], width // len(given[0]))
        elif kind in _PASSING or _is_relu(layer):
            numbers[index] = given[0]
        elif _takes_factors(layer) and times[path] == 1:
            numbers[index] = new(width, layer["settings"].get("activation", "linear") in ("linear", "relu"))
            channels[path] = given[0], numbers[index]
        else:
            _fix(free, given)
            numbers[index] = new(width, False)
    _fix(free, [numbers[graph["outputs"][HEAD]]])
    return channels, np.array(free)


def _fix(free: Any, several: Any) -> None:
    for numbers in several:
        for number in numbers:
            free[number] = False


def _is_relu(layer: dict[str, Any]) -> bool:
    settings = layer["settings"]
    if layer["class"] == "ReLU":
        return settings["max_value"] is None and not settings["threshold"]
    return layer["class"] == "Activation" and settings["activation"] in ("linear", "relu")


def _takes_factors(layer: dict[str, Any]) -> bool:
    settings = layer["settings"]
    if layer["class"] == "BatchNormalization":
        return settings["scale"] and settings["center"]
    return layer["class"] in _LINEAR and settings.get("groups", 1) == 1 and settings.get("depth_multiplier", 1) == 1


def _ranges(model: Any, crops: np.ndarray, channels: Any, free: Any) -> dict[str, np.ndarray]:
    """The largest magnitude of each output channel of linear layers, by path."""
    paths = [path for path, (_, made) in channels.items() if free[made].any()]
    outputs = keras.Model(model.input, [model.get_layer(path).output for path in paths])
    largest: dict[str, Any] = dict.fromkeys(paths, 0.0)
    for start in range(0, len(crops), _BATCH):
        answers = outputs(crops[start : start + _BATCH], training=False)
        answers = answers if isinstance(answers, list | tuple) else [answers]
        for path, values in zip(paths, answers, strict=True):
            values = np.abs(keras.ops.convert_to_numpy(values))
            largest[path] = np.maximum(largest[path], values.max(axis=tuple(range(values.ndim - 1))))
    return largest


def _rescale(kind: str, weights: dict[str, Any], given: np.ndarray, made: np.ndarray) -> None:
    def multiply(name: str, factors: np.ndarray) -> None:
        if name in weights:
            weights[name].assign(keras.ops.convert_to_numpy(weights[name]) * factors)

    if kind == "BatchNormalization":
        multiply("gamma", made / given)
        multiply("beta", made)
        multiply("moving_mean", given)
    elif kind == "DepthwiseConv2D":
        multiply("kernel", (made / given)[:, None])
        multiply("bias", made)
    else:
        multiply("kernel", made / given[:, None])
        multiply("bias", made)
