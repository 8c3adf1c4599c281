"""Any folder whose names distinguish real from fake, at any depth: `real/` and `fake/`, `0_real/`, `training_fake/`, …

Words decide, anywhere in the path; a number is the name of a video. Frames in one folder are of one source.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from tfdfd.data.index.layout import File, IndexResult, escape_separator, walk, wrong_layout
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, IndexRow
from tfdfd.text import near_matches

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

# Folders that describe storage, not content.
_CONTAINERS = frozenset(
    ("images", "image", "imgs", "img", "faces", "face", "frames", "frame", "crops", "crop", "photos", "pictures")
    + ("pics", "videos", "video", "clips", "data", "samples", "png", "jpg", "jpeg", "raw", "c0", "c23", "c40")
)
# Stems without information once numbers are removed: the folder names the video.
_FRAMES = frozenset(("", "frame", "frames", "image", "images", "img", "face", "faces", "crop", "crops", "f", "frm"))
# Names of numbered files: each file is a source of its own, or its folder is the video.
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
# Fakes of Celeb-DF and FaceForensics++, named after the videos that they were made from.
_FAKE_OF = re.compile(r"(id\d+)_id\d+_(\d+)|(\d{3})_(\d{3})", re.ASCII)
_DFDC = re.compile(r"[a-z]{10}", re.ASCII)
# `real`, `0_real`, `real-2`; and the words of `training_real`, `Celeb-synthesis`, `RealFaces`.
_ALONE = re.compile(r"[\W\d_]*([a-z]+)[\W\d_]*", re.ASCII)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", re.ASCII)


@dataclass(frozen=True)
class _PathInfo:
    """The information in the path of a file.

    Attributes:
        file: the file.
        labels: classes in its path.
        split: the split in its path, or None.
        below: the last informative folder below those of class and split, or "".
        by_name: whether the class comes from the file's own name.
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
) -> IndexResult:
    """Indexes images and videos by the words of `LABELS` in their paths; folders named in `SPLITS` are splits.

    A folder whose whole name except numbers is such a word (`0_real`) takes precedence over one that contains the word
    (`training_real`), and that over the first word of the file's own name (`real_0001.jpg`). Case is ignored. A folder
    with words of both classes is ignored.

    `source_id` is `source_of` the name, or, with `source_pattern` (a regular expression searched in the path from
    `root`), the matches of its groups: each group is a source.

    Args:
        root: the folder.
        source_pattern: see above.
        label: 0 real or 1 fake: the class of all files; only the names in `SPLITS` are used.
        labels: class of folders by name, or by path from `root`, such as `{"ai": 1}`.

    Raises:
        ValueError: no path has a class, a name in `labels` is not a folder of files or contradicts another folder, an
            invalid `label`, or `source_pattern` is invalid, has no group or does not match a path.
    """
    if label not in (None, REAL, FAKE):
        raise ValueError(f"label must be 0 (real), 1 (fake) or None; received {label!r}.")
    labels = _check_labels(labels or {}, label)
    pattern = None if source_pattern is None else _compile(source_pattern)
    tree = walk(root)
    if labels:
        _refuse_unused(labels, tree.media)
    infos = []
    left_out: dict[str, list[str]] = {BOTH: [], NEITHER: []}
    for file in tree.media:
        info = _read_path(file, label, labels)
        if len(info.labels) == 1:
            infos.append(info)
        else:
            left_out[BOTH if info.labels else NEITHER].append(file.path)
    if tree.media and len(left_out[NEITHER]) == len(tree.media):
        raise _no_class(root, tree.media)
    series = _only_series(infos)
    rows = [_row(info, pattern, series) for info in infos]
    if not pattern:
        rows = _separate_numbered_sources(rows)
    notes = [] if pattern else _notes(rows, series)
    named = [info.file.path for info in infos if info.by_name]
    if named:
        notes.append(f"{len(named)} files are real or fake by their own names, not their folders', such as {named[0]}")
    return IndexResult.of(rows, tree, left_out, notes=notes)


