"""Self-blended images (SBI; Shiohara and Yamasaki, CVPR 2022, arXiv:2204.08376): fakes made from one real photograph.

A slightly altered copy of a face is blended back onto the same face. What is left to learn is what every face swap
leaves behind (a border, a mismatch of colour, sharpness or place), not the look of one generator.

Differences from the paper: the mask comes from five landmarks instead of 68, some masks cover only a part of the face
(as reenactment does), and the real picture and its fake then go through the same degradation, so that compression and
blur say nothing about the label.

Images are RGB uint8 `(height, width, 3)`. Landmarks are `(5, 2)` float32 xy pixels in MTCNN's order: left eye,
right eye, nose, left and right mouth corner, where left means left in the picture. Everything random is drawn from the
`np.random.Generator` handed in, so the same seed gives the same picture.
"""

import cv2
import numpy as np

from tfdfd.data.h264 import filmed
from tfdfd.faces.crop import MARGIN, resize_crop, square_around

REGIONS = ("face", "lower_face", "mouth", "eyes")
REGION_SHARES = (0.64, 0.16, 0.1, 0.1)
# Each as likely as the next: most swaps replace a face entirely. (The paper goes down to 0.25.)
STRENGTHS = (0.5, 0.75, 1.0, 1.0, 1.0, 1.0)
_VIDEO_SHARE = 0.75
_LEVELS = np.arange(256, dtype=np.float32)[:, None]

# Outline of each region in the face's own frame: the eyes lie at (-0.5, 0) and (0.5, 0), the mouth's middle at (0, 1).
# Proportions measured by eye on frontal portraits; the outline ends at brow, cheek and chin, where face swaps end.
_OUTLINES = {
    "face": [
        (-1.0, -0.25), (-0.6, -0.55), (0.0, -0.62), (0.6, -0.55), (1.0, -0.25), (1.08, 0.35),
        (0.9, 1.1), (0.5, 1.62), (0.0, 1.78), (-0.5, 1.62), (-0.9, 1.1), (-1.08, 0.35),
    ],
    "lower_face": [
        (-1.02, 0.5), (-0.5, 0.3), (0.0, 0.2), (0.5, 0.3), (1.02, 0.5), (0.9, 1.1),
        (0.5, 1.62), (0.0, 1.78), (-0.5, 1.62), (-0.9, 1.1),
    ],
    "mouth": [
        (-0.68, 1.0), (-0.45, 0.74), (0.0, 0.66), (0.45, 0.74), (0.68, 1.0), (0.45, 1.3), (0.0, 1.4), (-0.45, 1.3),
    ],
    "eyes": [
        (-1.0, -0.2), (-0.6, -0.5), (0.0, -0.42), (0.6, -0.5), (1.0, -0.2), (0.95, 0.25), (0.5, 0.36), (0.0, 0.3),
        (-0.5, 0.36), (-0.95, 0.25),
    ],
}  # fmt: skip


def self_blend(image, landmarks, rng, region=None, strength=None, vary=None):
    """One photograph -> a real picture and the fake blended from it.

    Args:
        image: RGB uint8 `(height, width, 3)`.
        landmarks: `(5, 2)` xy pixels, see the module's docstring.
        rng: `np.random.Generator`.
        region: one of `REGIONS`; None draws one with the shares `REGION_SHARES`.
        strength: share of the altered face in the middle of the mask, in (0, 1]; None draws one of `STRENGTHS`.
        vary: changes the copy further before it is blended in: `tfdfd.data.varied_fakes.vary`, or None.

    Returns:
        `(real, fake, mask)`: two uint8 images of the input's shape and the float32 mask `(height, width)` in [0, 1].
        Where the mask is 0, real and fake are equal. The real picture may be altered too: source and target change
        roles at random, else "altered colours" would mean fake.
    """
    image, landmarks = _checked(image, landmarks)
    if strength is not None and not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; expected a share in (0, 1], or None for a random one")
    mask = blending_mask(image.shape[:2], landmarks, rng, region)
    source, target = image, image
    if rng.random() < 0.5:
        source = alter_appearance(source, rng)
    else:
        target = alter_appearance(target, rng)
    # Swapped-in faces are generated smaller than the face they cover; the paper knows this loss on either side only.
    if rng.random() < 0.65:
        source = _lose_detail(source, rng, smallest=0.25, largest=0.65)
    eyes_apart = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    if vary is not None:
        source = vary(source, target, eyes_apart, rng)
    source = _misplace(source, landmarks.mean(axis=0), eyes_apart, rng)
    mask = mask * np.float32(rng.choice(STRENGTHS) if strength is None else strength)
    return target, _blended(source, target, mask), mask


