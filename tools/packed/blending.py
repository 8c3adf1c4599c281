"""Batches of real and fake face pictures, made in JAX for whole batches on an accelerator.

Fakes are self-blended images (Shiohara and Yamasaki, CVPR 2022, arXiv:2204.08376): an altered copy of a face is blended
back onto it. Masks are hulls of face-mesh points. A share of the fakes takes another person's face instead of the copy
(Face X-ray, arXiv:1912.13458).

A crop lies in the upper left corner of a canvas, float32 `(SIDE, SIDE, 3)` in [0, 1]. Points are xy pixels of the
canvas; a size is the height and width of the crop. Functions take one crop; `batch_of_pairs` maps them over a batch.
"""

from __future__ import annotations

from functools import partial, reduce

import jax
import jax.numpy as jnp

from tools.packed.dataset import SIDE
from tools.packed.mesh_points import REGION_SHARES, REGIONS
from tools.packed.pixels import (
    blurring,
    both_axes,
    chance,
    choice,
    jpeg,
    normal,
    recolor,
    resampling,
    sample,
    shrinking,
    split,
    uniform,
)

# Uniform numbers per pair: enough for the innermost parts that `split` makes of them.
DRAWS = 65536
# Blends are this opaque.
_RATIOS = (0.5, 0.75, 1.0, 1.0, 1.0, 1.0)
# Hulls are convex polygons of this many sides.
_DIRECTIONS = 48


def maybe(chosen, change, x):
    """`change(x)` if `chosen`, else `x`. One by one, what is not chosen takes no time."""
    return jax.lax.cond(chosen, change, lambda x: x, x)


