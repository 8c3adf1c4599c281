"""Predict requests to arrays, and outputs to responses; checked against the signature before memory is allocated.

Statuses and messages are those of TensorFlow Serving.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from tfdfd.media.formats import MAX_SCANS, picture_work
from tfdfd.publishing import HIGHEST_PIXEL, LOWEST_PIXEL, MAX_PIXELS
from tfdfd.serve import INVALID_ARGUMENT, ServingError, quoted

# Pixels that one request may have decoded, some seconds' work: 16 pictures of the largest size.
MAX_DECODED = 16 * MAX_PIXELS

if TYPE_CHECKING:
    from tfdfd.serve.loaded_model import Signature

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
    """The shape of a signature's tensor, -1 for free sizes; None if the rank is free."""
    shape = info.tensor_shape
    return None if shape.unknown_rank else [dim.size for dim in shape.dim]


def check(name: str, dtype: int, shape: list[int], info: TensorInfo) -> None:
    """Raises `ServingError` unless type and shape of a tensor fit the signature's input."""
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
    """Raises `ServingError` for pictures `(batch, height, width, 3)`, or clips of them, without pixels or with too
    many.
    """
    height, width = shape[-3:-1]
    if not 0 < height * width <= MAX_PIXELS:
        raise ServingError(
            INVALID_ARGUMENT,
            f"input {name!r} holds pictures of {width} x {height} pixels; expected 1 to {MAX_PIXELS:,} pixels.",
        )


def check_pixels(name: str, pictures: np.ndarray) -> None:
    """Raises `ServingError` for pictures with pixels that are not finite or not in [0, 1]."""
    axes = tuple(range(1, pictures.ndim))
    least, most = pictures.min(axis=axes), pictures.max(axis=axes)
    # Both comparisons are false for NaN.
    wrong = np.flatnonzero(~((least >= LOWEST_PIXEL) & (most <= HIGHEST_PIXEL)))
    if len(wrong):
        first = wrong[0]
        is_finite = np.isfinite([least[first], most[first]]).all()
        what = f"pixels from {least[first]:g} to {most[first]:g}" if is_finite else "pixels that are NaN or infinite"
        raise ServingError(
            INVALID_ARGUMENT,
            f"input {name!r} expects RGB pixels in [0, 1]; {'picture' if pictures.ndim == 4 else 'clip'} {first} of "
            f"{len(pictures)} (from 0) has {what}.",
        )


def check_encoded(name: str, pictures: Iterable[bytes], for_decoders: bool = False) -> None:
    """Raises `ServingError` for encoded pictures that would take long to decode; their headers alone are read.

    A progressive JPEG is decoded once for each of its scans, so its pixels count as often.

    Args:
        name: name of the input.
        pictures: their files.
        for_decoders: also refuses what `tfdfd.publishing.images` refuses: other formats, CMYK, too many pixels.
            Otherwise the graph does.
    """
    total = 0
    for number, data in enumerate(pictures):
        work = picture_work(data)
        if for_decoders:
            if work is None:
                raise ServingError(INVALID_ARGUMENT, f"{name} holds something that is neither a JPEG nor a PNG.")
            if work.channels > 3:
                raise ServingError(INVALID_ARGUMENT, f"{name} holds a CMYK picture; expected RGB or gray.")
            if not 0 < work.pixels <= MAX_PIXELS:
                raise ServingError(
                    INVALID_ARGUMENT, f"{name} holds a picture of more than {MAX_PIXELS} pixels, or of none."
                )
        if work is None:
            continue
        if work.scans > MAX_SCANS:
            raise ServingError(
                INVALID_ARGUMENT, f"picture {number} (from 0) of {name!r} has more than {MAX_SCANS} scans."
            )
        total += work.pixels * work.scans
        if total > MAX_DECODED:
            raise ServingError(
                INVALID_ARGUMENT,
                f"the pictures of {name!r} have more than {MAX_DECODED:,} pixels in all (those of a progressive JPEG "
                "count for each scan); send fewer or smaller ones at a time.",
            )


def size_in_bytes(tensor: TensorProto) -> int:
    """Bytes of the values as an array. They may exceed those of the message, since the last value is repeated."""
    count = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.dtype == DataType.DT_STRING:
        values = tensor.string_val
        return sum(map(len, values)) + max(count - len(values), 0) * (len(values[-1]) if values else 0) + 8 * count
    return count * tf.as_dtype(tensor.dtype).size


def to_array(name: str, tensor: TensorProto) -> np.ndarray:
    """A checked tensor's values; strings become `bytes` in an object array.

    Raises:
        ServingError: the number of values does not fit the shape.
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
    """An output as a message, with its values in the field that TensorFlow Serving uses for the type."""
    field: str | None
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


def _name(dtype: int) -> str:
    try:
        return DataType.Name(dtype)
    except ValueError:
        return f"type {dtype}"


def _shown(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"


def check_inputs(request: PredictRequest, signature: Signature, max_rows: int) -> int:
    """Checks a request before its arrays are made; returns their size in bytes.

    Raises:
        ServingError: names, types, shapes or row counts that the signature does not take, or unknown outputs.
    """
    given, expected = set(request.inputs), set(signature.inputs)
    if given != expected:
        raise ServingError(
            INVALID_ARGUMENT,
            f"input size does not match signature: {len(given)}!={len(expected)} len({_names(given, expected)}) != "
            f"len({_names(expected, expected)}). Sent extra: {_names(given - expected)}. "
            f"Missing but required: {_names(expected - given, expected)}.",
        )
    for name in request.output_filter:
        if name not in signature.outputs:
            raise ServingError(
                INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {quoted(name)} Outputs expected to be in the set "
                f"{_names(signature.outputs, signature.outputs)}.",
            )
    if len(set(request.output_filter)) != len(request.output_filter):
        raise ServingError(INVALID_ARGUMENT, "duplicate output tensor alias in output_filter.")
    size = 0
    for name, info in signature.inputs.items():
        tensor = request.inputs[name]
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        check(name, tensor.dtype, shape, info)
        if name in signature.pictures:
            check_picture_size(name, shape)
        if signature.takes_batches and shape[0] > max_rows:
            raise ServingError(
                INVALID_ARGUMENT, f"Task size {shape[0]} is larger than maximum input batch size {max_rows}"
            )
        size += size_in_bytes(tensor) if math.prod(shape) else 0
    return size


def arrays_of(request: PredictRequest, signature: Signature) -> dict[str, np.ndarray]:
    """The arrays of a checked request, in the order of the signature's inputs.

    Raises:
        ServingError: the number of values does not fit the shape, or pixels are invalid.
    """
    arrays = {name: to_array(name, request.inputs[name]) for name in signature.inputs}
    for name in signature.pictures:
        check_pixels(name, arrays[name])
    for name in signature.encoded:
        check_encoded(name, arrays[name].ravel(), signature.of_pixels is not None)
    return arrays


def fill_response(
    response: PredictResponse, outputs: dict[str, np.ndarray], wanted: Iterable[str] = ()
) -> PredictResponse:
    """Fills a response with the outputs that the request names, or all."""
    for name in list(wanted) or outputs:
        response.outputs[name].CopyFrom(to_proto(outputs[name]))
    return response


def _names(names: Iterable[str], own: Collection[str] = ()) -> str:
    return "{" + ",".join(name if name in own else quoted(name) for name in sorted(names)) + "}"
