"""Train, validation and test sets in which nobody meets again: rows of a table in, the same rows with `split` set out.

Rows that share a source or a person belong to one group, and so do rows connected over others (a fake made from two
originals connects these two). A group goes to one split as a whole. Names count within their data set only: `001` of
one set and `001` of another are two videos. The same rows and seed give the same splits in whatever order they come.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tfdfd.data.tables import FAKE, REAL, SPLITS

SOURCE, IDENTITY, VIDEO = "source", "identity", "video"
BY = (SOURCE, IDENTITY)
FOLDER = "folder"  # the data set of anybody's files
_COMPRESSIONS = {"raw", "c0", "c23", "c40"}
TOLERATED = 0.05  # deviation of a share that is not worth a word


@dataclass(frozen=True)
class Preset:
    """How a data set or a source document splits.

    Attributes:
        about: one line for people.
        shares: of what has no split of its own that is kept; None: everything must have one.
        by: what a group shares, of `BY`.
        keeps: splits of the data set's own that stay as they are.
        of: other presets for the data sets named.
    """

    about: str
    shares: Mapping[str, float] | None = None
    by: tuple[str, ...] = BY
    keeps: tuple[str, ...] = ()
    of: Mapping[str, Preset] = field(default_factory=dict)


def _shares(train, val, test):
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
        # Its own split calls all that has metadata.json training.
        of={"dfdc": Preset("80/10/10", _shares(0.8, 0.1, 0.1), by=(SOURCE,))},
    ),
    "s3": Preset("70/15/15", _shares(0.7, 0.15, 0.15)),
    # Its section IV; of what is no test, as much is validation as in its section V.
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
    """The rows in their order, each with its split.

    Each method's rows are spread over the splits as evenly as whole groups allow. No split exceeds its share by more
    rows than the largest group has.

    Args:
        rows: `IndexRow`s or `FaceRow`s.
        shares: of each split, from 0 to 1 and 1 together. Shares are of rows.
        seed: another one gives other splits.
        by: what keeps rows together, of `BY`; rows of one video, and a fake and its original where the table tells
            it, stay together whatever it is.
        joined: pairs of row numbers that stay together besides, see `tfdfd.data.leaks.same_pictures`.

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
            f"{len(wanted)} splits are wanted, but the rows form {_count(len(set(names)), 'group')} only: "
            f"{_largest(rows, names, by, joined)} {_remedy(rows, by)}"
        )
    strata = defaultdict(Counter)
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
    """The rows in their order, split by one of `PRESETS`; `by` overrides what the preset keeps together.

    What a data set put into its own splits stays there, even where its people or pictures meet again, and a data set
    that the preset splits by a rule of its own is split for itself: see `tfdfd.data.leaks`.

    Raises:
        ValueError: unknown preset, rows without the split of their own that it needs, or as `split`.
    """
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; expected one of {', '.join(PRESETS)}.")
    rows, rule = list(rows), PRESETS[preset]
    parts = defaultdict(list)
    for number, row in enumerate(rows):
        parts[row.dataset if row.dataset in rule.of else None].append(number)
    answer = {}
    joined = list(joined)
    for dataset, numbers in parts.items():
        some, pairs = [rows[number] for number in numbers], _within(joined, numbers)
        answer |= zip(numbers, _split_by_rule(some, rule.of.get(dataset, rule), preset, seed, by, pairs), strict=True)
    return [answer[number] for number in range(len(rows))]


def _within(joined, numbers):
    """The pairs whose rows are both among `numbers`, by their places there."""
    place = {number: n for n, number in enumerate(numbers)}
    return [(place[one], place[other]) for one, other in joined if one in place and other in place]


def _split_by_rule(rows, rule, preset, seed, by, joined):
    numbers = [number for number, row in enumerate(rows) if row.split not in rule.keeps]
    free = [rows[number] for number in numbers]
    if rule.shares is None and free:
        raise ValueError(
            f"{len(free):,} of {len(rows):,} rows have no split of their own, such as {name_of(free[0])}; preset "
            f"{preset} needs one for each. Give shares (--train, --val, --test) or another preset."
        )
    if len(free) == len(rows) and set(rule.keeps) - set(_wanted(rule.shares)):
        raise ValueError(
            f"no row has the split {' or '.join(rule.keeps)} of its own, which preset {preset} keeps. Make the index "
            "with the data set's list, or use another preset."
        )
    if not free:
        return rows
    done = iter(split(free, rule.shares, seed, rule.by if by is None else by, _within(joined, numbers)))
    return [row if row.split in rule.keeps else next(done) for row in rows]


