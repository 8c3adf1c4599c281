"""Self-blended images (SBI; Shiohara and Yamasaki, CVPR 2022, arXiv:2204.08376): fakes made from one real photograph.

A slightly altered copy of a face is blended back onto the same face. A network can learn only what every face swap
leaves behind (a border, a mismatch of color, sharpness or position), not the look of one generator.

Differences from the paper: the mask comes from five landmarks or from a 468-point face mesh (`tfdfd.faces.mesh`)
instead of 68 landmarks, some masks cover only a part of the face (as in reenactment), and the real picture and its fake
go through the same degradation (`tfdfd.data.degrade`), so that compression and blur say nothing about the label.

Images are RGB uint8 `(height, width, 3)`. Landmarks are `(5, 2)` float32 xy pixels in MTCNN's order: left eye, right
eye, nose, left and right mouth corner, where left means left in the picture. Everything random is drawn from the
`np.random.Generator` passed in: the same seed gives the same picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from tfdfd.data.degrade import LEVELS, add_noise, compress_jpeg, map_levels, resize_and_back, to_uint8

REGIONS = ("face", "lower_face", "mouth", "eyes")
REGION_SHARES = (0.64, 0.16, 0.1, 0.1)
# Drawn with equal probability: most swaps replace a face entirely. (The paper goes down to 0.25.)
STRENGTHS = (0.5, 0.75, 1.0, 1.0, 1.0, 1.0)
Vary = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]

# Outline of each region in the face's own frame: the eyes lie at (-0.5, 0) and (0.5, 0), the mouth's center at (0, 1).
# Proportions estimated from frontal portraits; the outline ends at brow, cheek and chin, where face swaps end.
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


# Points of the face mesh whose convex hull is each region: the oval, the chin up to the nose, lips, brows with eyes.
MESH_POINTS = 468
_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_LOWER_JAW = (361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132)
_MESH_REGIONS = {
    "face": (*_LOWER_JAW, 10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 93, 234, 127, 162, 21, 54, 103, 67, 109),
    "lower_face": (*_LOWER_JAW, *_LIPS, 195, 5, 4),
    "mouth": _LIPS,
    "eyes": (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
    + (33, 7, 163, 144, 145, 153, 154, 155, 133, 263, 249, 390, 373, 374, 380, 381, 382, 362),
}


def self_blend(
    image: np.ndarray,
    landmarks: np.ndarray,
    rng: np.random.Generator,
    region: str | None = None,
    strength: float | None = None,
    vary: Vary | None = None,
    mesh: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes a real picture and a fake blended from it out of one photograph.

    Args:
        image: RGB uint8 `(height, width, 3)`.
        landmarks: `(5, 2)` xy pixels, see the module docstring.
        rng: draws mask, alterations and strength.
        region: one of `REGIONS`; None draws one with the probabilities `REGION_SHARES`.
        strength: weight of the altered face in the middle of the mask, in (0, 1]; None draws one of `STRENGTHS`.
        vary: alters the copy further before it is blended in: `vary` of this module, or None.
        mesh: `(468, 2)` xy pixels of the face mesh, whose hulls then are the outlines of masks; None: outlines follow
            from the landmarks.

    Returns:
        `(real, fake, mask)`: two uint8 images of the input's shape and the float32 mask `(height, width)` in [0, 1].
        Real and fake are equal where the mask is 0. The real picture may be altered, too: source and target switch
        roles at random, or altered colors would mean fake.

    Raises:
        ValueError: an invalid image, landmarks, region, strength or mesh.
    """
    image, landmarks = check_image(image, landmarks)
    if strength is not None and not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; expected a number in (0, 1], or None for a random one")
    mask = blending_mask(image.shape[:2], landmarks, rng, region, mesh)
    source, target = image, image
    if rng.random() < 0.5:
        source = alter_appearance(source, rng)
    else:
        target = alter_appearance(target, rng)
    # Swapped-in faces are generated smaller than the face they cover; the paper has this loss on either side only.
    if rng.random() < 0.65:
        source = _lose_detail(source, rng, smallest=0.25, largest=0.65)
    eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    if vary is not None:
        source = vary(source, target, eye_distance, rng)
    source = _misplace(source, landmarks.mean(axis=0), eye_distance, rng)
    mask = mask * np.float32(rng.choice(STRENGTHS) if strength is None else strength)
    return target, _blend(source, target, mask), mask


