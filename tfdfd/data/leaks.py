"""Leaks between splits: sources, people, files and pictures that training and evaluation would share.

Copies of a picture are found re-encoded, resized, blurred, a little brighter, shifted or mirrored, in two steps. A
64-bit hash (signs of the 8 x 8 lowest frequencies of a 32 x 32 gray version, without those that are constant along a
side) finds candidates among millions; faces are so similar that it also finds other people's. The correlation of detail
finer than the face's coarse light and shade then separates copies from lookalikes.

Measured on 5,393 photographs of UTKFace (14.5 million pairs, each unchanged and mirrored): a hash distance of at most 7
leaves 151 pairs; a likeness of at least 0.9 in addition leaves 63. By inspection, all 63 are one photograph twice; the
most similar pair of two photographs has 0.87. Of 600 altered copies, it finds all as JPEG of quality 15, at half the
size, blurred, noisy or mirrored; 99 % brighter by 15 % or shifted by 1 % of the side; 81 % shifted by 2 %; 68 % zoomed
by 4 %. Larger shifts make another picture.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np

from tfdfd.data import NEAR
from tfdfd.data.crops import MAX_BYTES, crop_path
from tfdfd.data.tables import SPLITS, VIDEO, FaceRow, keys_of, name_of
from tfdfd.files import read_regular
from tfdfd.media import Limits
from tfdfd.media.formats import MAX_SCANS, picture_work
from tfdfd.text import plural
from tfdfd.threads import map_in_threads

FILE, PICTURE = "file", "picture"
_COMPARED = 1 << 15  # pairs whose details are compared at once: 32 MB in float32, twice
ALIKE = 0.9
SIDE = 32
DETAIL = 16  # frequencies along a side that are correlated,
COARSE = 3  # except the lowest, a face's light and shade
BANDS, BAND_BITS = 4, 16
MAX_DISTANCE = 15
_FLAT = 8.0  # norm of the detail below which a picture is flat
_EXPANDED = 1 << 20  # numbers in a block of `_expand`

_odd_hash = np.tile(np.arange(1, 9) % 2 == 1, (8, 1)).ravel()
# A mirrored picture has the same cosine coefficients with the odd horizontal ones negated.
MIRROR = np.packbits(_odd_hash).view(np.uint64)[0]
_fine = np.ones((DETAIL, DETAIL), bool)
_fine[:COARSE, :COARSE] = False
DETAILS = int(_fine.sum())
MIRROR_DETAIL = np.tile(np.where(np.arange(DETAIL) % 2, -1, 1), (DETAIL, 1))[_fine].astype(np.float16)
_ones_in = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


@dataclass(frozen=True)
class Leak:
    """A name, file or picture that is in several splits.

    Attributes:
        kind: `source`, `identity`, `video` (of rows without a source), `file` (the same bytes) or `picture` (a
            near-duplicate).
        name: name of the source, person or video; the SHA-256 of a file; the crop's file of a picture.
        dataset: data set that the name belongs to; None for files and pictures, which may be in several data sets.
        where: for each split, its name, the number of rows and the file of one of them.
        distance: distance of a picture's hashes, 0 to 64; else None.
        likeness: likeness of a picture, up to 1; else None.
        mirrored: whether one picture is the mirror image of the other.
    """

    kind: str
    name: str
    dataset: str | None
    where: tuple[tuple[str, int, str], ...]
    distance: int | None = None
    likeness: float | None = None
    mirrored: bool = False

    def __str__(self) -> str:
        where = "; ".join(f"{split} ({plural(count, 'row')}, {file})" for split, count, file in self.where)
        if self.kind == PICTURE:
            (one, _, file), (other, _, match) = self.where
            how = f"{'mirrored, ' * self.mirrored}distance {self.distance}, likeness {self.likeness:.2f}"
            return f"{self.kind} {file} of {one} is {match} of {other} ({how})"
        return f"{self.kind} {self.dataset + ' ' if self.dataset else ''}{self.name}: {where}"


@dataclass(frozen=True)
class Fingerprints:
    """Digests and perceptual hashes of the crops' files; see `fingerprint_files`.

    Attributes:
        digests: SHA-256 of each row's file; None where it could not be read.
        numbers: which rows have a fingerprint, int64 `(n,)`.
        hashes: hashes of these rows, uint64 `(n,)`.
        details: details of these rows, float16 `(n, 247)`.
        unread: names of files that could not be read or decoded, in the rows' order.
    """

    digests: list[str | None]
    numbers: np.ndarray
    hashes: np.ndarray
    details: np.ndarray
    unread: list[str]


def find_leaks(rows: Iterable, prints: Fingerprints | None = None, near: int = NEAR) -> list[Leak]:
    """All names, files and pictures in more than one split. Rows without a split are ignored.

    Args:
        rows: `IndexRow`s or `FaceRow`s.
        prints: `fingerprint_files` of the same rows; None: only names and the digests of the table are compared.
        near: largest number of 64 bits in which the hashes of near-duplicates differ.
    """
    rows = list(rows)
    leaks = list(_leaks_by_name(rows))
    digests = enumerate(_digests(rows, prints))
    leaks += _crossing(rows, ((number, (FILE, None, digest)) for number, digest in digests if digest))
    if prints:
        leaks += _leaks_by_picture(rows, prints, near)
    return leaks


def refuse_leaks(rows: Iterable, allow: bool = False) -> None:
    """Checks a table before training or evaluation; no file is read.

    Raises:
        ValueError: names or files are in several splits and `allow` is False.
    """
    leaks = [] if allow else find_leaks(rows)
    if leaks:
        listed = "; ".join(map(str, leaks[:3]))
        raise ValueError(
            f"{len(leaks):,} names or files are in several splits, so that scores would be misleading: {listed}"
            f"{'; …' if len(leaks) > 3 else ''}. Split with 'tfdfd split', list them with 'tfdfd check-leaks', or "
            "allow it."
        )


def fingerprint_files(rows: Iterable, folder: str | os.PathLike, threads: int | None = None) -> Fingerprints:
    """Reads each row's file below `folder`, several at a time; unreadable files are listed, not raised."""

    rows = list(rows)
    numbers, hashes, details, unread = [], [], [], []
    digests: list[str | None] = []
    prints = map_in_threads(lambda row: _fingerprint(row, folder), rows, threads or os.cpu_count(), ahead=64)
    for row, (digest, picture, problem) in zip(rows, prints, strict=True):
        if picture is not None:
            numbers.append(len(digests))
            hashes.append(picture[0])
            details.append(picture[1])
        if problem:
            unread.append(f"{name_of(row)}: {problem}")
        digests.append(digest)
    return Fingerprints(
        digests,
        np.array(numbers, np.int64),
        np.array(hashes, np.uint64),
        np.array(details, np.float16).reshape(-1, DETAILS),
        unread,
    )