def face_outline(landmarks, region="face", grow=1.0):
    """Corners of a region's outline, float32 `(n, 2)` xy pixels, grown about its own centre."""
    if region not in _OUTLINES:
        raise ValueError(f"region is {region!r}; expected one of {', '.join(REGIONS)}")
    left_eye, right_eye, nose, left_mouth, right_mouth = np.asarray(landmarks, np.float32)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    across, down = right_eye - left_eye, mouth - eyes
    points = np.asarray(_OUTLINES[region], np.float32)
    points = (points - points.mean(axis=0)) * np.float32(grow) + points.mean(axis=0)
    # A turned head shows its nose off the middle line and more cheek on the other side.
    turn = np.clip(np.dot(nose - (eyes + mouth) / 2, across) / max(float(np.dot(across, across)), 1e-6), -0.5, 0.5)
    points[:, 0] = points[:, 0] * (1 - 0.3 * abs(turn)) - 0.5 * turn
    return eyes + points[:, :1] * across + points[:, 1:] * down


def blending_mask(shape, landmarks, rng, region=None):
    """A soft random mask of one region, float32 `(height, width)` in [0, 1].

    It is 0 outside the outline of the face grown by 1.15.

    Args:
        shape: `(height, width)`.
        landmarks: `(5, 2)` xy pixels.
        rng: `np.random.Generator`.
        region: one of `REGIONS`, or None for a random one.
    """
    region = str(rng.choice(REGIONS, p=REGION_SHARES)) if region is None else region
    eyes_apart = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    outline = face_outline(landmarks, region, grow=rng.uniform(0.8, 1.1))
    outline = outline + rng.normal(0, 0.04 * eyes_apart, outline.shape)
    hard = _warp_elastically(_filled(shape, outline), eyes_apart, rng)
    hard = cv2.bitwise_and(hard, _filled(shape, face_outline(landmarks, "face", grow=1.15)))
    # Shrunk by the radius it is then blurred with, a mask fades out inside its own outline. The radius spans a hard
    # seam to a fade over a third of the distance between the eyes.
    radius = max(1, int(round(eyes_apart * rng.uniform(0.02, 0.16))))
    size = 2 * radius + 1
    hard = cv2.erode(hard, np.ones((size, size), np.uint8), borderValue=0)
    soft = cv2.GaussianBlur(hard.astype(np.float32) / 255, (size, size), radius / rng.uniform(1.2, 2.5))
    return np.clip(soft, 0, 1)


