"""Turning and scaling by one of a few given amounts (Keras's `RandomRotation` and `RandomZoom` draw from a range)."""

import keras
import numpy as np
from keras import ops

from tfdfd.augment.base import RandomImageLayer, checked_choices


@keras.saving.register_keras_serializable(package="tfdfd")
class RandomTurn(RandomImageLayer):
    """Turns each image anticlockwise about its centre by one of the angles; corners without a picture are black.

    Args:
        angles: degrees, each as likely as the next; 0 leaves an image as it is.
        probability, seed, **kwargs: see `RandomImageLayer`.
    """

    def __init__(self, angles=(45, 90, 180), probability=1.0, seed=None, **kwargs):
        super().__init__(probability, seed, **kwargs)
        self.angles = checked_choices("angles", angles, lambda angle: abs(angle) <= 360, "degrees from -360 to 360")

    def change(self, images):
        radians = [float(np.deg2rad(angle)) for angle in self.angles]
        # Of tuples of cosine and sine, so that quarter turns are exact.
        which = self.one_of(images, range(len(radians)))
        number = ops.cast(which[:, 0, 0, 0], "int32")
        cos = ops.take(np.float32([round(np.cos(angle), 7) for angle in radians]), number)
        sin = ops.take(np.float32([round(np.sin(angle), 7) for angle in radians]), number)
        return _warped(images, cos, -sin, sin, cos)

    def get_config(self):
        return super().get_config() | {"angles": list(self.angles)}


@keras.saving.register_keras_serializable(package="tfdfd")
class RandomScale(RandomImageLayer):
    """Enlarges or shrinks each image about its centre by one of the factors; what is left free is black.

    Args:
        factors: from 0.5 (what is smaller would alias) to 10, each as likely as the next; 1.5 shows the picture half as
            large again, 1 leaves it as it is.
        probability, seed, **kwargs: see `RandomImageLayer`.
    """

    def __init__(self, factors=(0.5, 1.5), probability=1.0, seed=None, **kwargs):
        super().__init__(probability, seed, **kwargs)
        self.factors = checked_choices("factors", factors, lambda factor: 0.5 <= factor <= 10, "factors from 0.5 to 10")

    def change(self, images):
        step = 1 / self.one_of(images, self.factors)[:, 0, 0, 0]
        return _warped(images, step, 0 * step, 0 * step, step)

    def get_config(self):
        return super().get_config() | {"factors": list(self.factors)}


def _warped(images, xx, xy, yx, yy):
    """Pixel (x, y) from the centre shows what lay at (xx·x + xy·y, yx·x + yy·y); each `(batch,)`."""
    height, width = images.shape[1:3]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    shift_x = middle_x - xx * middle_x - xy * middle_y
    shift_y = middle_y - yx * middle_x - yy * middle_y
    none = 0 * xx
    matrix = ops.stack([xx, xy, shift_x, yx, yy, shift_y, none, none], axis=1)
    return ops.image.affine_transform(
        images, matrix, interpolation="bilinear", fill_mode="constant", fill_value=0.0, data_format="channels_last"
    )
