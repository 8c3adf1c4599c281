"""The same score by channels of like range: what a network needs before its values become whole numbers.

In 8 bits all channels of a tensor share one scale, so that one of small values is lost beside one of large ones, and
norms and branches side by side give such. Where what comes after a layer is linear in each channel, the channel can be
multiplied by a number that the next layer divides by (Nagel et al., Data-Free Quantization, arXiv:1906.04721, 4.1;
here by ranges that were measured). Numbers are powers of two, which round nothing.
"""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np

from tfdfd.pruning.described import describe
from tfdfd.weights.loading import HEAD
from tfdfd.weights.saving import named_weights

# Layers that turn a multiple of a channel into the same multiple.
_PASSING = {
    "AveragePooling2D", "Dropout", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Identity", "LeakyReLU",
    "MaxPooling2D", "ZeroPadding2D",
}  # fmt: skip
_LINEAR = {"BatchNormalization", "Conv2D", "Dense", "DepthwiseConv2D"}
_LARGEST_EXPONENT = 12
_BATCH = 8


def equalised(model: keras.Model, crops: np.ndarray) -> keras.Model:
    """A copy of `model` with the same score, whose channels have a largest magnitude near 1 where they can.

    Its features are multiples of the model's own.

    Args:
        model: of `tfdfd.models`, with weights. One that holds other models is copied as it is.
        crops: that ranges are measured on, float32 in [0, 1], `(n, height, width, 3)`.

    Raises:
        ValueError: a layer that `tfdfd.pruning.described` does not know.
    """
    described = describe(model)
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    if any("/" in path for path in described["layers"]):
        return copied
    channels, free = _channels(model, described)
    factors = np.ones(len(free))
    for path, ranges in _ranges(model, crops, channels, free).items():
        # A channel that is always 0 gets the largest: a norm behind it multiplies by much, which would set the scale.
        exponent = -np.round(np.log2(np.maximum(ranges, 2.0**-_LARGEST_EXPONENT)))
        factors[channels[path][1]] = 2.0 ** np.clip(exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    factors[~free] = 1.0
    weights = named_weights(copied)
    for path, layer in described["layers"].items():
        if path in channels:
            given, made = (factors[numbers] for numbers in channels[path])
            own = {kind: weights[name] for kind, name in layer["weights"].items()}
            _rescale(layer["class"], own, given.astype(np.float32), made.astype(np.float32))
    return copied


def _channels(model, described):
    """For each linear layer the numbers of the channels it takes and makes; and which of all may be multiplied."""
    times = Counter(call["layer"] for call in described["calls"])
    free, channels, numbers = [], {}, {}

    def new(count, is_free):
        free.extend([is_free] * count)
        return np.arange(len(free) - count, len(free))

    numbers[-1] = new(described["input_shape"][-1], False)
    for place, call in enumerate(described["calls"]):
        path = call["layer"]
        layer, given = described["layers"][path], [numbers[source] for source in call["sources"]]
        kind, width = layer["class"], model.get_layer(path).output.shape[-1]
        if kind == "Concatenate" and layer["settings"]["axis"] in (-1, 3):
            numbers[place] = np.concatenate(given)
        elif kind == "Flatten":
            numbers[place] = np.tile(given[0], width // len(given[0]))
        elif kind in _PASSING or _is_relu(layer):
            numbers[place] = given[0]
        elif _takes_factors(layer) and times[path] == 1:
            numbers[place] = new(width, layer["settings"].get("activation", "linear") in ("linear", "relu"))
            channels[path] = given[0], numbers[place]
        else:
            _fix(free, given)
            numbers[place] = new(width, False)
    _fix(free, [numbers[described["outputs"][HEAD]]])
    return channels, np.array(free)


def _fix(free, several):
    for numbers in several:
        for number in numbers:
            free[number] = False


def _is_relu(layer):
    settings = layer["settings"]
    if layer["class"] == "ReLU":
        return settings["max_value"] is None and not settings["threshold"]
    return layer["class"] == "Activation" and settings["activation"] in ("linear", "relu")


def _takes_factors(layer):
    settings = layer["settings"]
    if layer["class"] == "BatchNormalization":
        return settings["scale"] and settings["center"]
    return layer["class"] in _LINEAR and settings.get("groups", 1) == 1 and settings.get("depth_multiplier", 1) == 1


def _ranges(model, crops, channels, free):
    """The largest magnitude of each channel that linear layers make, by path."""
    paths = [path for path, (_, made) in channels.items() if free[made].any()]
    outputs = keras.Model(model.input, [model.get_layer(path).output for path in paths])
    largest = dict.fromkeys(paths, 0.0)
    for start in range(0, len(crops), _BATCH):
        found = outputs(crops[start : start + _BATCH], training=False)
        for path, values in zip(paths, found if isinstance(found, list | tuple) else [found], strict=True):
            values = np.abs(keras.ops.convert_to_numpy(values))
            largest[path] = np.maximum(largest[path], values.max(axis=tuple(range(values.ndim - 1))))
    return largest


def _rescale(kind, weights, given, made):
    def multiply(name, factors):
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
