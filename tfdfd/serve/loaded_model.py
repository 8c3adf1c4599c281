"""A SavedModel in memory, run like in TensorFlow Serving by the tensors of its signatures, and its warm-up.

It has a session instead of `tf.saved_model.load`: loading does not block Python, and closing frees all memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from tfdfd.log_lines import CONTENT
from tfdfd.serve import INTERNAL, INVALID_ARGUMENT, ServingError, unknown_signature
from tfdfd.serve.tensors import arrays_of, check_inputs, shape_of

SAVED_MODEL = "saved_model.pb"
WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
DEFAULT_SIGNATURE = "serving_default"
# TensorFlow makes this product of the division in published graphs.
_LEVEL = np.float32(1) / np.float32(255)
# Names in published signatures.
IMAGE, IMAGE_BYTES, SCORES = "image", "image_bytes", frozenset({"fake_probability", "features"})
# Not callable by clients.
_INIT = "__saved_model_init_op"
# TensorFlow warns of the functions of TensorFlow 1 that are used here.
tf.get_logger().setLevel("ERROR")
_CODES = {code: name for name, code in vars(tf.errors).items() if name.isupper() and isinstance(code, int)}


class Signature:
    """A signature of a loaded model.

    Args:
        definition: names of its tensors.
        session: session of the model.

    Attributes:
        of_pixels: the signature that answers for decoded pictures instead, and the side of its images in pixels; None
            if this one decodes them in the graph. See `hand_pixels`.
    """

    def __init__(self, definition: SignatureDef, session: tf.compat.v1.Session):
        self.inputs, self.outputs = dict(definition.inputs), dict(definition.outputs)
        self.of_pixels: tuple[Signature, int] | None = None
        self._session = session
        self._wanted = {name: info.name for name, info in self.outputs.items()}
        shapes = [shape_of(info) for info in (*self.inputs.values(), *self.outputs.values())]
        # Requests can be concatenated if the first size of every tensor is free.
        self.takes_batches = bool(self.inputs) and all(shape and shape[0] == -1 for shape in shapes)
        # Inputs whose pixels are checked: images of signatures that `tfdfd publish` writes.
        scores = bool(SCORES & self.outputs.keys())
        self.encoded = [
            name
            for name, info in self.inputs.items()
            if scores and name == IMAGE_BYTES and info.dtype == tf.string.as_datatype_enum
        ]
        self.pictures = [name for name, info in self.inputs.items() if scores and name == IMAGE and _is_image(info)]

    def run(self, arrays: dict[str, np.ndarray], seconds: float) -> dict[str, np.ndarray]:
        """Runs the signature; returns its outputs by name.

        Args:
            arrays: one for each input, by name; images may be uint8, in [0, 255].
            seconds: time limit.

        Raises:
            ServingError: TensorFlow's error with its status; DEADLINE_EXCEEDED at the time limit.
        """
        given = {info.name: arrays[name] for name, info in self.inputs.items()}
        for name in self.pictures:
            if arrays[name].dtype == np.uint8:
                given[self.inputs[name].name] = arrays[name] * _LEVEL
        options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(1000 * seconds)))
        try:
            return self._session.run(self._wanted, given, options=options)
        except tf.errors.OpError as error:
            raise _as_serving_error(error) from error
        except (TypeError, ValueError) as error:
            # The array cannot be converted to a tensor.
            raise ServingError(INVALID_ARGUMENT, str(error)) from error


class LoadedModel:
    """A SavedModel with restored variables.

    Args:
        folder: with `saved_model.pb` and `variables/`.

    Raises:
        ServingError: it cannot be loaded; with TensorFlow's status.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], os.fspath(folder))
                self.signatures = {
                    name: Signature(definition, self._session)
                    for name, definition in meta_graph.signature_def.items()
                    if name != _INIT
                }
            self.definitions = {name: meta_graph.signature_def[name] for name in meta_graph.signature_def}
        except tf.errors.OpError as error:
            self._session.close()
            raise _as_serving_error(error) from error
        except Exception as error:
            # Invalid files must not end the server, whatever the error.
            self._session.close()
            raise ServingError(INTERNAL, f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error

    def signature(self, name: str) -> Signature:
        """The signature of that name; an empty one is the default.

        Raises:
            ServingError: there is none.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise unknown_signature(name, self.signatures)
        return self.signatures[name]

    def close(self) -> None:
        """Frees its memory; no call may be running."""
        self._session.close()


def _is_image(info: Any) -> bool:
    shape = shape_of(info)
    return info.dtype == tf.float32.as_datatype_enum and shape is not None and len(shape) in (4, 5) and shape[-1] == 3


def _as_serving_error(error: tf.errors.OpError) -> ServingError:
    """TensorFlow's status and message, without the names of graph nodes and without request content."""
    return ServingError(_CODES.get(error.error_code, INTERNAL), re.sub(CONTENT, "", _sentence(error.message)))


def _sentence(message: str) -> str:
    """The first informative line; of several root errors the first."""
    several = re.search(r"^\s*\(0\)\s*(?:[A-Z_]+: )?(.*)$", message, re.MULTILINE)
    lines = [several[1]] if several else message.removeprefix("Graph execution error:").strip().splitlines()
    line = re.sub(r"\s*\[\[.*", "", lines[0] if lines else "")
    asserted = re.fullmatch(r"assertion failed: \[(.*)\]", line)
    return asserted[1] if asserted else line


# Difference of answers that the order of additions may cause.
_TOLERANCE = 1e-5


def hand_pixels(model: LoadedModel, decode: Callable[[list[bytes], int], np.ndarray], seconds: float) -> str | None:
    """Lets signatures that take encoded pictures be answered from decoded pixels, if the answers are the same.

    The graph is asked both ways, for pictures of its warm-up requests and for noise of several sizes.

    Args:
        model: loaded model.
        decode: encoded pictures and side -> uint8 `(n, side, side, 3)`.
        seconds: time limit of each call.

    Returns:
        Why a signature goes on decoding in the graph, or None.
    """
    for name, signature in model.signatures.items():
        if list(signature.inputs) != [IMAGE_BYTES] or not signature.encoded:
            continue
        target = next(
            (
                other
                for other in model.signatures.values()
                if list(other.inputs) == [IMAGE] == other.pictures and other.outputs.keys() == signature.outputs.keys()
            ),
            None,
        )
        side = None if target is None else _side(model, target)
        if target is None or side is None:
            return f"{name} has no signature for square images beside it"
        try:
            pictures = _probes(model, side)
            pixels = decode(pictures, side)
            answers = signature.run({IMAGE_BYTES: np.array(pictures, object)}, seconds)
            others = target.run({IMAGE: pixels}, seconds)
        except ServingError as error:
            return f"{name} cannot be compared: {error.message}"
        if not all(np.allclose(answers[key], others[key], 0, _TOLERANCE) for key in answers):
            return f"{name} gives other answers for pictures than for their pixels"
        if any(np.ptp(answers[key], axis=0).max() < 10 * _TOLERANCE for key in answers):
            return f"{name} gives one answer for all pictures, so its decoding cannot be compared"
        signature.of_pixels = target, side
    return None


def _side(model: LoadedModel, signature: Signature) -> int | None:
    """Height and width of a signature's images, from its shape or else from its warm-up requests."""
    shapes = [shape_of(signature.inputs[IMAGE]) or []]
    for log in warm_up_logs(model.folder):
        request = log.predict_log.request
        if IMAGE in request.inputs and model.signatures.get(request.model_spec.signature_name) is signature:
            shapes.append([dim.size for dim in request.inputs[IMAGE].tensor_shape.dim])
    return next((shape[1] for shape in shapes if len(shape) == 4 and 0 < shape[1] == shape[2]), None)


def _probes(model: LoadedModel, side: int) -> list[bytes]:
    draw = np.random.default_rng(0)
    pictures: list[bytes] = []
    for height, width, low, high in (
        (side, side, 0, 128),
        (side, side, 128, 256),
        (side * 4 // 3, side * 3 // 4, 0, 256),
    ):
        noise = draw.integers(low, high, (height, width, 3), np.uint8)
        pictures += [tf.io.encode_jpeg(noise, quality=75).numpy(), tf.io.encode_png(noise).numpy()]
    for log in warm_up_logs(model.folder):
        pictures += list(log.predict_log.request.inputs[IMAGE_BYTES].string_val)[:8] if len(pictures) < 10 else []
    return pictures


# TensorFlow Serving refuses more.
_MOST = 1000


def warm_up_logs(folder: Path) -> Iterator[PredictionLog]:
    """The warm-up requests in a SavedModel's folder, if it has any.

    Raises:
        ServingError: the file cannot be read, or holds too many.
    """
    file = folder / WARM_UP
    if not file.is_file():
        return
    try:
        # Not by `tf.data`: its end waits for threads, on a busy machine for many seconds.
        for number, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(file)), 1):
            if number > _MOST:
                raise ServingError(INVALID_ARGUMENT, f"{file} holds more than {_MOST} requests.")
            yield PredictionLog.FromString(record)
    except ServingError:
        raise
    except Exception as error:
        raise ServingError(INVALID_ARGUMENT, f"{file} cannot be read: {error}") from error


def warm_up(model: LoadedModel, seconds: float) -> None:
    """Runs the warm-up requests of a model.

    Args:
        model: loaded model.
        seconds: time limit of each request.

    Raises:
        ServingError: a request fails.
    """
    for log in warm_up_logs(model.folder):
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            raise ServingError(INVALID_ARGUMENT, f"a warm-up request is a {kind}; only predict_log is supported.")
        request = log.predict_log.request
        signature = model.signature(request.model_spec.signature_name)
        check_inputs(request, signature, _MOST)
        signature.run(arrays_of(request, signature), seconds)
