"""Any folder whose subfolders tell real from fake, at any depth: `real/` and `fake/`, or one of their other names."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from tfdfd.data.index.found import Found, as_name, status_of, wrong_layout
from tfdfd.data.index.tree import walk
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, IndexRow

METHOD = "fake"
LABELS = {
    **dict.fromkeys(("real", "reals", "original", "originals", "genuine", "pristine", "0"), REAL),
    **dict.fromkeys(("fake", "fakes", "deepfake", "deepfakes", "manipulated", "synthesis", "1"), FAKE),
}
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

BOTH = "files in folders that say both real and fake"
NEITHER = "files in no folder that says real or fake"

# Stems that tell nothing once the numbers are gone: the folder tells what they were cut from.
_PLAIN = frozenset({"", "frame", "frames", "image", "img", "face", "crop", "f"})
_NUMBER = r"\d+"
_FIELD = re.compile(rf"__{_NUMBER}$", re.ASCII)
_UTKFACE = re.compile(r"\d{1,3}(?:_\d){0,2}_\d{17}(?!\d)", re.ASCII)
_FRAME_AND_FACE = re.compile(rf"(?:([-_. ]){_NUMBER})?(?:(?(1)\1|[-_. ]){_NUMBER})$", re.ASCII)


def index_folder(root: str | os.PathLike, source_pattern: str | None = None, label: int | None = None) -> Found:
    """Indexes images and videos under folders named in `LABELS`; those named in `SPLITS` are splits (both in any case).

    With `label`, 0 real or 1 fake, everything is that, and only the names in `SPLITS` count.

    `source_id` is what `source_of` makes of the name, or, with `source_pattern` (a regular expression searched in the
    path from `root`), what its groups find: each group is a source.

    Raises:
        ValueError: no folder says real or fake, `label` is another, or `source_pattern` is broken, has no group or does
            not fit a path.
    """
    if label not in (None, REAL, FAKE):
        raise ValueError(f"label must be 0 (real), 1 (fake) or None; received {label!r}.")
    pattern = None if source_pattern is None else _compiled(source_pattern)
    tree = walk(root)
    rows, left_out = [], {BOTH: [], NEITHER: []}
    said = False
    for file in tree.media:
        labels, splits, place = _folders_of(file.path, label)
        said = said or bool(labels)
        if len(labels) != 1:
            left_out[BOTH if labels else NEITHER].append(file.path)
            continue
        [own] = labels
        if pattern:
            source = _found(pattern, file.path)
        else:
            source = source_of(file.path, place) if file.kind == "image" else file.stem
        rows.append(
            IndexRow(
                file.path,
                "folder",
                file.kind,
                own,
                ORIGINAL if own == REAL else METHOD,
                source if isinstance(source, tuple) else (as_name(source),),
                split=splits.pop() if len(splits) == 1 else None,
                **status_of(file),
            )
        )
    if tree.media and not said:
        names = f"Folders at any depth may be called {', '.join(LABELS)}; if all files are real, say so (--all real)."
        raise wrong_layout(root, ["real", "fake"], "a folder of real and fake files", names)
    return Found.of(rows, tree, left_out, notes=_notes(rows))


def source_of(path: str, below: str = "") -> str:
    """The video an image was cut from, by its name: the stem without frame and face number.

    A number behind "__" is one field and goes alone: `Deepfakes__218_239__208` comes from `Deepfakes__218_239`.
    Else up to two numbers at the end, set off by the same sign, go: `abarnvbtwb-000-00` comes from `abarnvbtwb`.
    Where no name is left (`0001`, `frame_0001`, `0001_02`), the folder `below` that of the label is the source; without
    one, the number.
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
    else:
        left = _FRAME_AND_FACE.sub("", stem)
    if left.lower().strip("-_. ") in _PLAIN:
        return below or stem
    return below or left if left.isdigit() else left


def _folders_of(path, label):
    """Labels (of all files: `label`) and splits that the folders name, and the last folder if it names neither."""
    folders = path.split("/")[:-1]
    words = [folder.lower() for folder in folders]
    labels = {LABELS[word] for word in words if word in LABELS} if label is None else {label}
    splits = {SPLITS[word] for word in words if word in SPLITS}
    is_plain = not folders or words[-1] in LABELS or words[-1] in SPLITS
    return labels, splits, "" if is_plain else folders[-1]


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


def _notes(rows):
    counts = {}
    for row in rows:
        for source in row.source_id:
            counts[source] = counts.get(source, 0) + 1
    if not counts:
        return []
    source, most = max(counts.items(), key=lambda item: (item[1], item[0]))
    files = f"{most} of the {len(rows)} files"
    if most > 1 and most * 2 > len(rows):
        return [f"{files} are of one source, {source!r}, by their names; if that is wrong, give a source pattern"]
    return [] if most == 1 else [f"sources are told by file names; the largest, {source!r}, has {files}"]
