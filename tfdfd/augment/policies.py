"""Named policies: which layers, in which order, how strong."""

import keras
import numpy as np
from keras import layers

from tfdfd.augment.degrade import RandomBlur, RandomNoise, RandomResize
from tfdfd.augment.geometry import RandomScale, RandomTurn
from tfdfd.augment.jpeg import RandomJpeg


@keras.saving.register_keras_serializable(package="tfdfd")
class Augmentation(layers.Pipeline):
    """Layers one after the other, all of them idle unless `training=True`.

    (In a plain Pipeline or Sequential, Keras's own layers change images whenever nobody says `training=False`.)

    Args:
        layers: image layers that keep the shape.
        name: of this layer.
    """

    def call(self, inputs, training=False, mask=None):
        return super().call(inputs, training=bool(training), mask=mask)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


def policy(name: str, seed: int | None = None) -> Augmentation:
    """A named policy as one layer.

    `s1`: blur 3x3, 9x9 or 15x15, a turn by 45, 90 or 180 degrees, scale +50 % or -50 %, as in the document "What AI has
    broken can be fixed by AI". It does not say how often: each of the three changes half of the images.

    `s2`: mirrored with 0.5, turned by up to 40 degrees either way, jitter of brightness, contrast, saturation and hue,
    random erasing, as in the thesis "DeepFake: algorithms for fake video detection". Strength of the jitter (20 %, hue
    5 %) and share of erasing (0.5) are ours.

    `modern`: what happens to a picture before a detector sees it, in the order in which it happens: colour, blur, loss
    of size, noise, JPEG; the kinds of distortion of the DFDC test set (Dolhansky et al., arXiv:2006.07397, section 4).

    These layers compute every change for every image, which suits an accelerator. On processors
    `tfdfd.augment.on_crops` does the same where crops are decoded, several times faster.

    Args:
        name: one of `POLICIES`.
        seed: whole number from 0; every layer draws from a sequence of its own made from it. None: another one in each
            run.

    Returns:
        A Keras layer: RGB float32 `([batch,] height, width, 3)` in [0, 1] to the same, changed only with
        `training=True`. It holds for labels what it holds for networks: they do not change. See `RandomImageLayer`.

    Raises:
        ValueError: another name or seed.
    """
    if name not in POLICIES:
        raise ValueError(f"there is no augmentation policy {name!r}; expected one of {', '.join(POLICIES)}")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
        raise ValueError(f"seed must be a whole number from 0, or None; received: {seed!r}")
    makers = POLICIES[name]
    seeds = [None] * len(makers) if seed is None else np.random.SeedSequence(seed).generate_state(len(makers)).tolist()
    return Augmentation([make(seed) for make, seed in zip(makers, seeds, strict=True)], name=f"augment_{name}")


def _colour(strength, hue):
    # Not `RandomColorJitter`: under a mixed policy its inner layers compute in float16, and return NaN.
    ours = {"value_range": (0, 1), "dtype": "float32"}
    return [
        lambda seed: layers.RandomBrightness(strength, seed=seed, **ours),
        # A single number would only ever raise the contrast.
        lambda seed: layers.RandomContrast((strength, strength), seed=seed, **ours),
        # 0.5 is what leaves the colours as they are.
        lambda seed: layers.RandomSaturation((0.5 - strength / 2, 0.5 + strength / 2), seed=seed, **ours),
        lambda seed: layers.RandomHue(hue, seed=seed, **ours),
    ]


def _mirrored(seed):
    return layers.RandomFlip("horizontal", seed=seed, dtype="float32")


POLICIES = {
    "s1": [
        lambda seed: RandomBlur((3, 9, 15), 0.5, seed),
        lambda seed: RandomTurn((45, 90, 180), 0.5, seed),
        lambda seed: RandomScale((0.5, 1.5), 0.5, seed),
    ],
    "s2": [
        _mirrored,
        lambda seed: layers.RandomRotation(40 / 360, fill_mode="constant", seed=seed, dtype="float32"),
        *_colour(0.2, 0.05),
        # Two equal numbers are a probability; a single one would be the upper end of a random one.
        lambda seed: layers.RandomErasing((0.5, 0.5), value_range=(0, 1), seed=seed, dtype="float32"),
    ],
    "modern": [
        _mirrored,
        *_colour(0.15, 0.03),
        lambda seed: RandomBlur((3, 5, 7), 0.25, seed),
        lambda seed: RandomResize((0.4, 1.0), 0.4, seed),
        lambda seed: RandomNoise((0.0, 0.03), 0.3, seed),
        lambda seed: RandomJpeg((40, 100), 0.7, seed),
    ],
}