def check_landmarks(landmarks, shape):
    """Landmarks as float32 `(5, 2)`, if a face that can be blended is at them.

    Raises:
        ValueError: there are not five, they lie too close together, or leave the image of `shape`, `(height, width)`.
    """
    landmarks = np.asarray(landmarks, np.float32)
    if landmarks.shape != (5, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks are {landmarks.shape}; expected five finite xy points, (5, 2)")
    across, down = landmarks[1] - landmarks[0], landmarks[3:].mean(axis=0) - landmarks[:2].mean(axis=0)
    if abs(across[0] * down[1] - across[1] * down[0]) < 16:
        raise ValueError(
            f"landmarks {landmarks.tolist()} span almost no area; expected left eye, right eye, nose and two mouth "
            "corners of a face at least 8 pixels wide, in this order"
        )
    height, width = shape
    if (landmarks < 0).any() or (landmarks > (width - 1, height - 1)).any():
        raise ValueError(
            f"landmarks {landmarks.tolist()} leave the image of {width}x{height} pixels; give them as (x, y) in pixels "
            "of this image"
        )
    return landmarks


def alter_appearance(image, rng):
    """A change of colour or light, then one of sharpness: uint8 in, uint8 out, same shape."""
    done = False
    while not done:  # an unaltered copy would be a fake without a trace
        if rng.random() < 0.5:
            shift = rng.uniform(-18, 18, 3).astype(np.float32)
            image, done = _mapped(image, _LEVELS + shift), True
        if rng.random() < 0.4:
            image, done = _shift_hsv(image, rng), True
        if rng.random() < 0.5:
            contrast, brightness = rng.uniform(0.85, 1.18), rng.uniform(-18, 18)
            levels = (_LEVELS - np.float32(128)) * np.float32(contrast) + np.float32(128 + brightness)
            image, done = _mapped(image, levels), True
    return _sharpen(image, rng) if rng.random() < 0.4 else _lose_detail(image, rng, smallest=0.4, largest=0.9)


def degrade_pair(real, fake, rng, video=False):
    """What recording and sharing do to a picture, with the same draws for both: two uint8 images in, two out.

    Light, blur, loss of size, noise and JPEG (quality 40 to 100), each with some probability. The size stays the same:
    a picture that lost detail is scaled back up.

    Args:
        real, fake: of one shape.
        rng: see the module's docstring.
        video: whether three of four pairs are frames of videos instead: down to a third in size, then H.264 (CRF 16 to
            38), each the last of two frames (`tfdfd.data.h264.filmed`).
    """
    if real.shape != fake.shape:
        raise ValueError(f"real is {real.shape} and fake is {fake.shape}; a pair has one shape")
    pair = [real, fake]
    height, width = real.shape[:2]
    of_video = video and rng.random() < _VIDEO_SHARE
    if rng.random() < 0.5:
        gains = (rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
        offset = np.float32(rng.uniform(-15, 15))
        pair = [_mapped(image, _LEVELS * gains + offset) for image in pair]
    if rng.random() < 0.25:
        sigma = rng.uniform(0.3, 1.0)
        pair = [cv2.GaussianBlur(image, (0, 0), sigma) for image in pair]
    if rng.random() < 0.4:
        scale = rng.uniform(0.33 if of_video else 0.5, 1.0)
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        upwards = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
        pair = [cv2.resize(image, small, interpolation=cv2.INTER_AREA) for image in pair]
    else:
        upwards = cv2.INTER_LINEAR
    if rng.random() < 0.25:
        noise = rng.normal(0, rng.uniform(1, 6), pair[0].shape).astype(np.float32)
        pair = [_clipped(image + noise) for image in pair]
    if of_video:
        pair = filmed(pair, int(rng.integers(16, 39)), rng, frames=2, preset="superfast")
    elif rng.random() < 0.7:
        quality = int(rng.integers(40, 101))
        pair = [recompress(image, quality) for image in pair]
    if pair[0].shape != real.shape:
        pair = [cv2.resize(image, (width, height), interpolation=upwards) for image in pair]
    return pair[0], pair[1]


def recompress(image, quality):
    """RGB uint8 image through JPEG at a quality from 1 to 100."""
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"image {image.shape} could not be written as JPEG of quality {quality}")
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def square_crop(image, box, margin=MARGIN, shift=(0.0, 0.0), size=256):
    """The crop a detector hands to a network: the box grown, squared, cut out and resized.

    Args:
        image: RGB uint8 `(height, width, 3)`, or a mask, float32 `(height, width)`.
        box: `(x, y, width, height)` of the face in pixels; it may reach beyond the picture.
        margin: side of the square over the longer side of the box.
        shift: how far the square's centre moves, `(x, y)` as a share of the longer side of the box.
        size: side of the result in pixels.

    Returns:
        The square, `(size, size)` or `(size, size, 3)`, of the input's dtype. What lies beyond the picture is mirrored
        into it.
    """
    x, y, width, height = (float(value) for value in box)
    if min(width, height, margin, size) <= 0:
        raise ValueError(f"box {tuple(box)}, margin {margin}, size {size}; width, height, margin and size must be > 0")
    longer = max(width, height)
    left, top, side = square_around((x + shift[0] * longer, y + shift[1] * longer, width, height), margin)
    if left >= image.shape[1] or top >= image.shape[0] or left + side <= 0 or top + side <= 0:
        raise ValueError(f"box {tuple(box)} lies outside the image of {image.shape[1]}x{image.shape[0]} pixels")
    strip = image[_mirrored(np.arange(top, top + side), image.shape[0])]
    beyond = max(0, -left), max(0, left + side - image.shape[1])
    strip = cv2.copyMakeBorder(strip, 0, 0, *beyond, cv2.BORDER_REFLECT_101) if any(beyond) else strip
    left = max(0, left)
    return resize_crop(strip[:, left : left + side], size)


def crop_alike(images, box, rng, margin=(1.0, 1.5), wander=0.06, size=256):
    """The same `square_crop` of several arrays of one face (real, fake, mask), randomly placed and mirrored.

    `margin` is drawn uniformly from its two ends, the centre moves by up to `wander` of the box's longer side.
    """
    margin, shift = rng.uniform(*margin), rng.uniform(-wander, wander, 2)
    crops = [square_crop(image, box, margin, shift, size) for image in images]
    if rng.random() < 0.5:
        crops = [cv2.flip(crop, 1) for crop in crops]
    return crops


def _checked(image, landmarks):
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected RGB uint8 (height, width, 3)")
    return image, check_landmarks(landmarks, image.shape[:2])


def _blended(source, target, mask):
    """The target with the source in the mask, uint8; only the rectangle that holds the mask is computed."""
    fake = target.copy()
    x, y, width, height = cv2.boundingRect(np.uint8(mask > 0))
    part = np.s_[y : y + height, x : x + width]
    share = mask[part][..., None]
    mixed = share * source[part] + (1 - share) * target[part]
    fake[part] = np.where(share > 0, _clipped(mixed), target[part])
    return fake


def _filled(shape, outline):
    canvas = np.zeros(shape, np.uint8)
    return cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], 255)


