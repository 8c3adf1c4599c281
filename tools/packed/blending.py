"""Self-blending, augmentation and degradation of face crops in JAX, for whole batches on an accelerator.

Shiohara and Yamasaki (CVPR 2022, arXiv:2204.08376) is the idea: an altered copy of a face is blended back onto it. Masks
are hulls of face-mesh points; a part of the fakes takes another person's face instead of a copy (Face X-ray,
arXiv:1912.13458). Resizing, cropping and blurring are products with one interpolation matrix an axis, which suits
matrix units; the JPEG round trip is two products with the DCT matrix.

Images are float32 in [0, 1], `(SIDE, SIDE, 3)`, a crop in the upper left corner of the canvas. A function takes one image
and a key; `batch_of_pairs` maps them over a batch.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tools.packed.mesh_points import REGION_SHARES, REGIONS

SIDE = 256
_DIRECTIONS = 48
_RATIOS = (0.5, 0.75, 1.0, 1.0, 1.0, 1.0)
_GRAY = jnp.array([0.299, 0.587, 0.114])
# Luminance and chrominance tables of the JPEG standard (ITU-T T.81, annex K), in steps of an 8-bit picture.
_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99]).reshape(8, 8)  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_DCT = np.array([[np.cos((2 * j + 1) * i * np.pi / 16) * (0.5 if i else np.sqrt(1 / 8)) for j in range(8)]
                 for i in range(8)], np.float32)  # fmt: skip
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)


# All draws of a sample are slices of one vector of uniform numbers: a generator's own key for each draw takes XLA minutes
# to compile. It is long enough that the innermost slices hold what they are asked for.
DRAWS = 65536


def split(draws, count):
    """`count` equal parts of a vector of uniform numbers."""
    size = draws.shape[0] // count
    return [draws[i * size : (i + 1) * size] for i in range(count)]


def uniform(draws, low=0.0, high=1.0, shape=()):
    count = int(np.prod(shape))
    if count > draws.shape[0]:
        raise ValueError(f"{count} numbers are drawn from {draws.shape[0]}; make DRAWS larger.")
    return low + (high - low) * draws[:count].reshape(shape)


def normal(draws, shape):
    return jnp.sqrt(2.0) * jax.lax.erf_inv(2 * uniform(draws, 1e-6, 1 - 1e-6, shape) - 1)


def chance(draws, share):
    return uniform(draws) < share


def choice(draws, shares):
    """A number from 0, drawn with the given shares."""
    return (uniform(draws) >= jnp.asarray(np.cumsum(shares)[:-1], jnp.float32)).sum()


def resampling(positions, length, count, spread=1.0):
    """The matrix that takes `count` samples of an axis to values at `positions`, mirrored beyond `[0, length - 1]`.

    Args:
        positions: `(n,)`, in samples.
        length: how many samples hold data; the rest of the axis is ignored.
        count: samples of the axis.
        spread: half width of the triangle each value is averaged with; above 1 when making smaller.
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
    apart = jnp.arange(count, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square((apart[:, None] - apart) / jnp.maximum(sigma, 1e-2)))
    return weights / weights.sum(axis=1, keepdims=True)


def shrinking(scale, count):
    """The matrix that makes an axis smaller by `scale` in (0, 1] and brings it back to `count` samples."""
    samples = jnp.arange(count, dtype=jnp.float32)
    down = resampling((samples + 0.5) / scale - 0.5, float(count), count, 1 / scale)
    small = jnp.maximum(jnp.floor(count * scale), 8.0)
    up = resampling(jnp.clip((samples + 0.5) * scale - 0.5, 0, small - 1), small, count)
    return up @ down


def both_axes(rows, columns, image):
    """`rows @ image @ columns.T` of each channel, `(h, w, c)`."""
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="high")


def blur(image, sigma):
    return both_axes(*(blurring(sigma, n) for n in image.shape[:2]), image)


