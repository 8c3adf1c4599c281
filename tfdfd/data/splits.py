"""Training, validation and test splits without shared sources or people.

Rows that share a source or a person belong to one group, and so do rows connected through others (a fake made from two
originals connects these two). A group goes to one split as a whole. Names are unique within their data set only: `001`
of one set and `001` of another are two videos. The same rows and seed give the same splits in whatever order they come.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tfdfd.data.tables import FAKE, IDENTITY, REAL, SOURCE, SPLITS, VIDEO, Key, keys_of, name_of, video_of
from tfdfd.text import plural

BY = (SOURCE, IDENTITY)
FOLDER = "folder"  # the data set of a user's own files
TOLERATED = 0.05  # deviation of a share that is not reported


@dataclass(frozen=True)
class Preset:
    """The splits of a data set or a source document.

    Attributes:
        about: one-line description.
        shares: shares of the rows whose own split is not kept; None: every row must have one that is kept.
        by: kinds of names that keep rows together, of `BY`.
        keeps: official splits that stay as they are.
        of: other presets, by data set.
    """

    about: str
    shares: Mapping[str, float] | None = None
    by: tuple[str, ...] = BY
    keeps: tuple[str, ...] = ()
    of: Mapping[str, Preset] = field(default_factory=dict)


def _shares(train: float, val: float, test: float) -> dict[str, float]:
    return dict(zip(SPLITS, (train, val, test), strict=True))


SHARES = _shares(0.7, 0.2, 0.1)
PRESETS = {
    "s0": Preset("own test set; 10 % of the rest is validation", _shares(0.9, 0.1, 0.0), keeps=("test",)),
    "s1": Preset("70/20/10", SHARES),
    "s2": Preset(
        "official split where there is one, else 72/14/14; DFDC anew, 80/10/10; fakes with their originals",
        _shares(0.72, 0.14, 0.14),
        by=(SOURCE,),
        keeps=SPLITS,
        # The official split calls everything with metadata.json training.
        of={"dfdc": Preset("80/10/10", _shares(0.8, 0.1, 0.1), by=(SOURCE,))},
    ),
    "s3": Preset("70/15/15", _shares(0.7, 0.15, 0.15)),
    # Its section IV; the share of validation outside the test set is that of its section V.
    "s3-75-25": Preset("75/25, of which 15 of the 75 are validation", _shares(0.6, 0.15, 0.25)),
    "s4": Preset(
        "official test list; 15 % of the rest is validation, fakes with their originals",
        _shares(0.85, 0.15, 0.0),
        by=(SOURCE,),
        keeps=("test",),
    ),
    "official": Preset("as the data set splits itself", keeps=SPLITS),
}


def split(
    rows: Iterable,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    by: tuple[str, ...] = BY,
    joined: Iterable[tuple[int, int]] = (),
) -> list:
    """Assigns each row a split; returns the rows in their order.

    Each method's rows are spread over the splits as evenly as whole groups allow. No split exceeds its share by more
    rows than the largest group has.

    Args:
        rows: `IndexRow`s or `FaceRow`s.
        shares: shares of the rows in each split, from 0 to 1 and 1 together.
        seed: another one gives other splits.
        by: kinds of names that keep rows together, of `BY`; rows of one video, and a fake and its known original, stay
            together in any case.
        joined: further pairs of row numbers that stay together, see `tfdfd.data.leaks.same_pictures`.

    Raises:
        ValueError: impossible shares, no rows, or fewer groups than splits.
    """
    rows = list(rows)
    wanted = _wanted(shares)
    if not rows:
        raise ValueError("no rows to split; expected at least one for each split.")
    joined = list(joined)
    names = groups(rows, by, joined)
    if len(set(names)) < len(wanted):
        raise ValueError(
            f"{len(wanted)} splits are wanted, but the rows form {plural(len(set(names)), 'group')} only: "
            f"{_largest(rows, names, by, joined)} {_remedy(rows, by)}"
        )
    strata: dict[Any, Counter] = defaultdict(Counter)
    for row, name in zip(rows, names, strict=True):
        strata[name][row.dataset, row.method, row.label] += 1
    chosen = _assigned(strata, wanted, seed)
    return [replace(row, split=chosen[name]) for row, name in zip(rows, names, strict=True)]


def split_as(
    rows: Iterable,
    preset: str,
    seed: int = 0,
    by: tuple[str, ...] | None = None,
    joined: Iterable[tuple[int, int]] = (),
) -> list:
    """Assigns splits by one of `PRESETS`; `by` overrides the kinds of names that the preset keeps together.

    Official splits that the preset keeps stay, even if they share people or pictures, and a data set with a preset of
    its own is split separately: see `tfdfd.data.leaks`.

    Raises:
        ValueError: unknown preset, rows without the official split that it needs, or as `split`.
    """
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; expected one of {', '.join(PRESETS)}.")
    rows, rule = list(rows), PRESETS[preset]
    parts = defaultdict(list)
    for number, row in enumerate(rows):
        parts[row.dataset if row.dataset in rule.of else None].append(number)
    done: dict[int, Any] = {}
    joined = list(joined)
    for dataset, numbers in parts.items():
        some, pairs = [rows[number] for number in numbers], _within(joined, numbers)
        done |= zip(numbers, _split_by_rule(some, rule.of.get(dataset, rule), preset, seed, by, pairs), strict=True)  # type: ignore[arg-type]
    return [done[number] for number in range(len(rows))]


def _within(joined: Iterable[tuple[int, int]], numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs whose rows are both among `numbers`, as positions in it."""
    position = {number: n for n, number in enumerate(numbers)}
    return [(position[one], position[other]) for one, other in joined if one in position and other in position]