def source_of(path: str, below: str = "", series: Iterable[str] = ()) -> str:
    """The video an image was cut from, by its name: the stem without frame and face number.

    A number after "__" is one field and is removed alone: `Deepfakes__218_239__208` comes from `Deepfakes__218_239`.
    Labeled numbers are removed: `name_f012` and `name_frame12_face0` come from `name`, whatever it is. Otherwise up to
    two numbers at the end with the same separator are removed: `abarnvbtwb-000-00` comes from `abarnvbtwb`.

    Where no name remains (`0001`, `frame_0001`, `0001_02`), or one of numbered files (`real_0001`, `person_12`, or one
    in `series`), the folder `below` that of the label is the source; without one, the file itself is, without the
    second of two numbers.

    Numbers without a separator stay: `df00204` comes from `df00204`. So do names of UTKFace, whose numbers are age,
    gender and race, which identify nobody, and the time: `24_1_2_20170104020528324` is a photograph of its own.
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
            return below or left if _is_counter(left) else left
    else:
        left = _FRAME_AND_FACE.sub("", stem)
    if left in series or _is_counter(left):
        shorter = _ONE_NUMBER.sub("", stem)
        return below or (shorter if re.search(r"\d$", shorter, re.ASCII) else stem)
    return below or left if left.isdigit() else left


def _is_counter(name: str) -> bool:
    """Whether a name has nothing but numbers and a generic word."""
    return name.lower().strip(_SIGNS) in _COUNTED


def _row(info: _PathInfo, pattern: re.Pattern[str] | None, series: frozenset[str]) -> IndexRow:
    file, [label] = info.file, info.labels
    if pattern:
        sources = _search(pattern, file.path)
    elif file.kind == "image":
        sources = (escape_separator(source_of(file.path, info.below, series)),)
    else:
        # The folders distinguish `0/video.mp4` from `1/video.mp4`.
        sources = (escape_separator(info.below or file.stem if _is_counter(file.stem) else file.stem),)
    if label == FAKE and not pattern and (match := _FAKE_OF.fullmatch(sources[0])):
        sources = (f"{match[1]}_{match[2]}",) if match[1] else match.group(3, 4)
    method = ORIGINAL if label == REAL else METHOD
    return IndexRow(file.path, "folder", file.kind, label, method, sources, split=info.split, **file.columns)


def _separate_numbered_sources(rows: list[IndexRow]) -> list[IndexRow]:
    """The rows, with sources that are numbered from 0 or 1 in each split renamed by split: `train/0`, `val/0`.

    Numbers with gaps are names, such as those of FaceForensics++: the same one in two splits is the same video.
    """
    if any(len(row.source_id) > 1 for row in rows):
        return rows
    counted = defaultdict(set)
    for row in rows:
        match = None if row.split is None else _COUNT.fullmatch(row.source_id[0])
        if match and _is_counter(match[1]) and not _UTKFACE.match(row.source_id[0]):
            counted[match[1], row.split, row.label].add(int(match[2]))
    names = {name for name, _, _ in counted}
    for (name, _, _), numbers in counted.items():
        if min(numbers) > 1 or len(numbers) <= max(numbers) - min(numbers):
            names.discard(name)

    def of_its_split(row: IndexRow) -> IndexRow:
        match = None if row.split is None else _COUNT.fullmatch(row.source_id[0])
        return replace(row, source_id=(f"{row.split}/{row.source_id[0]}",)) if match and match[1] in names else row

    return [of_its_split(row) for row in rows] if names else rows


def _read_path(file: File, label: int | None, labels: Mapping[str, int]) -> _PathInfo:
    """Class, split and video of a path. With a class for all files, words are not searched."""
    *folders, name = file.path.split("/")
    alone: list[Any] = [_ALONE.fullmatch(folder.lower()) for folder in folders]
    alone = [match[1] if match else folder.lower() for match, folder in zip(alone, folders, strict=True)]
    within = [_words(folder) for folder in folders]
    whole, mapped = {number: LABELS[word] for number, word in enumerate(alone) if word in LABELS}, False
    for number, folder in enumerate(folders):
        value = _given_label(folders, number, labels)
        # Below a class, a number is a video, even where numbers are classes.
        if value is not None and not (folder.isdecimal() and any(above < number for above in whole)):
            whole[number], mapped = value, True
    partly = {number: next(iter(some)) for number, words in enumerate(within) if len(some := _classes(words)) == 1}
    first = _words(name)[:1]
    by_folder = whole or partly
    if label is not None:
        classes = {label}
    else:
        classes = set(by_folder.values()) or _classes(first)
        if mapped and len(classes) > 1:
            listed = " and in ".join(f"{folders[n]!r}, {NAMES[by_folder[n]]}" for n in sorted(by_folder))
            raise ValueError(
                f"{file.path!r} is in {listed}: a label contradicts another folder; leave it out, or give the path of "
                "the intended folder."
            )
    splits = {SPLITS[word] for word in map(str.lower, folders) if word in SPLITS}
    splits = splits or {SPLITS[word] for number in partly for word in within[number] if word in SPLITS}
    split = splits.pop() if len(splits) == 1 else None
    by_name = label is None and bool(classes) and not by_folder
    return _PathInfo(file, frozenset(classes), split, _below(folders, by_folder), by_name)


def _below(folders: Sequence[str], by_folder: Any) -> str:
    for number in reversed(range(len(folders))):
        word = folders[number].lower()
        if number in by_folder or word in SPLITS:
            return ""
        if word not in _CONTAINERS:
            return folders[number]
    return ""


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _classes(words: Iterable[str]) -> set[int]:
    return {LABELS[word] for word in words if word in LABELS}


def _given_label(folders: Sequence[str], number: int, labels: Mapping[str, int]) -> int | None:
    """The class given for a folder by its path or name, or None."""
    path = "/".join(folders[: number + 1]).lower()
    return labels.get(path, labels.get(folders[number].lower()))


def _check_labels(labels: Mapping[str, int], label: int | None) -> dict[str, int]:
    if labels and label is not None:
        raise ValueError("all files are of one class already; leave the labels of folders out.")
    checked: dict[str, int] = {}
    for name, value in labels.items():
        key = name.strip("/").lower()
        if value not in (REAL, FAKE) or not key:
            raise ValueError(f"a label is a folder's name with 0 (real) or 1 (fake); received {name!r}: {value!r}.")
        if checked.setdefault(key, value) != value:
            raise ValueError(f"the folder {name!r} is called both real and fake; give one label for each name.")
    return checked


def _refuse_unused(labels: Mapping[str, int], media: Sequence[File]) -> None:
    there: dict[str, Any] = {}
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
            hint = f"did you mean {' or '.join(there[one] for one in near)}?" if near else _folders_hint(listed)
            raise ValueError(f"no image or video is in a folder called {name!r}; {hint}")


def _folders_hint(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"the folders with some are: {', '.join(map(repr, names[:most])) or 'none'}{more}."


def _no_class(root: str | os.PathLike, media: Sequence[File]) -> Exception:
    """The error for a tree without classes in its paths. Numbers may be classes, but their meaning is unknown."""
    names = f"Folders at any depth may be called {', '.join(LABELS)}; if all files are real, say so (--all real)."
    numbers = {folder for file in media for folder in file.path.split("/")[:-1]} >= {"0", "1"}
    if numbers:
        names += (
            " If 0 and 1 are the classes, say which is which: --label 0=real --label 1=fake, or the other way round."
        )
    else:
        names += f" {_MAP}."
    return wrong_layout(root, ["real", "fake"], "a folder of real and fake files", names)


def _only_series(infos: Iterable[_PathInfo]) -> frozenset[str]:
    """Prefixes of nearly all numbered images of a class, which identify no video (`nvidia_0001`).

    A class with several such prefixes has videos of these names; a prefix with a number in it, or of DFDC's form, is
    the name of a video.
    """
    by_class: dict[frozenset[int], Counter] = defaultdict(Counter)
    sizes: Counter = Counter()
    for info in infos:
        if info.file.kind == "image":
            sizes.update(info.labels)
            match = _SERIES.fullmatch(info.file.stem)
            if match and not info.below and not _is_counter(match[1]):
                by_class[info.labels][match[1]] += 1
    series = set()
    for [label], counts in by_class.items():
        repeated = {name: count for name, count in counts.items() if count > 1}
        if len(repeated) == 1 and 2 * counts.total() > sizes[label]:
            series |= {name for name in repeated if not _DFDC.fullmatch(name)}
    return frozenset(series)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the source pattern {pattern!r} is not a regular expression: {error}.") from error
    if not compiled.groups:
        raise ValueError(f"the source pattern {pattern!r} has no group; put brackets around the source: '/([a-z]+)-'.")
    return compiled


def _search(pattern: re.Pattern[str], path: str) -> tuple[str, ...]:
    match = pattern.search(path)
    sources = tuple(escape_separator(group) for group in match.groups() if group) if match else ()
    if not sources:
        raise ValueError(
            f"the source pattern {pattern.pattern!r} matches no source in {path!r}; it must match every path."
        )
    return sources


def _notes(rows: Sequence[IndexRow], series: frozenset[str]) -> list[str]:
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
        notes.append(f"sources are derived from file names; the largest, {source!r}, has {files}")
    return notes
