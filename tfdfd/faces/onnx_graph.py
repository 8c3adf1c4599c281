"""The few lines of ONNX's wire format that a straight chain of layers needs, for `cv2.dnn.readNetFromONNX`.

MTCNN's three networks come as NumPy arrays; OpenCV runs them without TensorFlow once they are written as ONNX.
The `onnx` package would do the same, but it is 18 MB and half a second of import for these few messages.
"""

import numpy as np

_FLOAT, _INTS, _INT = 1, 7, 2  # AttributeProto.type and TensorProto.FLOAT == 1


def serialize(
    name: str, nodes: list, weights: dict[str, np.ndarray], input_shape: tuple[int, ...], output: str
) -> bytes:
    """Bytes of a model with the input `image`, float32 NCHW, and one output.

    Args:
        name: name of the graph.
        nodes: `(operator, inputs, output, attributes)` in order; attribute values are int or a list of int.
        weights: float32 arrays by the names that the nodes refer to.
        input_shape: nominal shape of `image`; OpenCV takes other batch, height and width later.
        output: name of the tensor to give back.
    """
    graph = b"".join(_message(1, _node(*node)) for node in nodes)
    graph += _text(2, name)
    graph += b"".join(_message(5, _tensor(key, value)) for key, value in weights.items())
    graph += _message(11, _value("image", input_shape)) + _message(12, _value(output, ()))
    opset = _number(2, 13)
    return _number(1, 8) + _message(8, opset) + _message(7, graph)


def _node(operator, inputs, output, attributes):
    fields = b"".join(_text(1, key) for key in inputs) + _text(2, output) + _text(3, output) + _text(4, operator)
    return fields + b"".join(_message(5, _attribute(key, value)) for key, value in attributes.items())


def _attribute(key, value):
    if isinstance(value, int):
        return _text(1, key) + _number(3, value) + _number(20, _INT)
    return _text(1, key) + b"".join(_number(8, item) for item in value) + _number(20, _INTS)


def _tensor(key, value):
    value = np.ascontiguousarray(value, "<f4")
    shape = b"".join(_number(1, size) for size in value.shape)
    return shape + _number(2, _FLOAT) + _text(8, key) + _message(9, value.tobytes())


def _value(key, shape):
    sizes = b"".join(_message(1, _number(1, size)) for size in shape)
    tensor_type = _number(1, _FLOAT) + _message(2, sizes)
    return _text(1, key) + _message(2, _message(1, tensor_type))


def _text(field, value):
    return _message(field, value.encode())


def _message(field, payload):
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _number(field, value):
    return _varint(field << 3) + _varint(value)


def _varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
