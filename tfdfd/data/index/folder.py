"""Any folder whose names tell real from fake, at any depth: `real/` and `fake/`, `0_real/`, `training_fake/`, …

The words decide, wherever in the path; a number is the name of a video. Frames in one folder are of one source.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tfdfd.data.index.found import Found, as_name, status_of, wrong_layout
from tfdfd.data.index.tree import File, walk
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, IndexRow
from tfdfd.near_matches import near_matches

METHOD = "fake"
LABELS = {
    **dict.fromkeys(("real", "reals", "original", "originals", "genuine", "pristine"), REAL),
    **dict.fromkeys(("fake", "fakes", "deepfake", "deepfakes", "manipulated", "synthesis"), FAKE),
}
NAMES = {REAL: "real", FAKE: "fake"}
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_MAP = "--label NAME=real or --label NAME=fake says what a folder is"
BOTH = f"files in folders that say both real and fake ({_MAP})"
NEITHER = f"files in no folder that says real or fake ({_MAP})"
PATTERN = "--source-pattern"

# Folders that say how files are kept, not what they show.
_CONTAINERS = frozenset(
    ("images", "image", "imgs", "img", "faces", "face", "frames", "frame", "crops", "crop", "photos", "pictures")
    + ("pics", "videos", "video", "clips", "data", "samples", "png", "jpg", "jpeg", "raw", "c0", "c23", "c40")
)
# Stems that tell nothing once the numbers are gone: the folder tells what they were cut from.
_FRAMES = frozenset(("", "frame", "frames", "image", "images", "img", "face", "faces", "crop", "crops", "f", "frm"))
# Names that count files: each is a source of its own, or a video is its folder.
_COUNTED = _FRAMES.union(
    ("video", "videos", "clip", "vid", "mov", "movie", "photo", "photos", "pic", "pics", "picture", "pictures")
    + ("portrait", "headshot", "selfie", "sample", "samples", "example", "file", "data", "person", "people", "human")
    + ("man", "men", "woman", "women", "subject", "user", "celebrity", "ai", "gan", "generated"),
    LABELS,
    SPLITS,
)
_SIGNS = "-_. "
_NUMBER = r"\d+"
_FIELD = re.compile(rf"__{_NUMBER}$", re.ASCII)
_UTKFACE = re.compile(r"\d{1,3}(?:_\d){0,2}_\d{17}(?!\d)", re.ASCII)
# `name_f012`, `name-frame-12_face0`
_MARKED = re.compile(
    rf"(?:[-_. ]*(?<![a-z])(?:f|fr|frm|frame|face|crop)[-_. ]?{_NUMBER})+(?:[-_. ]{_NUMBER})?$",
    re.ASCII | re.IGNORECASE,
)
_FRAME_AND_FACE = re.compile(rf"(?:([-_. ]){_NUMBER})?(?:(?(1)\1|[-_. ]){_NUMBER})$", re.ASCII)
_ONE_NUMBER = re.compile(rf"[-_. ]?{_NUMBER}$", re.ASCII)
_SERIES = re.compile(rf"([^\W\d]+)[-_. ]{_NUMBER}$", re.ASCII)
_COUNT = re.compile(rf"(.*?)({_NUMBER})", re.ASCII)
# Fakes as Celeb-DF and FaceForensics++ name them, after the videos that they were made from.
_FAKE_OF = re.compile(r"(id\d+)_id\d+_(\d+)|(\d{3})_(\d{3})", re.ASCII)
_DFDC = re.compile(r"[a-z]{10}", re.ASCII)
# `real`, `0_real`, `real-2`; and the words of `training_real`, `Celeb-synthesis`, `RealFaces`.
_ALONE = re.compile(r"[\W\d_]*([a-z]+)[\W\d_]*", re.ASCII)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", re.ASCII)


@dataclass(frozen=True)
class _Place:
    """What the path of a file says.

    Attributes:
        file: which one.
        labels: classes that it names.
        split: that it names, or None.
        below: the last folder below those of class and split that names anything, or "".
        by_name: whether the file's own name says the class.
    """

    file: File
    labels: frozenset[int]
    split: str | None
    below: str
    by_name: bool


def index_folder(
    root: str | os.PathLike,
    source_pattern: str | None = None,
    label: int | None = None,
    labels: Mapping[str, int] | None = None,
) -> Found:
    """Indexes images and videos by the words of `LABELS` in their paths; folders named in `SPLITS` are splits.

    A folder whose whole name is such a word, but for numbers (`0_real`), goes before one with the word in it
    (`training_real`), and that before the first word of the file's own name (`real_0001.jpg`). Case does not matter. A
    folder that has words of both classes says nothing.

    `source_id` is what `source_of` makes of the name, or, with `source_pattern` (a regular expression searched in the
    path from `root`), what its groups find: each group is a source.

    Args:
        root: the folder.
        source_pattern: see above.
        label: 0 real or 1 fake: everything is that, and only the names in `SPLITS` count.
        labels: class of folders by name, or by path from `root`, such as `{"ai": 1}`.

    Raises:
        ValueError: no path says real or fake, a name in `labels` is no folder of files or contradicts another folder,
            `label` is another, or `source_pattern` is broken, has no group or does not fit a path.
    """
    if label not in (None, REAL, FAKE):
        raise ValueError(f"label must be 0 (real), 1 (fake) or None; received {label!r}.")
    labels = _checked(labels or {}, label)
    pattern = None if source_pattern is None else _compiled(source_pattern)
    tree = walk(root)
    if labels:
        _refuse_unused(labels, tree.media)
    places, left_out = [], {BOTH: [], NEITHER: []}
    for file in tree.media:
        place = _place_of(file, label, labels)
        if len(place.labels) == 1:
            places.append(place)
        else:
            left_out[BOTH if place.labels else NEITHER].append(file.path)
    if tree.media and len(left_out[NEITHER]) == len(tree.media):
        raise _no_class(root, tree.media)
    series = _only_series(places)
    rows = [_row(place, pattern, series) for place in places]
    if not pattern:
        rows = _counted_anew(rows)
    notes = [] if pattern else _notes(rows, series)
    named = [place.file.path for place in places if place.by_name]
    if named:
        notes.append(f"{len(named)} files are real or fake by their own names, not their folders', such as {named[0]}")
    return Found.of(rows, tree, left_out, notes=notes)


def source_of(path: str, below: str = "", series: Iterable[str] = ()) -> str:
    """The video an image was cut from, by its name: the stem without frame and face number.

    A number behind "__" is one field and goes alone: `Deepfakes__218_239__208` comes from `Deepfakes__218_239`. So do
    numbers that say what they are: `name_f012` and `name_frame12_face0` come from `name`, whatever it is.
    Else up to two numbers at the end, set off by the same sign, go: `abarnvbtwb-000-00` comes from `abarnvbtwb`.
    Where no name is left (`0001`, `frame_0001`, `0001_02`), or one that counts files (`real_0001`, `person_12`, or one
    in `series`), the folder `below` that of the label is the source; without one, the file itself is, but for the
    second of two numbers.
    Numbers that nothing sets off stay: `df00204` comes from `df00204`. So do names of UTKFace, whose numbers are age,
    gender and race, which are no person's, and the time: `24_1_2_20170104020528324` is a photograph of its own.
    """
    stem = PurePosixPath(path).stem
    if match := _UTKFACE.match(stem):
        return match[0]
    if stem.isascii() and stem.isdigit():
        left = ""
    elif _FIELD.search(stem):
        left = _FIELD.sub("", stem)
    elif _MARKED.search(stem):
        left = _MARKED.sub("", stem)
        if left.lower().strip(_SIGNS) not in _FRAMES:
            return below or left if _counts_files(left) else left
    else:
        left = _FRAME_AND_FACE.sub("", stem)
    if left in series or _counts_files(left):
        shorter = _ONE_NUMBER.sub("", stem)
        return below or (shorter if re.search(r"\d$", shorter, re.ASCII) else stem)
    return below or left if left.isdigit() else left


def _counts_files(name):
    """Whether nothing but numbers and a word that anything is called by is in a name."""
    return name.lower().strip(_SIGNS) in _COUNTED


def _row(place, pattern, series):
    file, [label] = place.file, place.labels
    if pattern:
        sources = _found(pattern, file.path)
    elif file.kind == "image":
        sources = (as_name(source_of(file.path, place.below, series)),)
    else:
        # Of `0/video.mp4` and `1/video.mp4` the folders tell which is which.
        sources = (as_name(place.below or file.stem if _counts_files(file.stem) else file.stem),)
    if label == FAKE and not pattern and (match := _FAKE_OF.fullmatch(sources[0])):
        sources = (f"{match[1]}_{match[2]}",) if match[1] else match.group(3, 4)
    method = ORIGINAL if label == REAL else METHOD
    return IndexRow(file.path, "folder", file.kind, label, method, sources, split=place.split, **status_of(file))


def _counted_anew(rows):
    """The rows, of which sources that are counted from 0 or 1 in each split are of that split: `train/0`, `val/0`.

    Numbers with gaps are names, such as those of FaceForensics++: the same one in two splits is the same video.
    """
    if any(len(row.source_id) > 1 for row in rows):
        return rows
    counted = defaultdict(set)
    for row in rows:
        match = None if row.split is None else _COUNT.fullmatch(row.source_id[0])
        if match and _counts_files(match[1]) and not _UTKFACE.match(row.source_id[0]):
            counted[match[1], row.split, row.label].add(int(match[2]))
    names = {name for name, _, _ in counted}
    for (name, _, _), numbers in counted.items():
        if min(numbers) > 1 or len(numbers) <= max(numbers) - min(numbers):
            names.discard(name)

    def of_its_split(row):
        match = None if row.split is None else _COUNT.fullmatch(row.source_id[0])
        return replace(row, source_id=(f"{row.split}/{row.source_id[0]}",)) if match and match[1] in names else row

    return [of_its_split(row) for row in rows] if names else rows


def _place_of(file, label, labels):
    """What a path says of class, split and video. A class that is told for all files leaves no word to look for."""
    *folders, name = file.path.split("/")
    alone = [_ALONE.fullmatch(folder.lower()) for folder in folders]
    alone = [match[1] if match else folder.lower() for match, folder in zip(alone, folders, strict=True)]
    within = [_words(folder) for folder in folders]
    whole, mapped = {number: LABELS[word] for number, word in enumerate(alone) if word in LABELS}, False
    for number, folder in enumerate(folders):
        value = _mapped(folders, number, labels)
        # Below a class, a number is a video, even where numbers are classes.
        if value is not None and not (folder.isdecimal() and any(above < number for above in whole)):
            whole[number], mapped = value, True
    hints = {number: next(iter(found)) for number, words in enumerate(within) if len(found := _classes(words)) == 1}
    first = _words(name)[:1]
    told = whole or hints
    if label is not None:
        found = {label}
    else:
        found = set(told.values()) or _classes(first)
        if mapped and len(found) > 1:
            raise ValueError(
                f"{file.path!r} is in {' and in '.join(f'{folders[n]!r}, {NAMES[told[n]]}' for n in sorted(told))}: a "
                "label contradicts another folder; leave it out, or give the path of the folder that is meant."
            )
    splits = {SPLITS[word] for word in map(str.lower, folders) if word in SPLITS}
    splits = splits or {SPLITS[word] for number in hints for word in within[number] if word in SPLITS}
    split = splits.pop() if len(splits) == 1 else None
    return _Place(file, frozenset(found), split, _below(folders, told), label is None and bool(found) and not told)


def _below(folders, told):
    for number in reversed(range(len(folders))):
        word = folders[number].lower()
        if number in told or word in SPLITS:
            return ""
        if word not in _CONTAINERS:
            return folders[number]
    return ""


def _words(name):
    return [word.lower() for word in _WORDS.findall(name)]


def _classes(words):
    return {LABELS[word] for word in words if word in LABELS}


def _mapped(folders, number, labels):
    """The class that is given for a folder by its path or name; None without."""
    path = "/".join(folders[: number + 1]).lower()
    return labels.get(path, labels.get(folders[number].lower()))


def _checked(labels, label):
    if labels and label is not None:
        raise ValueError("everything is of one class already; leave the labels of folders out.")
    checked = {}
    for name, value in labels.items():
        key = name.strip("/").lower()
        if value not in (REAL, FAKE) or not key:
            raise ValueError(f"a label is a folder's name with 0 (real) or 1 (fake); received {name!r}: {value!r}.")
        if checked.setdefault(key, value) != value:
            raise ValueError(f"the folder {name!r} is called both real and fake; give one label for each name.")
    return checked


def _refuse_unused(labels, media):
    there = {}
    for file in media:
        folders = file.path.split("/")[:-1]
        for number, folder in enumerate(folders):
            there.setdefault(folder.lower(), folder)
            path = "/".join(folders[: number + 1])
            there.setdefault(path.lower(), path)
    for name in labels:
        if name not in there:
            near = near_matches(name, there)
            listed = sorted({folder for folder in there.values() if "/" not in folder}, key=os.fsencode)
            hint = f"did you mean {' or '.join(there[one] for one in near)}?" if near else _listed(listed)
            raise ValueError(f"no image or video is in a folder called {name!r}; {hint}")


def _listed(names, most=12):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"the folders with some are: {', '.join(map(repr, names[:most])) or 'none'}{more}."


def _no_class(root, media):
    """The error for a tree in which no path says real or fake. Numbers may be classes, but nothing says which."""
    names = f"Folders at any depth may be called {', '.join(LABELS)}; if all files are real, say so (--all real)."
    numbers = {folder for file in media for folder in file.path.split("/")[:-1]} >= {"0", "1"}
    if numbers:
        names += (
            " If 0 and 1 are the classes, say which is which: --label 0=real --label 1=fake, or the other way round."
        )
    else:
        names += f" {_MAP}."
    return wrong_layout(root, ["real", "fake"], "a folder of real and fake files", names)


def _only_series(places):
    """Names that nearly all numbered images of a class begin with: they tell no file from another (`nvidia_0001`).

    A class with several such names has videos of these names; a name with a number in it, or of DFDC's form, is that of
    a video.
    """
    found, sizes = defaultdict(Counter), Counter()
    for place in places:
        if place.file.kind == "image":
            sizes.update(place.labels)
            match = _SERIES.fullmatch(place.file.stem)
            if match and not place.below and not _counts_files(match[1]):
                found[place.labels][match[1]] += 1
    series = set()
    for [label], counts in found.items():
        repeated = {name: count for name, count in counts.items() if count > 1}
        if len(repeated) == 1 and 2 * counts.total() > sizes[label]:
            series |= {name for name in repeated if not _DFDC.fullmatch(name)}
    return frozenset(series)


def _compiled(pattern):
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the source pattern {pattern!r} is no regular expression: {error}.") from error
    if not compiled.groups:
        raise ValueError(f"the source pattern {pattern!r} has no group; put brackets around the source: '/([a-z]+)-'.")
    return compiled


def _found(pattern, path):
    match = pattern.search(path)
    sources = tuple(as_name(group) for group in match.groups() if group) if match else ()
    if not sources:
        raise ValueError(
            f"the source pattern {pattern.pattern!r} finds no source in {path!r}; it must find one in every path."
        )
    return sources


def _notes(rows, series):
    counts = Counter(source for row in rows for source in row.source_id)
    if not counts:
        return []
    notes = [
        f"files called {name!r} and a number are sources of their own, unless their pictures are the same; if they are "
        f"frames of one video, give {PATTERN} '({name})'"
        for name in sorted(series)
    ]
    source, most = max(counts.items(), key=lambda item: (item[1], item[0]))
    files = f"{most} of the {len(rows)} files"
    if most > 1 and most * 2 > len(rows):
        notes.append(f"{files} are of one source, {source!r}, by their names; if that is wrong, give {PATTERN}")
    elif most > 1:
        notes.append(f"sources are told by file names; the largest, {source!r}, has {files}")
    return notes
