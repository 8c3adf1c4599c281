"""Conversion between the JSON of TensorFlow Serving's REST interface and its messages."""

from __future__ import annotations

import base64
import binascii
import json

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from tensorflow_serving.apis.classification_pb2 import ClassificationResponse
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataResponse, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionResponse

from tfdfd.serve.errors import INVALID_ARGUMENT, ServingError, quoted
from tfdfd.serve.loaded_model import Signature

ROWS, COLUMNS = "instances", "inputs"
# Outputs whose names end with this are bytes, not text.
_BYTES_SUFFIX = "_bytes"
_BASE64 = "b64"


def parse(body: bytes) -> dict:
    """The JSON object in a request's body; NaN and Infinity are accepted as numbers.

    Raises:
        ServingError: it is not JSON, or not an object.
    """
    try:
        # Decoded here, since `json` would accept UTF-16 bytes, too.
        parsed = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ServingError(INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(parsed, dict):
        raise ServingError(INVALID_ARGUMENT, f"expected a JSON object; received a {type(parsed).__name__}.")
    return parsed


def signature_name(parsed: dict) -> str:
    """The name of the requested signature; empty for the default.

    Raises:
        ServingError: it is not a string.
    """
    name = parsed.get("signature_name", "")
    if not isinstance(name, str):
        raise ServingError(INVALID_ARGUMENT, "'signature_name' key must be a string value.")
    return name


def fill_inputs(request: PredictRequest, parsed: dict, signature: Signature) -> str:
    """Fills `request` with the tensors of `parsed`, in the types of the signature.

    Returns:
        The form: `instances` (by row) or `inputs` (by column).

    Raises:
        ServingError: neither form, or values that do not fit the tensors.
    """
    if (ROWS in parsed) == (COLUMNS in parsed):
        raise ServingError(INVALID_ARGUMENT, f"expected one of the keys '{ROWS}' and '{COLUMNS}'.")
    form = ROWS if ROWS in parsed else COLUMNS
    columns = _rows_to_columns(parsed[ROWS], signature) if form == ROWS else _columns(parsed[COLUMNS], signature)
    for name, value in columns.items():
        info = signature.inputs.get(name)
        if info is None:
            raise ServingError(INVALID_ARGUMENT, f"JSON object: does not have named input: {quoted(name)}")
        array = _array(name, value, info)
        dtype = tf.as_dtype(info.dtype)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype=dtype, shape=array.shape))
    return form


def fill_examples(given: Input, parsed: dict) -> None:
    """Fills the input of Classify or Regress with the examples of `parsed` and their shared context.

    Raises:
        ServingError: there are none, or values of an unsupported type.
    """
    examples = parsed.get("examples")
    if not isinstance(examples, list) or not examples:
        raise ServingError(INVALID_ARGUMENT, "expected the key 'examples' with a list of at least one object.")
    target = given.example_list
    if "context" in parsed:
        target = given.example_list_with_context
        _fill_example(target.context, parsed["context"])
    for example in examples:
        _fill_example(target.examples.add(), example)


def predictions(response: PredictResponse, form: str) -> dict:
    """Outputs in the form of the inputs; a single output has no name."""
    outputs = {name: _values(name, tf.make_ndarray(tensor)) for name, tensor in response.outputs.items()}
    if form == COLUMNS:
        return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}
    if not all(isinstance(values, list) for values in outputs.values()):
        raise ServingError(INVALID_ARGUMENT, f"an output has no rows; ask with the key '{COLUMNS}'.")
    if len({len(values) for values in outputs.values()}) > 1:
        raise ServingError(INVALID_ARGUMENT, f"outputs differ in their number of rows; ask with the key '{COLUMNS}'.")
    if len(outputs) == 1:
        return {"predictions": next(iter(outputs.values()))}
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]}


def classifications(response: ClassificationResponse) -> dict:
    """Pairs of label and score for each example."""
    return {
        "results": [
            [[one.label, _short(one.score)] for one in each.classes] for each in response.result.classifications
        ]
    }


def regressions(response: RegressionResponse) -> dict:
    """A value for each example."""
    return {"results": [_short(one.value) for one in response.result.regressions]}


def status(response: GetModelStatusResponse) -> dict:
    """The states of a model's versions."""
    return MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def metadata(response: GetModelMetadataResponse) -> dict:
    """The signatures of a version."""
    signatures = SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    options = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}
    return {
        "model_spec": MessageToDict(response.model_spec, **options),
        "metadata": {"signature_def": MessageToDict(signatures, **options)},
    }


