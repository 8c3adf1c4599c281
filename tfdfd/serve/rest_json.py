"""Conversion between the JSON of TensorFlow Serving's REST interface and its messages."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from tensorflow_serving.apis.classification_pb2 import ClassificationResponse
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataResponse, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionResponse

from tfdfd.serve import INVALID_ARGUMENT, ServingError, quoted
from tfdfd.serve.loaded_model import LoadedModel
from tfdfd.serve.request_json import (
    BASE64,
    COLUMNS,
    InferBody,
    InputType,
    PredictBody,
    Types,
    datatype,
    is_base64,
    to_bytes,
)
from tfdfd.serve.tensors import shape_of

# Outputs whose names end with this are bytes, not text.
_BYTES_SUFFIX = "_bytes"


def input_types(model: LoadedModel) -> Types:
    """Types of the inputs of all signatures."""
    return {
        name: {key: input_type(info) for key, info in signature.inputs.items()}
        for name, signature in model.signatures.items()
    }


def input_type(info: Any) -> InputType:
    """Type of a signature's tensor."""
    dtype, name = tf.as_dtype(info.dtype), DataType.Name(info.dtype)
    if dtype == tf.string:
        return InputType(name, None)
    kinds = "b" if dtype.is_bool else "iu" if dtype.is_integer else "iuf" if dtype.is_floating else ""
    return InputType(
        name, np.dtype(dtype.as_numpy_dtype), kinds, (int(dtype.min), int(dtype.max)) if dtype.is_integer else None
    )


def predict_request(spec: ModelSpec, body: PredictBody) -> PredictRequest:
    """The message of a parsed body."""
    request = PredictRequest(model_spec=spec)
    request.model_spec.signature_name = body.signature
    for name, array in body.arrays.items():
        dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype=dtype, shape=array.shape))
    return request


def inferences(response: PredictResponse, body: InferBody) -> dict:
    """The answer of the Open Inference Protocol to `infer`."""
    outputs = []
    for name in body.outputs or response.outputs:
        array = tf.make_ndarray(response.outputs[name])
        kind = input_type(TensorInfo(dtype=response.outputs[name].dtype))
        outputs.append(
            {
                "name": name,
                "datatype": datatype(kind),
                "shape": list(array.shape),
                "data": [one["b64"] if isinstance(one, dict) else one for one in _values(name, array.ravel())],
            }
        )
    spec = response.model_spec
    answer = {"model_name": spec.name, "model_version": str(spec.version.value), "outputs": outputs}
    return answer | ({"id": body.id} if body.id else {})


def model_metadata(name: str, versions: Iterable[int], model: LoadedModel) -> dict:
    """The metadata of a model in the Open Inference Protocol, of its default signature."""
    signature = model.signature("")
    tensors = {
        key: [
            {"name": tensor, "datatype": datatype(input_type(info)), "shape": shape_of(info) or []}
            for tensor, info in infos.items()
        ]
        for key, infos in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
    return {
        "name": name,
        "versions": [str(number) for number in versions],
        "platform": "tensorflow_savedmodel",
    } | tensors


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


def _values(name: str, array: np.ndarray) -> list:
    if array.dtype == object:
        show = _encoded if name.endswith(_BYTES_SUFFIX) else _text
        flat = np.empty(array.size, object)
        flat[:] = [show(value) for value in array.ravel()]
        return flat.reshape(array.shape).tolist()
    if array.dtype.kind == "f" and array.dtype != np.float64:
        # The shortest decimals of the float32, not those of its double.
        array = array.astype(str).astype(np.float64)
    return array.tolist()


def _encoded(value: bytes) -> dict[str, str]:
    return {BASE64: base64.b64encode(value).decode("ascii")}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _short(value: Any) -> float:
    return float(str(np.float32(value)))


def _fill_example(example: Any, given: Any) -> None:
    if not isinstance(given, dict):
        raise ServingError(INVALID_ARGUMENT, f"Example must be JSON object but got {type(given).__name__}")
    for name, content in given.items():
        values = content if isinstance(content, list) else [content]
        feature = example.features.feature[name]
        try:
            if all(isinstance(value, str) or is_base64(value) for value in values):
                feature.bytes_list.value.extend(to_bytes(value) for value in values)
            elif all(isinstance(value, int) for value in values):
                feature.int64_list.value.extend(map(int, values))
            elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
                feature.float_list.value.extend(values)
            else:
                raise ValueError("expected strings, whole numbers or decimal numbers, not a mix")
        except (ValueError, OverflowError) as error:
            raise ServingError(INVALID_ARGUMENT, f"Feature: {quoted(name)}: {error}") from error
