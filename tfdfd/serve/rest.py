"""REST interface of the server over aiohttp: TensorFlow Serving's URLs, and the Open Inference Protocol's below /v2."""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import http_exceptions, web
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from tfdfd.serve import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    Journal,
    ServingError,
    rest_json,
    unforeseen,
)
from tfdfd.serve.http_server import HttpServer, refusal_reason
from tfdfd.serve.loaded_model import DEFAULT_SIGNATURE
from tfdfd.serve.metrics import Metrics
from tfdfd.serve.model_manager import State
from tfdfd.serve.receiving import ReceiveBudget, Reception
from tfdfd.serve.request_json import JsonWorkers, parse, read_infer, read_predict, signature_name
from tfdfd.serve.service import SIGNATURE_DEF, Service
from tfdfd.version import __version__

METRICS = "/monitoring/prometheus/metrics"
_MODEL = r"(?i:/v1/models)/(?P<name>[^/:]+)(?:(?i:/versions)/(?P<version>[0-9]{1,18})|(?i:/labels)/(?P<label>[^/:]+))?"
_ASK = re.compile(_MODEL + r":(?P<method>classify|regress|predict)")
_LOOK = re.compile(_MODEL + r"(?P<metadata>/metadata)?")
_MODEL_V2 = r"/v2/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]{1,18}))?(?P<label>(?!))?"
_INFER = re.compile(_MODEL_V2 + "/infer")
_LOOK_V2 = re.compile(_MODEL_V2 + "(?P<ready>/ready)?")
_ENTRY = "REST"
_LARGE = 1 << 20


