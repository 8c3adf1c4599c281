"""gRPC services of the server: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceServicer

from tfdfd.serve.errors import INTERNAL, ServingError, unforeseen
from tfdfd.serve.metrics import Metrics
from tfdfd.serve.service import Service

_ENTRY = "GRPC"
_NO_MODEL = ModelSpec()


class _Answering:
    def __init__(self, service: Service, metrics: Metrics):
        self._service, self._metrics = service, metrics

    async def _answer(self, method: str, spec, context, answer: Callable[[float | None], Awaitable]):
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


class PredictionService(_Answering, PredictionServiceServicer):
    """TensorFlow Serving's PredictionService."""

    async def Predict(self, request, context):
        return await self._answer(
            "Predict", request.model_spec, context, lambda until: self._service.predict(request, until)
        )

    async def Classify(self, request, context):
        return await self._answer(
            "Classify", request.model_spec, context, lambda until: self._service.classify(request, until)
        )

    async def Regress(self, request, context):
        return await self._answer(
            "Regress", request.model_spec, context, lambda until: self._service.regress(request, until)
        )

    async def MultiInference(self, request, context):
        spec = request.tasks[0].model_spec if request.tasks else _NO_MODEL
        return await self._answer(
            "MultiInference", spec, context, lambda until: self._service.multi_inference(request, until)
        )

    async def GetModelMetadata(self, request, context):
        async def answer(until):
            return self._service.metadata(request)

        return await self._answer("GetModelMetadata", request.model_spec, context, answer)


class ModelService(_Answering, ModelServiceServicer):
    """TensorFlow Serving's ModelService."""

    async def GetModelStatus(self, request, context):
        async def answer(until):
            return self._service.status(request)

        return await self._answer("GetModelStatus", request.model_spec, context, answer)

    async def HandleReloadConfigRequest(self, request, context):
        return await self._answer(
            "HandleReloadConfigRequest", _NO_MODEL, context, lambda until: self._service.reload(request)
        )
