"""Celeb-DF v2: `Celeb-real`, `YouTube-real`, `Celeb-synthesis` and the test list `List_of_testing_videos.txt`.

`Celeb-real/id0_0000.mp4` shows celebrity id0; `Celeb-synthesis/id0_id1_0000.mp4` shows that video with the face of id1;
`YouTube-real/00000.mp4` shows an unnamed person. The list has lines `{value} {path}` in which 1 means REAL; it is
inverted here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tfdfd.data.index.layout import IndexResult, Share, is_inside, walk, wrong_layout
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, IndexRow
from tfdfd.media.formats import kind_of_name

TEST_LIST = "List_of_testing_videos.txt"
CELEBRITIES, STRANGERS, FAKES = "Celeb-real", "YouTube-real", "Celeb-synthesis"
OFFICIAL = {CELEBRITIES: 590, STRANGERS: 300, FAKES: 5639}
OFFICIAL_TESTS = 518

UNKNOWN_NAME = "files whose names are none of Celeb-DF"
_NAMES = {
    CELEBRITIES: re.compile(r"(id\d+)_(\d+)", re.ASCII),
    STRANGERS: re.compile(r"(\d+)", re.ASCII),
    FAKES: re.compile(r"(id\d+)_(id\d+)_(\d+)", re.ASCII),
}


def index_celebdf(root: str | os.PathLike) -> IndexResult:
    """Indexes Celeb-DF v2: its videos, or images of the same names (first frames in a mirrored tree).

    `source_id` is the original video: `id0_0003` also for the fakes made from it, `youtube_00170` in `YouTube-real`,
    which names nobody. `identity` holds the celebrity, both for a fake. `split` is `test` for listed videos and `train`
    for the others; None without the list. A listed video that is not there gives a row `missing`.

    Raises:
        ValueError: none of the three folders is there, or the list is broken or contradicts the folders.
    """
    tree = walk(root, tuple(OFFICIAL))
    if not any(os.path.isdir(os.path.join(root, folder)) for folder in OFFICIAL):
        raise wrong_layout(root, OFFICIAL, "Celeb-DF v2", "Give the folder in which they lie.")
    listed = read_test_list(os.path.join(root, TEST_LIST)) if is_inside(root, TEST_LIST) else None
    there = {_key(file.path): file.path for file in tree.media if file.bytes and _columns(file.path, {})}
    left_out: dict[str, list[str]]
    rows, left_out = [], {UNKNOWN_NAME: []}
    for file in tree.media:
        columns = _columns(file.path, there)
        if columns is None:
            left_out[UNKNOWN_NAME].append(file.path)
            continue
        split = None if listed is None else "test" if _key(file.path) in listed else "train"
        rows.append(IndexRow(file.path, "celebdf", file.kind, split=split, **columns, **file.columns))
    present = {_key(row.path) for row in rows}
    for key, path in (listed or {}).items():
        if key not in present:
            columns = _columns(path, there)
            rows.append(
                IndexRow(path, "celebdf", kind_of_name(path), split="test", **columns, bytes=None, status="missing")  # type: ignore[arg-type]
            )
    shares = [
        Share(folder, sum(key.startswith(f"{folder}/") for key in there), count) for folder, count in OFFICIAL.items()
    ]
    shares.append(Share("test list", sum(key in there for key in listed or ()), OFFICIAL_TESTS))
    notes = [f"no {TEST_LIST} in the data set's folder: no official split"] if listed is None else []
    return IndexResult.of(rows, tree, left_out, shares=shares, notes=notes)


def read_test_list(file: str | os.PathLike) -> dict[str, str]:
    """The paths of the test list, by path without suffix.

    Raises:
        ValueError: a line is not `{0 or 1} {folder}/{video}`, or its value is not 1 for a real and 0 for a fake video.
    """
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        lines = text.read().split("\n")
    listed = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value, _, path = line.strip().partition(" ")
        path = path.strip()
        columns = _columns(path, {}) if kind_of_name(path) else None
        if value not in ("0", "1") or columns is None:
            raise ValueError(
                f"{os.fsdecode(file)}, line {number}: expected '1 YouTube-real/00170.mp4' or "
                f"'0 Celeb-synthesis/id1_id0_0007.mp4'; received {line.strip()!r}."
            )
        label = REAL if value == "1" else FAKE
        if label != columns["label"]:
            raise ValueError(
                f"{os.fsdecode(file)}, line {number}: {line.strip()!r} contradicts its folder; in Celeb-DF's list 1 is "
                "real and 0 is fake. Use the list as it came with the data set."
            )
        listed[_key(path)] = path
    return listed


def _key(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _columns(path: str, there: Mapping[str, str]) -> dict[str, Any] | None:
    """The columns that follow from folder and name; None where they are not the data set's."""
    folder, _, name = path.partition("/")
    if folder not in _NAMES or not (match := _NAMES[folder].fullmatch(PurePosixPath(name).stem)) or "/" in name:
        return None
    if folder == STRANGERS:
        return {"label": REAL, "method": ORIGINAL, "source_id": (f"youtube_{match[1]}",)}
    *people, number = match.groups()
    video = f"{people[0]}_{number}"
    shown = {"source_id": (video,), "identity": tuple(people)}
    if folder == CELEBRITIES:
        return {"label": REAL, "method": ORIGINAL} | shown
    return {"label": FAKE, "method": FAKES, "original": there.get(f"{CELEBRITIES}/{video}")} | shown
