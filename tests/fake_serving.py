"""A server that speaks TensorFlow Serving's protocol with the official stubs, and answers as a test wants."""

import base64
import json
import threading
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class Script:
    """What the server does: for each request in turn a step, then scores.

    A step is a gRPC status to fail with (for HTTP, a number, with headers if it is a pair), a function to call, or
    None. `requests` is what came in.
    """

    def __init__(self, scores, steps=()):
        self.scores, self.steps, self.requests = scores, list(steps), []
        self._lock = threading.Lock()

    def next(self, request):
        with self._lock:
            self.requests.append(request)
            step = self.steps.pop(0) if self.steps else None
        if callable(step):
            step()
            return None
        return step


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, script, as_bytes):
        self.script, self.as_bytes = script, as_bytes

    def Predict(self, request, context):
        step = self.script.next(request)
        if step is not None:
            context.abort(step, "as the test wants")
        tensor = request.inputs["image_bytes"]
        assert tensor.dtype == types_pb2.DT_STRING
        crops = list(tensor.string_val)
        assert [dim.size for dim in tensor.tensor_shape.dim] == [len(crops)]
        try:
            scores = self.script.scores(crops)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = predict_pb2.PredictResponse()
        output = response.outputs["fake_probability"]
        output.dtype = types_pb2.DT_FLOAT
        output.tensor_shape.dim.add().size = len(scores)
        output.tensor_shape.dim.add().size = 1
        if self.as_bytes:
            import numpy as np

            output.tensor_content = np.asarray(scores, "<f4").tobytes()
        else:
            output.float_val.extend(scores)
        return response


@contextmanager
def grpc_server(script, *, as_bytes=False, credentials=None):
    """Yields `HOST:PORT`."""
    with futures.ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(script, as_bytes), server)
        if credentials:
            port = server.add_secure_port("localhost:0", credentials)
        else:
            port = server.add_insecure_port("localhost:0")
        server.start()
        try:
            yield f"localhost:{port}"
        finally:
            server.stop(None).wait()


@contextmanager
def rest_server(script, *, answer=None, states=None, context=None):
    """Yields `HOST:PORT`. `answer`: bytes that are sent in place of scores; `states`: of models, by name."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            state = (states or {}).get(self.path.removeprefix("/v1/models/"))
            versions = [{"version": "1", "state": state, "status": {"error_code": "OK", "error_message": ""}}]
            self._send(200 if state else 404, json.dumps({"model_version_status": versions}, indent=1).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            step = script.next((self.path, body))
            if step is not None:
                status, headers = step if isinstance(step, tuple) else (step, {})
                return self._send(status, b'{"error": "as the test wants"}', headers)
            if answer is not None:
                return self._send(200, answer)
            crops = [base64.b64decode(crop["b64"]) for crop in body["inputs"]["image_bytes"]]
            try:
                return self._send(200, json.dumps({"outputs": [[score] for score in script.scores(crops)]}).encode())
            except ValueError as error:
                return self._send(400, json.dumps({"error": str(error)}).encode())

        def _send(self, status, body, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"{'localhost' if context else '127.0.0.1'}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
