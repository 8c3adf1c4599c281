"""What a network costs, counted from its graph: multiply-accumulates and parameters.

A new type of layer is one row of `MACS` (or of `NO_MACS`). A layer of our own counts itself by a method
`macs(input_shape) -> int`, which takes the shape with its batch as `compute_output_shape` does.
"""

import keras
import numpy as np

from tfdfd.models.graph import calls


def macs(model):
    """Multiply-accumulates of one image (or clip) through a built `keras.Model`, as an int.

    Convolutions, dense and recurrent layers, and the two matrix products of attention (queries by keys, weights by
    values); no bias, normalisation, activation or pooling. A layer that is called twice counts twice.

    Raises:
        ValueError: an open size but the batch, or a layer with weights of a type that no rule is known for.
    """
    return sum(call_macs(call) for call in calls(model))


def thesis_macs(model):
    """The same as A. Putyra's thesis counts (AGH 2020, table 7.1): with 2 for each output of a BatchNormalization.

    That is the rule of the library THOP, which also counts neither activations nor pooling here.
    """
    return sum(call_macs(call) + 2 * _normalised(call) for call in calls(model))


def learned(model):
    """Parameters as papers and PyTorch count them: all weights but running statistics, frozen or not; an int."""
    return _size(learned_weights(model))


def trainable(model):
    """Weights that training changes, as the model is frozen now; an int."""
    return _size(model.trainable_weights)


def total(model):
    """All weights, running statistics included: `model.count_params()`."""
    return model.count_params()


def learned_weights(layer):
    """The variables that `learned` counts, of a model or of a layer (a bare operation has none), each once."""
    inner = layer._flatten_layers() if hasattr(layer, "_flatten_layers") else ()
    statistics = {
        id(getattr(one, name, None))
        for one in inner
        for kind, names in STATISTICS.items()
        if isinstance(one, kind)
        for name in names
    }
    return [weight for weight in getattr(layer, "weights", ()) if id(weight) not in statistics]


def call_macs(call):
    """The multiply-accumulates of one `tfdfd.models.graph.Call`; raises as `macs` does."""
    layer = call.layer
    if hasattr(layer, "macs"):
        call.require_static()
        return int(call.times) * int(layer.macs(call.input_shape))
    rule = next((MACS[kind] for kind in type(layer).__mro__ if kind in MACS), None)
    if rule is not None:
        call.require_static()
        return int(call.times) * int(rule(layer, call.input_shape, call.output_shape))
    if (getattr(layer, "weights", ()) and not isinstance(layer, NO_MACS)) or type(layer).__name__ in UNCOUNTED:
        raise ValueError(
            f"no rule counts the multiply-accumulates of {call.name} ({type(layer).__name__}); give its class a method "
            "macs(input_shape), or its type a row in tfdfd.models.counting."
        )
    return 0


def _convolution(layer, _, output_shape):
    # kernel: (..., inputs of one group, filters), so groups and dilation need no case of their own.
    return np.prod(layer.kernel.shape[:-1]) * np.prod(output_shape[1:])


def _depthwise(layer, _, output_shape):
    return np.prod(layer.kernel.shape[:-2]) * np.prod(output_shape[1:])


def _separable(layer, _, output_shape):
    places = np.prod(output_shape[1:]) // layer.filters
    return (np.prod(layer.depthwise_kernel.shape) + np.prod(layer.pointwise_kernel.shape)) * places


def _transposed(layer, input_shape, _):
    return np.prod(layer.kernel.shape[:-1]) * np.prod(input_shape[1:])


def _dense(layer, _, output_shape):
    return layer.kernel.shape[0] * np.prod(output_shape[1:])


def _recurrent(layer, input_shape, _):
    return input_shape[1] * (np.prod(layer.cell.kernel.shape) + np.prod(layer.cell.recurrent_kernel.shape))


def _both_ways(layer, input_shape, output_shape):
    return sum(_recurrent(one, input_shape, output_shape) for one in (layer.forward_layer, layer.backward_layer))


_layers = keras.layers
MACS = {
    _layers.Conv1D: _convolution,
    _layers.Conv2D: _convolution,
    _layers.Conv3D: _convolution,
    _layers.DepthwiseConv1D: _depthwise,
    _layers.DepthwiseConv2D: _depthwise,
    _layers.SeparableConv1D: _separable,
    _layers.SeparableConv2D: _separable,
    _layers.Conv1DTranspose: _transposed,
    _layers.Conv2DTranspose: _transposed,
    _layers.Conv3DTranspose: _transposed,
    _layers.Dense: _dense,
    _layers.SimpleRNN: _recurrent,
    _layers.GRU: _recurrent,
    _layers.LSTM: _recurrent,
    _layers.Bidirectional: _both_ways,
}
# Weights, but none that a sum of products runs over.
NO_MACS = (
    _layers.BatchNormalization,
    _layers.GroupNormalization,
    _layers.LayerNormalization,
    _layers.Normalization,
    _layers.PReLU,
    _layers.Embedding,
)
# No weights of their own, but products: operations of `keras.ops` and layers that a count of 0 would be wrong for.
UNCOUNTED = {
    "AdditiveAttention", "Attention", "Conv", "ConvTranspose", "DepthwiseConv", "Dot", "DotProductAttention", "Einsum",
    "Inner", "Matmul", "SeparableConv", "Tensordot", "Vdot",
}  # fmt: skip
STATISTICS = {
    _layers.BatchNormalization: ("moving_mean", "moving_variance"),
    _layers.Normalization: ("adapt_mean", "adapt_variance", "count"),
}


def _normalised(call):
    if not isinstance(call.layer, _layers.BatchNormalization):
        return 0
    call.require_static()
    return int(call.times) * int(np.prod(call.output_shape[1:]))


def _size(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)
