"""P(fake) of face crops from TensorFlow Serving, or `tfdfd serve`, over gRPC.

    python -m tf_serving.client_grpc --server localhost:8500 --model meso_inception4 crop.jpg

Needs `pip install tensorflow-serving-api` and nothing of tfdfd. Importing its stubs imports TensorFlow, some seconds;
`client_rest.py` starts at once.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import grpc
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tf_serving.client_cli import run
from tf_serving.scoring import INPUT, OUTPUT, SIGNATURE, ServingError, checked

# gRPC's own retries: exponential, with jitter, within the deadline. A request that is wrong stays wrong, and one that
# ran out of time has none left.
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
OPTIONS = (
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(RETRIES)),
    # Without room for a second copy of the request, 256 KiB if not said, gRPC does not retry and does not tell.
    ("grpc.per_rpc_retry_buffer_size", 64 << 20),
)


class GrpcClient:
    """A connection to one model.

    Args:
        server: `HOST:PORT` of the gRPC interface.
        model: name under which the model is served.
        version: number of the version; or
        label: its label, such as `stable`; neither: the server's choice, which is the newest.
        deadline_s: seconds for one request, retries included.
        tls: whether the connection is encrypted; given by any of the next.
        ca: PEM file of the authority that signed the server's certificate; None: the system's.
        cert, key: PEM files of the client's own certificate, where the server or a proxy wants one.
    """

    def __init__(
        self,
        server: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        deadline_s: float = 10,
        tls: bool = False,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ):
        if tls or ca or cert:
            read = [Path(file).read_bytes() if file else None for file in (ca, key, cert)]
            self._channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(*read), OPTIONS)
        else:
            self._channel = grpc.insecure_channel(server, OPTIONS)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model, self._version, self._label = model, version, label
        self._deadline_s = deadline_s

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def request(self, crops: list[bytes]) -> predict_pb2.PredictRequest:
        """The request that `predict` sends."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = SIGNATURE
        if self._version is not None:
            request.model_spec.version.value = self._version
        if self._label is not None:
            request.model_spec.version_label = self._label
        request.output_filter.append(OUTPUT)
        tensor = request.inputs[INPUT]
        tensor.dtype = types_pb2.DT_STRING
        tensor.tensor_shape.dim.add().size = len(crops)
        tensor.string_val.extend(crops)
        return request

    def predict(self, crops: list[bytes]) -> list[float]:
        """P(fake) in [0, 1], 1 = fake, of each crop, an encoded JPEG or PNG image.

        Raises:
            ServingError: no answer, after retries where they may help, or none that is a probability.
        """
        try:
            response = self._stub.Predict(self.request(crops), timeout=self._deadline_s)
        except grpc.RpcError as error:
            raise ServingError(error.code().name, error.details()) from error
        if OUTPUT not in response.outputs:
            raise ServingError(
                "INTERNAL", f"no output {OUTPUT!r} but {sorted(response.outputs)}: another model answers"
            )
        return checked(_floats(response.outputs[OUTPUT]), len(crops))


def _floats(tensor):
    """The values of a float tensor, which come as numbers or as bytes, as the server likes."""
    if tensor.dtype != types_pb2.DT_FLOAT:
        raise ServingError("INTERNAL", f"{OUTPUT} has the data type {tensor.dtype}; expected float32")
    if not tensor.tensor_content:
        return list(tensor.float_val)
    count, odd = divmod(len(tensor.tensor_content), 4)
    if odd:
        raise ServingError("INTERNAL", f"{OUTPUT} has {len(tensor.tensor_content)} bytes, which are no floats")
    return list(struct.unpack(f"<{count}f", tensor.tensor_content))


if __name__ == "__main__":
    sys.exit(run(GrpcClient, __doc__, "localhost:8500"))