def _for_each(function, *arrays):
    """`function` of each row of the arrays: all at once on an accelerator; one by one on a CPU, which is faster."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda row: function(*row), arrays)
    return jax.vmap(function)(*arrays)


def shrink(image, scale):
    """An image downsampled by `scale` and upsampled again."""
    matrix = shrinking(scale, SIDE)
    return both_axes(matrix, matrix, image)


def add_noise(images, strength, key):
    """Images with the same normal noise of a standard deviation of `strength`."""
    noise = jax.lax.optimization_barrier(jax.random.normal(key, images.shape[1:]))
    return jnp.clip(images + strength * noise, 0, 1)


def alter_appearance(image, draws):
    """An image as a generator might have made it: recolored, then sharpened or with less detail."""
    parts = split(draws, 5)
    image = recolor(image, parts[0])
    kind = choice(parts[1], [0.3, 0.4, 0.15, 0.15])
    amount = uniform(parts[2], 0.2, 1.2)
    scale = uniform(parts[3], 0.25, 0.8)
    matrix = jnp.select(
        [kind == 0, kind == 1],
        [blurring(1.0, SIDE), shrinking(scale, SIDE)],
        blurring(uniform(parts[4], 0.4, 1.6), SIDE),
    )
    smooth = both_axes(matrix, matrix, image)
    sharp = jnp.clip(image + amount * (image - smooth), 0, 1)
    return jnp.select([kind == 0, kind <= 2], [sharp, smooth], image)


def face_mask(points, draws):
    """A soft mask `(SIDE, SIDE)` in [0, 1] of a random face region.

    Args:
        points: `(118, 2)`, see `tools.packed.mesh_points`.
        draws: uniform numbers.
    """
    parts = split(draws, 7)
    region = jnp.asarray(REGIONS)[choice(parts[0], REGION_SHARES)]
    extent = (points.max(axis=0) - points.min(axis=0)).max()
    center = (points * region[:, None]).sum(axis=0) / region.sum()
    grown = center + (points - center) * uniform(parts[1], 0.85, 1.15, (2,))
    grown = grown + normal(parts[2], grown.shape) * 0.015 * extent
    angles = jnp.arange(_DIRECTIONS) * (2 * jnp.pi / _DIRECTIONS)
    normals = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    # A pixel is in the hull if it lies no farther out than the points in any direction. Slow waves deform the hull.
    waves = jnp.stack([jnp.cos(angles * n + uniform(p, 0, 6.28)) for n, p in enumerate(split(parts[3], 4), 1)])
    reach = jnp.where(region, normals @ grown.T, -jnp.inf).max(axis=1)
    reach = reach + uniform(parts[4], 0, 0.03) * extent * waves.mean(axis=0)
    axis = jnp.arange(SIDE, dtype=jnp.float32)
    # Unrolled: on CPUs, XLA's own minimum over an axis takes 40 times as long.
    lines = zip(reach, normals, strict=True)
    inside = reduce(jnp.minimum, [far - normal[0] * axis - normal[1] * axis[:, None] for far, normal in lines])
    sigma = extent * jnp.exp(uniform(parts[5], jnp.log(0.004), jnp.log(0.05)))
    hard = jax.nn.sigmoid(2 * (inside - 1.5 * sigma))
    matrix = blurring(sigma, SIDE)
    return jnp.clip(matrix @ hard @ matrix.T, 0, 1)


def align(points, onto):
    """The similarity transform that fits `points` to `onto` best: `p -> p @ matrix + offset`."""
    center, target = points.mean(axis=0), onto.mean(axis=0)
    p, q = points - center, onto - target
    scale = jnp.maximum(jnp.square(p).sum(), 1e-6)
    cos, sin = (p * q).sum() / scale, (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum() / scale
    matrix = jnp.array([[cos, sin], [-sin, cos]])
    return matrix, target - center @ matrix


def blend(image, points, size, donor, donor_points, donor_size, swapped, draws, banded=0.0):
    """A real and a fake picture of one genuine crop, and the mask of what was blended in.

    Args:
        image, points, size: the genuine crop.
        donor, donor_points, donor_size: another person's crop.
        swapped: whether the donor's face is blended in; else an altered copy of the crop's own.
        draws: uniform numbers.
        banded: see `batch_of_pairs`.

    Returns:
        `(SIDE, SIDE, 3)` twice and `(SIDE, SIDE, 1)`. Where the mask is 0, both pictures are equal.
    """
    parts = split(draws, 16)
    extent = (points.max(axis=0) - points.min(axis=0)).max()
    alter_source = swapped | chance(parts[0], 0.5)
    altered = maybe(~swapped, lambda x: alter_appearance(x, parts[1]), image)
    source = jnp.where(swapped, donor, jnp.where(alter_source, altered, image))
    target = jnp.where(alter_source, image, altered)
    # The source is placed inexactly: stretched, rotated, shifted and bent by a slow random field.
    matrix, offset = align(points, donor_points)
    matrix = jnp.where(swapped, matrix, jnp.eye(2))
    offset = jnp.where(swapped, offset, jnp.zeros(2))
    angle = jnp.where(chance(parts[2], 0.5), uniform(parts[3], -0.06, 0.06), 0.0)
    stretch = uniform(parts[4], 0.95, 1.05, (2,))
    shift = uniform(parts[5], -1, 1, (2,)) * jnp.array([0.03, 0.02]) * extent
    center = points.mean(axis=0)
    xs, ys = jnp.meshgrid(jnp.arange(SIDE, dtype=jnp.float32), jnp.arange(SIDE, dtype=jnp.float32))
    x, y = (xs - center[0]) * stretch[0], (ys - center[1]) * stretch[1]
    x, y = jnp.cos(angle) * x - jnp.sin(angle) * y, jnp.sin(angle) * x + jnp.cos(angle) * y
    bend = jnp.where(chance(parts[6], 0.5), uniform(parts[7], 0.0, 0.02), 0.0) * extent
    grid = resampling(jnp.linspace(0, 4, SIDE), 5.0, 5)
    field = both_axes(grid, grid, normal(parts[8], (5, 5, 2))) * bend
    x, y = x + center[0] + shift[0] + field[..., 0], y + center[1] + shift[1] + field[..., 1]
    x, y = x * matrix[0, 0] + y * matrix[1, 0] + offset[0], x * matrix[0, 1] + y * matrix[1, 1] + offset[1]
    source = sample(source, x, y, jnp.where(swapped, donor_size, size))
    mask = face_mask(points, parts[9])
    source = maybe(swapped & chance(parts[10], 0.85), lambda x: match_colors(x, target, mask), source)
    # Generators put out small faces, and swapped videos are compressed twice.
    source = maybe(chance(parts[12], 0.3), lambda x: shrink(x, uniform(parts[11], 0.25, 0.7)), source)
    source = maybe(chance(parts[13], 0.2), lambda x: jpeg(x, uniform(parts[14], 25, 95)), source)
    ratio = jnp.array(_RATIOS)[choice(parts[15], [1 / len(_RATIOS)] * len(_RATIOS))]
    mask = (mask * ratio)[..., None]
    change = mask * (source - target)
    if banded:
        by_band = chance(parts[15][1:], banded)
        change = maybe(by_band, lambda x: change_by_band(source - target, mask, parts[15][2:]), change)
    return target, jnp.clip(target + change, 0, 1), mask


def change_by_band(difference, mask, draws):
    """What blending adds to a target if low frequencies are blended apart from the others.

    Half of the time they pass over a wide seam (a pyramid of two levels; Burt and Adelson, 1983), else they stay the
    target's, as in the gradient domain (Pérez et al., 2003).
    """
    parts = split(draws, 2)
    matrix = blurring(jnp.exp(uniform(parts[0], jnp.log(2.0), jnp.log(24.0))), SIDE)
    low = both_axes(matrix, matrix, difference)
    wide = jnp.where(chance(parts[1], 0.5), both_axes(matrix, matrix, mask), 0.0)
    return mask * (difference - low) + wide * low


def match_colors(source, target, mask):
    """`source` with the channel means and deviations of `target` under a mask (Reinhard et al., 2001)."""
    weight = mask[..., None] / jnp.maximum(mask.sum(), 1.0)
    means = [(image * weight).sum(axis=(0, 1)) for image in (source, target)]
    deviations = [
        jnp.sqrt((jnp.square(image - mean) * weight).sum(axis=(0, 1)) + 1e-4)
        for image, mean in zip((source, target), means, strict=True)
    ]
    return (source - means[0]) * jnp.clip(deviations[1] / deviations[0], 0.5, 2) + means[1]


def framing(points, size, draws, margins=(1.0, 1.42)):
    """The center `(x, y)` and the sides (width, height) of a random, nearly square window around a face."""
    parts = split(draws, 3)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = (high - low).max()
    # The window reaches little beyond the crop, where the picture is mirrored.
    widest = jnp.clip(1.06 * size.min() / extent, 1.0, margins[1])
    side = extent * uniform(parts[0], margins[0], widest)
    center = (low + high) / 2 + uniform(parts[1], -0.05, 0.05, (2,)) * side
    spare = jnp.maximum(jnp.array([size[1], size[0]]) - side, 0.0) / 2
    bounds = jnp.array([size[1], size[0]]) / 2
    center = jnp.clip(center, bounds - spare - 0.04 * side, bounds + spare + 0.04 * side)
    return center, side * uniform(parts[2], 0.95, 1.05, (2,))


def crop_matrices(center, sides, size, out):
    """The row and column matrices that cut a window out of a canvas as `out` by `out` pixels."""
    steps = jnp.arange(out, dtype=jnp.float32) - (out - 1) / 2
    columns = resampling(center[0] - 0.5 + steps * sides[0] / out, size[1], SIDE, sides[0] / out)
    rows = resampling(center[1] - 0.5 + steps * sides[1] / out, size[0], SIDE, sides[1] / out)
    return rows, columns


def whole_crop(image, size, out):
    """A whole crop as `out` by `out` pixels: what `tfdfd detect` hands to a network."""
    width_height = jnp.array([size[1], size[0]])
    return both_axes(*crop_matrices(width_height / 2, width_height, size, out), image)


def degrade(images, draws, key):
    """Pictures of a pair after recording and sharing: colors, blur, size, noise, JPEG and a hidden rectangle.

    Args:
        images: `(2, out, out, 3)`; all get the same degradation.
        draws: uniform numbers.
        key: JAX key of the noise.
    """
    # The seventh part is unused: without it, a seed would give other pictures than those trained on.
    parts = split(draws, 14)
    out = images.shape[1]
    images = jnp.where(chance(parts[0], 0.5), jax.vmap(lambda image: recolor(image, parts[1], 0.8))(images), images)
    sigma = jnp.where(chance(parts[2], 0.25), uniform(parts[3], 0.3, 1.4), 0.01)
    scale = jnp.where(chance(parts[4], 0.4), uniform(parts[5], 0.3, 1.0), 1.0)

    def smooth(images):
        matrix = shrinking(scale, out) @ blurring(sigma, out)
        return jax.vmap(lambda image: both_axes(matrix, matrix, image))(images)

    images = maybe((sigma > 0.01) | (scale < 1), smooth, images)
    images = maybe(chance(parts[8], 0.2), lambda x: add_noise(x, uniform(parts[7], 0.004, 0.03), key), images)
    quality = uniform(parts[9], 25, 100)
    shift = jnp.floor(uniform(parts[10], 0, 8, (2,))).astype(jnp.int32)
    images = maybe(chance(parts[11], 0.6), jax.vmap(lambda image: jpeg(image, quality, shift)), images)
    # One gray rectangle hides a part of the face.
    corner, extent = uniform(parts[12], 0, out, (2,)), uniform(parts[13], 0.1, 0.35, (4,)) * out
    axis = jnp.arange(out)
    hidden = (jnp.abs(axis - corner[0]) < extent[0] / 2)[:, None] & (jnp.abs(axis - corner[1]) < extent[1] / 2)[None]
    erased = jnp.where(hidden[..., None], extent[2] / (0.35 * out), images)
    return jnp.where(extent[3] > 0.28 * out, erased, images)


def labeled_pair(real, fake, draws, key, out):
    """Pictures `(2, out, out, 3)` of two crops, each `(canvas, points, size)`.

    Each crop has its own window, since their boxes differ; mirroring and degradation are shared.
    """
    parts = split(draws, 2)
    images = []
    for image, points, size in (real, fake):
        rows, columns = crop_matrices(*framing(points, size, parts[0]), size, out)
        columns = jnp.where(chance(parts[0], 0.5), columns[::-1], columns)
        images.append(both_axes(rows, columns, image))
    return degrade(jnp.clip(jnp.stack(images), 0, 1), parts[1], key)


def blended_pair(crop, donor, swapped, draws, key, out, grid, banded=0.0):
    """Pictures `(2, out, out, 3)` of a genuine crop and of a blend of it, and the blend's mask, `(grid, grid)`.

    Window, mirroring and degradation are shared. Both crops are `(canvas, points, size)`; for `banded` see
    `batch_of_pairs`.
    """
    blend_draws, rest = split(draws, 2)
    *images, mask = blend(*crop, *donor, swapped, blend_draws, banded)
    parts = split(rest, 3)
    _, points, size = crop
    rows, columns = crop_matrices(*framing(points, size, parts[0]), size, out)
    columns = jnp.where(chance(parts[1], 0.5), columns[::-1], columns)
    images = jnp.stack([both_axes(rows, columns, image) for image in images])
    mask = both_axes(rows, columns, mask)[..., 0]
    mask = mask.reshape(grid, out // grid, grid, out // grid).mean(axis=(1, 3))
    return degrade(jnp.clip(images, 0, 1), parts[2], key), mask


@partial(jax.jit, static_argnames=("out", "grid", "banded"))
def batch_of_pairs(canvases, points, sizes, reals, fakes, blended, donors, swapped, key, out, grid, banded=0.0):
    """A batch of labeled pairs, and of genuine faces with blends of them.

    Args:
        canvases: all crops of the pack, uint8 `(n, SIDE, SIDE, 3)`.
        points: their mesh points, float32 `(n, 118, 2)`.
        sizes: height and width of each crop in its canvas, float32 `(n, 2)`.
        reals, fakes: indices of the crops of labeled pairs, `(a,)` each.
        blended, donors: indices of genuine crops, and of those whose face may go into them, `(b,)` each.
        swapped: whether it does, `(b,)`; else the crop is blended with itself.
        key: JAX key of all draws.
        out: side of the pictures, a multiple of 16.
        grid: side of the masks, a divisor of `out`.
        banded: share of the blends whose low frequencies are blended apart from the others.

    Returns:
        Pictures `(2 (a + b), out, out, 3)`: reals, fakes, genuine faces, blends; masks of what was blended in,
        `(2 (a + b), grid, grid)`; and 1 where a mask is known, else 0, `(2 (a + b),)`. Masks of labeled fakes are
        unknown.
    """
    a, b = reals.shape[0], blended.shape[0]
    first, second = jax.random.split(key)
    draws = jax.lax.optimization_barrier(jax.random.uniform(first, (a + b, DRAWS)))
    keys = jax.random.split(second, a + b)

    def crop(index):
        return canvases[index].astype(jnp.float32) / 255, points[index], sizes[index]

    pairs = _for_each(
        lambda real, fake, draws, key: labeled_pair(crop(real), crop(fake), draws, key, out),
        reals, fakes, draws[:a], keys[:a],
    )  # fmt: skip
    blends, masks = _for_each(
        lambda index, donor, swap, draws, key: blended_pair(
            crop(index), crop(donor), swap, draws, key, out, grid, banded
        ),
        blended, donors, swapped, draws[a:], keys[a:],
    )  # fmt: skip
    pictures = jnp.concatenate([pairs[:, 0], pairs[:, 1], blends[:, 0], blends[:, 1]])
    masks = jnp.concatenate([jnp.zeros((2 * a, grid, grid)), jnp.zeros_like(masks), masks])
    known = jnp.concatenate([jnp.ones(a), jnp.zeros(a), jnp.ones(2 * b)])
    return pictures, masks, known


@partial(jax.jit, static_argnames="out")
def whole_crops(canvases, sizes, rows, out):
    """Whole crops of a pack, `(n, out, out, 3)`; `rows` are their indices."""
    return jax.vmap(lambda row: jnp.clip(whole_crop(canvases[row].astype(jnp.float32) / 255, sizes[row], out), 0, 1))(
        rows
    )