def _warp_elastically(mask, eyes_apart, rng):
    """Displaces a mask by a smooth random field (a 4x4 grid of random shifts, enlarged)."""
    height, width = mask.shape
    shifts = rng.normal(0, 0.06 * eyes_apart, (4, 4, 2)).astype(np.float32)
    field = cv2.resize(shifts, (width, height), interpolation=cv2.INTER_CUBIC)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(mask, columns + field[..., 0], rows + field[..., 1], cv2.INTER_NEAREST, borderValue=0)


def _misplace(image, centre, eyes_apart, rng):
    """Shifts, scales and turns a picture about a point by the little by which face swaps miss."""
    matrix = cv2.getRotationMatrix2D(
        (float(centre[0]), float(centre[1])), rng.uniform(-1.5, 1.5), rng.uniform(0.96, 1.05)
    )
    matrix[:, 2] += rng.uniform(-0.06, 0.06, 2) * eyes_apart
    height, width = image.shape[:2]
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _shift_hsv(image, rng):
    hue, others = (_LEVELS + int(rng.integers(-6, 7))) % 180, _LEVELS + rng.integers(-20, 21, 2)
    hsv = _mapped(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.hstack([hue, others]))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _sharpen(image, rng):
    smooth = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 1.6))
    amount = rng.uniform(0.3, 1.2)
    return cv2.addWeighted(image, 1 + amount, smooth, -amount, 0)


def _lose_detail(image, rng, smallest, largest):
    """Down and up again by a random factor between two, as a swap generated smaller than the face it covers."""
    height, width = image.shape[:2]
    scale = rng.uniform(smallest, largest)
    small = cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))))
    return cv2.resize(small, (width, height), interpolation=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])))


def _mirrored(positions, length):
    """Positions beyond [0, length) mirrored into it about the border pixels, as often as needed."""
    period = max(2 * (length - 1), 1)
    positions = np.abs(positions) % period
    return np.where(positions >= length, period - positions, positions)


def _mapped(image, levels):
    """Each of the 256 grey levels replaced by the one that `levels`, `(256, 3)` or `(256, 1)`, has in its place."""
    return cv2.LUT(image, _clipped(np.broadcast_to(levels, (256, 3)))[None])


def _clipped(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
