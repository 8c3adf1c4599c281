"""What a network costs, counted from its graph: multiply-accumulates, parameters, and a table of its layers.

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


_layers = keras.layers
_POOLING = (
    _layers.MaxPooling2D,
    _layers.AveragePooling2D,
    _layers.GlobalMaxPooling2D,
    _layers.GlobalAveragePooling2D,
)
_NORMS = (_layers.BatchNormalization, _layers.LayerNormalization, _layers.GroupNormalization)


def layer_rows(model):
    """The rows of a built functional `keras.Model`, in the order of its graph: branch by branch where it forks.

    A row is a layer with weights or multiply-accumulates, or a pooling. A norm that is applied to such a layer's
    output, directly or behind an activation, has no row of its own. Each row is a dict of plain values:

    - `name`, `type`: the layer's, with the names of the models it is nested in; and its class, such as `Conv2D`.
    - `kernel`, `stride`: `[height, width]`; None for layers that slide over nothing.
    - `padding`: zeros added at `[top, bottom, left, right]`, a ZeroPadding2D just before included.
    - `dilation`: `[height, width]`.
    - `groups`: of the channels; a depthwise layer has as many as channels.
    - `filters`: values at each place of the output.
    - `grid`: `[height, width]` of the output; [] for a vector.
    - `norm`: name of the norm folded in, or None.
    - `learned`: parameters, the norm's included, running statistics not; a layer's second call has none.
    - `macs`: multiply-accumulates of one image, as `tfdfd.models.counting.macs`.

    Raises:
        ValueError: as `tfdfd.models.counting.macs`.
    """
    rows, row_of, told = [], {}, set()
    for call in calls(model):
        source = row_of.get(id(call.sources[0])) if len(call.sources) == 1 else None
        weights = [weight for weight in learned_weights(call.layer) if id(weight) not in told]
        told |= {id(weight) for weight in weights}
        count = sum(int(np.prod(weight.shape)) for weight in weights)
        work = call_macs(call)
        if isinstance(call.layer, _NORMS) and source is not None and source["norm"] is None:
            source["norm"] = call.name
            source["learned"] += count
        elif getattr(call.layer, "weights", ()) or work or isinstance(call.layer, _POOLING):
            rows.append(_row(call, count, work))
            if work:
                row_of[id(call)] = rows[-1]
        elif source is not None and call.input_shape == call.output_shape:
            # An activation or a dropout: what follows still follows the layer before it.
            row_of[id(call)] = source
    return rows


def _row(call, count, work):
    layer = call.layer
    kernel, stride = _pair(layer, "kernel_size", "pool_size"), _pair(layer, "strides")
    dilation = _pair(layer, "dilation_rate")
    if isinstance(layer, _layers.DepthwiseConv2D | _layers.SeparableConv2D):
        groups = call.input_shape[-1]
    else:
        groups = getattr(layer, "groups", None) if kernel else None
    return {
        "name": call.name,
        "type": type(layer).__name__,
        "kernel": kernel,
        "stride": stride,
        "padding": _padding(call, kernel, stride, dilation),
        "dilation": dilation,
        "groups": groups,
        "filters": call.output_shape[-1],
        "grid": list(call.output_shape[1:-1]),
        "norm": None,
        "learned": count,
        "macs": work,
    }


def _pair(layer, *names):
    value = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    if value is None:
        return None
    return [int(size) for size in value]


def _padding(call, kernel, stride, dilation):
    if kernel is None:
        return None
    padding = [0] * (2 * len(kernel))
    if call.layer.padding == "same":
        for axis in range(len(kernel)):
            size, reach = call.input_shape[1 + axis], (dilation[axis] if dilation else 1) * (kernel[axis] - 1) + 1
            # TensorFlow's rule: as many outputs as strides fit, and the odd zero at the end.
            zeros = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + reach - size)
            padding[2 * axis : 2 * axis + 2] = zeros // 2, zeros - zeros // 2
    before = call.sources[0].layer if len(call.sources) == 1 else None
    if isinstance(before, _layers.ZeroPadding2D):
        own = [size for side in before.padding for size in side]
        padding = [ours + zeros for ours, zeros in zip(padding, own, strict=True)]
    return padding