def same_pictures(
    rows: Iterable, groups: Sequence, prints: Fingerprints | None = None, near: int = NEAR
) -> list[tuple[int, int]]:
    """Pairs of rows whose files have the same bytes or show the same picture, as `find_leaks` finds them.

    Args:
        rows, prints, near: see `find_leaks`.
        groups: the group of each row, `tfdfd.data.splits.groups`; two groups give one pair at most, and a group with
            itself none.

    Returns:
        Row numbers, the smaller one first, sorted.
    """
    first: dict[str, int] = {}
    pairs: dict[frozenset, tuple[int, int]] = {}

    def add(one: int, other: int) -> None:
        between = groups[one], groups[other]
        if between[0] != between[1]:
            pairs.setdefault(frozenset(between), (min(one, other), max(one, other)))

    for number, digest in enumerate(_digests(rows, prints)):
        if digest:
            add(first.setdefault(digest, number), number)
    for ones, others in _alike_between(prints, groups, near) if prints else ():
        for one, other in zip(prints.numbers[ones].tolist(), prints.numbers[others].tolist(), strict=True):  # type: ignore[union-attr]
            add(one, other)
    return sorted(pairs.values())


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
            for rows, places in _expand(begins[keys], begins[keys + 1]):
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


def _expand(begins: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every number in `range(begins[i], ends[i])`, with its i, in blocks of about `_EXPANDED`."""
    counts = ends - begins
    rows = np.flatnonzero(counts)
    upto = np.cumsum(counts[rows])
    if not rows.size:
        return
    cuts = np.searchsorted(upto, np.arange(_EXPANDED, upto[-1], _EXPANDED), side="left") + 1
    for some in np.split(rows, np.unique(cuts)):
        if some.size:
            lengths = counts[some]
            repeated = np.repeat(some, lengths)
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield repeated, begins[repeated] + within


def _digests(rows: Iterable, prints: Fingerprints | None) -> Sequence[str | None]:
    return prints.digests if prints else [getattr(row, "sha256", None) for row in rows]


def _alike_between(prints: Fingerprints, groups: Any, near: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the same pictures in two groups, in blocks.

    Frames of one video often have the same hash; only one of these is searched for in the other groups.
    """

    hashes, details = prints.hashes, prints.details
    ids: dict[Any, int] = {}
    belongs = np.array([ids.setdefault(groups[number], len(ids)) for number in prints.numbers], np.int64)
    order = np.lexsort((hashes, belongs))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(belongs[order]) != 0) | (np.diff(hashes[order]) != 0)
    begins = np.flatnonzero(new)
    ends = np.append(begins[1:], len(order))
    some = order[begins]
    for turned in (False, True):
        flip, turn = (MIRROR, MIRROR_DETAIL) if turned else (np.uint64(0), np.float16(1))
        for ones, others, _ in near_pairs(hashes[some] ^ flip, hashes[some], near):
            apart = (belongs[some[ones]] != belongs[some[others]]) & (ones < others)
            ones, others = ones[apart], others[apart]
            for pairs, left in _expand(begins[ones], ends[ones]):
                for lefts, right in _expand(begins[others[pairs]], ends[others[pairs]]):
                    for start in range(0, len(right), _COMPARED):
                        here = order[left[lefts[start : start + _COMPARED]]]
                        there = order[right[start : start + _COMPARED]]
                        alike = likeness(details[here] * turn, details[there]) >= ALIKE
                        yield here[alike], there[alike]


