"""gRPC services: TensorFlow Serving's Prediction and Model service, and the Open Inference Protocol (KServe's v2).

Source of the protocol: `open_inference_grpc.proto` in https://github.com/kserve/open-inference-protocol (Apache-2.0).
"""

from __future__ import annotations

import asyncio
import math
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceServicer

from tfdfd.serve import INTERNAL, INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, ServingError, quoted, unforeseen
from tfdfd.serve.loaded_model import DEFAULT_SIGNATURE
from tfdfd.serve.metrics import Metrics
from tfdfd.serve.model_manager import State
from tfdfd.serve.receiving import ReceiveBudget
from tfdfd.serve.request_json import InputType, check_datatype, choose_signature, datatype
from tfdfd.serve.rest_json import input_type, input_types, model_metadata
from tfdfd.serve.service import Service
from tfdfd.version import __version__

_ENTRY = "GRPC"
_NO_MODEL = ModelSpec()


class Answering:
    """What services share: statuses, deadlines and metrics of their answers."""

    def __init__(self, service: Service, metrics: Metrics):
        self._service, self._metrics = service, metrics

    async def _answer(self, method: str, spec: Any, context: Any, answer: Callable[[float | None], Awaitable]) -> Any:
        start, code = time.perf_counter(), "OK"
        try:
            left = context.time_remaining()
            return await answer(None if left is None else time.monotonic() + left)
        except ServingError as error:
            code, message = error.code, error.message
        except asyncio.CancelledError:
            code = "CANCELLED"  # the client is gone, or its deadline has passed
            raise
        except Exception as error:
            sys.stderr.write(f"gRPC: {method}: {unforeseen(error)}\n")
            code, message = INTERNAL, f"internal error: {type(error).__name__}"
        finally:
            known = self._service.manager.knows(spec.name)
            self._metrics.request(spec.name, known, method, _ENTRY, code, time.perf_counter() - start)
        await context.abort(grpc.StatusCode[code], message)


class ReceivingInterceptor(grpc.aio.ServerInterceptor):
    """Receives the messages of unary calls within the byte budget and a time limit.

    gRPC tells no size in advance, so a message counts as the largest allowed until it has arrived. Until then, gRPC
    itself buffers at most its flow control window, 64 KiB.

    Args:
        budget: for messages of all calls.
        max_message: bytes of a message.
        seconds: for receiving a message.
    """

    def __init__(self, budget: ReceiveBudget, max_message: int, seconds: float):
        self._budget, self._max_message, self._seconds = budget, max_message, seconds

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def answer(messages: Any, context: Any) -> Any:
            with self._budget.reception() as reception:
                try:
                    await reception.grow(self._max_message)
                    data = await reception.receive(asyncio.wait_for(anext(messages), self._seconds))
                    reception.arrived(len(data))
                    request = handler.request_deserializer(data)
                except ServingError as error:
                    await context.abort(grpc.StatusCode[error.code], error.message)
                except asyncio.TimeoutError:
                    message = f"the message did not arrive within {self._seconds:g} s."
                    await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, message)
                except DecodeError:
                    sys.stderr.write("grpc: refused a request: it is no message of its method\n")
                    sys.stderr.flush()
                    await context.abort(grpc.StatusCode.INTERNAL, "the request is no message of its method")
            return await handler.unary_unary(request, context)

        # On the wire, a unary request is a stream of one message; its handler alone can limit the time of receiving.
        return grpc.stream_unary_rpc_method_handler(answer, None, handler.response_serializer)


class PredictionService(Answering, PredictionServiceServicer):
    """TensorFlow Serving's PredictionService."""

    async def Predict(self, request: Any, context: Any) -> Any:
        return await self._answer(
            "Predict", request.model_spec, context, lambda until: self._service.predict(request, until)
        )

    async def Classify(self, request: Any, context: Any) -> Any:
        return await self._answer(
            "Classify", request.model_spec, context, lambda until: self._service.classify(request, until)
        )

    async def Regress(self, request: Any, context: Any) -> Any:
        return await self._answer(
            "Regress", request.model_spec, context, lambda until: self._service.regress(request, until)
        )

    async def MultiInference(self, request: Any, context: Any) -> Any:
        spec = request.tasks[0].model_spec if request.tasks else _NO_MODEL
        return await self._answer(
            "MultiInference", spec, context, lambda until: self._service.multi_inference(request, until)
        )

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:
        async def answer(until: float | None) -> Any:
            return self._service.metadata(request)

        return await self._answer("GetModelMetadata", request.model_spec, context, answer)


class ModelService(Answering, ModelServiceServicer):
    """TensorFlow Serving's ModelService."""

    async def GetModelStatus(self, request: Any, context: Any) -> Any:
        async def answer(until: float | None) -> Any:
            return self._service.status(request)

        return await self._answer("GetModelStatus", request.model_spec, context, answer)

    async def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        return await self._answer(
            "HandleReloadConfigRequest", _NO_MODEL, context, lambda until: self._service.reload(request)
        )


