"""A built network as a table: one row a convolution, dense layer or pooling, with its norm folded in."""

import keras
import numpy as np

from tfdfd.models.counting import call_macs, learned_weights
from tfdfd.models.graph import calls

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
