"""DFDC: the training set's parts, the validation and test sets, and the preview, each with the list of its labels."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import PurePosixPath

from tfdfd.data.index.dfdc_lists import LISTS, METADATA, PREVIEW, joined, read_list
from tfdfd.data.index.found import Found, Share, as_name, status_of, wrong_layout
from tfdfd.data.index.tree import walk
from tfdfd.data.tables import IndexRow
from tfdfd.media.formats import kind_of_name

OFFICIAL_PARTS = 50

NOT_LISTED = "videos that the list of their folder does not name: no label"
NO_LIST = f"videos in folders without a readable list ({', '.join(LISTS)}): no label"
BROKEN_ENTRY = "entries of lists that do not tell a video real or fake"
CONTRADICTED = "videos that two lists label differently"


def index_dfdc(root: str | os.PathLike) -> Found:
    """Indexes every folder that has a list (`tfdfd.data.index.dfdc_lists`); listed and not there is a row `missing`.

    `source_id` is the name of the original video, so that a fake stays with it even where the original is elsewhere or
    nowhere; the same name in two parts is two rows. `original` is looked for in the fake's own part, then in the only
    other part that has such a video. Of the validation and test set no originals are known: each video is its own
    source. `identity` is what the preview tells; the others name nobody.

    Raises:
        ValueError: no folder has a list.
    """
    tree = walk(root)
    lists = sorted(path for path in tree.others if _name(path) in LISTS)
    if not lists:
        hint = f"A part is a folder with videos and its {METADATA} or labels.csv; the preview has {PREVIEW}."
        raise wrong_layout(root, [f"dfdc_train_part_0/{METADATA}", "dfdc_train_part_0"], "DFDC", hint)
    media, left_out = defaultdict(dict), {NO_LIST: [], NOT_LISTED: [], BROKEN_ENTRY: [], CONTRADICTED: []}
    for file in tree.media:
        media[str(PurePosixPath(file.path).parent)][_name(file.path)] = file
    entries, readable = {}, []
    for path in lists:
        try:
            listed = read_list(root, path)
        except ValueError as error:
            left_out.setdefault(f"{_name(path)} that cannot be read: {error}", []).append(path)
            continue
        readable.append(path)
        left_out[BROKEN_ENTRY] += listed.broken
        for key, entry in listed.entries.items():
            if entries.setdefault(key, entry).label != entry.label:
                left_out[CONTRADICTED].append(joined(*key))
    told = {*left_out[BROKEN_ENTRY], *left_out[CONTRADICTED]}
    entries = {key: entry for key, entry in entries.items() if joined(*key) not in told}
    for part, files in media.items():
        reason = NOT_LISTED if any(_covers(path, part) for path in readable) else NO_LIST
        unlisted = [file.path for name, file in files.items() if (part, name) not in entries]
        left_out[reason] += [path for path in unlisted if path not in told]
    there = defaultdict(list)
    for part, name in entries:
        if (file := media[part].get(name)) and file.bytes:
            there[name].append(part)
    rows = [_row(part, name, entry, media[part].get(name), there) for (part, name), entry in entries.items()]
    parts = sum(_name(path) == METADATA for path in readable)
    shares = [Share("parts", parts, OFFICIAL_PARTS)] if parts else []
    names = " and ".join(sorted({_name(path) for path in readable}))
    shares.append(Share(f"videos listed in {names}", sum(row.status != "missing" for row in rows), len(rows)))
    return Found.of(rows, tree, left_out, lists, shares=shares if readable else [])


def _covers(path, part):
    """Whether the list at `path` is of the videos in the folder `part`."""
    folder = PurePosixPath(path).parent
    return str(folder) == part or (_name(path) == PREVIEW and folder in PurePosixPath(part).parents)


def _row(part, name, entry, file, there):
    path = None
    if entry.original:
        parts = there.get(entry.original, [])
        home = part if part in parts else parts[0] if len(parts) == 1 else None
        path = None if home is None else joined(home, entry.original)
    return IndexRow(
        joined(part, name),
        "dfdc",
        kind_of_name(name),
        entry.label,
        entry.method,
        (as_name(PurePosixPath(entry.original or name).stem),),
        original=path,
        identity=entry.identity,
        split=entry.split,
        **(status_of(file) if file else {"bytes": None, "status": "missing"}),
    )


def _name(path):
    return PurePosixPath(path).name