SERVICE = "inference.GRPCInferenceService"
# The fields of each message, numbered from 1 on: type and name, `*` if repeated. Nested messages have a dot.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string* extensions",
    "ModelMetadataRequest": "string name, string version",
    "ModelMetadataResponse": "string name, string* versions, string platform, TensorMetadata* inputs, "
    "TensorMetadata* outputs",
    "ModelMetadataResponse.TensorMetadata": "string name, string datatype, int64* shape",
    "InferParameter": "bool bool_param, int64 int64_param, string string_param, double double_param, "
    "uint64 uint64_param",
    "InferTensorContents": "bool* bool_contents, int32* int_contents, int64* int64_contents, uint32* uint_contents, "
    "uint64* uint64_contents, float* fp32_contents, double* fp64_contents, bytes* bytes_contents",
    "ModelInferRequest": "string model_name, string model_version, string id, map parameters, "
    "InferInputTensor* inputs, InferRequestedOutputTensor* outputs, bytes* raw_input_contents",
    "ModelInferRequest.InferInputTensor": "string name, string datatype, int64* shape, map parameters, "
    "InferTensorContents contents",
    "ModelInferRequest.InferRequestedOutputTensor": "string name, map parameters",
    "ModelInferResponse": "string model_name, string model_version, string id, map parameters, "
    "InferOutputTensor* outputs, bytes* raw_output_contents",
    "ModelInferResponse.InferOutputTensor": "string name, string datatype, int64* shape, map parameters, "
    "InferTensorContents contents",
}
_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
# Fields of the values by datatype, in this protocol and in TensorFlow's; FP16 and BF16 have raw contents only.
_CONTENTS = {
    "BOOL": ("bool_contents", "bool_val"),
    "INT8": ("int_contents", "int_val"),
    "INT16": ("int_contents", "int_val"),
    "INT32": ("int_contents", "int_val"),
    "INT64": ("int64_contents", "int64_val"),
    "UINT8": ("uint_contents", "int_val"),
    "UINT16": ("uint_contents", "int_val"),
    "UINT32": ("uint_contents", "uint32_val"),
    "UINT64": ("uint64_contents", "uint64_val"),
    "FP32": ("fp32_contents", "float_val"),
    "FP64": ("fp64_contents", "double_val"),
    "BYTES": ("bytes_contents", "string_val"),
}
_LENGTH = struct.Struct("<I")


def _message_classes() -> dict[str, Any]:
    """The classes of the messages, in a pool of their own: other packages may define the same messages."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package="inference", syntax="proto3")
    made: dict[str, Any] = {}
    for path, fields in _MESSAGES.items():
        outer, _, name = path.rpartition(".")
        message = made[path] = made[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        for number, (kind, key) in enumerate((one.split() for one in fields.split(", ") if one), 1):
            label = field.LABEL_REPEATED if kind.endswith("*") or kind == "map" else field.LABEL_OPTIONAL
            added = message.field.add(name=key, number=number, label=label)
            kind = kind.rstrip("*")
            if kind == "map":
                entry = message.nested_type.add(name=f"{key.capitalize()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
                value = entry.field.add(name="value", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE)
                value.type_name = ".inference.InferParameter"
                added.type, added.type_name = field.TYPE_MESSAGE, f".inference.{path}.{entry.name}"
            elif kind[0].isupper():
                nested = f"{path}.{kind}"
                added.type = field.TYPE_MESSAGE
                added.type_name = f".inference.{nested if nested in _MESSAGES else kind}"
            else:
                added.type = getattr(field, f"TYPE_{kind.upper()}")
            if path == "InferParameter":
                added.oneof_index = 0
    made["InferParameter"].oneof_decl.add(name="parameter_choice")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        path: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{path}")) for path in _MESSAGES
    }


MESSAGES = _message_classes()


class GRPCInferenceService(Answering):
    """The service of the Open Inference Protocol."""

    def add_to(self, server: Any) -> None:
        """Registers the service with a gRPC server."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, name),
                MESSAGES[f"{name}Request"].FromString,
                MESSAGES[f"{name}Response"].SerializeToString,
            )
            for name in _METHODS
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=not self._service.manager.missing())

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](name="tfdfd", version=__version__)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        async def answer(until: float | None) -> Any:
            try:
                self._service.manager.resolve(_spec(request.name, request.version))
            except ServingError as error:
                if error.code != NOT_FOUND:
                    raise
                return MESSAGES["ModelReadyResponse"](ready=False)
            return MESSAGES["ModelReadyResponse"](ready=True)

        return await self._answer("ModelReady", request, context, answer)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        async def answer(until: float | None) -> Any:
            version = self._service.manager.resolve(_spec(request.name, request.version))
            states = self._service.manager.states(ModelSpec(name=version.name))
            loaded = [number for number, state in states.items() if state.state == State.AVAILABLE]
            return MESSAGES["ModelMetadataResponse"](**model_metadata(version.name, loaded, version.model))

        return await self._answer("ModelMetadata", request, context, answer)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        spec = ModelSpec(name=request.model_name)

        async def answer(until: float | None) -> Any:
            spec.CopyFrom(_spec(request.model_name, request.model_version))
            model = self._service.manager.resolve(spec).model
            response = await self._service.predict(predict_request(spec, request, input_types(model)), until)
            return infer_response(response, request)

        return await self._answer("ModelInfer", spec, context, answer)