def face_outline(
    landmarks: np.ndarray, region: str = "face", grow: float = 1.0, mesh: np.ndarray | None = None
) -> np.ndarray:
    """Corners of a region's outline, float32 `(n, 2)` xy pixels, scaled by `grow` about its own center.

    With a `mesh`, it is the convex hull of the region's mesh points, and the landmarks are not used.

    Raises:
        ValueError: an unknown region or an invalid mesh.
    """
    if region not in _OUTLINES:
        raise ValueError(f"region is {region!r}; expected one of {', '.join(REGIONS)}")
    if mesh is not None:
        mesh = np.asarray(mesh, np.float32)
        if mesh.shape != (MESH_POINTS, 2) or not np.isfinite(mesh).all():
            raise ValueError(f"the mesh is {mesh.shape}; expected {MESH_POINTS} finite xy points, ({MESH_POINTS}, 2)")
        points = cv2.convexHull(mesh[list(_MESH_REGIONS[region])])[:, 0]
        return (points - points.mean(axis=0)) * np.float32(grow) + points.mean(axis=0)
    left_eye, right_eye, nose, left_mouth, right_mouth = np.asarray(landmarks, np.float32)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    across, down = right_eye - left_eye, mouth - eyes
    points = np.asarray(_OUTLINES[region], np.float32)
    points = (points - points.mean(axis=0)) * np.float32(grow) + points.mean(axis=0)
    # In a turned head, the nose lies off the middle line and more cheek is visible on the other side.
    turn = np.clip(np.dot(nose - (eyes + mouth) / 2, across) / max(float(np.dot(across, across)), 1e-6), -0.5, 0.5)
    points[:, 0] = points[:, 0] * (1 - 0.3 * abs(turn)) - 0.5 * turn
    return eyes + points[:, :1] * across + points[:, 1:] * down


def blending_mask(
    shape: tuple[int, int],
    landmarks: np.ndarray,
    rng: np.random.Generator,
    region: str | None = None,
    mesh: np.ndarray | None = None,
) -> np.ndarray:
    """A soft random mask of one region, float32 `(height, width)` in [0, 1].

    It is 0 outside the outline of the face scaled by 1.15.

    Args:
        shape: `(height, width)`.
        landmarks: `(5, 2)` xy pixels.
        rng: draws size, shape and softness.
        region: one of `REGIONS`, or None for a random one.
        mesh: see `self_blend`.
    """
    region = str(rng.choice(REGIONS, p=REGION_SHARES)) if region is None else region
    eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    outline = face_outline(landmarks, region, rng.uniform(0.8, 1.1), mesh)
    outline = outline + rng.normal(0, 0.04 * eye_distance, outline.shape)
    columns, rows = _smooth_displacement(shape, (4, 4), 0.06 * eye_distance, rng)
    hard = cv2.remap(_filled(shape, outline), columns, rows, cv2.INTER_NEAREST, borderValue=0)
    hard = cv2.bitwise_and(hard, _filled(shape, face_outline(landmarks, "face", 1.15, mesh)))
    # Eroded by the radius of the blur that follows, a mask fades out within its own outline. The radius ranges from a
    # hard seam to a fade over a third of the distance between the eyes.
    radius = max(1, int(round(eye_distance * rng.uniform(0.02, 0.16))))
    size = 2 * radius + 1
    hard = cv2.erode(hard, np.ones((size, size), np.uint8), borderValue=0)
    soft = cv2.GaussianBlur(hard.astype(np.float32) / 255, (size, size), radius / rng.uniform(1.2, 2.5))
    return np.clip(soft, 0, 1)


def check_landmarks(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Landmarks as float32 `(5, 2)`, checked to span a face that can be blended.

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


def check_image(image: np.ndarray, landmarks: np.ndarray, name: str = "image") -> tuple[np.ndarray, np.ndarray]:
    """An RGB uint8 image and its landmarks, float32 `(5, 2)`.

    Raises:
        ValueError: another dtype or shape, called `name`; or errors of `check_landmarks`.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{name} is {image.dtype} {image.shape}; expected RGB uint8 (height, width, 3)")
    return image, check_landmarks(landmarks, image.shape[:2])


def alter_appearance(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes color or lighting, then sharpness: uint8 in, uint8 out, same shape."""
    done = False
    while not done:  # an unaltered copy would be a fake without a trace
        if rng.random() < 0.5:
            shift = rng.uniform(-18, 18, 3).astype(np.float32)
            image, done = map_levels(image, LEVELS + shift), True
        if rng.random() < 0.4:
            image, done = _shift_hsv(image, rng), True
        if rng.random() < 0.5:
            contrast, brightness = rng.uniform(0.85, 1.18), rng.uniform(-18, 18)
            levels = (LEVELS - np.float32(128)) * np.float32(contrast) + np.float32(128 + brightness)
            image, done = map_levels(image, levels), True
    return _sharpen(image, rng) if rng.random() < 0.4 else _lose_detail(image, rng, smallest=0.4, largest=0.9)


def vary(image: np.ndarray, target: np.ndarray, eye_distance: float, rng: np.random.Generator) -> np.ndarray:
    """Alters a face as generators do beyond its colors and position, for "varied" self-blended fakes.

    Faces out of an autoencoder or renderer lose texture while edges stay, were small before they were pasted, have
    slightly displaced features, and their colors were matched to the target's. Kinds and strengths are ours, after
    DeepFaceLab (arXiv:2005.05535, section 3) and Face X-ray (arXiv:1912.13458, section 4).

    Args:
        image: the copy that will be blended in.
        target: the picture it will be blended into, of the same shape.
        eye_distance: in pixels; strengths are relative to it.
        rng: draws which changes happen and how strong they are.

    Returns:
        uint8 of the same shape.
    """
    if rng.random() < 0.35:
        image = _displace(image, eye_distance, rng)
    if rng.random() < 0.35:
        image = _render(image, rng)
    if rng.random() < 0.3:
        image = _match_colors(image, target, rng)
    if rng.random() < 0.25:
        image = compress_jpeg(image, int(rng.integers(25, 85)))
    if rng.random() < 0.2:
        image = add_noise(image, rng.uniform(1, 5), rng)
    return image


def _blend(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The target with the source in the mask, uint8; only the mask's bounding box is computed."""
    fake = target.copy()
    x, y, width, height = cv2.boundingRect(np.uint8(mask > 0))  # type: ignore[call-overload]
    part = np.s_[y : y + height, x : x + width]
    weight = mask[part][..., None]
    mixed = weight * source[part]
    mixed += (1 - weight) * target[part]
    fake[part] = to_uint8(mixed)
    return fake


def _filled(shape: tuple[int, ...], outline: np.ndarray) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    return cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], 255)


