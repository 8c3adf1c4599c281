"""Perceptual hash that finds copies of a picture: re-encoded, resized, blurred, a little brighter, shifted or mirrored.

It works in two steps. A 64-bit hash (signs of the 8 x 8 lowest frequencies of a 32 x 32 gray version, without those
that are constant along a side) finds candidates among millions; faces are so similar that it also finds other people's.
The correlation of detail finer than the face's coarse light and shade then separates copies from lookalikes.

Measured on 5,393 photographs of UTKFace (14.5 million pairs, each unchanged and mirrored): a hash distance of at most 7
leaves 151 pairs; a likeness of at least 0.9 in addition leaves 63. By inspection, all 63 are one photograph twice; the
most similar pair of two photographs has 0.87. Of 600 altered copies, it finds all as JPEG of quality 15, at half the
size, blurred, noisy or mirrored; 99 % brighter by 15 % or shifted by 1 % of the side; 81 % shifted by 2 %; 68 % zoomed
by 4 %. Larger shifts make another picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

ALIKE = 0.9
SIDE = 32
DETAIL = 16  # frequencies along a side that are correlated,
COARSE = 3  # except the lowest, a face's light and shade
BANDS, BAND_BITS = 4, 16
MAX_DISTANCE = 15
_FLAT = 8.0  # norm of the detail below which a picture is flat
_BLOCK = 1 << 20

_odd_hash = np.tile(np.arange(1, 9) % 2 == 1, (8, 1)).ravel()
# A mirrored picture has the same cosine coefficients with the odd horizontal ones negated.
MIRROR = np.packbits(_odd_hash).view(np.uint64)[0]
_fine = np.ones((DETAIL, DETAIL), bool)
_fine[:COARSE, :COARSE] = False
DETAILS = int(_fine.sum())
MIRROR_DETAIL = np.tile(np.where(np.arange(DETAIL) % 2, -1, 1), (DETAIL, 1))[_fine].astype(np.float16)
_ones_in = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def fingerprint(image: np.ndarray) -> tuple[np.uint64, np.ndarray] | None:
    """Hash and detail of a gray picture.

    Args:
        image: uint8 `(height, width)`.

    Returns:
        `(hash, detail)`: a 64-bit number, and float16 `(247,)` of norm 1; None for a picture so flat that it equals any
        other flat one.

    Raises:
        ValueError: another dtype or shape.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected a gray picture, uint8 (height, width)")
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(small.astype(np.float32))
    detail = waves[:DETAIL, :DETAIL][_fine]
    length = float(np.linalg.norm(detail))
    if length < _FLAT:
        return None
    return np.packbits(waves[1:9, 1:9].ravel() > 0).view(np.uint64)[0], (detail / length).astype(np.float16)


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Number of differing bits of the hashes, 0 to 64, pair by pair."""
    differing = np.ascontiguousarray(np.bitwise_xor(left, right)).reshape(-1, 1).view(np.uint16)
    return _ones_in[differing].sum(axis=1, dtype=np.uint8)


def near_pairs(
    left: np.ndarray, right: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of a left and a right hash that differ in at most `distance` bits, each once, in blocks.

    Hashes are cut into four bands. If all bands differed in more than a quarter of `distance`, the hashes would differ
    in more than `distance`; so only pairs with one band that near are compared.

    Args:
        left: uint64 `(n,)`.
        right: uint64 `(m,)`.
        distance: from 0 to `MAX_DISTANCE`.

    Yields:
        `(numbers in left, numbers in right, distances)` of the same length.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance is {distance}; expected 0 to {MAX_DISTANCE} of 64 bits.")
    radius = distance // BANDS
    changes = np.flatnonzero(_ones_in <= radius).astype(np.uint16)
    left, right = (np.ascontiguousarray(hashes, dtype=np.uint64) for hashes in (left, right))
    left_bands, right_bands = (hashes.reshape(-1, 1).view(np.uint16) for hashes in (left, right))
    for band in range(BANDS):
        order = np.argsort(right_bands[:, band], kind="stable")
        begins = np.searchsorted(right_bands[order, band], np.arange((1 << BAND_BITS) + 1))
        for change in changes:
            keys = (left_bands[:, band] ^ change).astype(np.int64)
            for rows, places in expanded(begins[keys], begins[keys + 1]):
                columns = order[places]
                apart = distances(left[rows], right[columns])
                near = apart <= distance
                rows, columns, apart = rows[near], columns[near], apart[near]
                # The pair was already yielded if an earlier band is as near.
                earlier = _ones_in[left_bands[rows, :band] ^ right_bands[columns, :band]] <= radius
                new = ~earlier.any(axis=1)
                if new.any():
                    yield rows[new], columns[new], apart[new]


def likeness(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation of details, pair by pair: float32 in [-1, 1]."""
    return np.einsum("ij,ij->i", left.astype(np.float32), right.astype(np.float32))


def expanded(begins, ends):
    """Every number in `range(begins[i], ends[i])`, with its i, in blocks of about `_BLOCK`."""
    counts = ends - begins
    rows = np.flatnonzero(counts)
    upto = np.cumsum(counts[rows])
    if not rows.size:
        return
    cuts = np.searchsorted(upto, np.arange(_BLOCK, upto[-1], _BLOCK), side="left") + 1
    for some in np.split(rows, np.unique(cuts)):
        if some.size:
            lengths = counts[some]
            repeated = np.repeat(some, lengths)
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield repeated, begins[repeated] + within