def jpeg(image, quality, shift=(0, 0)):
    """An image `(8 n, 8 m, 3)` after JPEG with halved chrominance at `quality` from 1 to 100, its grid moved by
    `shift`."""
    height, width = image.shape[:2]
    scale = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
    ycc = jnp.roll(image, shift, (0, 1)) @ _TO_YCC.T * 255
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
    rgb = ycc @ np.linalg.inv(_TO_YCC).T.astype(np.float32) / 255
    return jnp.clip(jnp.roll(rgb, (-shift[0], -shift[1]), (0, 1)), 0, 1)


def recolor(image, key, strength=1.0):
    """Shifts of the channels, saturation, hue, contrast and brightness, each with its own chance."""
    keys = split(key, 10)
    shift = jnp.where(chance(keys[0], 0.5), uniform(keys[1], -0.075, 0.075, (3,)), 0.0)
    saturation = jnp.where(chance(keys[2], 0.5), uniform(keys[3], 0.7, 1.35), 1.0)
    angle = jnp.where(chance(keys[4], 0.3), uniform(keys[5], -0.18, 0.18), 0.0)
    contrast = jnp.where(chance(keys[6], 0.5), uniform(keys[7], 0.82, 1.2), 1.0)
    brightness = jnp.where(chance(keys[8], 0.5), uniform(keys[9], -0.08, 0.08), 0.0)
    saturation, contrast = 1 + (saturation - 1) * strength, 1 + (contrast - 1) * strength
    gray = (image * _GRAY).sum(axis=-1, keepdims=True)
    image = gray + (image - gray) * saturation
    # A turn of the chrominance plane.
    ycc = image @ _TO_YCC.T
    cos, sin = jnp.cos(angle * strength), jnp.sin(angle * strength)
    ycc = jnp.stack([ycc[..., 0], cos * ycc[..., 1] - sin * ycc[..., 2], sin * ycc[..., 1] + cos * ycc[..., 2]], -1)
    image = ycc @ np.linalg.inv(_TO_YCC).T.astype(np.float32)
    return jnp.clip((image - 0.5) * contrast + 0.5 + (brightness + shift) * strength, 0, 1)


def alter_appearance(image, key):
    """What a generated face differs by: color, then sharper, or with less detail."""
    keys = split(key, 5)
    image = recolor(image, keys[0])
    kind = choice(keys[1], [0.3, 0.4, 0.15, 0.15])
    amount = uniform(keys[2], 0.2, 1.2)
    scale = uniform(keys[3], 0.25, 0.8)
    sharp = jnp.clip(image + amount * (image - blur(image, 1.0)), 0, 1)
    small = both_axes(shrinking(scale, SIDE), shrinking(scale, SIDE), image)
    soft = blur(image, uniform(keys[4], 0.4, 1.6))
    return jnp.select([kind == 0, kind == 1, kind == 2], [sharp, small, soft], image)


def face_mask(points, key):
    """A soft mask of one face region, `(SIDE, SIDE)` in [0, 1], 0 outside the region's hull, `points` `(118, 2)` xy."""
    keys = split(key, 7)
    region = jnp.asarray(REGIONS)[choice(keys[0], REGION_SHARES)]
    extent = (points.max(axis=0) - points.min(axis=0)).max()
    center = (points * region[:, None]).sum(axis=0) / region.sum()
    grown = center + (points - center) * uniform(keys[1], 0.85, 1.15, (2,))
    grown = grown + normal(keys[2], grown.shape) * 0.015 * extent
    angles = jnp.arange(_DIRECTIONS) * (2 * jnp.pi / _DIRECTIONS)
    normals = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    # A hull is where no direction reaches beyond the farthest point in it; slow waves over directions deform it.
    waves = jnp.stack([jnp.cos(angles * n + uniform(k, 0, 6.28)) for n, k in enumerate(split(keys[3], 4), 1)])
    reach = jnp.where(region, normals @ grown.T, -jnp.inf).max(axis=1)
    reach = reach + uniform(keys[4], 0, 0.03) * extent * waves.mean(axis=0)
    axis = jnp.arange(SIDE, dtype=jnp.float32)
    inside = jnp.min(
        reach[:, None, None] - normals[:, 0, None, None] * axis[None, None] - normals[:, 1, None, None] * axis[:, None],
        axis=0,
    )
    sigma = extent * jnp.exp(uniform(keys[5], jnp.log(0.004), jnp.log(0.05)))
    hard = jax.nn.sigmoid(2 * (inside - 1.5 * sigma))
    matrix = blurring(sigma, SIDE)
    return jnp.clip(matrix @ hard @ matrix.T, 0, 1)


