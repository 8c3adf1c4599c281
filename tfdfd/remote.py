"""Client of a model server: P(fake) of face crops by TensorFlow Serving's Predict over gRPC, without TensorFlow.

The official messages (`tensorflow-serving-api`) import TensorFlow, four seconds and 400 MB for messages of twenty
fields; `messages` builds the few that are needed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tfdfd.runtime.equality import check_equal, proof_crops
from tfdfd.weights import ALIASES, WeightRecord, find_record, list_records
from tfdfd.weights.store import PREFIX, RUN, locate, read_card_file

SIGNATURE, INPUT, OUTPUT = "image_bytes", "image_bytes", "fake_probability"
TIMEOUT_S = 30.0
# A PNG of 256 x 256 pixels has at most 200 kB, and a gRPC server accepts 4 MiB per message by default.
MAX_REQUEST_BYTES = 3 << 20
MAX_CROPS = 32
# gRPC's own retries: exponential, with jitter, within the timeout; invalid requests are not retried.
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
    # Without room for a second copy of the request (256 KiB by default), gRPC silently does not retry.
    ("grpc.per_rpc_retry_buffer_size", 2 * MAX_REQUEST_BYTES),
)


class RemoteError(RuntimeError):
    """The server gave no scores: it is unreachable, refuses, is late, or gives an invalid answer."""


@dataclass(frozen=True)
class Server:
    """Address of a model server.

    Attributes:
        address: `HOST:PORT` of the gRPC interface.
        timeout_s: seconds for one request, retries included.
        ca: PEM file of the authority that signed the server's certificate; with it the connection is encrypted.
        cert: PEM file of the client's certificate, if the server or a proxy requires one.
        key: PEM file of its private key.

    Raises:
        ValueError: an attribute is invalid.
    """

    address: str
    timeout_s: float = TIMEOUT_S
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or "/" in self.address or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"the server must be HOST:PORT of its gRPC interface; received {self.address!r}.")
        if not (0 < self.timeout_s <= 86_400):
            raise ValueError(f"the server's timeout must be seconds, up to a day; received {self.timeout_s!r}.")
        if (self.cert is None) != (self.key is None):
            raise ValueError("the client's certificate needs its key, and the key its certificate.")
        if self.cert and not self.ca:
            raise ValueError("the client's certificate is only shown to a server with one: give its authority, too.")
        for file in (self.ca, self.cert, self.key):
            if file is not None and not Path(file).is_file():
                raise ValueError(f"there is no file {file}: expected a certificate or key in PEM form.")


class RemoteScorer:
    """Scores crops on a server, with the interface of `tfdfd.runtime.networks.Scorer`.

    Crops are sent as PNG, which is lossless and a quarter the size of floats.

    Args:
        server: address.
        model: name of the served model.
        version: version number; None: the server's choice, the newest.
        size: side of the crops in pixels.
        frames: crops of a clip; None for a model of single crops.
    """

    def __init__(self, server: Server, model: str, version: int | None, size: int, frames: int | None = None):
        import grpc

        self._server, self._model, self._version = server, model, version
        self.size, self.frames = size, frames
        if server.ca:
            read = [Path(file).read_bytes() if file else None for file in (server.ca, server.key, server.cert)]
            self._channel = grpc.secure_channel(server.address, grpc.ssl_channel_credentials(*read), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(server.address, _OPTIONS)
        self._predict = self._channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)` in [0, 1], of uint8 RGB crops `(n, size, size, 3)`, or clips of `frames` of them.

        Raises:
            RemoteError: the server did not give them; no score is made up.
        """
        scores = [score for batch in _batches(crops) for score in self._scores(batch)]
        return np.asarray(scores, np.float32)

    def _scores(self, encoded: Sequence[list[bytes]]) -> list[float]:
        import grpc

        try:
            answer = self._predict(self._request(encoded), timeout=self._server.timeout_s)
        except grpc.RpcError as error:
            raise RemoteError(self._explained(error.code().name, error.details())) from error
        try:
            outputs = {output.key: output.value for output in messages()["PredictResponse"].FromString(answer).outputs}
            return _probabilities(outputs, len(encoded))
        except Exception as error:  # the answer may be anything
            raise RemoteError(f"the server {self._server.address} gave no scores: {error}") from error

    def _request(self, encoded: Sequence[list[bytes]]) -> bytes:
        request = messages()["PredictRequest"](output_filter=[OUTPUT])
        request.model_spec.name, request.model_spec.signature_name = self._model, SIGNATURE
        if self._version is not None:
            request.model_spec.version.value = self._version
        tensor = request.inputs.add(key=INPUT).value
        tensor.dtype = DT_STRING
        for size in (len(encoded),) if self.frames is None else (len(encoded), self.frames):
            tensor.tensor_shape.dim.add(size=size)
        tensor.string_val.extend(itertools.chain.from_iterable(encoded))
        return request.SerializeToString()

    def _explained(self, status: str, details: str | None) -> str:
        where = f"the server {self._server.address}"
        if status == "UNAVAILABLE":
            return f"{where} cannot be reached, or is overloaded ({details}); nothing was scored in its place."
        if status == "DEADLINE_EXCEEDED":
            return f"{where} gave no answer within {self._server.timeout_s:g} s (--server-timeout)."
        if status == "NOT_FOUND":
            which = self._model if self._version is None else f"{self._model}, version {self._version}"
            return f"{where} does not serve {which}: {details}"
        return f"{where} refused: {status}: {details}"


