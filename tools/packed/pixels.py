"""Image operations in JAX: random draws, resampling, blur, JPEG and color changes.

Resampling and blurring are products with one matrix per axis, which suits matrix units. The JPEG round trip is two
products with the DCT matrix.

Images are float32 RGB in [0, 1], `(height, width, 3)`. Random functions take `draws`, a vector of uniform numbers, and
pass parts of it on: with one generator key per draw, XLA compiles for minutes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_GRAY = np.array([0.299, 0.587, 0.114], np.float32)
# Quantization tables of the JPEG standard (ITU-T T.81, annex K) for 8-bit images.
_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99]).reshape(8, 8)  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_DCT = np.array([[np.cos((2 * j + 1) * i * np.pi / 16) * (0.5 if i else np.sqrt(1 / 8)) for j in range(8)]
                 for i in range(8)], np.float32)  # fmt: skip
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_FROM_YCC = np.linalg.inv(_TO_YCC).astype(np.float32)


def split(draws, count):
    """`count` equal parts of a vector of uniform numbers."""
    size = draws.shape[0] // count
    return [draws[i * size : (i + 1) * size] for i in range(count)]


def uniform(draws, low=0.0, high=1.0, shape=()):
    """Uniform numbers in [low, high).

    Raises:
        ValueError: `draws` holds fewer numbers than `shape` needs.
    """
    count = int(np.prod(shape))
    if count > draws.shape[0]:
        raise ValueError(f"{count} numbers are needed, but draws holds {draws.shape[0]}; make it longer.")
    return low + (high - low) * draws[:count].reshape(shape)


def normal(draws, shape):
    """Numbers from the standard normal distribution."""
    return jnp.sqrt(2.0) * jax.lax.erf_inv(2 * uniform(draws, 1e-6, 1 - 1e-6, shape) - 1)


def chance(draws, probability):
    """True with the given probability."""
    return uniform(draws) < probability


def choice(draws, shares):
    """An index, drawn with the given probabilities."""
    return (uniform(draws) >= jnp.asarray(np.cumsum(shares)[:-1], jnp.float32)).sum()


def resampling(positions, length, count, spread=1.0):
    """The matrix `(n, count)` that interpolates an axis at `positions`, mirrored beyond `[0, length - 1]`.

    Args:
        positions: `(n,)`, in samples.
        length: number of samples that hold data; the rest of the axis is ignored.
        count: number of samples of the axis.
        spread: half width of the triangle filter; above 1 for downsampling.
    """
    last = jnp.maximum(length - 1.0, 1.0)
    positions = jnp.abs(positions) % (2 * last)
    positions = jnp.minimum(positions, 2 * last - positions)
    samples = jnp.arange(count, dtype=jnp.float32)
    weights = jnp.maximum(0.0, 1 - jnp.abs(positions[:, None] - samples) / jnp.maximum(spread, 1.0))
    weights = jnp.where(samples < length, weights, 0.0)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-6)


def blurring(sigma, count):
    """The matrix of a Gaussian blur along an axis of `count` samples."""
    samples = jnp.arange(count, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square((samples[:, None] - samples) / jnp.maximum(sigma, 1e-2)))
    return weights / weights.sum(axis=1, keepdims=True)


def shrinking(scale, count):
    """The matrix that downsamples an axis by `scale` in (0, 1] and upsamples it to `count` samples again."""
    samples = jnp.arange(count, dtype=jnp.float32)
    down = resampling((samples + 0.5) / scale - 0.5, float(count), count, 1 / scale)
    small = jnp.maximum(jnp.floor(count * scale), 8.0)
    up = resampling(jnp.clip((samples + 0.5) * scale - 0.5, 0, small - 1), small, count)
    return up @ down


def both_axes(rows, columns, image):
    """`rows @ channel @ columns.T` for each channel of an image."""
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="high")


def mix_channels(image, matrix):
    """`image @ matrix.T` over the last axis, of three channels; on CPUs, XLA's product takes ten times as long."""
    channels = [image[..., i] for i in range(3)]
    return jnp.stack([sum(channels[j] * matrix[i, j] for j in range(3)) for i in range(3)], axis=-1)


