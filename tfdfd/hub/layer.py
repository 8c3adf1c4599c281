"""A published model as a layer of Keras 3, which `hub.KerasLayer` is not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdfd.hub.errors import HubError
from tfdfd.hub.exports import FromWeights
from tfdfd.hub.finding import Found, find, look_up
from tfdfd.hub.handles import PREFIX, Handle
from tfdfd.models import build, load
from tfdfd.publishing.equality import TOLERANCE
from tfdfd.publishing.pixels import nan_where_invalid, resize_images
from tfdfd.runtime.opening import proof_crops
from tfdfd.weights.store import locate

_PROOFS = 2


@keras.saving.register_keras_serializable(package="tfdfd")
class HubLayer(keras.layers.Layer):
    """A published network, built by this package and filled with the published variables.

    Its weights are those of a Keras network: `fit` trains them, `save_weights` and `load_weights` take them along.
    When it is made, it is proved to answer what the published SavedModel answers, to 1e-5. Where the package carries
    weights and no SavedModel of them, it takes these, and no SavedModel is made.

    Args:
        handle: `tfdfd/<model>`, `tfdfd/<model>/<version>`, either with `/feature_vector` behind it.
        trainable: whether `fit` changes it: all but what the network was trained with as frozen (setting the attribute
            later frees that, too, as with any layer). False: its norms use their stored statistics, too.

    It may be made in the scope of `tf.distribute.MirroredStrategy`, whose variables it then has.

    Input shape: `(batch, height, width, 3)`, RGB float32 in [0, 1], of any size; resized as `tfdfd detect` resizes
        crops.
    Output shape: `(batch, 1)`, P(fake), 1 = fake; with `/feature_vector` `(batch, n)`. Of an image that holds NaN,
        infinity or a pixel outside [-0.05, 1.05], as of another scale, the answer is NaN; in training, nothing is
        checked.

    Raises:
        HubError: the handle is of no use, what was found is not what was published, or this version of the package
            builds another network by that name.

    Attributes:
        handle: with the version that was found, so that a saved model asks for the same one.
        network: the Keras model inside.
    """

    def __init__(self, handle: str, trainable: bool = False, **kwargs):
        # What it is proved to answer is in float32, whatever the model around it computes in.
        kwargs.setdefault("dtype", "float32")
        super().__init__(trainable=trainable, **kwargs)
        wanted = Handle.parse(handle)
        _, handle, version = look_up(wanted)
        self.handle = str(handle)
        if isinstance(version, FromWeights):
            model = _in_float32(lambda: load(*locate(PREFIX + handle.model)))
        else:
            model = network_of(find(str(replace(handle, features=False))))
        self.network = _features(model) if wanted.features else model
        if not trainable:
            self.network.trainable = False

    def call(self, inputs, training=None):
        images = ops.cast(inputs, self.compute_dtype)
        at_size = resize_images(images, self.network.input_shape[1:3])
        answers = self.network(at_size, training=bool(training) and self.trainable)
        return answers if training else nan_where_invalid(answers, images)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.network.output_shape[1:])

    def get_config(self):
        return {**super().get_config(), "handle": self.handle}


def network_of(found: Found) -> keras.Model:
    """The network of a published SavedModel, built by this package with the published variables.

    Raises:
        HubError: this version of the package builds another network by that name.
    """
    card = json.loads((found.folder / "model_card.json").read_text("utf-8"))
    model = _in_float32(lambda: build(card["model"], input_shape=card.get("input_shape"), **card.get("arguments", {})))
    crops = proof_crops(model.input_shape[1], _PROOFS) / np.float32(255)
    # In a thread of its own, since the scope of a strategy is a thread's: there, what was loaded would not run.
    with ThreadPoolExecutor(1) as thread:
        values, *answers = thread.submit(_published, found.folder, crops).result()
    shapes, expected = [value.shape for value in values], [tuple(variable.shape) for variable in model.variables]
    if shapes != expected:
        raise HubError(_other_network(found, card, f"{len(expected)} variables here, {len(shapes)} published"))
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    apart = max(_apart(ours, crops, theirs) for ours, theirs in zip((model, _features(model)), answers, strict=True))
    if not apart <= TOLERANCE:  # NaN is not equal either
        raise HubError(_other_network(found, card, f"its answers are {apart:.2g} apart"))
    return model


def _in_float32(make):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        return make()
    finally:
        keras.config.set_dtype_policy(policy)


def _features(model):
    return keras.Model(model.input, model.get_layer("features").output, name=f"{model.name}_features")


def _published(folder, crops):
    """The variables of a SavedModel, and P(fake) and features of crops."""
    loaded = tf.saved_model.load(str(folder))
    features = loaded.signatures["features"](image=tf.constant(crops))["features"]
    return [variable.numpy() for variable in loaded.variables], loaded(crops, training=False).numpy(), features.numpy()


def _apart(model, crops, published):
    """How far answers are from the published ones, as a share of the largest of these where that is above 1."""
    ours = ops.convert_to_numpy(model(crops, training=False))
    return np.abs(ours - published).max() / max(1.0, np.abs(published).max())


def _other_network(found, card, why):
    return (
        f"this tfdfd does not build the network of {found.handle} ({why}); tfdfd {card.get('tfdfd')} published it. "
        "hub.KerasLayer runs it as it is, in a tf_keras model."
    )