def _batches(crops: Iterable[np.ndarray]) -> Iterator[list[list[bytes]]]:
    """Crops, or clips, in requests: each as its PNG, or its PNGs. A clip is never divided."""
    size = 0
    batch: list[list[bytes]] = []
    for crop in crops:
        encoded = [_png(one) for one in (crop if crop.ndim == 4 else crop[None])]
        length = sum(map(len, encoded))
        if batch and ((len(batch) + 1) * len(encoded) > MAX_CROPS or size + length > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(encoded)
        size += length
    if batch:
        yield batch


def _png(crop: np.ndarray) -> bytes:
    import cv2

    done, encoded = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError(f"OpenCV does not encode a crop of shape {crop.shape} as PNG.")
    return encoded.tobytes()


def _probabilities(outputs: Mapping[str, Any], count: int) -> list[float]:
    if OUTPUT not in outputs:
        raise ValueError(f"the answer has no output {OUTPUT!r} but {sorted(outputs)}.")
    tensor = outputs[OUTPUT]
    if tensor.dtype != DT_FLOAT:
        raise ValueError(f"{OUTPUT} has TensorFlow's data type {tensor.dtype}; expected {DT_FLOAT}, float32.")
    # Servers send values as bytes or as numbers.
    values = np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else np.array(tensor.float_val)
    if math.prod(dim.size for dim in tensor.tensor_shape.dim) != count or len(values) != count:
        raise ValueError(f"{OUTPUT} has {len(values)} values for {count} crops.")
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()):
        raise ValueError(f"{OUTPUT} has values outside [0, 1]; another model answers.")
    return values.tolist()


DT_FLOAT, DT_STRING = 1, 7
# Message: {field: (number, type, repeated)}. Numbers and types are those of
# `tensorflow_serving/apis/{predict,model}.proto` and `tensorflow/core/framework/{tensor,tensor_shape,types}.proto`,
# which a test compares; other fields are skipped when read. A capitalized type is a message. Enumerations are int32,
# and the wrapped int64 of a version is a message.
_MESSAGES = {
    "Version": {"value": (1, "int64", False)},
    "ModelSpec": {
        "name": (1, "string", False),
        "version": (2, "Version", False),
        "signature_name": (3, "string", False),
        "version_label": (4, "string", False),
    },
    "Dim": {"size": (1, "int64", False)},
    "TensorShape": {"dim": (2, "Dim", True)},
    "Tensor": {
        "dtype": (1, "int32", False),
        "tensor_shape": (2, "TensorShape", False),
        "tensor_content": (4, "bytes", False),
        "float_val": (5, "float", True),
        "string_val": (8, "bytes", True),
    },
    # On the wire, a map is a list of keys with values.
    "NamedTensor": {"key": (1, "string", False), "value": (2, "Tensor", False)},
    "PredictRequest": {
        "model_spec": (1, "ModelSpec", False),
        "inputs": (2, "NamedTensor", True),
        "output_filter": (3, "string", True),
    },
    "PredictResponse": {"outputs": (1, "NamedTensor", True), "model_spec": (2, "ModelSpec", False)},
}


