"""Faces of other people swapped in: fakes made from two photographs, to validate on what no network here trains on.

The face of a donor is warped onto a target by landmarks, takes its colours, and is composed by a method that
self-blending (`tfdfd.data.self_blended`) does not use. The recipe joins three sources: another person of similar
landmarks, as in the blended images of Face X-ray (Li et al., CVPR 2020, arXiv:1912.13458, section 4.1); the small
rendered face, the colour transfers and the eroded and feathered mask of DeepFaceLab (Perov et al., arXiv:2005.05535,
section 3); Poisson blending, as in FSGAN (Nirkin et al., ICCV 2019, arXiv:1908.05932, section 3.4). Shares, strengths
and masks are ours. No generator is involved: the donor's texture is a photograph's.

Images are RGB uint8 `(height, width, 3)`. Landmarks are `(5, 2)` xy pixels in MTCNN's order, as in `self_blended`.
Everything random is drawn from the `np.random.Generator` handed in.
"""

from __future__ import annotations

import cv2
import numpy as np

from tfdfd.data.self_blended import check_landmarks, face_outline

KINDS = ("poisson", "mixed", "pyramid", "feathered")
# Mixed gradients show both faces through each other; few real swaps do.
KIND_SHARES = (0.3, 0.1, 0.3, 0.3)
# Longer side of the faces that autoencoders put out, pixels.
RENDERED = 64, 128
_RENDERED_SHARE = 0.6
_COLOURS = ("reinhard", "histogram", "as it is")
_COLOUR_SHARES = (0.5, 0.35, 0.15)
# Outlines of masks: the face's, or a rounded shape of this exponent: an ellipse, or the box of the first swaps.
_MASKS = (None, 2, 5)
_MASK_SHARES = (0.5, 0.3, 0.2)
_FEWEST_PIXELS = 64


def swap_face(target, points, donor, donor_points, rng, kind=None):
    """The target's photograph with the donor's face in it.

    Args:
        target: the photograph that is changed.
        points: its landmarks.
        donor: the photograph that the face comes from, of any size.
        donor_points: its landmarks.
        rng: `np.random.Generator`.
        kind: how the face is composed, one of `KINDS`: gradients of the donor (Poisson), the stronger gradients of
            both, Laplacian pyramids, or a narrow feathered seam; None draws one with the shares `KIND_SHARES`.

    Returns:
        The fake, uint8, of the target's shape.

    Raises:
        ValueError: no such images, landmarks or kind; or the donor's face leaves its photograph, so that hardly any of
            the mask is covered.
    """
    target, points = _checked(target, points, "target")
    donor, donor_points = _checked(donor, donor_points, "donor")
    if kind is None:
        kind = str(rng.choice(KINDS, p=KIND_SHARES))
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    face, covered = _warped(donor, donor_points, points, target.shape[:2], rng)
    mask = cv2.bitwise_and(_mask(target.shape[:2], points, rng), covered)
    if cv2.countNonZero(mask) < _FEWEST_PIXELS:
        raise ValueError(
            f"the donor's face covers {cv2.countNonZero(mask)} pixels of the target's; expected photographs that show "
            "the whole face"
        )
    face = _coloured(face, target, mask, str(rng.choice(_COLOURS, p=_COLOUR_SHARES)))
    if rng.random() < _RENDERED_SHARE:
        face = _rendered(face, mask, rng)
    if kind == "feathered":
        eyes_apart = float(np.linalg.norm(points[1] - points[0]))
        return _feathered(face, target, mask, max(1, round(eyes_apart * rng.uniform(0.02, 0.1))))
    if kind == "pyramid":
        return _pyramid(face, target, mask, int(rng.integers(3, 6)))
    return _cloned(face, target, mask, cv2.NORMAL_CLONE if kind == "poisson" else cv2.MIXED_CLONE)


def _checked(image, points, whose):
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the {whose} is {image.dtype} {image.shape}; expected RGB uint8 (height, width, 3)")
    return image, check_landmarks(points, image.shape[:2])


