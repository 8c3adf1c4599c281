"""Requests that TensorFlow Serving sends a model before it answers others, so that none of those waits for a start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfdfd.publishing.saved_model import FAKE_PROBABILITY, IMAGE, IMAGE_BYTES

PLACE = Path("assets.extra", "tf_serving_warmup_requests")
BATCH_SIZES = (1, 8)


def write_requests(folder: Path, crops: np.ndarray) -> None:
    """Writes one request for each of two batch sizes to each of two signatures: `serving_default`, `image_bytes`.

    Args:
        folder: of a SavedModel.
        crops: uint8 RGB `(n, height, width, 3)`; at least as many as the larger batch.
    """
    requests = []
    for size in BATCH_SIZES:
        # One number stands for all of them: pixels as floats would make the file megabytes large.
        images = tf.make_tensor_proto(0.5, tf.float32, (size, *crops.shape[1:]))
        encoded = np.array([tf.io.encode_jpeg(crop, quality=95).numpy() for crop in crops[:size]], object)
        for signature, name, values in (
            ("serving_default", IMAGE, images),
            ("image_bytes", IMAGE_BYTES, tf.make_tensor_proto(encoded, tf.string)),
        ):
            request = predict_pb2.PredictRequest(output_filter=[FAKE_PROBABILITY])
            request.model_spec.name = "default"
            request.model_spec.signature_name = signature
            request.inputs[name].CopyFrom(values)
            requests.append(prediction_log_pb2.PredictionLog(predict_log={"request": request}))
    path = folder / PLACE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for request in requests:
            file.write(request.SerializeToString())
