"""JPEG's loss as a layer: colour at half size, 8x8 cosine transform, quantisation; no file is written."""

import keras
import numpy as np
from keras import ops

from tfdfd.augment.base import RandomImageLayer, checked_range

# ITU-T T.81 | ISO/IEC 10918-1, Annex K.1, tables K.1 and K.2.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)  # fmt: skip
CHROMINANCE = np.full((8, 8), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# T.871 (JFIF), full range, in grey levels.
_FROM_RGB = np.float32([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = np.float32([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
_FREQUENCY, _PLACE = np.mgrid[:8, :8]
_COSINES = np.float32(np.cos((2 * _PLACE + 1) * _FREQUENCY * np.pi / 16) * np.where(_FREQUENCY == 0, 8**-0.5, 0.5))
_BLOCK = 16  # of luminance, over one block of the halved colours


@keras.saving.register_keras_serializable(package="tfdfd")
class RandomJpeg(RandomImageLayer):
    """The artefacts of JPEG (4:2:0, as cameras and OpenCV write it) at a random quality, within a graph.

    On a photograph it comes out as libjpeg's file does to within about a grey level on average; the difference is
    rounding (tests/test_augment_jpeg.py holds how much). Rounding has no gradient: this is for training data, not for
    a loss.

    Args:
        quality: `(lower, upper)` in [1, 100] as libjpeg counts, a whole number drawn for each image, ends included.
        probability, seed, **kwargs: see `RandomImageLayer`.
    """

    def __init__(self, quality=(40, 100), probability=1.0, seed=None, **kwargs):
        super().__init__(probability, seed, **kwargs)
        self.quality = checked_range("quality", quality, 1, 100)
        if any(value != int(value) for value in self.quality):
            raise ValueError(f"quality must be two whole numbers; received: {quality!r}")

    def change(self, images):
        low, high = self.quality
        quality = ops.minimum(ops.floor(self.uniform(images, float(low), high + 1.0)), float(high))
        return jpeg(images, quality)

    def get_config(self):
        return super().get_config() | {"quality": list(self.quality)}


def jpeg(images, quality):
    """Images `(batch, height, width, 3)` in [0, 1] as they come back from JPEG at `quality`, `(batch, 1, 1, 1)`."""
    height, width = images.shape[1:3]
    below, right = -height % _BLOCK, -width % _BLOCK
    levels = ops.round(255 * images)
    # Borders are repeated to whole blocks, by index: padding by repetition is none of the backends' common modes.
    if below or right:
        levels = ops.take(levels, np.minimum(np.arange(height + below), height - 1), axis=1)
        levels = ops.take(levels, np.minimum(np.arange(width + right), width - 1), axis=2)
    planes = ops.matmul(levels, _FROM_RGB.T)
    luminance = _quantised(planes[..., :1] - 128, LUMINANCE, quality) + 128
    fours = ops.reshape(planes[..., 1:], (-1, (height + below) // 2, 2, (width + right) // 2, 2, 2))
    halved = _quantised(ops.mean(fours, axis=(2, 4)), CHROMINANCE, quality)
    colour = ops.image.resize(halved, (height + below, width + right), "bilinear", data_format="channels_last")
    levels = ops.matmul(ops.concatenate([luminance, colour], axis=-1), _TO_RGB.T)
    return ops.clip(ops.round(levels), 0, 255)[:, :height, :width] / 255


def _quantised(planes, table, quality):
    """Planes `(batch, height, width, channels)`, the cosine amplitudes of 8x8 blocks rounded to the table's steps."""
    batch, (height, width, channels) = ops.shape(planes)[0], planes.shape[1:]
    # libjpeg's jpeg_quality_scaling and its rounding of the table.
    percent = ops.where(quality < 50, ops.floor(5000 / quality), 200 - 2 * quality)[:, 0]
    steps = ops.clip(ops.floor((percent * table.reshape(1, 1, 64) + 50) / 100), 1, 255)  # (batch, 1, 64)
    blocks = ops.reshape(planes, (batch, height // 8, 8, width // 8, 8, channels))
    amplitudes = ops.einsum("ui,bhiwjc,vj->bhwcuv", _COSINES, blocks, _COSINES)
    amplitudes = ops.reshape(amplitudes, (batch, height * width * channels // 64, 64))
    amplitudes = ops.round(amplitudes / steps) * steps
    amplitudes = ops.reshape(amplitudes, (batch, height // 8, width // 8, channels, 8, 8))
    blocks = ops.einsum("ui,bhwcuv,vj->bhiwjc", _COSINES, amplitudes, _COSINES)
    return ops.round(ops.reshape(blocks, (batch, height, width, channels)))