def _split_by_rule(
    rows: Sequence[Any],
    rule: Preset,
    preset: str,
    seed: int,
    by: tuple[str, ...] | None,
    joined: Iterable[tuple[int, int]],
) -> Sequence:
    numbers = [number for number, row in enumerate(rows) if row.split not in rule.keeps]
    free = [rows[number] for number in numbers]
    if rule.shares is None and free:
        raise ValueError(
            f"{len(free):,} of {len(rows):,} rows have no split of their own, such as {name_of(free[0])}; preset "
            f"{preset} needs one for each. Give shares (--train, --val, --test) or another preset."
        )
    if len(free) == len(rows) and set(rule.keeps) - set(_wanted(rule.shares)):  # type: ignore[arg-type]
        raise ValueError(
            f"no row has the split {' or '.join(rule.keeps)} of its own, which preset {preset} keeps. Make the index "
            "with the data set's list, or use another preset."
        )
    if not free:
        return rows
    done = iter(split(free, rule.shares, seed, rule.by if by is None else by, _within(joined, numbers)))  # type: ignore[arg-type]
    return [row if row.split in rule.keeps else next(done) for row in rows]


def balance_classes(rows: Iterable, seed: int = 0) -> tuple[list, list]:
    """Drops rows until each split has as many real as fake ones: `(kept, dropped)`, both in the rows' order.

    Of the larger class, rows are kept in turns from its methods, and within a method in turns from its videos.

    Raises:
        ValueError: a split has rows of one class only.
    """
    rows = list(rows)
    dropped = set()
    for name in dict.fromkeys(row.split for row in rows):
        classes = {
            label: [n for n, r in enumerate(rows) if r.split == name and r.label == label] for label in (REAL, FAKE)
        }
        smaller, larger = sorted(classes.values(), key=len)
        if not smaller:
            raise ValueError(
                f"split {name} has {len(classes[REAL]):,} real and {len(classes[FAKE]):,} fake rows; balancing would "
                "leave none. Add rows of the other class or split without balancing."
            )
        dropped.update(_in_turns(rows, larger, seed)[len(smaller) :])
    kept = [row for n, row in enumerate(rows) if n not in dropped]
    return kept, [row for n, row in enumerate(rows) if n in dropped]


def groups(rows: Iterable, by: tuple[str, ...] = BY, joined: Iterable[tuple[int, int]] = ()) -> list[Key]:
    """The name of each row's group: the alphabetically first of all keys in it.

    Raises:
        ValueError: `by` is not of `BY`.
    """
    if not by or set(by) - set(BY):
        raise ValueError(f"rows can be kept together by {', '.join(BY)}; received {by!r}.")
    leader: dict[Any, Any] = {}

    def first(key: Any) -> Any:
        while leader[key] != key:
            leader[key] = key = leader[leader[key]]
        return key

    def join(key: Any, another: Any) -> None:
        one, other = sorted((first(key), first(another)))
        leader[other] = one

    kept = {VIDEO, *by}
    ends = []
    for row in rows:
        keys = [key for key in keys_of(row) if key[1] in kept]
        for key in keys:
            leader.setdefault(key, key)
        for key in keys[1:]:
            join(keys[0], key)
        ends.append(keys[0])
    for number, another in joined:
        join(ends[number], ends[another])
    return [first(key) for key in ends]


def deviations(
    rows: Iterable,
    shares: Mapping[str, float],
    by: tuple[str, ...] = BY,
    joined: Iterable[tuple[int, int]] = (),
) -> list[str]:
    """A message for each split whose share of the rows is more than `TOLERATED` off, and its reason."""
    rows, joined = list(rows), list(joined)
    sizes = Counter(row.split for row in rows)
    messages = [
        f"{name} has {sizes[name] / len(rows):.1%} of the rows instead of {share:.1%}"
        for name, share in shares.items()
        if abs(sizes[name] / len(rows) - share) > TOLERATED
    ]
    if messages:
        messages.append(f"{_largest(rows, groups(rows, by, joined), by, joined)} {_remedy(rows, by)}")
    return messages


