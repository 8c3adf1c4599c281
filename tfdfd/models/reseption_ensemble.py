"""The Reseption ensemble (S2, section 7.3): two trained bodies, frozen, under three new dense layers."""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import copy_body, fake_probability
from tfdfd.models.reseption import bias_of, reseption_v1, reseption_v2, xavier

WIDTH = 512


def reseption_ensemble(input_shape=(299, 299, 3), v1=None, v2=None, dropout=0.5, name="reseption_ensemble"):
    """Reseption V1 and V2, each mapped to 512 values, side by side; 34,096,865 learned parameters.

    Only the three dense layers train: the bodies are frozen, and their norms keep the statistics they have.

    Args:
        input_shape: `(height, width, 3)`, both at least 75; of no account where members are given.
        v1: a built and trained `reseption_v1`, copied, not changed; None for a new one with random weights.
        v2: the same of `reseption_v2`.
        dropout: share of the 1,024 values dropped before the last layer, in [0, 1).
        name: name of the model.

    Raises:
        ValueError: the members are no networks of ours, or take images of different sizes.
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
