"""MobileNetV1 (Howard et al., arXiv:1704.04861) as a frozen feature extractor with one trained layer (S3).

RGB faces, float32 in [0, 1], `(batch, 128, 128, 3)` -> P(fake) `(batch, 1)`. S3 computes the bottleneck of each image
once, stores it, and trains only the last layer. Its two-way softmax equals a sigmoid of the difference of the two
logits, which is the one output here.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, symmetric
from tfdfd.models.blocks import freeze as freeze_layers
from tfdfd.text import near_matches

ALPHAS = (0.25, 0.5, 0.75, 1.0)
RESOLUTIONS = (128, 160, 192, 224)
BOTTLENECKS = ("pooled", "classes")


def mobilenet_v1(
    input_shape: tuple[int, int, int] | None = None,
    alpha: float = 0.5,
    resolution: int | None = None,
    bottleneck: str = "pooled",
    freeze: str = "all",
    name: str = "mobilenet_v1",
) -> keras.Model:
    """MobileNetV1 with one output. The layer `bottleneck` gives the features to store.

    Args:
        input_shape: `(height, width, 3)`, both at least 32; None for `(resolution, resolution, 3)`.
        alpha: width multiplier: 0.25, 0.5 (S3), 0.75 or 1.
        resolution: 128 (S3), 160, 192 or 224, instead of `input_shape`; None for 128.
        bottleneck: `"pooled"`, the mean of the last feature maps, 1024 alpha values; `"classes"`, the 1,000 class
            scores before the softmax. S3 has the 1,001 of TF-slim, whose background class Keras lacks.
        freeze: `"all"` (all but the head, S3), `"none"`, or the name of the last frozen layer.
        name: name of the model.

    Raises:
        ValueError: an argument is not one of its values, or `resolution` contradicts `input_shape`.
    """
    _one_of("alpha", alpha, ALPHAS)
    _one_of("bottleneck", bottleneck, BOTTLENECKS)
    if resolution is not None:
        _one_of("resolution", resolution, RESOLUTIONS)
        if input_shape is not None and tuple(input_shape[:2]) != (resolution, resolution):
            raise ValueError(
                f"resolution={resolution} and input_shape={tuple(input_shape)} contradict each other; give one of them."
            )
    input_shape = input_shape or (resolution or RESOLUTIONS[0],) * 2 + (3,)
    image = keras.Input(input_shape, name="image")
    base = keras.applications.MobileNet(
        input_shape, alpha=alpha, include_top=False, weights=None, input_tensor=symmetric(image)
    )
    if bottleneck == "pooled":
        x = layers.GlobalAveragePooling2D(name="bottleneck")(base.output)  # (batch, 1024 alpha)
    else:
        x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(base.output)
        x = layers.Conv2D(1000, 1, name="conv_preds")(x)
        x = layers.Flatten(name="bottleneck")(x)  # (batch, 1000)
    x = layers.Identity(name="features")(x)
    return freeze_layers(keras.Model(image, fake_probability(x), name=name), freeze)


def _one_of(argument: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        numbers = [choice for choice in allowed if isinstance(choice, int | float)]
        near: Sequence[object] = near_matches(value, allowed, 1)
        if isinstance(value, int | float) and numbers:
            distances = {abs(number - value): number for number in numbers}
            near = [distances[min(distances)]]
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ValueError(f"{argument} must be one of {', '.join(map(str, allowed))}; received {value!r}{hint}")