def _wanted(shares: Mapping[str, float]) -> dict[str, float]:
    unknown = [name for name in shares if name not in SPLITS]
    if unknown or any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        listed = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"shares are {listed}; expected {', '.join(SPLITS)}, each from 0 to 1 and together 1.")
    return {name: shares[name] for name in SPLITS if shares.get(name, 0) > 0}


def _assigned(strata: Mapping[Any, Counter], shares: Mapping[str, float], seed: int) -> dict[Any, str]:
    """Group -> split: large groups first, each to the split with room for it that most lacks its methods."""
    sizes = {name: counts.total() for name, counts in strata.items()}
    total: Counter = Counter()
    for counts in strata.values():
        total.update(counts)
    everything = total.total()
    have: dict[str, Counter] = {name: Counter() for name in shares}
    filled = dict.fromkeys(shares, 0)

    def cost(name: str, counts: Counter) -> float:
        """Growth of chi-square between the rows of the split and its share of each method."""
        share, held = shares[name], have[name]
        size = counts.total()
        grown = (2 * (filled[name] - share * everything) + size) * size / (share * everything)
        for key, count in counts.items():
            due = share * total[key]
            grown += (2 * (held[key] - due) + count) * count / due
        return grown

    order = sorted(strata, key=lambda name: (-sizes[name], _drawn(seed, name)))
    chosen = {}
    for position, group in enumerate(order):
        room = {name: shares[name] * everything - filled[name] for name in shares}
        empty = [name for name in shares if not filled[name]]
        if len(empty) >= len(order) - position:
            options = empty  # the last groups: no split may be left without rows
        else:
            options = [name for name in shares if room[name] >= sizes[group] - 1e-9] or [max(room, key=room.get)]  # type: ignore[arg-type]
        best = min(options, key=lambda name: cost(name, strata[group]))
        chosen[group] = best
        have[best].update(strata[group])
        filled[best] += sizes[group]
    return chosen


def _in_turns(rows: Sequence[Any], numbers: Sequence[int], seed: int) -> list[int]:
    """Row numbers in the order in which they are kept: methods in turns, in each its videos in turns."""

    def ranked(parts: Mapping[Any, Sequence[int]]) -> list[tuple[int, int]]:
        """Numbers, each with its rank within its part."""
        return [(rank, number) for part in parts.values() for rank, number in enumerate(part)]

    draws = {n: _drawn(seed, (rows[n].dataset, name_of(rows[n]))) for n in numbers}
    videos = defaultdict(list)
    for n in sorted(numbers, key=draws.get):  # type: ignore[arg-type]
        videos[rows[n].dataset, rows[n].method, video_of(rows[n])].append(n)
    methods = defaultdict(list)
    for _, n in sorted(ranked(videos), key=lambda pair: (pair[0], draws[pair[1]])):
        methods[rows[n].dataset, rows[n].method].append(n)
    return [n for _, n in sorted(ranked(methods), key=lambda pair: (pair[0], draws[pair[1]]))]


def _drawn(seed: int, name: object) -> bytes:
    """A random number that depends on nothing but the seed and the name."""
    return hashlib.blake2b(repr((seed, name)).encode(), digest_size=8).digest()


def _largest(rows: Sequence[Any], names: Sequence[Any], by: tuple[str, ...], joined: Iterable[tuple[int, int]]) -> str:
    name, size = Counter(names).most_common(1)[0]
    members = [row for row, group in zip(rows, names, strict=True) if group == name]
    ties = {key for row in members for key in keys_of(row)}
    ties = {key for key in ties if key[1] in by} or ties
    shown = [key[2] for key in sorted(ties)[:5]] + ["…"] * (len(ties) > 5)
    pictures = sum(names[number] == name for number, _ in joined)
    besides = f" and {plural(pictures, 'pair')} of pictures that are the same" if pictures else ""
    return (
        f"the largest group, {plural(len({(r.dataset, video_of(r)) for r in members}), 'video')} of {name[0]} with "
        f"{size / len(rows):.0%} of the rows, is connected by {plural(len(ties), 'name')} ({', '.join(shown)})"
        f"{besides}."
    )


def _remedy(rows: Sequence[Any], by: tuple[str, ...]) -> str:
    if any(row.dataset == FOLDER for row in rows):
        return (
            "In a data set of your own, sources are derived from file names: if they are wrong, index it with "
            "--source-pattern, a regular expression whose groups are the sources ('tfdfd index folder --help'), or "
            "want fewer splits."
        )
    if IDENTITY not in by:
        return "Want fewer splits, or use the data set's own (--preset official)."
    return (
        "Use the data set's own split (--preset official), leave out the rows that connect, or split by video (--by "
        "source: a fake stays with its original; people may be in several splits, and check-leaks reports them)."
    )