def _fingerprint(row: Any, folder: str | os.PathLike) -> tuple[str | None, Any, str | None]:
    """`(digest, fingerprint, reason why there is none)`; a flat picture has neither fingerprint nor reason."""

    try:
        path = os.path.join(folder, name_of(row))
        data = read_regular(crop_path(folder, row.file) if isinstance(row, FaceRow) else path, MAX_BYTES)
    except OSError as error:
        return None, None, error.strerror
    digest = hashlib.sha256(data).hexdigest()
    pixels, scans, _ = picture_work(data) or (0, 0, 0)
    if pixels > Limits().max_pixels or scans > MAX_SCANS:
        return digest, None, f"{pixels:,} pixels in {scans} scans, which are too many to decode"
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    except cv2.error:
        image = None
    if image is None:
        return digest, None, "no picture that can be decoded"
    return digest, fingerprint(image), None


def _leaks_by_name(rows: Sequence[Any]) -> Iterator[Leak]:
    def keys() -> Iterator[tuple[int, tuple[str, str, str]]]:
        for number, row in enumerate(rows):
            for dataset, kind, name in keys_of(row):
                if kind != VIDEO or not row.source_id:  # a video with sources is covered by them
                    yield number, (kind, dataset, name)

    return _crossing(rows, keys())


def _crossing(rows: Sequence[Any], keyed: Iterable[tuple[int, tuple[str, str | None, str]]]) -> Iterator[Leak]:
    """A leak for each `(kind, data set, name)` whose rows are in several splits, by kind and name."""
    by_key: dict[Any, dict] = defaultdict(dict)
    for number, key in keyed:
        split = rows[number].split
        if split is not None:
            count, file = by_key[key].get(split, (0, number))
            by_key[key][split] = count + 1, file
    for kind, dataset, name in sorted(
        (key for key, of_key in by_key.items() if len(of_key) > 1), key=lambda key: tuple(part or "" for part in key)
    ):
        of_key = by_key[kind, dataset, name]
        where = tuple((split, of_key[split][0], name_of(rows[of_key[split][1]])) for split in SPLITS if split in of_key)
        yield Leak(kind, name, dataset, where)


def _leaks_by_picture(rows: Sequence[Any], prints: Fingerprints, near: int) -> list[Leak]:
    """For each picture of a later split, its nearest in each earlier one, if that is the same picture."""

    splits = np.array([rows[number].split or "" for number in prints.numbers])
    leaks = []
    for earlier, later in combinations(SPLITS, 2):
        left, right = np.flatnonzero(splits == earlier), np.flatnonzero(splits == later)
        match, apart, alike, mirrored = _best_matches(prints, left, right, near)
        for index in np.flatnonzero(match >= 0):
            one, other = prints.numbers[left[match[index]]], prints.numbers[right[index]]
            if prints.digests[one] == prints.digests[other]:
                continue  # reported as a file
            name = name_of(rows[other])
            where = ((later, 1, name), (earlier, 1, name_of(rows[one])))
            details = int(apart[index]), round(float(alike[index]), 4), bool(mirrored[index])
            leaks.append(Leak(PICTURE, name, None, where, *details))
    return leaks


def _best_matches(prints: Fingerprints, left: np.ndarray, right: np.ndarray, near: int) -> tuple[np.ndarray, ...]:
    """The most similar left picture of each right one (-1: none), its distance, likeness and whether it is mirrored."""

    match, apart = np.full(len(right), -1), np.zeros(len(right), np.uint8)
    alike, mirrored = np.full(len(right), ALIKE, np.float32), np.zeros(len(right), bool)
    for turned in (False, True):
        flip, turn = (MIRROR, MIRROR_DETAIL) if turned else (np.uint64(0), np.float16(1))
        for pairs in near_pairs(prints.hashes[left] ^ flip, prints.hashes[right], near):
            for start in range(0, len(pairs[0]), _COMPARED):
                ones, others, distance = (part[start : start + _COMPARED] for part in pairs)
                likes = likeness(prints.details[left[ones]] * turn, prints.details[right[others]])
                # In ascending order, so that the best of several matches of one picture is written last.
                order = np.argsort(likes, kind="stable")
                order = order[likes[order] >= alike[others[order]]]
                better = others[order]
                match[better], apart[better] = ones[order], distance[order]
                alike[better], mirrored[better] = likes[order], turned
    return match, apart, alike, mirrored
