"""Leaks between splits: sources, people, files and pictures that training and evaluation would share."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from tfdfd.data.tables import SPLITS, VIDEO, keys_of, name_of

if TYPE_CHECKING:
    import numpy as np

NEAR = 7
FILE, PICTURE = "file", "picture"
_BLOCK = 1 << 15  # pairs whose details are compared at once: 32 MB in float32, twice


@dataclass(frozen=True)
class Leak:
    """A name, file or picture that is in several splits.

    Attributes:
        kind: `source`, `identity`, `video` (of rows without a source), `file` (the same bytes) or `picture` (a
            near-duplicate).
        name: of the source, person or video; the SHA-256 of a file; the crop's file of a picture.
        dataset: that the name belongs to; None for files and pictures, which may be in several data sets.
        where: for each split, its name, the number of rows and the file of one of them.
        distance: of a picture's hashes, 0 to 64; else None.
        likeness: of a picture, up to 1; else None.
        mirrored: whether one picture is the mirror image of the other.
    """

    kind: str
    name: str
    dataset: str | None
    where: tuple[tuple[str, int, str], ...]
    distance: int | None = None
    likeness: float | None = None
    mirrored: bool = False

    def __str__(self):
        where = "; ".join(f"{split} ({count:,} row{'s' * (count != 1)}, {file})" for split, count, file in self.where)
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
        hashes: of these rows, uint64 `(n,)`.
        details: of these rows, float16 `(n, 247)`.
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
    import numpy as np

    from tfdfd.data.perceptual_hash import DETAILS

    rows = list(rows)
    digests, numbers, hashes, details, unread = [], [], [], [], []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for start in range(0, len(rows), 1024):  # or a million results would wait in memory
            some = rows[start : start + 1024]
            for row, (digest, picture, problem) in zip(
                some, pool.map(lambda row: _fingerprint(row, folder), some), strict=True
            ):
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
    first, pairs = {}, {}

    def add(one, other):
        between = groups[one], groups[other]
        if between[0] != between[1]:
            pairs.setdefault(frozenset(between), (min(one, other), max(one, other)))

    for number, digest in enumerate(_digests(rows, prints)):
        if digest:
            add(first.setdefault(digest, number), number)
    for ones, others in _alike_between(prints, groups, near) if prints else ():
        for one, other in zip(prints.numbers[ones].tolist(), prints.numbers[others].tolist(), strict=True):
            add(one, other)
    return sorted(pairs.values())


def _digests(rows, prints):
    return prints.digests if prints else [getattr(row, "sha256", None) for row in rows]


def _alike_between(prints, groups, near):
    """Positions of the same pictures in two groups, in blocks.

    Frames of one video often have the same hash; only one of these is searched for in the other groups.
    """
    import numpy as np

    from tfdfd.data.perceptual_hash import ALIKE, MIRROR, MIRROR_DETAIL, expanded, likeness, near_pairs

    hashes, details, ids = prints.hashes, prints.details, {}
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
            for pairs, left in expanded(begins[ones], ends[ones]):
                for lefts, right in expanded(begins[others[pairs]], ends[others[pairs]]):
                    for start in range(0, len(right), _BLOCK):
                        here = order[left[lefts[start : start + _BLOCK]]]
                        there = order[right[start : start + _BLOCK]]
                        alike = likeness(details[here] * turn, details[there]) >= ALIKE
                        yield here[alike], there[alike]


def _fingerprint(row, folder):
    """`(digest, fingerprint, reason why there is none)`; a flat picture has neither fingerprint nor reason."""
    import cv2
    import numpy as np

    from tfdfd.data.perceptual_hash import fingerprint

    try:
        with open(os.path.join(folder, name_of(row)), "rb") as file:
            data = file.read()
    except OSError as error:
        return None, None, error.strerror
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    except cv2.error:
        image = None
    if image is None:
        return digest, None, "no picture that can be decoded"
    return digest, fingerprint(image), None


def _leaks_by_name(rows) -> Iterator[Leak]:
    def keys():
        for number, row in enumerate(rows):
            for dataset, kind, name in keys_of(row):
                if kind != VIDEO or not row.source_id:  # a video with sources is covered by them
                    yield number, (kind, dataset, name)

    return _crossing(rows, keys())


def _crossing(rows, keyed) -> Iterator[Leak]:
    """A leak for each `(kind, data set, name)` whose rows are in several splits, by kind and name."""
    by_key = defaultdict(dict)
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


def _leaks_by_picture(rows, prints, near) -> list[Leak]:
    """For each picture of a later split, its nearest in each earlier one, if that is the same picture."""
    import numpy as np

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


def _best_matches(prints, left, right, near):
    """The most similar left picture of each right one (-1: none), its distance, likeness and whether it is mirrored."""
    import numpy as np

    from tfdfd.data.perceptual_hash import ALIKE, MIRROR, MIRROR_DETAIL, likeness, near_pairs

    match, apart = np.full(len(right), -1), np.zeros(len(right), np.uint8)
    alike, mirrored = np.full(len(right), ALIKE, np.float32), np.zeros(len(right), bool)
    for turned in (False, True):
        flip, turn = (MIRROR, MIRROR_DETAIL) if turned else (np.uint64(0), np.float16(1))
        for pairs in near_pairs(prints.hashes[left] ^ flip, prints.hashes[right], near):
            for start in range(0, len(pairs[0]), _BLOCK):
                ones, others, distance = (part[start : start + _BLOCK] for part in pairs)
                likes = likeness(prints.details[left[ones]] * turn, prints.details[right[others]])
                # In ascending order, so that the best of several matches of one picture is written last.
                order = np.argsort(likes, kind="stable")
                order = order[likes[order] >= alike[others[order]]]
                better = others[order]
                match[better], apart[better] = ones[order], distance[order]
                alike[better], mirrored[better] = likes[order], turned
    return match, apart, alike, mirrored
