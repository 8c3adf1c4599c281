"""gRPC services of the server: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceServicer

from tfdfd.serve.errors import INTERNAL, ServingError, unforeseen
from tfdfd.serve.metrics import Metrics
from tfdfd.serve.receiving import ReceiveBudget
from tfdfd.serve.service import Service

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
