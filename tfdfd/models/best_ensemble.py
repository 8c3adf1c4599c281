"""Two detectors of different kinds side by side: the first blocks of CLIP ViT-B/16, and EfficientNet-Lite0.

RGB faces, float32 in [0, 1], `(batch, 224, 224, 3)` -> P(fake) `(batch, 1)`. The transformer looks at the whole face,
the convolutional network at its texture, so that they fail on different videos. Both are trained by themselves and
frozen here; only the last layer trains, on their two logits.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability
from tfdfd.models.clip_vit import clip_vit_b16
from tfdfd.models.efficientnet_lite import efficientnet_lite0

# CLIP's own resolution. It scores larger pictures no better, and takes a third more time for 256 pixels.
CLIP_SIDE = 224

MEMBERS = {"clip_vit_b16": clip_vit_b16, "efficientnet_lite0": efficientnet_lite0}


def best_ensemble(input_shape=(224, 224, 3), name="best_ensemble"):
    """CLIP ViT-B/16 and EfficientNet-Lite0 under one layer, which begins as the mean of their logits.

    The layer `features` has the two logits, `(batch, 2)`, in the order of `MEMBERS`. EfficientNet-Lite0 takes the image
    as it is; CLIP takes it at 224 x 224 where it is larger.

    Args:
        input_shape: `(height, width, 3)`, both multiples of 16 and at least 32.
        name: name of the model.

    Raises:
        ValueError: a side is no multiple of 16.
    """
    image = keras.Input(input_shape, name="image")
    height, width, channels = input_shape
    small = (min(height, CLIP_SIDE), min(width, CLIP_SIDE), channels)
    images, shapes = {}, {}
    for member in MEMBERS:
        shapes[member] = small if member == "clip_vit_b16" else input_shape
        images[member] = image
        if shapes[member] != tuple(input_shape):
            images[member] = layers.Resizing(*shapes[member][:2], antialias=True, name=f"{member}_resizing")(image)
    logits = [_logit(build(shapes[member], name=member))(images[member]) for member, build in MEMBERS.items()]
    x = layers.Concatenate(name="features")(logits)  # (batch, 2)
    return keras.Model(image, fake_probability(x, kernel_initializer=keras.initializers.Constant(0.5)), name=name)


def _logit(network):
    """A frozen network that ends before the sigmoid; the weights have the same names."""
    head = layers.Dense(1, dtype="float32", name="fake_probability")
    logit = keras.Model(network.input, head(network.get_layer("features").output), name=network.name)
    logit.trainable = False
    return logit
