"""MobileNetV2, VGG16 and ResNet50V2 with max pooling, each on the image or on its SRM noise (S4).

RGB faces, float32 in [0, 1], `(batch, 128, 128, 3)` -> P(fake) `(batch, 1)`. The bodies are `keras.applications`
(Sandler et al., arXiv:1801.04381; Simonyan and Zisserman, arXiv:1409.1556; He et al., arXiv:1603.05027), frozen; only
the head trains. S4 filters a copy of its data set with OpenCV; here the same numbers come from a layer in front.
"""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import centred, fake_probability, symmetric
from tfdfd.models.blocks import freeze as freeze_layers
from tfdfd.models.srm import SRM

SIZE = (128, 128, 3)
STREAMS = ("noise", "rgb+noise")


def mobilenet_v2(input_shape=SIZE, freeze="all", name="mobilenet_v2"):
    """MobileNetV2 on the image.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        freeze: `"all"` (all but the head, S4), `"none"`, or the last frozen layer's name.
        name: name of the model.

    Raises:
        ValueError: `freeze` names nothing.
    """
    return _on_image(_mobilenet_v2, input_shape, freeze, name)


def vgg16(input_shape=SIZE, freeze="all", name="vgg16"):
    """VGG16 on the image; arguments as of `mobilenet_v2`."""
    return _on_image(_vgg16, input_shape, freeze, name)


def resnet50v2(input_shape=SIZE, freeze="all", name="resnet50v2"):
    """ResNet50V2 on the image; arguments as of `mobilenet_v2`."""
    return _on_image(_resnet50v2, input_shape, freeze, name)


def srm_mobilenet_v2(input_shape=SIZE, receives="noise", truncate=None, freeze="all", name="srm_mobilenet_v2"):
    """MobileNetV2 on the image's noise residuals.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        receives: `"noise"` (S4): the three residuals in the place of the colours; `"rgb+noise"`: a second body for the
            image beside that for the noise, their features side by side.
        truncate: the largest magnitude of a residual, in the image's units (the rich models' is 2 / 255); None: any.
        freeze: `"all"` (all but the head, S4), `"none"`, or the last frozen layer's name.
        name: name of the model.

    Raises:
        ValueError: `receives` is neither, or `freeze` names nothing.
    """
    return _on_noise(_mobilenet_v2, input_shape, receives, truncate, freeze, name)


def srm_vgg16(input_shape=SIZE, receives="noise", truncate=None, freeze="all", name="srm_vgg16"):
    """VGG16 on the image's noise residuals; arguments as of `srm_mobilenet_v2`."""
    return _on_noise(_vgg16, input_shape, receives, truncate, freeze, name)


def srm_resnet50v2(input_shape=SIZE, receives="noise", truncate=None, freeze="all", name="srm_resnet50v2"):
    """ResNet50V2 on the image's noise residuals; arguments as of `srm_mobilenet_v2`."""
    return _on_noise(_resnet50v2, input_shape, receives, truncate, freeze, name)


def _mobilenet_v2(image):
    return _body(keras.applications.MobileNetV2, symmetric(image))  # (batch, 4, 4, 1280)


def _vgg16(image):
    return _body(keras.applications.VGG16, centred(image))  # (batch, 4, 4, 512)


def _resnet50v2(image):
    return _body(keras.applications.ResNet50V2, symmetric(image))  # (batch, 4, 4, 2048)


def _body(application, x):
    return application(include_top=False, weights=None, input_shape=x.shape[1:], input_tensor=x).output


def _on_image(body, input_shape, freeze, name):
    image = keras.Input(input_shape, name="image")
    features = layers.GlobalMaxPooling2D(name="features")(body(image))
    return freeze_layers(keras.Model(image, fake_probability(features), name=name), freeze)


def _on_noise(body, input_shape, receives, truncate, freeze, name):
    if receives not in STREAMS:
        raise ValueError(f"receives must be one of {', '.join(STREAMS)}; received {receives!r}.")
    image = keras.Input(input_shape, name="image")
    residual = SRM(truncate=truncate, name="srm")(image)
    # No noise is mid-grey, which every body maps to about zero. S4's files of 8 bits have it black, and so lose the
    # negative half of the residuals.
    noise = layers.Rescaling(1.0, offset=0.5, name="noise")(residual)
    if receives == "noise":
        features = layers.GlobalMaxPooling2D(name="features")(body(noise))
    else:
        # The second body has the same layer names, so it is a model of its own inside this one.
        stream_input = keras.Input(input_shape, name="noise")
        of_noise = layers.GlobalMaxPooling2D(name="noise_features")(body(stream_input))
        of_image = layers.GlobalMaxPooling2D(name="image_features")(body(image))
        stream = keras.Model(stream_input, of_noise, name="noise_stream")
        features = layers.Concatenate(name="features")([of_image, stream(noise)])
    return freeze_layers(keras.Model(image, fake_probability(features), name=name), freeze)
