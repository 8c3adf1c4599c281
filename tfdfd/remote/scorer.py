"""P(fake) of face crops from a model server, over gRPC."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIGNATURE, INPUT, OUTPUT = "image_bytes", "image_bytes", "fake_probability"
TIMEOUT_S = 30.0
# A PNG of 256 x 256 pixels has at most 200 kB, and a gRPC server that was told nothing else takes 4 MiB a message.
MAX_REQUEST_BYTES = 3 << 20
MAX_CROPS = 32
# gRPC's own retries: exponential, with jitter, within the timeout, and of nothing that is wrong with the request.
_RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
_OPTIONS = (
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_RETRIES)),
    # Without room for a second copy of the request, 256 KiB if not said, gRPC does not retry and does not tell.
    ("grpc.per_rpc_retry_buffer_size", 2 * MAX_REQUEST_BYTES),
)


class RemoteError(RuntimeError):
    """The server gave no scores: it is away, refuses, is late, or answers something else."""


@dataclass(frozen=True)
class Server:
    """Where a model is served.

    Attributes:
        address: `HOST:PORT` of the gRPC interface.
        timeout_s: seconds for one request, retries included.
        ca: PEM file of the authority that signed the server's certificate; with it the connection is encrypted.
        cert: PEM file of this side's certificate, where the server, or a proxy before it, wants one.
        key: PEM file of its private key.

    Raises:
        ValueError: an attribute is of no use.
    """

    address: str
    timeout_s: float = TIMEOUT_S
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self):
        host, _, port = self.address.rpartition(":")
        if not host or "/" in self.address or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"the server must be HOST:PORT of its gRPC interface; received {self.address!r}.")
        if not (0 < self.timeout_s <= 86_400):
            raise ValueError(f"the server's timeout must be seconds, up to a day; received {self.timeout_s!r}.")
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate of this side needs its key, and the key its certificate.")
        if self.cert and not self.ca:
            raise ValueError("a certificate of this side is shown to a server that has one: give its authority, too.")
        for file in (self.ca, self.cert, self.key):
            if file is not None and not Path(file).is_file():
                raise ValueError(f"there is no file {file}: expected a certificate or key in PEM form.")


class RemoteScorer:
    """Scores crops on a server; takes and gives what `tfdfd.runtime.network.Scorer` does.

    Crops travel as PNG, which loses nothing and has a quarter of the bytes of floats.

    Args:
        server: where.
        model: name under which the model is served.
        version: number of its version; None: the server's choice, which is the newest.
        size: side of the crops in pixels.
    """

    def __init__(self, server: Server, model: str, version: int | None, size: int):
        import grpc

        self._server, self._model, self._version = server, model, version
        self.size = size
        if server.ca:
            read = [Path(file).read_bytes() if file else None for file in (server.ca, server.key, server.cert)]
            self._channel = grpc.secure_channel(server.address, grpc.ssl_channel_credentials(*read), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(server.address, _OPTIONS)
        self._predict = self._channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)` in [0, 1], of uint8 RGB crops `(n, size, size, 3)`.

        Raises:
            RemoteError: the server did not give them; nothing stands in for a score.
        """
        scores = [score for batch in _batches(crops) for score in self._scores(batch)]
        return np.asarray(scores, np.float32)

    def _scores(self, encoded):
        import grpc

        from tfdfd.remote.messages import PredictResponse

        try:
            answer = self._predict(self._request(encoded), timeout=self._server.timeout_s)
        except grpc.RpcError as error:
            raise RemoteError(self._told(error.code().name, error.details())) from error
        try:
            outputs = {output.key: output.value for output in PredictResponse.FromString(answer).outputs}
            return _probabilities(outputs, len(encoded))
        except Exception as error:  # of what others send, anything
            raise RemoteError(f"the server {self._server.address} answers no scores: {error}") from error

    def _request(self, encoded):
        from tfdfd.remote.messages import DT_STRING, PredictRequest

        request = PredictRequest(output_filter=[OUTPUT])
        request.model_spec.name, request.model_spec.signature_name = self._model, SIGNATURE
        if self._version is not None:
            request.model_spec.version.value = self._version
        tensor = request.inputs.add(key=INPUT).value
        tensor.dtype = DT_STRING
        tensor.tensor_shape.dim.add(size=len(encoded))
        tensor.string_val.extend(encoded)
        return request.SerializeToString()

    def _told(self, status, details):
        where = f"the server {self._server.address}"
        if status == "UNAVAILABLE":
            return f"{where} cannot be reached, or is overloaded ({details}); nothing was scored in its place."
        if status == "DEADLINE_EXCEEDED":
            return f"{where} gave no answer within {self._server.timeout_s:g} s (--server-timeout)."
        if status == "NOT_FOUND":
            which = self._model if self._version is None else f"{self._model}, version {self._version}"
            return f"{where} does not serve {which}: {details}"
        return f"{where} refused: {status}: {details}"


def _batches(crops):
    batch, size = [], 0
    for crop in crops:
        encoded = _png(crop)
        if batch and (len(batch) == MAX_CROPS or size + len(encoded) > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(encoded)
        size += len(encoded)
    if batch:
        yield batch


def _png(crop):
    import cv2

    done, encoded = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError(f"OpenCV does not encode a crop of shape {crop.shape} as PNG.")
    return encoded.tobytes()


def _probabilities(outputs, count):
    from tfdfd.remote.messages import DT_FLOAT

    if OUTPUT not in outputs:
        raise ValueError(f"it has no output {OUTPUT!r} but {sorted(outputs)}.")
    tensor = outputs[OUTPUT]
    if tensor.dtype != DT_FLOAT:
        raise ValueError(f"{OUTPUT} has TensorFlow's data type {tensor.dtype}; expected {DT_FLOAT}, float32.")
    # As the server likes, values come as bytes or as numbers.
    values = np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else np.array(tensor.float_val)
    if math.prod(dim.size for dim in tensor.tensor_shape.dim) != count or len(values) != count:
        raise ValueError(f"{OUTPUT} has {len(values)} values for {count} crops.")
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()):
        raise ValueError(f"{OUTPUT} has values outside [0, 1]; another model answers.")
    return values.tolist()
