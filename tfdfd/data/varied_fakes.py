"""What generators do to a face beyond its colours and place: the altered copies of "varied" self-blended fakes.

Self-blending (`tfdfd.data.self_blended`) alters colour, sharpness and place. Faces that come out of an autoencoder or a
renderer differ in more: texture is lost while edges stay, they were small before they were pasted, features sit a
little elsewhere, and colours were matched to the target's. Kinds and strengths are ours, after DeepFaceLab
(arXiv:2005.05535, section 3) and Face X-ray (arXiv:1912.13458, section 4).

Images are RGB uint8 `(height, width, 3)`; everything random comes from the `np.random.Generator` handed in.
"""

import cv2
import numpy as np

from tfdfd.data.self_blended import recompress


def vary(image, target, eyes_apart, rng):
    """A face as a generator might have left it: uint8 in, uint8 out, same shape.

    Args:
        image: the copy that will be blended in.
        target: what it will be blended into, of the same shape.
        eyes_apart: distance between the eyes in pixels, to which strengths are relative.
        rng: draws which changes happen, each with some probability, and how strong they are.
    """
    if rng.random() < 0.35:
        image = _displace(image, eyes_apart, rng)
    if rng.random() < 0.35:
        image = _render(image, rng)
    if rng.random() < 0.3:
        image = _match_colours(image, target, rng)
    if rng.random() < 0.25:
        image = recompress(image, int(rng.integers(25, 85)))
    if rng.random() < 0.2:
        image = _add_grain(image, rng)
    return image


def _displace(image, eyes_apart, rng):
    """Moves features by a smooth random field, up to about a sixteenth of the distance between the eyes."""
    height, width = image.shape[:2]
    shifts = rng.normal(0, 0.025 * eyes_apart, (5, 5, 2)).astype(np.float32)
    field = cv2.resize(shifts, (width, height), interpolation=cv2.INTER_CUBIC)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        image, columns + field[..., 0], rows + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def _render(image, rng):
    """Texture gone, edges kept, then the size of an autoencoder's output and back."""
    height, width = image.shape[:2]
    smooth = cv2.bilateralFilter(image, 5, float(rng.uniform(10, 40)), 2.0)
    share = float(rng.uniform(0.4, 1.0))
    image = cv2.addWeighted(smooth, share, image, 1 - share, 0)
    side = int(rng.choice((64, 96, 112, 128)))
    if side < min(height, width):
        scale = side / min(height, width)
        small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return image


def _match_colours(image, target, rng):
    """Mean and spread of each channel of Lab drawn towards those of the target's middle (Reinhard), or past them."""
    source, wanted = cv2.cvtColor(image, cv2.COLOR_RGB2LAB), cv2.cvtColor(target, cv2.COLOR_RGB2LAB)
    height, width = image.shape[:2]
    middle = np.s_[height // 4 : height - height // 4, width // 4 : width - width // 4]
    levels = np.arange(256, dtype=np.float32)
    tables = np.empty((256, 3), np.float32)
    for channel in range(3):
        mean, spread = cv2.meanStdDev(source[middle][..., channel])
        to_mean, to_spread = cv2.meanStdDev(wanted[middle][..., channel])
        gain = np.clip(float(to_spread[0, 0]) / max(float(spread[0, 0]), 1.0), 0.7, 1.4) * rng.uniform(0.9, 1.1)
        tables[:, channel] = (levels - mean[0, 0]) * gain + to_mean[0, 0] + rng.uniform(-5, 5)
    table = np.clip(np.rint(tables), 0, 255).astype(np.uint8)[None]
    return cv2.cvtColor(cv2.LUT(source, table), cv2.COLOR_LAB2RGB)


def _add_grain(image, rng):
    noise = rng.normal(0, rng.uniform(1, 5), image.shape).astype(np.float32)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
