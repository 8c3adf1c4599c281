"""`tfdfd.HubLayer`: a published model as a Keras 3 layer, which `hub.KerasLayer` is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdfd.hub import PREFIX, Handle, HubError
from tfdfd.hub.bundled import FromWeights
from tfdfd.hub.resolve import ResolvedModel, find, look_up
from tfdfd.models import build, load
from tfdfd.publishing.images import nan_where_invalid, resize_images
from tfdfd.runtime.equality import check_equal, proof_crops
from tfdfd.threads import map_in_threads
from tfdfd.weights.store import CARD, locate, read_card_file

_PROOFS = 2


@keras.saving.register_keras_serializable(package="tfdfd")
class HubLayer(keras.layers.Layer):
    """A published network, built by this package and filled with the published variables.

    `fit` trains its weights; `save_weights` and `load_weights` include them. At construction its answers are proved
    equal to the published SavedModel's, to 1e-5. If the package has only the weights, it takes these, and no SavedModel
    is made.

    Args:
        handle: `tfdfd/<model>` or `tfdfd/<model>/<version>`, optionally followed by `/feature_vector`.
        trainable: whether `fit` changes it, except for layers that were frozen in training (setting the attribute
            later frees these, too, as with any layer). False: norms use their stored statistics, too.

    It may be constructed in the scope of `tf.distribute.MirroredStrategy`, whose variables it then has.

    Input shape: `(batch, height, width, 3)`, RGB float32 in [0, 1], of any size; resized as `tfdfd detect` resizes
        crops.
        A model of clips takes `(batch, frames, height, width, 3)`, the frames in order of time.
    Output shape: `(batch, 1)`, P(fake), 1 = fake; with `/feature_vector` `(batch, n)`. Of an image that holds NaN,
        infinity or a pixel outside [-0.05, 1.05], as of another scale, the answer is NaN; in training, nothing is
        checked.

    Raises:
        HubError: the handle is invalid, files differ from the manifest, or this version of the package builds another
            network under that name.

    Attributes:
        handle: with the resolved version, so a saved model asks for the same one.
        network: the Keras model inside.
    """

    def __init__(self, handle: str, trainable: bool = False, **kwargs: Any) -> None:
        # The proof holds for float32, whatever the surrounding model computes in.
        kwargs.setdefault("dtype", "float32")
        super().__init__(trainable=trainable, **kwargs)
        wanted = Handle.parse(handle)
        _, resolved, version = look_up(wanted)
        self.handle = str(resolved)
        if isinstance(version, FromWeights):
            model = _in_float32(lambda: load(*locate(PREFIX + resolved.model)))
        else:
            model = network_of(find(str(replace(resolved, features=False))))
        self.network = _features(model) if wanted.features else model
        if not trainable:
            self.network.trainable = False

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        images = ops.cast(inputs, self.compute_dtype)
        at_size = resize_images(images, self.network.input_shape[-3:-1])
        answers = self.network(at_size, training=bool(training) and self.trainable)
        return answers if training else nan_where_invalid(answers, images)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.network.output_shape[1:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "handle": self.handle}


def network_of(published: ResolvedModel) -> keras.Model:
    """The network of a published SavedModel, built by this package with the published variables.

    Raises:
        HubError: this version of the package builds another network under that name.
    """
    card = read_card_file(published.folder / CARD)
    model = _in_float32(lambda: build(card["model"], input_shape=card.get("input_shape"), **card.get("arguments", {})))
    *clip, _, size, _ = model.input_shape[1:]
    crops = proof_crops(size, _PROOFS, *clip) / np.float32(255)
    # In a separate thread: a loaded model does not run in the scope of a distribution strategy, which is a thread's.
    ((values, *answers),) = map_in_threads(lambda folder: _published(folder, crops), [published.folder], 1)
    shapes, expected = [value.shape for value in values], [tuple(variable.shape) for variable in model.variables]
    if shapes != expected:
        raise HubError(_other_network(published, f"{len(expected)} variables here, {len(shapes)} published"))
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    for name, ours, theirs in zip(
        ("its P(fake)", "its feature vector"), (model, _features(model)), answers, strict=True
    ):
        try:
            check_equal(name, ops.convert_to_numpy(ours(crops, training=False)), theirs, "layer")
        except ValueError as error:
            raise HubError(_other_network(published, str(error).rstrip("."))) from error
    return model


def _in_float32(make: Callable[[], keras.Model]) -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        return make()
    finally:
        keras.config.set_dtype_policy(policy)


def _features(model: keras.Model) -> keras.Model:
    return keras.Model(model.input, model.get_layer("features").output, name=f"{model.name}_features")


def _published(folder: Path, crops: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The variables of a SavedModel, and P(fake) and features of crops."""
    loaded = tf.saved_model.load(str(folder))
    features = loaded.signatures["features"](image=tf.constant(crops))["features"]
    return [variable.numpy() for variable in loaded.variables], loaded(crops, training=False).numpy(), features.numpy()


def _other_network(published: ResolvedModel, why: object) -> str:
    version = read_card_file(published.folder / CARD).get("tfdfd")
    return (
        f"this tfdfd does not build the network of {published.handle} ({why}); tfdfd {version} published it. "
        "hub.KerasLayer runs it as it is, in a tf_keras model."
    )
