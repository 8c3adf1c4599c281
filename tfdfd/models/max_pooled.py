"""MobileNetV2, VGG16 and ResNet50V2 with max pooling, on the image or on its SRM noise residuals (S4).

RGB faces, float32 in [0, 1], `(batch, 128, 128, 3)` -> P(fake) `(batch, 1)`. The bodies are `keras.applications`
(Sandler et al., arXiv:1801.04381; Simonyan and Zisserman, arXiv:1409.1556; He et al., arXiv:1603.05027), frozen; only
the head trains. S4 filters a copy of its data set with OpenCV; here a first layer computes the same values.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from tfdfd.models.blocks import centered, fake_probability, symmetric
from tfdfd.models.blocks import freeze as freeze_layers
from tfdfd.models.srm import SRM

SIZE: tuple[int, int, int] = (128, 128, 3)
STREAMS = ("noise", "rgb+noise")


def mobilenet_v2(
    input_shape: tuple[int, int, int] = SIZE, freeze: str = "all", name: str = "mobilenet_v2"
) -> keras.Model:
    """MobileNetV2 on the image.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        freeze: `"all"` (all but the head, S4), `"none"`, or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `freeze` is not one of these.
    """
    return _on_image(_mobilenet_v2, input_shape, freeze, name)


def vgg16(input_shape: tuple[int, int, int] = SIZE, freeze: str = "all", name: str = "vgg16") -> keras.Model:
    """VGG16 on the image; arguments as for `mobilenet_v2`."""
    return _on_image(_vgg16, input_shape, freeze, name)


def resnet50v2(input_shape: tuple[int, int, int] = SIZE, freeze: str = "all", name: str = "resnet50v2") -> keras.Model:
    """ResNet50V2 on the image; arguments as for `mobilenet_v2`."""
    return _on_image(_resnet50v2, input_shape, freeze, name)


def srm_mobilenet_v2(
    input_shape: tuple[int, int, int] = SIZE,
    receives: str = "noise",
    truncate: float | None = None,
    freeze: str = "all",
    name: str = "srm_mobilenet_v2",
) -> keras.Model:
    """MobileNetV2 on the image's noise residuals.

    Args:
        input_shape: `(height, width, 3)`, both at least 32.
        receives: `"noise"` (S4): the three residuals instead of the colors; `"rgb+noise"`: a second body for the image
            beside the one for the noise, their features concatenated.
        truncate: largest magnitude of a residual, in the image's units (2 / 255 in the rich models); None for no limit.
        freeze: `"all"` (all but the head, S4), `"none"`, or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: `receives` or `freeze` is not one of these.
    """
    return _on_noise(_mobilenet_v2, input_shape, receives, truncate, freeze, name)


def srm_vgg16(
    input_shape: tuple[int, int, int] = SIZE,
    receives: str = "noise",
    truncate: float | None = None,
    freeze: str = "all",
    name: str = "srm_vgg16",
) -> keras.Model:
    """VGG16 on the image's noise residuals; arguments as for `srm_mobilenet_v2`."""
    return _on_noise(_vgg16, input_shape, receives, truncate, freeze, name)


def srm_resnet50v2(
    input_shape: tuple[int, int, int] = SIZE,
    receives: str = "noise",
    truncate: float | None = None,
    freeze: str = "all",
    name: str = "srm_resnet50v2",
) -> keras.Model:
    """ResNet50V2 on the image's noise residuals; arguments as for `srm_mobilenet_v2`."""
    return _on_noise(_resnet50v2, input_shape, receives, truncate, freeze, name)


def _mobilenet_v2(image: keras.KerasTensor) -> keras.KerasTensor:
    return _body(keras.applications.MobileNetV2, symmetric(image))  # (batch, 4, 4, 1280)


def _vgg16(image: keras.KerasTensor) -> keras.KerasTensor:
    return _body(keras.applications.VGG16, centered(image))  # (batch, 4, 4, 512)


def _resnet50v2(image: keras.KerasTensor) -> keras.KerasTensor:
    return _body(keras.applications.ResNet50V2, symmetric(image))  # (batch, 4, 4, 2048)


def _body(application: Callable[..., keras.Model], x: keras.KerasTensor) -> keras.KerasTensor:
    return application(include_top=False, weights=None, input_shape=x.shape[1:], input_tensor=x).output


def _on_image(
    body: Callable[[keras.KerasTensor], keras.KerasTensor], input_shape: tuple[int, int, int], freeze: str, name: str
) -> keras.Model:
    image = keras.Input(input_shape, name="image")
    features = layers.GlobalMaxPooling2D(name="features")(body(image))
    return freeze_layers(keras.Model(image, fake_probability(features), name=name), freeze)


def _on_noise(
    body: Callable[[keras.KerasTensor], keras.KerasTensor],
    input_shape: tuple[int, int, int],
    receives: str,
    truncate: float | None,
    freeze: str,
    name: str,
) -> keras.Model:
    if receives not in STREAMS:
        raise ValueError(f"receives must be one of {', '.join(STREAMS)}; received {receives!r}.")
    image = keras.Input(input_shape, name="image")
    residual = SRM(truncate=truncate, name="srm")(image)
    # A residual of 0 becomes mid-gray, which every body scales to about zero. In S4's 8-bit files it is black, which
    # loses the negative half of the residuals.
    noise = layers.Rescaling(1.0, offset=0.5, name="noise")(residual)
    if receives == "noise":
        features = layers.GlobalMaxPooling2D(name="features")(body(noise))
    else:
        # Both bodies have the same layer names, so the second is a nested model.
        stream_input = keras.Input(input_shape, name="noise")
        of_noise = layers.GlobalMaxPooling2D(name="noise_features")(body(stream_input))
        of_image = layers.GlobalMaxPooling2D(name="image_features")(body(image))
        stream = keras.Model(stream_input, of_noise, name="noise_stream")
        features = layers.Concatenate(name="features")([of_image, stream(noise)])
    return freeze_layers(keras.Model(image, fake_probability(features), name=name), freeze)
