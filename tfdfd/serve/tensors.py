"""Tensors of the protocol to NumPy and back, checked against the signature before anything is allocated for them."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from tfdfd.publishing import HIGHEST_PIXEL, LOWEST_PIXEL, MAX_PIXELS
from tfdfd.serve.errors import INVALID_ARGUMENT, ServingError

# TensorFlow Serving answers in these fields, and clients read them.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
}


def shape_of(info: TensorInfo) -> list[int] | None:
    """The shape that a signature states, -1 where it is free; None where the rank is."""
    shape = info.tensor_shape
    return None if shape.unknown_rank else [dim.size for dim in shape.dim]


def check(name: str, dtype: int, shape: list[int], info: TensorInfo) -> None:
    """Raises `ServingError` unless a tensor is what the signature's input takes."""
    if dtype != info.dtype:
        raise ServingError(
            INVALID_ARGUMENT,
            f"input {name!r} expects {DataType.Name(info.dtype)}; received {_name(dtype)}.",
        )
    expected = shape_of(info)
    if any(size < 0 for size in shape):
        raise ServingError(INVALID_ARGUMENT, f"input {name!r} has the shape {shape}; no size may be below 0.")
    if expected is not None and (
        len(shape) != len(expected) or any(size not in (-1, given) for size, given in zip(expected, shape, strict=True))
    ):
        raise ServingError(
            INVALID_ARGUMENT, f"input {name!r} expects the shape {_shown(expected)}; received {_shown(shape)}."
        )


def check_picture_size(name: str, shape: list[int]) -> None:
    """Raises `ServingError` for pictures `(batch, height, width, 3)` of no pixels, or of more than are resized."""
    height, width = shape[1:3]
    if not 0 < height * width <= MAX_PIXELS:
        raise ServingError(
            INVALID_ARGUMENT,
            f"input {name!r} holds pictures of {width} x {height} pixels; expected 1 to {MAX_PIXELS:,} pixels.",
        )


def check_pixels(name: str, pictures: np.ndarray) -> None:
    """Raises `ServingError` for pictures whose pixels are no numbers or of another scale than [0, 1]."""
    least, most = pictures.min(axis=(1, 2, 3)), pictures.max(axis=(1, 2, 3))
    # NaN is neither.
    wrong = np.flatnonzero(~((least >= LOWEST_PIXEL) & (most <= HIGHEST_PIXEL)))
    if len(wrong):
        first = wrong[0]
        is_finite = np.isfinite([least[first], most[first]]).all()
        what = f"pixels from {least[first]:g} to {most[first]:g}" if is_finite else "pixels that are NaN or infinite"
        raise ServingError(
            INVALID_ARGUMENT,
            f"input {name!r} expects RGB pixels in [0, 1]; picture {first} of {len(pictures)} (from 0) has {what}.",
        )


def size_in_bytes(tensor: TensorProto) -> int:
    """What the values take once they are an array. A few bytes on the wire may be many: the last value is repeated."""
    count = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.dtype == DataType.DT_STRING:
        values = tensor.string_val
        return sum(map(len, values)) + max(count - len(values), 0) * (len(values[-1]) if values else 0) + 8 * count
    return count * tf.as_dtype(tensor.dtype).size


def to_array(name: str, tensor: TensorProto) -> np.ndarray:
    """A checked tensor's values; strings become `bytes` in an object array.

    Raises:
        ServingError: not as many values as the shape has.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    count = math.prod(shape)
    if tensor.dtype == DataType.DT_STRING:
        values = list(tensor.string_val)
        if len(values) > count or (count and not values):
            raise ServingError(
                INVALID_ARGUMENT, f"input {name!r} has the shape {shape} but {len(values)} strings in string_val."
            )
        array = np.empty(count, object)
        array[:] = values + values[-1:] * (count - len(values))
        return array.reshape(shape)
    try:
        return tf.make_ndarray(tensor)
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise ServingError(
            INVALID_ARGUMENT, f"input {name!r} does not hold the values of its shape {shape}: {error}"
        ) from error


def to_proto(array: np.ndarray) -> TensorProto:
    """An output, in the field of its type as TensorFlow Serving answers."""
    array = np.asarray(array)
    if array.dtype == object:
        dtype, field, values = tf.string, "string_val", array.ravel().tolist()
    else:
        dtype = tf.as_dtype(array.dtype)
        field = _FIELDS.get(dtype)
        if field is None:
            return tf.make_tensor_proto(array)
        values = array.ravel().tolist()
    proto = TensorProto(dtype=dtype.as_datatype_enum)
    dims = proto.tensor_shape.dim
    for size in array.shape:
        dims.add().size = size
    getattr(proto, field).extend(values)
    return proto


def _name(dtype):
    try:
        return DataType.Name(dtype)
    except ValueError:
        return f"type {dtype}"


def _shown(shape):
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"
