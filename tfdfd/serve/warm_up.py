"""The requests that a model brings to be run before its first client's: TensorFlow Serving's warm-up file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from tfdfd.serve.errors import INVALID_ARGUMENT, ServingError
from tfdfd.serve.loaded_model import LoadedModel
from tfdfd.serve.prediction import arrays_of, check_inputs, signature_of

WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
# TensorFlow Serving refuses more.
_MOST = 1000


def warm_up_logs(folder: Path) -> Iterator[PredictionLog]:
    """The requests in a SavedModel's folder; none where it brings none.

    Raises:
        ServingError: the file cannot be read, or holds too many.
    """
    file = folder / WARM_UP
    if not file.is_file():
        return
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator(), 1):
            if number > _MOST:
                raise ServingError(INVALID_ARGUMENT, f"{file} holds more than {_MOST} requests.")
            yield PredictionLog.FromString(record)
    except ServingError:
        raise
    except Exception as error:
        raise ServingError(INVALID_ARGUMENT, f"{file} cannot be read: {error}") from error


def warm_up(model: LoadedModel, seconds: float) -> None:
    """Runs the requests that the model brings; what they answer is thrown away.

    Args:
        model: loaded.
        seconds: that each may take.

    Raises:
        ServingError: one of them fails, as it would for clients.
    """
    for log in warm_up_logs(model.folder):
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            raise ServingError(INVALID_ARGUMENT, f"a warm-up request is a {kind}; this server runs predict_log alone.")
        request = log.predict_log.request
        signature = signature_of(model, request.model_spec.signature_name)
        check_inputs(request, signature, _MOST)
        signature.run(arrays_of(request, signature), seconds)