def _rows_to_columns(rows, signature):
    if not isinstance(rows, list) or not rows:
        raise ServingError(INVALID_ARGUMENT, f"expected '{ROWS}' to be a list of at least one value.")
    named = _is_named(rows[0])
    if not named and len(signature.inputs) != 1:
        raise ServingError(
            INVALID_ARGUMENT,
            f"{ROWS} is a plain list, but expecting list of objects as the signature has the inputs "
            f"{', '.join(signature.inputs)}.",
        )
    for index, row in enumerate(rows):
        if _is_named(row) != named:
            kinds = ("a value or list", "an object") if named else ("an object", "a value or list")
            raise ServingError(
                INVALID_ARGUMENT, f"'{ROWS}' mixes forms: item {index} is {kinds[0]}, the first is {kinds[1]}."
            )
        if named and set(row) != set(signature.inputs):
            raise ServingError(
                INVALID_ARGUMENT,
                f"Failed to process element: {index} of '{ROWS}' list. Keys must be equal to: "
                f"{','.join(sorted(signature.inputs))}; received {','.join(map(quoted, sorted(row)))}.",
            )
    return {name: [row[name] if named else row for row in rows] for name in signature.inputs}


def _columns(value, signature):
    if _is_named(value):
        return value
    if len(signature.inputs) != 1:
        raise ServingError(
            INVALID_ARGUMENT,
            f"{COLUMNS} is a plain value/list, but expecting an object as the signature has the inputs "
            f"{', '.join(signature.inputs)}.",
        )
    return {next(iter(signature.inputs)): value}


def _is_named(value):
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value):
    return isinstance(value, dict) and value.keys() == {_BASE64} and isinstance(value[_BASE64], str)


def _array(name: str, value, info: TensorInfo) -> np.ndarray:
    dtype = tf.as_dtype(info.dtype)
    try:
        if dtype == tf.string:
            shape = _shape(value)
            array = np.empty(int(np.prod(shape)), object)
            array[:] = [_bytes(name, leaf) for leaf in _leaves(value, shape)]
            return array.reshape(shape)
        array = np.asarray(value)
        kinds = "b" if dtype.is_bool else "iu" if dtype.is_integer else "iuf" if dtype.is_floating else ""
        if array.size and array.dtype.kind not in kinds:
            raise ValueError(f"received {array.dtype.name if array.dtype.kind in 'biuf' else 'other values'}")
        if array.size and dtype.is_integer and not (dtype.min <= array.min() and array.max() <= dtype.max):
            raise ValueError(f"values outside [{dtype.min}, {dtype.max}]")
        return array.astype(dtype.as_numpy_dtype)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ServingError(
            INVALID_ARGUMENT,
            f"the JSON of input {name!r} does not make a tensor of {DataType.Name(info.dtype)}: {error}",
        ) from error


def _shape(value):
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) > 32:
        raise ValueError(f"lists nested {len(shape)} deep")
    return tuple(shape)


def _leaves(value, shape):
    if not shape:
        if isinstance(value, list):
            raise ValueError("lists of unequal depth")
        yield value
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("lists of unequal length")
    for item in value:
        yield from _leaves(item, shape[1:])


def _bytes(name, value):
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not _is_base64(value):
        raise ValueError(f'expected a string or {{"{_BASE64}": string}}; received a {type(value).__name__}')
    try:
        return base64.b64decode(value[_BASE64], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("Unable to base64 decode") from None


def _values(name, array):
    if array.dtype == object:
        show = _encoded if name.endswith(_BYTES_SUFFIX) else _text
        flat = np.empty(array.size, object)
        flat[:] = [show(value) for value in array.ravel()]
        return flat.reshape(array.shape).tolist()
    if array.dtype.kind == "f" and array.dtype != np.float64:
        # The shortest decimals of the float32, not those of its double.
        array = array.astype(str).astype(np.float64)
    return array.tolist()


def _encoded(value):
    return {_BASE64: base64.b64encode(value).decode("ascii")}


def _text(value):
    return value.decode("utf-8", "replace")


def _short(value):
    return float(str(np.float32(value)))


def _fill_example(example, given):
    if not isinstance(given, dict):
        raise ServingError(INVALID_ARGUMENT, f"Example must be JSON object but got {type(given).__name__}")
    for name, content in given.items():
        values = content if isinstance(content, list) else [content]
        feature = example.features.feature[name]
        try:
            if all(isinstance(value, str) or _is_base64(value) for value in values):
                feature.bytes_list.value.extend(_bytes(name, value) for value in values)
            elif all(isinstance(value, int) for value in values):
                feature.int64_list.value.extend(map(int, values))
            elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
                feature.float_list.value.extend(values)
            else:
                raise ValueError("expected strings, whole numbers or decimal numbers, not a mix")
        except (ValueError, OverflowError) as error:
            raise ServingError(INVALID_ARGUMENT, f"Feature: {quoted(name)}: {error}") from error