def balanced(rows: Iterable, seed: int = 0) -> tuple[list, list]:
    """As many real as fake rows in each split: `(kept, dropped)`, both in the rows' order.

    Of the larger class, rows are taken in turns from its methods, and within a method in turns from its videos.

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


def groups(
    rows: Iterable, by: tuple[str, ...] = BY, joined: Iterable[tuple[int, int]] = ()
) -> list[tuple[str, str, str]]:
    """For each row the name of its group: the first of all names in it, in the order of the alphabet.

    Raises:
        ValueError: `by` is none of `BY`.
    """
    if not by or set(by) - set(BY):
        raise ValueError(f"rows can be kept together by {', '.join(BY)}; received {by!r}.")
    leader = {}

    def first(key):
        while leader[key] != key:
            leader[key] = key = leader[leader[key]]
        return key

    def join(key, another):
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


def keys_of(row) -> list[tuple[str, str, str]]:
    """All that ties a row to others: `(data set, kind of name, name)`, of kinds `SOURCE`, `IDENTITY` and `VIDEO`."""
    keys = [(row.dataset, VIDEO, _recording(row, video_of(row)))]
    keys += [(row.dataset, SOURCE, name) for name in row.source_id]
    keys += [(row.dataset, IDENTITY, name) for name in row.identity]
    if getattr(row, "original", None):
        keys.append((row.dataset, VIDEO, _recording(row, row.original)))
    return keys


def _recording(row, path):
    """The path without its folder of compression: FaceForensics++ has each video up to three times."""
    if row.compression is None:
        return path
    return "/".join(part for part in path.split("/") if part not in _COMPRESSIONS)


def video_of(row) -> str:
    """The video or image in the index that a row of either table belongs to."""
    return row.video if hasattr(row, "video") else row.path


def name_of(row) -> str:
    """What a row of either table is called: the crop's file, or the video's path."""
    return row.file if hasattr(row, "file") else row.path


def deviations(
    rows: Iterable,
    shares: Mapping[str, float],
    by: tuple[str, ...] = BY,
    joined: Iterable[tuple[int, int]] = (),
) -> list[str]:
    """A sentence for each split whose share of the rows is more than `TOLERATED` off, and what forces it."""
    rows, joined = list(rows), list(joined)
    sizes = Counter(row.split for row in rows)
    told = [
        f"{name} has {sizes[name] / len(rows):.1%} of the rows instead of {share:.1%}"
        for name, share in shares.items()
        if abs(sizes[name] / len(rows) - share) > TOLERATED
    ]
    return told + [f"{_largest(rows, groups(rows, by, joined), by, joined)} {_remedy(rows, by)}"] if told else []


def _wanted(shares):
    unknown = [name for name in shares if name not in SPLITS]
    if unknown or any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"shares are {told}; expected {', '.join(SPLITS)}, each from 0 to 1 and together 1.")
    return {name: shares[name] for name in SPLITS if shares.get(name, 0) > 0}


def _assigned(strata, shares, seed):
    """Group -> split: large groups first, each where its methods are most wanted among the splits with room for it."""
    sizes = {name: counts.total() for name, counts in strata.items()}
    total = Counter()
    for counts in strata.values():
        total.update(counts)
    everything = total.total()
    have = {name: Counter() for name in shares}
    filled = dict.fromkeys(shares, 0)

    def cost(name, counts):
        """By how much chi-square grows between the rows that the split has and its share of each method."""
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
            options = empty  # the last groups: none may be left without rows
        else:
            options = [name for name in shares if room[name] >= sizes[group] - 1e-9] or [max(room, key=room.get)]
        best = min(options, key=lambda name: cost(name, strata[group]))
        chosen[group] = best
        have[best].update(strata[group])
        filled[best] += sizes[group]
    return chosen


def _in_turns(rows, numbers, seed):
    """Row numbers in the order in which they are taken: methods in turns, in each its videos in turns."""

    def ranked(parts):
        """Numbers, each with its place in the part of the whole that it belongs to."""
        return [(place, number) for part in parts.values() for place, number in enumerate(part)]

    draws = {n: _drawn(seed, (rows[n].dataset, name_of(rows[n]))) for n in numbers}
    videos = defaultdict(list)
    for n in sorted(numbers, key=draws.get):
        videos[rows[n].dataset, rows[n].method, video_of(rows[n])].append(n)
    methods = defaultdict(list)
    for _, n in sorted(ranked(videos), key=lambda pair: (pair[0], draws[pair[1]])):
        methods[rows[n].dataset, rows[n].method].append(n)
    return [n for _, n in sorted(ranked(methods), key=lambda pair: (pair[0], draws[pair[1]]))]


def _drawn(seed, name):
    """A random number that depends on nothing but the seed and the name."""
    return hashlib.blake2b(repr((seed, name)).encode(), digest_size=8).digest()


def _largest(rows, names, by, joined):
    name, size = Counter(names).most_common(1)[0]
    members = [row for row, group in zip(rows, names, strict=True) if group == name]
    ties = {key for row in members for key in keys_of(row)}
    ties = {key for key in ties if key[1] in by} or ties
    shown = [key[2] for key in sorted(ties)[:5]] + ["…"] * (len(ties) > 5)
    pictures = sum(names[number] == name for number, _ in joined)
    besides = f" and {_count(pictures, 'pair')} of pictures that are the same" if pictures else ""
    return (
        f"the largest group, {_count(len({(r.dataset, video_of(r)) for r in members}), 'video')} of {name[0]} with "
        f"{size / len(rows):.0%} of the rows, is connected by {_count(len(ties), 'name')} ({', '.join(shown)})"
        f"{besides}."
    )


def _remedy(rows, by):
    if any(row.dataset == FOLDER for row in rows):
        return (
            "In a data set of your own, sources are told by file names: if they are others, index it with "
            "--source-pattern, a regular expression whose groups are the sources ('tfdfd index folder --help'), or "
            "want fewer splits."
        )
    if IDENTITY not in by:
        return "Want fewer splits, or use the data set's own (--preset official)."
    return (
        "Use the data set's own split (--preset official), leave out the rows that connect, or split by video (--by "
        "source: a fake stays with its original; people meet again, and check-leaks says so)."
    )


def _count(number, thing):
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