class RestSide:
    """Serves the REST interface.

    Args:
        service: answers requests.
        metrics: counts requests, and is served itself.
        budget: for bodies of all requests.
        max_body: bytes of a request.
        timeout: seconds for receiving and answering a request; idle connections are closed after it.
        max_connections: at a time; more are closed at once.
        journal: logs malformed and refused requests.
        hosts: names in the headers Host and Origin that are served; None: every Host, and no Origin.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        budget: ReceiveBudget,
        max_body: int,
        timeout: float = 30.0,
        max_connections: int = 512,
        journal: Journal | None = None,
        hosts: frozenset[str] | None = None,
    ):
        self._service, self._metrics = service, metrics
        self._budget, self._json = budget, JsonWorkers()
        self._max_body, self._timeout = max_body, timeout
        self._handler = HttpServer(
            self._handle,
            _ENTRY,
            max_connections,
            journal or Journal(lambda line: None),
            hosts,
            keepalive_timeout=timeout,
            lingering_time=1.0,
            access_log=None,
        )
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Starts listening; returns the port.

        Raises:
            OSError: the address is not available.
        """
        options: dict[str, Any] = {"ssl_handshake_timeout": 10.0} if tls else {}
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._handler, host, port, ssl=tls, backlog=256, **options)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self, grace: float) -> None:
        """Stops listening; accepted requests are answered for at most `grace` seconds."""
        if self._server is None:
            return
        self._server.close()
        self._handler.pre_shutdown()
        await self._handler.shutdown(grace)
        self._json.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        start = time.perf_counter()
        match, method, code, status = None, "", "OK", 200
        try:
            # Not decoded: a name may have an escaped '/'.
            path = request.rel_url.raw_path
            self._handler.check_sender(request)
            if request.method == "GET" and path == METRICS:
                return web.Response(body=self._metrics.text(), content_type="text/plain", charset="utf-8")
            if request.method == "POST" and (match := _ASK.fullmatch(path)):
                method = match["method"].capitalize()
                answer = await asyncio.wait_for(self._ask(match, request), self._timeout)
            elif request.method == "POST" and (match := _INFER.fullmatch(path)):
                method = "Infer"
                answer = await asyncio.wait_for(self._infer(match, request), self._timeout)
            elif request.method == "GET" and (path == "/v2" or path.startswith("/v2/")):
                answer, status = self._look_v2(path)
            elif request.method == "GET" and (match := _LOOK.fullmatch(path)):
                method = "GetModelMetadata" if match["metadata"] else "GetModelStatus"
                answer = self._look(match)
            elif not path.lower().startswith("/v1/"):
                raise ServingError(NOT_FOUND, "Not found: this server answers below /v1/models/ and /v2/.")
            else:
                raise ServingError(
                    INVALID_ARGUMENT,
                    "Malformed request: expected GET /v1/models/NAME[/versions/N|/labels/LABEL][/metadata], or POST "
                    "with :predict, :classify or :regress behind the name or version.",
                )
        except ServingError as error:
            code, status, answer = error.code, error.http_status, {"error": error.message}
        except web.HTTPException as error:
            code, status, answer = INVALID_ARGUMENT, error.status, {"error": error.text}
        except asyncio.TimeoutError:
            code, status = DEADLINE_EXCEEDED, 504
            answer = {"error": f"the request was not answered within {self._timeout:g} s."}
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            if isinstance(error, (http_exceptions.HttpProcessingError, web.RequestPayloadError)):
                reason = refusal_reason(error)
                self._handler.log_refused(request.remote, reason)
                code, status, answer = INVALID_ARGUMENT, 400, {"error": f"the request cannot be read: {reason}."}
            else:
                sys.stderr.write(f"REST: {method or 'request'}: {unforeseen(error)}\n")
                code, status, answer = INTERNAL, 500, {"error": f"internal error: {type(error).__name__}"}
        finally:
            if match:
                name = unquote(match["name"])
                known = self._service.manager.knows(name)
                self._metrics.request(name, known, method, _ENTRY, code, time.perf_counter() - start)
        return web.json_response(answer, status=status)

    async def _body(self, request: Any, reception: Reception) -> bytes:
        declared = request.content_length
        if declared is not None and declared > self._max_body:
            raise self._too_large(declared)
        await reception.grow(declared or 0)
        parts, size = [], 0
        while part := await reception.receive(request.content.readany()):
            size += len(part)
            if size > self._max_body:
                raise self._too_large(size)
            if size > reception.size:
                await reception.grow(size - reception.size)
            parts.append(part)
        reception.arrived(size)
        return b"".join(parts)

    def _too_large(self, size: int) -> web.HTTPRequestEntityTooLarge:
        return web.HTTPRequestEntityTooLarge(
            self._max_body, size, text=f"Received message larger than max ({size} vs. {self._max_body})"
        )

    async def _ask(self, match: re.Match[str], request: Any) -> Any:
        until = time.monotonic() + self._timeout
        spec = _spec(match)
        # An unknown model is refused before the body is read.
        model = self._service.manager.resolve(spec).model
        with self._budget.reception() as reception:
            body = await self._body(request, reception)
            if match["method"] == "predict":
                parsed = await self._json.run(read_predict, body, rest_json.input_types(model), DEFAULT_SIGNATURE)
                request = await _converted(body, rest_json.predict_request, spec, parsed)
            else:
                parsed = await self._json.run(parse, body)
        if match["method"] == "predict":
            return rest_json.predictions(await self._service.predict(request, until), parsed.form)
        spec.signature_name = signature_name(parsed)
        if match["method"] == "classify":
            request = ClassificationRequest(model_spec=spec)
            await _converted(body, rest_json.fill_examples, request.input, parsed)
            return rest_json.classifications(await self._service.classify(request, until))
        request = RegressionRequest(model_spec=spec)
        await _converted(body, rest_json.fill_examples, request.input, parsed)
        return rest_json.regressions(await self._service.regress(request, until))

    async def _infer(self, match: re.Match[str], request: Any) -> Any:
        until = time.monotonic() + self._timeout
        spec = _spec(match)
        model = self._service.manager.resolve(spec).model
        with self._budget.reception() as reception:
            body = await self._body(request, reception)
            parsed = await self._json.run(read_infer, body, rest_json.input_types(model), DEFAULT_SIGNATURE)
            request = await _converted(body, rest_json.predict_request, spec, parsed)
            request.output_filter.extend(parsed.outputs)
        return rest_json.inferences(await self._service.predict(request, until), parsed)

    def _look_v2(self, path: str) -> tuple[Any, int]:
        """Answer and status of the Open Inference Protocol's GET requests."""
        manager = self._service.manager
        if path == "/v2":
            return {"name": "tfdfd", "version": __version__, "extensions": []}, 200
        if path == "/v2/health/live":
            return {"live": True}, 200
        if path == "/v2/health/ready":
            ready = not manager.missing()
            return {"ready": ready}, 200 if ready else 503
        match = _LOOK_V2.fullmatch(path)
        if match is None:
            raise ServingError(NOT_FOUND, "expected GET /v2, /v2/health/live, /v2/health/ready or /v2/models/NAME.")
        version = manager.resolve(_spec(match))
        if match["ready"]:
            return {"name": version.name, "ready": True}, 200
        states = manager.states(ModelSpec(name=version.name))
        loaded = [number for number, state in states.items() if state.state == State.AVAILABLE]
        return rest_json.model_metadata(version.name, loaded, version.model), 200

    def _look(self, match: re.Match[str]) -> Any:
        spec = _spec(match)
        if match["metadata"]:
            request = GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
            return rest_json.metadata(self._service.metadata(request))
        return rest_json.status(self._service.status(GetModelStatusRequest(model_spec=spec)))


async def _converted(body: bytes, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, in a thread if the body is so large that the event loop would stop."""
    return await asyncio.to_thread(function, *arguments) if len(body) > _LARGE else function(*arguments)


def _spec(match: re.Match[str]) -> Any:
    spec = ModelSpec(name=unquote(match["name"]))
    if match["version"]:
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = unquote(match["label"])
    return spec