def _warped(donor, donor_points, points, shape, rng):
    """The donor on the target's landmarks, and where its photograph reaches: uint8 `(h, w, 3)` and `(h, w)`, 0 or 255.

    Features go to the target's, most of the way: some of the donor's proportions stay, as in swaps.
    """
    from_points = _anchors(donor_points)
    to_points = _anchors(points)
    similar = cv2.estimateAffinePartial2D(donor_points, points, method=cv2.LMEDS)[0]
    if similar is None:
        raise ValueError(f"landmarks {donor_points.tolist()} of the donor cannot be laid on {points.tolist()}")
    moved = from_points @ similar[:, :2].T + similar[:, 2]
    to_points = moved + rng.uniform(0.5, 1.0) * (to_points - moved)
    x, y = _spline(to_points, from_points, shape)
    face = cv2.remap(donor, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    inside = (x >= 0) & (y >= 0) & (x <= donor.shape[1] - 1) & (y <= donor.shape[0] - 1)
    covered = np.where(inside, np.uint8(255), np.uint8(0))
    return face, cv2.erode(covered, np.ones((5, 5), np.uint8), borderValue=0)


def _anchors(points):
    return np.concatenate([points, face_outline(points)]).astype(np.float64)


def _spline(to_points, from_points, shape):
    """Where each pixel comes from: x and y, float32 `shape`, of the thin-plate spline through pairs of points."""
    try:
        from scipy.interpolate import RBFInterpolator
    except ImportError as error:
        raise ValueError(
            "faces are warped with SciPy, which is not installed: run pip install 'tfdfd[train]'."
        ) from error
    height, width = shape
    # The spline is smooth: a point in eight pixels tells the rest.
    rows, columns = (np.arange(0, length + 8, 8, dtype=np.float64) for length in shape)
    grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    coarse = RBFInterpolator(to_points, from_points, kernel="thin_plate_spline")(grid)
    coarse = coarse.reshape(len(rows), len(columns), 2).astype(np.float32)
    u, v = np.meshgrid(np.arange(width, dtype=np.float32) / 8, np.arange(height, dtype=np.float32) / 8)
    fine = cv2.remap(coarse, u, v, cv2.INTER_LINEAR)
    return np.ascontiguousarray(fine[..., 0]), np.ascontiguousarray(fine[..., 1])


def _mask(shape, points, rng):
    """Where the donor's face goes, uint8 `(height, width)`, 0 or 255."""
    exponent = _MASKS[rng.choice(len(_MASKS), p=_MASK_SHARES)]
    if exponent is None:
        outline = cv2.convexHull(face_outline(points, grow=rng.uniform(0.85, 1.0)))
    else:
        eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        around = np.sign(around) * np.abs(around) ** (2 / exponent)
        # In the face's frame, where the eyes are one apart and the mouth is at (0, 1).
        around = (0, 0.5) + around * (rng.uniform(0.75, 0.9), rng.uniform(0.85, 1.0))
        outline = eyes + around[:, :1] * (points[1] - points[0]) + around[:, 1:] * (mouth - eyes)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32).reshape(-1, 1, 2)], 255)
    mask[:2] = mask[-2:] = mask[:, :2] = mask[:, -2:] = 0
    return mask


def _coloured(face, target, mask, how):
    """The face in the target's colours, taken from where the mask is: uint8."""
    if how == "as it is":
        return face
    source, wanted = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB) for image in (face, target))
    transfer = _reinhard if how == "reinhard" else _histogram
    tables = [transfer(source[..., channel][mask > 0], wanted[..., channel][mask > 0]) for channel in range(3)]
    table = np.clip(np.rint(np.stack(tables, axis=-1)), 0, 255).astype(np.uint8)[None]
    return cv2.cvtColor(cv2.LUT(source, table), cv2.COLOR_LAB2RGB)


def _reinhard(source, wanted):
    """New levels of the 256, by mean and spread (Reinhard et al., 2001)."""
    gain = np.clip(wanted.std() / max(source.std(), 1.0), 0.5, 2.0)
    return (np.arange(256) - source.mean()) * gain + wanted.mean()


def _histogram(source, wanted):
    """New levels of the 256, by equal shares of pixels below."""
    below, wanted_below = (np.cumsum(np.bincount(levels, minlength=256)) / len(levels) for levels in (source, wanted))
    return np.interp(below, wanted_below, np.arange(256))


def _rendered(face, mask, rng):
    """The face as an autoencoder would put it out, small, and brought back to its size."""
    height, width = face.shape[:2]
    factor = rng.uniform(*RENDERED) / max(cv2.boundingRect(mask)[2:])
    if factor >= 1:
        return face
    small = cv2.resize(
        face, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])))


def _feathered(face, target, mask, radius):
    """Eroded by the radius that it is blurred with, the mask stays within its outline."""
    size = 2 * radius + 1
    share = cv2.erode(mask, np.ones((size, size), np.uint8), borderValue=0).astype(np.float32) / 255
    share = cv2.GaussianBlur(share, (size, size), 0)[..., None]
    return _rounded(share * face + (1 - share) * target)


def _pyramid(face, target, mask, levels):
    """Coarse detail fades over a wide seam, fine detail over a narrow one (Burt and Adelson, 1983)."""
    face, target = face.astype(np.float32), target.astype(np.float32)
    share = mask.astype(np.float32) / 255
    bands = []
    for _ in range(levels):
        if min(share.shape) < 4:
            break
        size = share.shape[::-1]
        low_face, low_target, low_share = (cv2.pyrDown(image) for image in (face, target, share))
        of_face, of_target = face - cv2.pyrUp(low_face, dstsize=size), target - cv2.pyrUp(low_target, dstsize=size)
        bands.append(_mixed(of_face, of_target, share))
        face, target, share = low_face, low_target, low_share
    image = _mixed(face, target, share)
    for band in reversed(bands):
        image = band + cv2.pyrUp(image, dstsize=band.shape[1::-1])
    return _rounded(image)


def _mixed(face, target, share):
    return share[..., None] * face + (1 - share[..., None]) * target


def _cloned(face, target, mask, gradients):
    x, y, width, height = cv2.boundingRect(mask)
    return cv2.seamlessClone(face, target, mask, (x + width // 2, y + height // 2), gradients)


def _rounded(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