def sample(image, x, y, size):
    """Bilinear values of an image at `x`, `y` (pixels), mirrored at the border of the `(height, width)` in use."""
    last = jnp.maximum(size - 1.0, 1.0)
    x, y = (jnp.minimum(jnp.abs(p) % (2 * n), 2 * n - jnp.abs(p) % (2 * n)) for p, n in ((x, last[1]), (y, last[0])))
    left, top = jnp.floor(x), jnp.floor(y)
    u, v = (x - left)[..., None], (y - top)[..., None]
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, SIDE - 1), jnp.minimum(top + 1, SIDE - 1)
    upper = image[top, left] * (1 - u) + image[top, right] * u
    lower = image[bottom, left] * (1 - u) + image[bottom, right] * u
    return upper * (1 - v) + lower * v


def align(points, onto):
    """The similarity that lays `points` on `onto` best, `(2, 2)` and `(2,)`: `p -> p @ matrix + offset`."""
    a, b = points.mean(axis=0), onto.mean(axis=0)
    p, q = points - a, onto - b
    scale = jnp.maximum(jnp.square(p).sum(), 1e-6)
    cos, sin = (p * q).sum() / scale, (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum() / scale
    matrix = jnp.array([[cos, sin], [-sin, cos]])
    return matrix, b - a @ matrix


def blend(image, points, size, donor, donor_points, donor_size, swapped, key):
    """One genuine crop -> `(real, fake, mask)`, of a copy of itself or, where `swapped`, of a donor's face."""
    keys = split(key, 16)
    extent = (points.max(axis=0) - points.min(axis=0)).max()
    alter_source = swapped | chance(keys[0], 0.5)
    altered = alter_appearance(image, keys[1])
    source = jnp.where(swapped, donor, jnp.where(alter_source, altered, image))
    target = jnp.where(alter_source, image, altered)
    # Pixels of the target look up the source: misplaced a little, turned, and bent by a slow random field.
    matrix, offset = align(points, donor_points)
    matrix = jnp.where(swapped, matrix, jnp.eye(2))
    offset = jnp.where(swapped, offset, jnp.zeros(2))
    angle = jnp.where(chance(keys[2], 0.5), uniform(keys[3], -0.06, 0.06), 0.0)
    stretch = uniform(keys[4], 0.95, 1.05, (2,))
    shift = uniform(keys[5], -1, 1, (2,)) * jnp.array([0.03, 0.02]) * extent
    center = points.mean(axis=0)
    xs, ys = jnp.meshgrid(jnp.arange(SIDE, dtype=jnp.float32), jnp.arange(SIDE, dtype=jnp.float32))
    x, y = (xs - center[0]) * stretch[0], (ys - center[1]) * stretch[1]
    x, y = jnp.cos(angle) * x - jnp.sin(angle) * y, jnp.sin(angle) * x + jnp.cos(angle) * y
    bend = jnp.where(chance(keys[6], 0.5), uniform(keys[7], 0.0, 0.02), 0.0) * extent
    grid = resampling(jnp.linspace(0, 4, SIDE), 5.0, 5)
    field = both_axes(grid, grid, normal(keys[8], (5, 5, 2))) * bend
    x, y = x + center[0] + shift[0] + field[..., 0], y + center[1] + shift[1] + field[..., 1]
    x, y = x * matrix[0, 0] + y * matrix[1, 0] + offset[0], x * matrix[0, 1] + y * matrix[1, 1] + offset[1]
    source = sample(source, x, y, jnp.where(swapped, donor_size, size))
    mask = face_mask(points, keys[9])
    # Colors of the donor to those of the face that it covers (Reinhard et al., 2001).
    weight = mask[..., None] / jnp.maximum(mask.sum(), 1.0)
    means = [(part * weight).sum(axis=(0, 1)) for part in (source, target)]
    spreads = [
        jnp.sqrt((jnp.square(part - mean) * weight).sum(axis=(0, 1)) + 1e-4)
        for part, mean in zip((source, target), means, strict=True)
    ]
    matched = (source - means[0]) * jnp.clip(spreads[1] / spreads[0], 0.5, 2) + means[1]
    match = swapped & chance(keys[10], 0.85)
    source = jnp.where(match, matched, source)
    # Decoders put faces out small, and swaps are compressed twice.
    scale = uniform(keys[11], 0.25, 0.7)
    matrix = shrinking(scale, SIDE)
    source = jnp.where(chance(keys[12], 0.3), both_axes(matrix, matrix, source), source)
    source = jnp.where(chance(keys[13], 0.2), jpeg(source, uniform(keys[14], 25, 95)), source)
    ratio = jnp.array(_RATIOS)[choice(keys[15], [1 / len(_RATIOS)] * len(_RATIOS))]
    mask = (mask * ratio)[..., None]
    return target, jnp.clip(mask * source + (1 - mask) * target, 0, 1), mask


def framing(points, size, key, margins=(1.0, 1.42)):
    """A random square around the face, `(x, y, side)` of its middle, mostly within the crop."""
    keys = split(key, 3)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = (high - low).max()
    # No further than a little beyond the crop, where the picture is mirrored.
    widest = jnp.clip(1.06 * size.min() / extent, 1.0, margins[1])
    side = extent * uniform(keys[0], margins[0], widest)
    middle = (low + high) / 2 + uniform(keys[1], -0.05, 0.05, (2,)) * side
    spare = jnp.maximum(jnp.array([size[1], size[0]]) - side, 0.0) / 2
    bounds = jnp.array([size[1], size[0]]) / 2
    middle = jnp.clip(middle, bounds - spare - 0.04 * side, bounds + spare + 0.04 * side)
    return middle, side * uniform(keys[2], 0.95, 1.05, (2,))


def crop_matrices(middle, side, size, out):
    """The row and column matrices that cut a window out of a canvas as `out` by `out` pixels."""
    steps = jnp.arange(out, dtype=jnp.float32) - (out - 1) / 2
    columns = resampling(middle[0] - 0.5 + steps * side[0] / out, size[1], SIDE, side[0] / out)
    rows = resampling(middle[1] - 0.5 + steps * side[1] / out, size[0], SIDE, side[1] / out)
    return rows, columns


def window(image, size, out):
    """All of a crop as `out` by `out` pixels: what `tfdfd detect` hands to a network."""
    height, width = size[0], size[1]
    return both_axes(*crop_matrices(jnp.array([width, height]) / 2, jnp.array([width, height]), size, out), image)


def degrade(images, key, noise):
    """What recording and sharing do, with the same draws and `noise` for all of `images`, `(n, out, out, 3)`."""
    keys = split(key, 14)
    out = images.shape[1]
    images = jnp.where(chance(keys[0], 0.5), jax.vmap(lambda image: recolor(image, keys[1], 0.8))(images), images)
    sigma = jnp.where(chance(keys[2], 0.25), uniform(keys[3], 0.3, 1.4), 0.01)
    scale = jnp.where(chance(keys[4], 0.4), uniform(keys[5], 0.3, 1.0), 1.0)
    matrix = shrinking(scale, out) @ blurring(sigma, out)
    images = jax.vmap(lambda image: both_axes(matrix, matrix, image))(images)
    noise = noise * uniform(keys[7], 0.004, 0.03)
    images = jnp.where(chance(keys[8], 0.2), jnp.clip(images + noise, 0, 1), images)
    quality = uniform(keys[9], 25, 100)
    shift = jnp.floor(uniform(keys[10], 0, 8, (2,))).astype(jnp.int32)
    squeezed = jax.vmap(lambda image: jpeg(image, quality, shift))(images)
    images = jnp.where(chance(keys[11], 0.6), squeezed, images)
    # A rectangle of one level hides a part of the face.
    corner, extent = uniform(keys[12], 0, out, (2,)), uniform(keys[13], 0.1, 0.35, (4,)) * out
    axis = jnp.arange(out)
    hidden = (jnp.abs(axis - corner[0]) < extent[0] / 2)[:, None] & (jnp.abs(axis - corner[1]) < extent[1] / 2)[None]
    erased = jnp.where(hidden[..., None], extent[2] / (0.35 * out), images)
    return jnp.where(extent[3] > 0.28 * out, erased, images)


def _pair(first, second, points, size, mask, key, noise, out, grid):
    """Two pictures of one face through the same framing, mirror and degradation."""
    keys = split(key, 3)
    middle, side = framing(points, size, keys[0])
    rows, columns = crop_matrices(middle, side, size, out)
    mirrored = chance(keys[1], 0.5)
    columns = jnp.where(mirrored, columns[::-1], columns)
    images = jnp.stack([both_axes(rows, columns, image) for image in (first, second)])
    mask = both_axes(rows, columns, mask)[..., 0]
    mask = mask.reshape(grid, out // grid, grid, out // grid).mean(axis=(1, 3))
    return degrade(jnp.clip(images, 0, 1), keys[2], noise), mask


@partial(jax.jit, static_argnames=("out", "grid"))
def batch_of_pairs(canvases, points, sizes, reals, fakes, blended, donors, swapped, key, out, grid):
    """A batch of labeled pairs, and genuine faces with blends of them.

    Args:
        canvases: all crops of the pack, uint8 `(n, SIDE, SIDE, 3)`.
        points: their mesh points, float `(n, 118, 2)`.
        sizes: height and width of each crop in its canvas, float `(n, 2)`.
        reals, fakes: numbers of the crops of labeled pairs, `(a,)` each.
        blended, donors: numbers of genuine crops and of those whose face may go into them, `(b,)` each.
        swapped: whether it does, `(b,)`; else the crop is blended with itself.
        key: of the draws.
        out: side of the pictures.
        grid: side of the masks.

    Returns:
        Pictures `(2 (a + b), out, out, 3)`: reals, fakes, genuine, blends; masks of what was blended in,
        `(2 (a + b), grid, grid)`, and which masks are known, `(2 (a + b),)`. Labels are half 0 and half 1 in each part.
    """
    a, b = reals.shape[0], blended.shape[0]
    first, second = jax.random.split(key)
    draws = jax.lax.optimization_barrier(jax.random.uniform(first, (a + b, DRAWS)))
    noise = jax.lax.optimization_barrier(jax.random.normal(second, (a + b, out, out, 3)))

    def canvas(number):
        return canvases[number].astype(jnp.float32) / 255

    def labeled(real, fake, key, noise):
        # Each in its own framing, as their boxes differ; the degradation is shared.
        keys = split(key, 2)
        pictures = []
        for number in (real, fake):
            middle, side = framing(points[number], sizes[number], keys[0])
            rows, columns = crop_matrices(middle, side, sizes[number], out)
            columns = jnp.where(chance(keys[0], 0.5), columns[::-1], columns)
            pictures.append(both_axes(rows, columns, canvas(number)))
        return degrade(jnp.clip(jnp.stack(pictures), 0, 1), keys[1], noise)

    def own(number, donor, swap, key, noise):
        keys = split(key, 2)
        real, fake, mask = blend(
            canvas(number), points[number], sizes[number], canvas(donor), points[donor], sizes[donor], swap, keys[0]
        )
        return _pair(real, fake, points[number], sizes[number], mask, keys[1], noise, out, grid)

    pairs = jax.vmap(labeled)(reals, fakes, draws[:a], noise[:a])
    blends, masks = jax.vmap(own)(blended, donors, swapped, draws[a:], noise[a:])
    pictures = jnp.concatenate([pairs[:, 0], pairs[:, 1], blends[:, 0], blends[:, 1]])
    empty = jnp.zeros_like
    masks = jnp.concatenate([jnp.zeros((2 * a, grid, grid)), empty(masks), masks])
    known = jnp.concatenate([jnp.ones(a), jnp.zeros(a), jnp.ones(2 * b)])
    return pictures, masks, known
