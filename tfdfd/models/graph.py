"""What a built network does, call by call: which layer, on which shapes. Models used as layers are opened."""

import math
from fractions import Fraction

import keras


class Call:
    """One call of one layer.

    Attributes:
        layer: the layer (or bare operation) that is called.
        name: its name, behind the names of the models it is nested in: `body/conv1`.
        input_shape: of its first input, with the batch; None without inputs.
        output_shape: of its first output, with the batch.
        sources: the calls whose outputs it takes, as far as they are in the same model.
        times: how often it runs for one image or clip: the steps of the `TimeDistributed` layers around it, or the
            frames that `keras.ops.reshape` has put into the batch.
    """

    def __init__(self, layer, name, input_shape, output_shape, sources=(), times=1):
        self.layer = layer
        self.name = name
        self.input_shape = input_shape
        self.output_shape = output_shape
        self.sources = sources
        self.times = times

    def require_static(self):
        """Raises `ValueError` unless all sizes but the batch are known: without them nothing can be counted."""
        if None in (self.input_shape or ())[1:] or None in self.output_shape[1:]:
            raise ValueError(
                f"{self.name} takes {self.input_shape} to {self.output_shape}; counting needs every size but the "
                "batch: build the model with a full input_shape such as (256, 256, 3)."
            )


def calls(model):
    """All calls between the inputs and outputs of a built functional or sequential `model`, as a list.

    A call comes after those it takes its inputs from, and the inputs of a joining layer in their order: branch by
    branch.

    Raises:
        ValueError: the model is not built, or has no graph (a subclassed model).
    """
    if not _has_graph(model):
        raise ValueError(
            f"{model.name} ({type(model).__name__}) has no graph of layers; expected a built functional or sequential "
            "keras.Model."
        )
    return _opened(model, "", 1)


def _has_graph(layer):
    return isinstance(layer, keras.Model) and bool(getattr(layer, "outputs", None))


def _opened(model, prefix, times):
    found, by_node, times_of = [], {}, {}
    for node in nodes(model):
        before = [node_of(tensor) for tensor in node.input_tensors]
        sources = [by_node[id(source)] for source in before if id(source) in by_node]
        shapes = _shapes(node.input_tensors), _shapes(node.outputs)
        runs = max((times_of[id(source)] for source in before if id(source) in times_of), default=times)
        times_of[id(node)] = runs * _into_the_batch(node.operation, *shapes)
        inner = _of_one(node.operation, *shapes, prefix, runs)
        found += inner
        if len(inner) == 1:
            inner[0].sources = sources
        if inner:
            by_node[id(node)] = inner[-1]
    return found


def _into_the_batch(operation, input_shapes, output_shapes):
    """By how much a reshaping multiplies the batch: it alone moves values between one image and the next."""
    if type(operation).__name__ != "Reshape" or None in (*input_shapes[0][1:], *output_shapes[0][1:]):
        return 1
    return Fraction(math.prod(input_shapes[0][1:]), math.prod(output_shapes[0][1:]))


def _of_one(layer, input_shapes, output_shapes, prefix, times):
    name = prefix + layer.name
    if hasattr(layer, "macs"):  # counts for itself, whatever is inside
        return [Call(layer, name, next(iter(input_shapes), None), output_shapes[0], times=times)]
    if isinstance(layer, keras.layers.TimeDistributed):
        call = Call(layer, name, input_shapes[0], output_shapes[0])
        call.require_static()
        frames = [[(shape[0], *shape[2:]) for shape in shapes] for shapes in (input_shapes, output_shapes)]
        return _of_one(layer.layer, *frames, f"{name}/", times * input_shapes[0][1])
    if _has_graph(layer):
        if _shapes(layer.inputs) != input_shapes:
            # Built for other (or any) sizes than it is called with: the same graph again, at these.
            tensors = [
                keras.Input(batch_shape=shape, dtype=tensor.dtype)
                for shape, tensor in zip(input_shapes, layer.inputs, strict=True)
            ]
            layer = keras.models.clone_model(layer, input_tensors=tensors)
        return _opened(layer, f"{name}/", times)
    return [Call(layer, name, next(iter(input_shapes), None), output_shapes[0], times=times)]


def nodes(model):
    """The graph's nodes, each after those it depends on."""
    given = {key_of(tensor) for tensor in model.inputs}
    seen = set()
    stack = [(node_of(tensor), False) for tensor in reversed(model.outputs) if key_of(tensor) not in given]
    while stack:
        node, is_complete = stack.pop()
        if is_complete:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(node_of(t), False) for t in reversed(node.input_tensors) if key_of(t) not in given]


def key_of(tensor):
    operation, node_index, tensor_index = tensor._keras_history
    return id(operation), node_index, tensor_index


def node_of(tensor):
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def _shapes(tensors):
    return [tuple(tensor.shape) for tensor in tensors]
