"""Cost of a network from its graph: multiply-accumulates, parameters, and a table of its layers.

`calls` walks the graph of a built Keras model layer by layer and opens the models that are used as layers in it; the
counts are sums over these calls. A new layer type needs one row in `MACS` or `NO_MACS`. A layer class of this package
counts itself with a method `macs(input_shape) -> int`, which takes the shape with its batch, as `compute_output_shape`
does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import keras
import numpy as np

Shape = tuple[int | None, ...]
_layers = keras.layers


class Call:
    """One call of one layer.

    Attributes:
        layer: the called layer or bare operation.
        name: its name, prefixed with the names of the models it is nested in: `body/conv1`.
        input_shape: shape of its first input, batch included; None without inputs.
        output_shape: shape of its first output, batch included.
        sources: the calls whose outputs it takes, as far as they are in the same model.
        times: how often it runs for one image or clip: the steps of the `TimeDistributed` layers around it, or the
            frames that `keras.ops.reshape` has moved into the batch.
    """

    def __init__(
        self, layer: Any, name: str, input_shape: Shape | None, output_shape: Shape, times: int | Fraction = 1
    ) -> None:
        self.layer = layer
        self.name = name
        self.input_shape = input_shape
        self.output_shape = output_shape
        self.sources: list[Call] = []
        self.times = times

    def require_static(self) -> None:
        """Raises `ValueError` if any size but the batch is unknown, since nothing can then be counted."""
        if None in (self.input_shape or ())[1:] or None in self.output_shape[1:]:
            raise ValueError(
                f"{self.name} takes {self.input_shape} to {self.output_shape}; counting needs every size but the "
                "batch: build the model with a full input_shape such as (256, 256, 3)."
            )


def calls(model: keras.Model) -> list[Call]:
    """All calls between the inputs and the outputs of a built functional or sequential model.

    A call follows the calls it takes its inputs from. The inputs of a joining layer keep their order, so branches are
    listed one after the other.

    Raises:
        ValueError: the model is not built, or has no graph (a subclassed model).
    """
    if not _has_graph(model):
        raise ValueError(
            f"{model.name} ({type(model).__name__}) has no graph of layers; expected a built functional or sequential "
            "keras.Model."
        )
    return _open(model, "", 1)


def macs(model: keras.Model) -> int:
    """Multiply-accumulates of one image (or clip) through a built model.

    Counts convolutions, dense and recurrent layers, and the two matrix products of attention (queries by keys, weights
    by values); no bias, normalization, activation or pooling. A layer that is called twice counts twice.

    Raises:
        ValueError: a size other than the batch is unknown, or no rule counts a layer that has weights.
    """
    return sum(call_macs(call) for call in calls(model))


def thesis_macs(model: keras.Model) -> int:
    """Multiply-accumulates as in A. Putyra's thesis (AGH 2020, table 7.1): plus 2 per output of a BatchNormalization.

    That is the rule of the THOP library, which also counts neither activations nor pooling here.
    """
    return sum(call_macs(call) + 2 * _norm_outputs(call) for call in calls(model))


def learned(model: keras.Model) -> int:
    """Parameters as papers and PyTorch count them: all weights, frozen or not, except running statistics."""
    return _size(learned_weights(model))


def trainable(model: keras.Model) -> int:
    """Weights that training changes, with the model frozen as it is now."""
    return _size(model.trainable_weights)


def total(model: keras.Model) -> int:
    """All weights, running statistics included: `model.count_params()`."""
    return model.count_params()


def learned_weights(layer: Any) -> list[keras.Variable]:
    """The variables that `learned` counts in a model or layer, each once; a bare operation has none."""
    inner = layer._flatten_layers() if hasattr(layer, "_flatten_layers") else ()
    statistics = {
        id(getattr(one, name, None))
        for one in inner
        for kind, names in STATISTICS.items()
        if isinstance(one, kind)
        for name in names
    }
    return [weight for weight in getattr(layer, "weights", ()) if id(weight) not in statistics]


def call_macs(call: Call) -> int:
    """Multiply-accumulates of one call; raises as `macs` does."""
    layer = call.layer
    if hasattr(layer, "macs"):
        call.require_static()
        return int(call.times) * int(layer.macs(call.input_shape))
    rule = next((MACS[kind] for kind in type(layer).__mro__ if kind in MACS), None)
    if rule is not None:
        call.require_static()
        return int(call.times) * int(rule(layer, call.input_shape or (), call.output_shape))
    if (getattr(layer, "weights", ()) and not isinstance(layer, NO_MACS)) or type(layer).__name__ in UNCOUNTED:
        raise ValueError(
            f"no rule counts the multiply-accumulates of {call.name} ({type(layer).__name__}); give its class a method "
            "macs(input_shape), or its type a row in tfdfd.models.counting."
        )
    return 0


def layer_rows(model: keras.Model) -> list[dict[str, Any]]:
    """The layer table of a built functional model, in graph order: branch by branch where the graph forks.

    A row is a layer with weights or multiply-accumulates, or a pooling. A norm that is applied to such a layer's
    output, directly or after an activation, is folded into that layer's row. Each row is a dict of plain values:

    - `name`, `type`: the layer's name, prefixed with the models it is nested in; its class, such as `Conv2D`.
    - `kernel`, `stride`: `[height, width]`; None for layers without a window.
    - `padding`: zeros added at `[top, bottom, left, right]`, including those of a ZeroPadding2D just before.
    - `dilation`: `[height, width]`.
    - `groups`: groups of channels; a depthwise layer has one per channel.
    - `filters`: channels of the output.
    - `grid`: `[height, width]` of the output; [] for a vector.
    - `norm`: name of the folded norm, or None.
    - `learned`: parameters including the norm's, without running statistics; 0 at a layer's second call.
    - `macs`: multiply-accumulates of one image, as counted by `macs`.

    Raises:
        ValueError: as `macs`.
    """
    rows: list[dict[str, Any]] = []
    row_of: dict[int, dict[str, Any]] = {}
    counted: set[int] = set()
    for call in calls(model):
        source = row_of.get(id(call.sources[0])) if len(call.sources) == 1 else None
        weights = [weight for weight in learned_weights(call.layer) if id(weight) not in counted]
        counted |= {id(weight) for weight in weights}
        parameters, work = _size(weights), call_macs(call)
        if isinstance(call.layer, _NORMS) and source is not None and source["norm"] is None:
            source["norm"] = call.name
            source["learned"] += parameters
        elif getattr(call.layer, "weights", ()) or work or isinstance(call.layer, _POOLING):
            rows.append(_row(call, parameters, work))
            if work:
                row_of[id(call)] = rows[-1]
        elif source is not None and call.input_shape == call.output_shape:
            # An activation or dropout is transparent: what follows it still follows the layer before it.
            row_of[id(call)] = source
    return rows


def nodes(model: keras.Model) -> Iterator[Any]:
    """The nodes of the graph, each after the nodes it depends on."""
    inputs = {key_of(tensor) for tensor in model.inputs}
    visited: set[int] = set()
    stack = [(node_of(tensor), False) for tensor in reversed(model.outputs) if key_of(tensor) not in inputs]
    while stack:
        node, is_complete = stack.pop()
        if is_complete:
            yield node
        elif id(node) not in visited:
            visited.add(id(node))
            stack.append((node, True))
            stack += [(node_of(t), False) for t in reversed(node.input_tensors) if key_of(t) not in inputs]


def key_of(tensor: keras.KerasTensor) -> tuple[int, int, int]:
    """Identity of a symbolic tensor: the operation that made it, the node, and the position among its outputs."""
    operation, node_index, tensor_index = tensor._keras_history
    return id(operation), node_index, tensor_index


def node_of(tensor: keras.KerasTensor) -> Any:
    """The graph node that made a symbolic tensor."""
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def _has_graph(layer: Any) -> bool:
    return isinstance(layer, keras.Model) and bool(getattr(layer, "outputs", None))


def _open(model: keras.Model, prefix: str, times: int | Fraction) -> list[Call]:
    opened: list[Call] = []
    by_node: dict[int, Call] = {}
    times_of: dict[int, int | Fraction] = {}
    for node in nodes(model):
        before = [node_of(tensor) for tensor in node.input_tensors]
        sources = [by_node[id(source)] for source in before if id(source) in by_node]
        shapes = _shapes(node.input_tensors), _shapes(node.outputs)
        runs = max((times_of[id(source)] for source in before if id(source) in times_of), default=times)
        times_of[id(node)] = runs * _batch_growth(node.operation, *shapes)
        inner = _calls_of(node.operation, *shapes, prefix, runs)
        opened += inner
        if len(inner) == 1:
            inner[0].sources = sources
        if inner:
            by_node[id(node)] = inner[-1]
    return opened


def _batch_growth(operation: Any, input_shapes: list[Shape], output_shapes: list[Shape]) -> int | Fraction:
    """The factor by which a reshape multiplies the batch; no other operation moves values between images."""
    if type(operation).__name__ != "Reshape" or None in (*input_shapes[0][1:], *output_shapes[0][1:]):
        return 1
    return Fraction(_product(input_shapes[0][1:]), _product(output_shapes[0][1:]))


def _calls_of(
    layer: Any, input_shapes: list[Shape], output_shapes: list[Shape], prefix: str, times: int | Fraction
) -> list[Call]:
    name = prefix + layer.name
    call = Call(layer, name, next(iter(input_shapes), None), output_shapes[0], times)
    if hasattr(layer, "macs"):  # counts itself, whatever is inside
        return [call]
    if isinstance(layer, _layers.TimeDistributed):
        call.require_static()
        frames = [[(shape[0], *shape[2:]) for shape in shapes] for shapes in (input_shapes, output_shapes)]
        return _calls_of(layer.layer, frames[0], frames[1], f"{name}/", times * (input_shapes[0][1] or 1))
    if not _has_graph(layer):
        return [call]
    if _shapes(layer.inputs) != input_shapes:
        # Built for other sizes than it is called with, or for any: the same graph again, at these sizes.
        tensors = [
            keras.Input(batch_shape=shape, dtype=tensor.dtype)
            for shape, tensor in zip(input_shapes, layer.inputs, strict=True)
        ]
        layer = keras.models.clone_model(layer, input_tensors=tensors)
    return _open(layer, f"{name}/", times)


def _shapes(tensors: Iterable[keras.KerasTensor]) -> list[Shape]:
    return [tuple(tensor.shape) for tensor in tensors]


def _product(sizes: Iterable[int | None]) -> int:
    return math.prod(size or 0 for size in sizes)


def _convolution(layer: Any, _: Shape, output_shape: Shape) -> int:
    # kernel: (..., inputs of one group, filters), so groups and dilation need no case of their own.
    return _product(layer.kernel.shape[:-1]) * _product(output_shape[1:])


def _depthwise(layer: Any, _: Shape, output_shape: Shape) -> int:
    return _product(layer.kernel.shape[:-2]) * _product(output_shape[1:])


def _separable(layer: Any, _: Shape, output_shape: Shape) -> int:
    grid = _product(output_shape[1:]) // layer.filters
    return (_product(layer.depthwise_kernel.shape) + _product(layer.pointwise_kernel.shape)) * grid


def _transposed(layer: Any, input_shape: Shape, _: Shape) -> int:
    return _product(layer.kernel.shape[:-1]) * _product(input_shape[1:])


def _dense(layer: Any, _: Shape, output_shape: Shape) -> int:
    return layer.kernel.shape[0] * _product(output_shape[1:])


def _recurrent(layer: Any, input_shape: Shape, _: Shape) -> int:
    return _product(input_shape[1:2]) * (
        _product(layer.cell.kernel.shape) + _product(layer.cell.recurrent_kernel.shape)
    )


def _bidirectional(layer: Any, input_shape: Shape, output_shape: Shape) -> int:
    return sum(_recurrent(one, input_shape, output_shape) for one in (layer.forward_layer, layer.backward_layer))


MACS: dict[type, Callable[[Any, Shape, Shape], int]] = {
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
    _layers.Bidirectional: _bidirectional,
}
# Layers with weights that take part in no sum of products.
NO_MACS = (
    _layers.BatchNormalization,
    _layers.GroupNormalization,
    _layers.LayerNormalization,
    _layers.Normalization,
    _layers.PReLU,
    _layers.Embedding,
)
# Operations and layers without weights that multiply and accumulate nevertheless: a count of 0 would be wrong.
UNCOUNTED = {
    "AdditiveAttention", "Attention", "Conv", "ConvTranspose", "DepthwiseConv", "Dot", "DotProductAttention", "Einsum",
    "Inner", "Matmul", "SeparableConv", "Tensordot", "Vdot",
}  # fmt: skip
STATISTICS = {
    _layers.BatchNormalization: ("moving_mean", "moving_variance"),
    _layers.Normalization: ("adapt_mean", "adapt_variance", "count"),
}
_POOLING = (
    _layers.MaxPooling2D,
    _layers.AveragePooling2D,
    _layers.GlobalMaxPooling2D,
    _layers.GlobalAveragePooling2D,
)
_NORMS = (_layers.BatchNormalization, _layers.LayerNormalization, _layers.GroupNormalization)


def _norm_outputs(call: Call) -> int:
    if not isinstance(call.layer, _layers.BatchNormalization):
        return 0
    call.require_static()
    return int(call.times) * _product(call.output_shape[1:])


def _size(weights: Iterable[keras.Variable]) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


def _row(call: Call, parameters: int, work: int) -> dict[str, Any]:
    layer = call.layer
    kernel, stride = _pair(layer, "kernel_size", "pool_size"), _pair(layer, "strides")
    dilation = _pair(layer, "dilation_rate")
    if isinstance(layer, _layers.DepthwiseConv2D | _layers.SeparableConv2D):
        groups = (call.input_shape or (None,))[-1]
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
        "learned": parameters,
        "macs": work,
    }


def _pair(layer: Any, *names: str) -> list[int] | None:
    value = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    if value is None:
        return None
    return [int(size) for size in value]


def _padding(
    call: Call, kernel: list[int] | None, stride: list[int] | None, dilation: list[int] | None
) -> list[int] | None:
    if kernel is None:
        return None
    padding = [0] * (2 * len(kernel))
    if call.layer.padding == "same" and stride is not None:
        for axis, size in enumerate((call.input_shape or ())[1 : 1 + len(kernel)]):
            reach = (dilation[axis] if dilation else 1) * (kernel[axis] - 1) + 1
            # TensorFlow's rule: one output per stride, and an odd zero goes to the end.
            zeros = max(0, (-(-(size or 0) // stride[axis]) - 1) * stride[axis] + reach - (size or 0))
            padding[2 * axis : 2 * axis + 2] = zeros // 2, zeros - zeros // 2
    before = call.sources[0].layer if len(call.sources) == 1 else None
    if isinstance(before, _layers.ZeroPadding2D):
        before_padding = [size for side in before.padding for size in side]
        padding = [own + zeros for own, zeros in zip(padding, before_padding, strict=True)]
    return padding