def jpeg(image, quality, shift=(0, 0)):
    """An image after JPEG compression with 4:2:0 chroma subsampling.

    Args:
        image: height and width are multiples of 16.
        quality: from 1 to 100, as in libjpeg.
        shift: pixels by which the block grid is moved, down and right.
    """
    height, width = image.shape[:2]
    scale = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
    ycc = mix_channels(jnp.roll(image, shift, (0, 1)), _TO_YCC) * 255
    small = ycc[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    chroma = jnp.repeat(jnp.repeat(small, 2, axis=0), 2, axis=1)
    ycc = jnp.concatenate([ycc[..., :1] - 128, chroma], axis=-1)
    blocks = ycc.reshape(height // 8, 8, width // 8, 8, 3)
    dct = jnp.einsum("ui,aibjc,vj->aubvc", _DCT, blocks, _DCT, precision="highest")
    tables = np.stack([_LUMINANCE, _CHROMINANCE, _CHROMINANCE], axis=-1).astype(np.float32)
    steps = jnp.clip(jnp.floor(tables * scale + 0.5), 1, 255)[None, :, None]
    dct = jnp.round(dct / steps) * steps
    blocks = jnp.einsum("ui,aubvc,vj->aibjc", _DCT, dct, _DCT, precision="highest")
    ycc = blocks.reshape(height, width, 3) + jnp.array([128.0, 0, 0])
    rgb = mix_channels(ycc, _FROM_YCC) / 255
    return jnp.clip(jnp.roll(rgb, (-shift[0], -shift[1]), (0, 1)), 0, 1)


def recolor(image, draws, strength=1.0):
    """An image with changed channels, saturation, hue, contrast and brightness, each with its own probability."""
    parts = split(draws, 10)
    shift = jnp.where(chance(parts[0], 0.5), uniform(parts[1], -0.075, 0.075, (3,)), 0.0)
    saturation = jnp.where(chance(parts[2], 0.5), uniform(parts[3], 0.7, 1.35), 1.0)
    angle = jnp.where(chance(parts[4], 0.3), uniform(parts[5], -0.18, 0.18), 0.0)
    contrast = jnp.where(chance(parts[6], 0.5), uniform(parts[7], 0.82, 1.2), 1.0)
    brightness = jnp.where(chance(parts[8], 0.5), uniform(parts[9], -0.08, 0.08), 0.0)
    saturation, contrast = 1 + (saturation - 1) * strength, 1 + (contrast - 1) * strength
    saturate = saturation * jnp.eye(3) + (1 - saturation) * _GRAY
    # The hue changes by a rotation of the chrominance plane.
    cos, sin = jnp.cos(angle * strength), jnp.sin(angle * strength)
    rotate = jnp.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = contrast * (_FROM_YCC @ rotate @ _TO_YCC @ saturate)
    return jnp.clip(mix_channels(image, matrix) + 0.5 * (1 - contrast) + (brightness + shift) * strength, 0, 1)


def sample(image, x, y, size):
    """Bilinear values of an image at pixels `x`, `y`, mirrored beyond the `size` (height, width) that holds data."""
    last = jnp.maximum(size - 1.0, 1.0)
    x, y = (jnp.minimum(jnp.abs(p) % (2 * n), 2 * n - jnp.abs(p) % (2 * n)) for p, n in ((x, last[1]), (y, last[0])))
    left, top = jnp.floor(x), jnp.floor(y)
    u, v = (x - left)[..., None], (y - top)[..., None]
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, image.shape[1] - 1), jnp.minimum(top + 1, image.shape[0] - 1)
    upper = image[top, left] * (1 - u) + image[top, right] * u
    lower = image[bottom, left] * (1 - u) + image[bottom, right] * u
    return upper * (1 - v) + lower * v