@cache
def messages() -> dict[str, Any]:
    """Classes of the messages by name. They have a pool of their own, so the official ones may be imported, too."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tfdfd/remote.proto", package="tfdfd.remote", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            added = message.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind[0].isupper():
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".tfdfd.remote.{kind}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = {name: f"tfdfd.remote.{name}" for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(full)) for name, full in names.items()}


# Field of a model card: P(fake) of `tfdfd.runtime.equality.proof_crops`.
PROOF_SCORES = "proof_scores"
_VERSION = re.compile(r"(?P<name>.+)/(?P<version>[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Served:
    """A model on a server.

    Attributes:
        record: local record of its weights: handle, digest, threshold, input size.
        name: its name on the server: the handle without `tfdfd/`.
        version: number of the version, or None.
    """

    record: WeightRecord
    name: str
    version: int | None


def find_served(model: str | os.PathLike) -> Served:
    """The model that a name, a handle, a model card, a weights file or a run means.

    Predict answers with scores alone, so threshold, inconclusive band and digest come from the local record. The
    weights themselves need not be local.

    Args:
        model: `meso_inception4`, `tfdfd/meso_inception4`, either with `/VERSION`, of the package or of a hub; a
            `model_card.json` as published beside the model; or what `tfdfd.weights.store.locate` takes.

    Raises:
        ValueError: there is no record of it.
    """
    name, version = os.fspath(ALIASES.get(model, model)), None  # type: ignore[arg-type]
    if name.endswith(".json"):
        card = read_card_file(Path(name))
        # A published card keeps the weights' own file apart from the published files.
        record = WeightRecord.from_card(card | card.get("weights", {}))
    elif Path(name).is_file() or Path(name, RUN).is_file():
        record, _ = locate(name)
    else:
        match = _VERSION.fullmatch(name)
        if match:
            name, version = match["name"], int(match["version"])
        name = name if name.startswith(PREFIX) else PREFIX + name
        try:
            record = _known(name, version)
        except ValueError as error:
            raise ValueError(
                f"{error} Predict answers with scores alone: the threshold must be known here. For a model that is "
                "published elsewhere, set TFDFD_HUB to its hub, or give the card that is published beside it: --model "
                "model_card.json."
            ) from error
        return Served(record, name.removeprefix(PREFIX), version)
    return Served(record, record.handle.removeprefix(PREFIX), version)


def _known(name: str, version: int | None) -> WeightRecord:
    """The record in the package, or that of a published model."""
    if name in list_records():
        return find_record(name)
    return locate(name if version is None else f"{name}/{version}")[0]


def check_served(scorer: RemoteScorer, served: Served, server: str) -> str | None:
    """Proves that the server's model is that of the record, by the scores of the proof crops in its card.

    Returns:
        None if proved; else the reason: the card has no such scores. The server is asked in either case.

    Raises:
        RemoteError: the server's model gives other scores, or the server gave none.
        ValueError: the scores in the card are invalid.
    """
    found = scorer(proof_crops(scorer.size, frames=scorer.frames))
    expected = served.record.card.get(PROOF_SCORES)
    if expected is None:
        return (
            f"it is not proved that {server} serves the weights of {served.record.handle}: their card has no "
            f"{PROOF_SCORES}."
        )
    if np.shape(expected) != found.shape:
        raise ValueError(
            f"the card of {served.record.handle} must have {len(found)} {PROOF_SCORES}; it has {expected!r}."
        )
    scores = np.asarray(expected, np.float32)
    try:
        check_equal("its P(fake)", found, scores, "server")
    except ValueError as error:
        raise RemoteError(
            f"the model that {server} serves as {served.name} is not {served.record.handle} (sha256 "
            f"{served.record.sha256}): {error} Give the card that is published beside it: --model model_card.json."
        ) from error
    return None
