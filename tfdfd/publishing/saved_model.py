"""SavedModels of Keras networks, which `hub.KerasLayer` trains and TensorFlow Serving serves, with warm-up requests.

The SavedModels of Keras's `model.export` are neither callable nor trainable after loading.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfdfd.publishing.images import decode_crops, nan_where_invalid, resize_images

IMAGE, IMAGE_BYTES = "image", "image_bytes"
FEATURES, FAKE_PROBABILITY = "features", "fake_probability"


def write_saved_model(model: keras.Model, folder: str | os.PathLike, any_size: bool = True) -> None:
    """Writes a classification network: `__call__(image, training=False)` and three signatures.

    Images are RGB float32 `(batch, height, width, 3)` in [0, 1], of any size; the graph resizes them as `tfdfd detect`
    resizes crops. Every answer is float32. The answer for an image with NaN, infinity or a pixel outside [-0.05, 1.05]
    is NaN; others of its batch are unaffected. With `training=True` nothing is checked. Signatures:
    `serving_default` (`image` -> `fake_probability` `(batch, 1)`), `image_bytes` (`image_bytes`: string `(batch,)`, see
    `tfdfd.publishing.images` -> the same) and `features` (`image` -> `features` `(batch, n)`). `variables`,
    `trainable_variables` and `regularization_losses` are those of the network; frozen layers stay frozen.

    The signatures of a network of clips have the same names and one more axis, of fixed length: `image` `(batch,
    frames, height, width, 3)` and `image_bytes` `(batch, frames)`.

    Args:
        model: a Keras 3 model of `tfdfd.models` with a layer `features`, on the TensorFlow backend.
        folder: made if absent.
        any_size: False: images have the network's height and width and are not checked, for converters that need the
            bare network.

    Raises:
        ValueError: another backend, or another kind of network.
    """
    features = _part(model, FEATURES)
    published = _Published(model, any_size)
    root, image, shape = published.root(), published.image, model.input_shape

    @tf.function(input_signature=[image])
    def serving_default(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {FAKE_PROBABILITY: root.__call__(image)}

    @tf.function(input_signature=[tf.TensorSpec(shape[:-3], tf.string, name=IMAGE_BYTES)])
    def image_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        crops = decode_crops(tf.reshape(image_bytes, [-1]), shape[-3:-1])
        # Decoded pixels need no check.
        return {FAKE_PROBABILITY: published.network(tf.reshape(crops, (-1, *shape[1:])))}

    @tf.function(input_signature=[image])
    def of_features(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {FEATURES: published.answers(features, image)}

    signatures = {"serving_default": serving_default, "image_bytes": image_bytes, "features": of_features}
    _save(root, folder, signatures)


def write_feature_vector(model: keras.Model, folder: str | os.PathLike) -> None:
    """Writes the network up to its layer `features`: `__call__(image, training=False)` gives `(batch, n)` float32.

    Its one signature is `serving_default` (`image` -> `features`). Images are as for `write_saved_model`.

    Raises:
        ValueError: as `write_saved_model`.
    """
    published = _Published(_part(model, FEATURES))
    root = published.root()

    @tf.function(input_signature=[published.image])
    def serving_default(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {FEATURES: root.__call__(image)}

    _save(root, folder, {"serving_default": serving_default})


def _save(root: Any, folder: str | os.PathLike, signatures: dict[str, Any]) -> None:
    with _os_errors():
        tf.saved_model.save(root, os.fspath(folder), signatures=signatures)
    # An empty folder does not survive every way of copying.
    os.rmdir(os.path.join(folder, "assets"))


class _Published:
    """A network in functions that signatures share, so the file has its graph once."""

    def __init__(self, model: keras.Model, any_size: bool = True) -> None:
        shape = model.input_shape
        if not isinstance(shape, tuple) or len(shape) not in (4, 5) or None in shape[1:]:
            raise ValueError(
                f"{model.name} takes {shape}; only networks for images or clips of one size can be published."
            )
        of_its_size = tf.TensorSpec(shape, tf.float32, name=IMAGE)
        self.image = (
            tf.TensorSpec((*shape[:-3], None, None, shape[-1]), tf.float32, name=IMAGE) if any_size else of_its_size
        )
        self._model, self._any_size = model, any_size

        @tf.function(input_signature=[of_its_size])
        def network(image: tf.Tensor) -> tf.Tensor:
            return model(image, training=False)

        @tf.function(input_signature=[self.image])
        def resize(image: tf.Tensor) -> tf.Tensor:
            return resize_images(image, shape[-3:-1])

        self.network, self._resize = network, resize

    def answers(self, network: Callable[..., Any], image: tf.Tensor, training: Any = False) -> tf.Tensor:
        """Answers of `network`, with resizing and checks of the images."""
        if not self._any_size:
            return network(image, training=training)
        answers = network(self._resize(image), training=training)
        return answers if training else nan_where_invalid(answers, image)

    def root(self) -> Any:
        """The loaded object: everything a reusable SavedModel has, without Keras."""
        model = self._model

        def network(image: tf.Tensor, training: Any) -> tf.Tensor:
            return model(image, training=True) if training else self.network(image)

        @tf.function
        def call(image: tf.Tensor, training: Any = False) -> tf.Tensor:
            return self.answers(network, image, training)

        for training in (False, True):
            call.get_concrete_function(self.image, training=training)
        root = tf.train.Checkpoint()
        root.__call__ = call
        root.variables = [variable.value for variable in model.variables]
        root.trainable_variables = [variable.value for variable in model.trainable_variables]
        root.regularization_losses = [
            _penalty(variable) for variable in model.trainable_variables if variable.regularizer is not None
        ]
        return root


def _penalty(variable: Any) -> Any:
    """The regularization loss of a variable as a function without arguments."""
    return tf.function(lambda: variable.regularizer(variable.value), input_signature=[])


def _part(model: keras.Model, name: str) -> keras.Model:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"a SavedModel needs TensorFlow, but Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow."
        )
    if name not in [layer.name for layer in model.layers]:
        raise ValueError(f"{model.name} has no layer {name!r}; expected a network of tfdfd.models.")
    return keras.Model(model.input, model.get_layer(name).output, name=f"{model.name}_{name}")


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Raises `OSError` for TensorFlow's errors of files, such as a full disk; their messages name the file."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
BATCH_SIZES, CLIP_BATCH_SIZES = (1, 8), (1, 2)


def write_warm_up(folder: Path, crops: np.ndarray) -> None:
    """Writes the warm-up requests of TensorFlow Serving: two batch sizes for `serving_default` and `image_bytes`.

    Args:
        folder: folder of a SavedModel.
        crops: uint8 RGB `(n, height, width, 3)`, or clips `(n, frames, height, width, 3)`, of which the first is used.

    Raises:
        OSError: the file cannot be written.
    """
    requests = []
    for size in BATCH_SIZES if crops.ndim == 4 else CLIP_BATCH_SIZES:
        # One value stands for all pixels, which would make the file megabytes large.
        images = tf.make_tensor_proto(0.5, tf.float32, (size, *crops.shape[1:]))
        # One crop, or clip, stands for the whole batch.
        once = [tf.io.encode_jpeg(crop, quality=95).numpy() for crop in crops[0].reshape(-1, *crops.shape[-3:])]
        encoded = np.array(once * size, object).reshape(size, *crops.shape[1:-3])
        for signature, name, values in (
            ("serving_default", IMAGE, images),
            ("image_bytes", IMAGE_BYTES, tf.make_tensor_proto(encoded, tf.string)),
        ):
            request = predict_pb2.PredictRequest(output_filter=[FAKE_PROBABILITY])
            request.model_spec.name = "default"
            request.model_spec.signature_name = signature
            request.inputs[name].CopyFrom(values)
            requests.append(prediction_log_pb2.PredictionLog(predict_log={"request": request}))
    path = folder / WARM_UP
    path.parent.mkdir(exist_ok=True)
    with _os_errors(), tf.io.TFRecordWriter(str(path)) as file:
        for request in requests:
            file.write(request.SerializeToString())
