"""Ensembles of trained detectors under new dense layers.

Both take RGB faces, float32 in [0, 1], `(batch, height, width, 3)`, and return P(fake), `(batch, 1)`. Their members are
trained separately and frozen here; only the new layers train.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import copy_body, fake_probability
from tfdfd.models.clip_vit import clip_vit_b16
from tfdfd.models.efficientnet import efficientnet_lite0
from tfdfd.models.reseption import bias_of, reseption_v1, reseption_v2, xavier

# CLIP's own resolution. It scores larger pictures no better, and takes a third more time at 256 pixels.
CLIP_SIDE = 224

MEMBERS = {"clip_vit_b16": clip_vit_b16, "efficientnet_lite0": efficientnet_lite0}
WIDTH = 512


def best_ensemble(input_shape: tuple[int, int, int] = (224, 224, 3), name: str = "best_ensemble") -> keras.Model:
    """CLIP ViT-B/16 and EfficientNet-Lite0 under one dense layer, which starts as the mean of their logits.

    The transformer sees the whole face, the convolutional network its texture, so they fail on different videos. The
    layer `features` holds the two logits, `(batch, 2)`, in the order of `MEMBERS`. EfficientNet-Lite0 takes the image
    as it is; CLIP takes it scaled down to at most 224 x 224.

    Args:
        input_shape: `(height, width, 3)`, both multiples of 16 and at least 32.
        name: name of the model.

    Raises:
        ValueError: a side is not a multiple of 16.
    """
    image = keras.Input(input_shape, name="image")
    height, width, channels = input_shape
    clip_shape = (min(height, CLIP_SIDE), min(width, CLIP_SIDE), channels)
    logits = []
    for member, build in MEMBERS.items():
        shape, x = input_shape, image
        if member == "clip_vit_b16" and clip_shape != tuple(input_shape):
            shape = clip_shape
            x = layers.Resizing(*shape[:2], antialias=True, name="clip_resizing")(image)
        logits.append(_logit(build(shape, name=member))(x))
    x = layers.Concatenate(name="features")(logits)  # (batch, 2)
    return keras.Model(image, fake_probability(x, kernel_initializer=keras.initializers.Constant(0.5)), name=name)


def reseption_ensemble(
    input_shape: tuple[int, int, int] = (299, 299, 3),
    v1: keras.Model | None = None,
    v2: keras.Model | None = None,
    dropout: float = 0.5,
    name: str = "reseption_ensemble",
) -> keras.Model:
    """Reseption V1 and V2, each mapped to 512 values, side by side (S2, section 7.3); 34,096,865 learned parameters.

    Only the three dense layers train. The norms of the members keep their statistics.

    Args:
        input_shape: `(height, width, 3)`, both at least 75; ignored if a member is given.
        v1: a built and trained `reseption_v1`, which is copied, not changed; None for a new one with random weights.
        v2: likewise a `reseption_v2`.
        dropout: share of the 1,024 values dropped before the last layer, in [0, 1).
        name: name of the model.

    Raises:
        ValueError: a member has no layer `features`, or the members take images of different sizes.
    """
    members = {
        "reseption_v1": v1 if v1 is not None else reseption_v1(v2.input_shape[1:] if v2 is not None else input_shape),
        "reseption_v2": v2 if v2 is not None else reseption_v2(v1.input_shape[1:] if v1 is not None else input_shape),
    }
    sizes = {member: model.input_shape[1:] for member, model in members.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"the members of an ensemble take one image; received members for {sizes}: build both alike.")
    image = keras.Input(next(iter(sizes.values())), name="image")
    parts = []
    for member, model in members.items():
        body = copy_body(model, member)
        body.trainable = False
        x = body(image)  # (batch, 1280 or 1568)
        x = layers.Dropout(0.2, name=f"{member}_dropout")(x)
        dense = layers.Dense(
            WIDTH, kernel_initializer=xavier(), bias_initializer=bias_of(x.shape[-1]), name=f"{member}_features"
        )
        parts.append(dense(x))  # (batch, 512)
    x = layers.Concatenate(name="features")(parts)  # (batch, 1024)
    output = fake_probability(x, dropout, kernel_initializer=xavier(), bias_initializer=bias_of(2 * WIDTH))
    return keras.Model(image, output, name=name)


def _logit(network: keras.Model) -> keras.Model:
    """The network up to its logit, frozen; its weights keep their names."""
    head = layers.Dense(1, dtype="float32", name="fake_probability")
    logit = keras.Model(network.input, head(network.get_layer("features").output), name=network.name)
    logit.trainable = False
    return logit