def _spec(name: str, version: str) -> ModelSpec:
    spec = ModelSpec(name=name)
    if version:
        if not (version.isascii() and version.isdecimal() and len(version) <= 18):
            raise ServingError(INVALID_ARGUMENT, f"expected a version number, or none; received {quoted(version)}.")
        spec.version.value = int(version)
    return spec


def predict_request(spec: ModelSpec, request: Any, types: dict[str, dict[str, InputType]]) -> PredictRequest:
    """TensorFlow Serving's message for a ModelInferRequest.

    Raises:
        ServingError: unknown signature, or tensors whose datatype or number of values does not fit.
    """
    tensors = {tensor.name: tensor for tensor in request.inputs}
    raw = list(request.raw_input_contents)
    if len(tensors) != len(request.inputs):
        raise ServingError(INVALID_ARGUMENT, "two inputs have the same name.")
    if raw and len(raw) != len(tensors):
        raise ServingError(
            INVALID_ARGUMENT, f"{len(tensors)} inputs but {len(raw)} raw_input_contents; expected none or one each."
        )
    for tensor in (*request.inputs, *request.outputs):
        for key in tensor.parameters:
            if key.startswith("shared_memory") or key == "classification":
                raise ServingError(UNIMPLEMENTED, f"the parameter {key!r} is not supported.")
    name = choose_signature(types, request.parameters["signature_name"].string_param, tensors, DEFAULT_SIGNATURE)
    result = PredictRequest(model_spec=spec, output_filter=[output.name for output in request.outputs])
    result.model_spec.signature_name = name
    for number, (key, tensor) in enumerate(tensors.items()):
        check_datatype(key, tensor.datatype, types[name][key])
        if raw and tensor.HasField("contents"):
            raise ServingError(INVALID_ARGUMENT, f"input {key!r} has contents beside raw_input_contents.")
        _fill(result.inputs[key], key, tensor, raw[number] if raw else None, types[name][key])
    return result


def _fill(proto: TensorProto, name: str, tensor: Any, raw: bytes | None, kind: InputType) -> None:
    for size in tensor.shape:
        if size < 0:
            raise ServingError(
                INVALID_ARGUMENT, f"input {name!r} has the shape {list(tensor.shape)}; no size may be below 0."
            )
        proto.tensor_shape.dim.add().size = size
    expected = math.prod(tensor.shape)
    proto.dtype = tf.string.as_datatype_enum if kind.dtype is None else tf.as_dtype(kind.dtype).as_datatype_enum
    if raw is None:
        if tensor.datatype not in _CONTENTS:
            raise ServingError(INVALID_ARGUMENT, f"input {name!r} of {tensor.datatype} needs raw_input_contents.")
        theirs, ours = _CONTENTS[tensor.datatype]
        values: Sequence = getattr(tensor.contents, theirs)
        getattr(proto, ours).extend(values)
        count: float = len(values)
    elif kind.dtype is None:
        proto.string_val.extend(_strings(name, raw, expected))
        count = len(proto.string_val)
    else:
        proto.tensor_content = raw
        count = len(raw) / kind.dtype.itemsize
    if count != expected:
        raise ServingError(INVALID_ARGUMENT, f"input {name!r} has {count:g} values for the shape {list(tensor.shape)}.")


def _strings(name: str, raw: bytes, most: int) -> Iterator[bytes]:
    """The elements of a raw BYTES tensor, each behind its length in four bytes."""
    position = 0
    for _ in range(most + 1):
        if position == len(raw):
            return
        end = position + _LENGTH.size
        if end <= len(raw):
            (length,) = _LENGTH.unpack_from(raw, position)
            position = end + length
        if end > len(raw) or position > len(raw):
            raise ServingError(INVALID_ARGUMENT, f"the raw contents of input {name!r} end within an element.")
        yield raw[end:position]


def infer_response(response: PredictResponse, request: Any) -> Any:
    """The ModelInferResponse for an answer of Predict, with raw contents."""
    spec = response.model_spec
    result = MESSAGES["ModelInferResponse"](model_name=spec.name, model_version=str(spec.version.value), id=request.id)
    for name in [output.name for output in request.outputs] or list(response.outputs):
        array = tf.make_ndarray(response.outputs[name])
        kind = input_type(TensorInfo(dtype=response.outputs[name].dtype))
        result.outputs.add(name=name, datatype=datatype(kind), shape=array.shape)
        if array.dtype == object:
            content = b"".join(_LENGTH.pack(len(value)) + value for value in array.ravel())
        else:
            content = np.ascontiguousarray(array).tobytes()
        result.raw_output_contents.append(content)
    return result
