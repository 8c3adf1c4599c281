"""What recording and sharing do to a picture: blur, loss of size, noise."""

import keras
from keras import ops

from tfdfd.augment.base import RandomImageLayer, checked_choices, checked_range


@keras.saving.register_keras_serializable(package="tfdfd")
class RandomBlur(RandomImageLayer):
    """Gaussian blur with one of the kernel sizes, as `cv2.GaussianBlur(image, (size, size), 0.15 * size + 0.35)`.

    That deviation is what OpenCV takes for 0; up to size 9 it then rounds the kernel besides, which is left out.

    (Keras's `RandomGaussianBlur` ends at a deviation of 1, and blurs a whole batch with one.)

    Args:
        sizes: odd sizes of the kernel in pixels, each as likely as the next; 1 leaves an image as it is.
        probability, seed, **kwargs: see `RandomImageLayer`. Sides of an image must be larger than half a kernel.
    """

    def __init__(self, sizes=(3, 9, 15), probability=1.0, seed=None, **kwargs):
        super().__init__(probability, seed, **kwargs)
        self.sizes = checked_choices("sizes", sizes, lambda size: size > 0 and size % 2 == 1, "odd sizes in pixels")

    def change(self, images):
        size = self.one_of(images, self.sizes)[..., 0]
        return _mixed(images, *(_blurring(side, size) for side in images.shape[1:3]))

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(input_shape)
        if min(shape[-3:-1]) <= max(self.sizes) // 2:
            raise ValueError(
                f"{self.name} mirrors half a kernel at each border, {max(self.sizes) // 2} pixels, and so needs larger "
                f"images; received: {shape}"
            )
        return shape

    def get_config(self):
        return super().get_config() | {"sizes": list(self.sizes)}


@keras.saving.register_keras_serializable(package="tfdfd")
class RandomResize(RandomImageLayer):
    """Each image scaled down and up again to its size, bilinear both ways, averaging on the way down.

    Args:
        scale: the smaller picture's side as a share of the larger, `(lower, upper)` in [0.05, 1].
        probability, seed, **kwargs: see `RandomImageLayer`.
    """

    def __init__(self, scale=(0.5, 1.0), probability=1.0, seed=None, **kwargs):
        super().__init__(probability, seed, **kwargs)
        self.scale = checked_range("scale", scale, 0.05, 1.0)

    def change(self, images):
        scale = self.uniform(images, *self.scale)[..., 0]
        return _mixed(images, *(_down_and_up(side, scale) for side in images.shape[1:3]))

    def get_config(self):
        return super().get_config() | {"scale": list(self.scale)}


@keras.saving.register_keras_serializable(package="tfdfd")
class RandomNoise(RandomImageLayer):
    """Adds Gaussian noise, apart in every pixel and channel.

    Args:
        deviation: of the noise, `(lower, upper)` in [0, 1], drawn for each image.
        probability, seed, **kwargs: see `RandomImageLayer`.
    """

    def __init__(self, deviation=(0.0, 0.03), probability=1.0, seed=None, **kwargs):
        super().__init__(probability, seed, **kwargs)
        self.deviation = checked_range("deviation", deviation, 0.0, 1.0)

    def change(self, images):
        deviation = self.uniform(images, *self.deviation)
        return images + deviation * keras.random.normal(ops.shape(images), dtype="float32", seed=self.generator)

    def get_config(self):
        return super().get_config() | {"deviation": list(self.deviation)}


# A filter that differs from image to image is no convolution; as a matrix that mixes the rows, and one that mixes the
# columns, it is one product for the whole batch, borders included.


def _mixed(images, rows, columns):
    """Rows mixed by `(batch, height, height)`, then columns by `(batch, width, width)`."""
    planes = ops.transpose(images, (0, 3, 1, 2))  # whole planes are what a matrix product is fast on
    planes = ops.matmul(ops.matmul(rows[:, None], planes), ops.transpose(columns, (0, 2, 1))[:, None])
    return ops.transpose(planes, (0, 2, 3, 1))


def _blurring(side, size):
    """`(batch, side, side)`: the Gaussian kernel of each `size`, `(batch, 1, 1)`, mirrored at the borders."""
    deviation = 0.15 * size + 0.35

    def weight(distance):
        inside = ops.cast(ops.abs(distance) <= size / 2, "float32")
        return inside * ops.exp(-ops.square(distance) / (2 * ops.square(deviation)))

    place = ops.arange(side, dtype="float32")
    to, source = place[None, :, None], place[None, None, :]
    first = ops.cast(source > 0, "float32")  # the outermost pixels are not repeated
    last = ops.cast(source < side - 1, "float32")
    kernel = weight(to - source) + first * weight(to + source) + last * weight(2 * (side - 1) - to - source)
    return kernel / ops.sum(kernel, axis=-1, keepdims=True)


def _down_and_up(side, scale):
    """`(batch, side, side)`: to `round(scale * side)` pixels and back, for each `scale`, `(batch, 1, 1)`."""
    small = ops.maximum(ops.round(scale * side), 1.0)
    step = side / small
    place = ops.arange(side, dtype="float32") + 0.5
    kept = ops.cast(place[None, :, None] < small, "float32")  # rows that the smaller picture has
    down = kept * ops.relu(1 - ops.abs(place[None, None, :] - place[None, :, None] * step) / step)
    down = down / ops.maximum(ops.sum(down, axis=-1, keepdims=True), 1e-6)
    position = ops.clip(place[None, :, None] / step, 0.5, small - 0.5)  # beyond the outermost centres, theirs
    up = ops.relu(1 - ops.abs(position - place[None, None, :]))
    return ops.matmul(up, down)