def _smooth_displacement(
    shape: tuple[int, ...], grid: tuple[int, int], deviation: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """x and y maps for `cv2.remap`: pixel positions plus a smooth random field, an enlarged grid of random shifts."""
    height, width = shape
    shifts = rng.normal(0, deviation, (*grid, 2)).astype(np.float32)
    field = cv2.resize(shifts, (width, height), interpolation=cv2.INTER_CUBIC)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return columns + field[..., 0], rows + field[..., 1]


def _misplace(image: np.ndarray, center: Any, eye_distance: float, rng: np.random.Generator) -> np.ndarray:
    """Shifts, scales and rotates a picture about a point by the small errors of face swaps."""
    center = float(center[0]), float(center[1])
    matrix = cv2.getRotationMatrix2D(center, rng.uniform(-1.5, 1.5), rng.uniform(0.96, 1.05))
    matrix[:, 2] += rng.uniform(-0.06, 0.06, 2) * eye_distance  # type: ignore[arg-type]
    height, width = image.shape[:2]
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _shift_hsv(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hue, others = (LEVELS + int(rng.integers(-6, 7))) % 180, LEVELS + rng.integers(-20, 21, 2)
    hsv = map_levels(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.hstack([hue, others]))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _sharpen(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    smooth = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 1.6))
    amount = rng.uniform(0.3, 1.2)
    return cv2.addWeighted(image, 1 + amount, smooth, -amount, 0)


def _lose_detail(image: np.ndarray, rng: np.random.Generator, smallest: float, largest: float) -> np.ndarray:
    """Scales down and up again by a random factor, as a swap generated smaller than the face it covers."""
    scale = rng.uniform(smallest, largest)
    up = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
    return resize_and_back(image, scale, down=cv2.INTER_LINEAR, up=up)


def _displace(image: np.ndarray, eye_distance: float, rng: np.random.Generator) -> np.ndarray:
    """Moves features by a smooth random field, up to about a sixteenth of the distance between the eyes."""
    columns, rows = _smooth_displacement(image.shape[:2], (5, 5), 0.025 * eye_distance, rng)
    return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _render(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Removes texture and keeps edges, then scales to the size of an autoencoder's output and back."""
    smooth = cv2.bilateralFilter(image, 5, float(rng.uniform(10, 40)), 2.0)
    weight = float(rng.uniform(0.4, 1.0))
    image = cv2.addWeighted(smooth, weight, image, 1 - weight, 0)
    scale = int(rng.choice((64, 96, 112, 128))) / min(image.shape[:2])
    return resize_and_back(image, scale, up=cv2.INTER_CUBIC) if scale < 1 else image


def _match_colors(image: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves mean and spread of each Lab channel toward those of the target's center (Reinhard), or past them."""
    source, wanted = cv2.cvtColor(image, cv2.COLOR_RGB2LAB), cv2.cvtColor(target, cv2.COLOR_RGB2LAB)
    height, width = image.shape[:2]
    middle = np.s_[height // 4 : height - height // 4, width // 4 : width - width // 4]
    tables = np.empty((256, 3), np.float32)
    for channel in range(3):
        mean, spread = cv2.meanStdDev(source[middle][..., channel])
        to_mean, to_spread = cv2.meanStdDev(wanted[middle][..., channel])
        gain = np.clip(float(to_spread[0, 0]) / max(float(spread[0, 0]), 1.0), 0.7, 1.4) * rng.uniform(0.9, 1.1)
        tables[:, channel] = (LEVELS[:, 0] - mean[0, 0]) * gain + to_mean[0, 0] + rng.uniform(-5, 5)
    return cv2.cvtColor(map_levels(source, tables), cv2.COLOR_LAB2RGB)
