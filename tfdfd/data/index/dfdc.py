"""DFDC's training set: parts such as `dfdc_train_part_0`, each with its videos and a `metadata.json`.

The file maps `name.mp4` to `{"label": "REAL" or "FAKE", "split": "train", "original": "name.mp4" or null}`.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import PurePosixPath

from tfdfd.data.index.found import Found, Share, as_name, status_of, wrong_layout
from tfdfd.data.index.tree import walk
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, SPLITS, IndexRow
from tfdfd.media.kinds import kind_of_name

METADATA = "metadata.json"
METHOD = "dfdc"
OFFICIAL_PARTS = 50
LABELS = {"REAL": REAL, "FAKE": FAKE}

NOT_LISTED = f"videos that the {METADATA} of their folder does not list: no label"
NO_METADATA = f"videos in folders without a readable {METADATA}: no label"
BROKEN_ENTRY = f"entries of {METADATA} that are not name -> label REAL or FAKE, original"


def index_dfdc(root: str | os.PathLike) -> Found:
    """Indexes every folder that has a `metadata.json`; what it lists and the folder lacks is a row `missing`.

    `source_id` is the name of the original video, so that a fake stays with it even where the original is elsewhere or
    nowhere; the same name in two parts is two rows. `original` is looked for in the fake's own part, then in the only
    other part that has such a video.

    Raises:
        ValueError: no folder has a `metadata.json`.
    """
    tree = walk(root)
    parts = sorted(str(PurePosixPath(path).parent) for path in tree.others if _name(path) == METADATA)
    if not parts:
        hint = f"A part is a folder with videos and its {METADATA}."
        raise wrong_layout(root, [f"dfdc_train_part_0/{METADATA}", "dfdc_train_part_0"], "DFDC", hint)
    media, left_out = defaultdict(dict), {NO_METADATA: [], NOT_LISTED: [], BROKEN_ENTRY: []}
    for file in tree.media:
        media[str(PurePosixPath(file.path).parent)][_name(file.path)] = file
    entries, readable = {}, []
    for part in parts:
        path = _joined(part, METADATA)
        listed = _read_metadata(os.path.join(root, path))
        if isinstance(listed, str):
            left_out.setdefault(f"{METADATA} that cannot be read: {listed}", []).append(path)
            continue
        readable.append(part)
        for name, entry in listed.items():
            if _is_clear(name, entry):
                entries[part, name] = entry
            else:
                left_out[BROKEN_ENTRY].append(_joined(part, name))
    broken = set(left_out[BROKEN_ENTRY])
    for part, files in media.items():
        reason = NOT_LISTED if part in readable else NO_METADATA
        unlisted = [file.path for name, file in files.items() if (part, name) not in entries]
        left_out[reason] += [path for path in unlisted if path not in broken]
    there = defaultdict(list)
    for part, name in entries:
        if (file := media[part].get(name)) and file.bytes:
            there[name].append(part)
    rows = [_row(part, name, entry, media[part].get(name), there) for (part, name), entry in entries.items()]
    shares = [
        Share("parts", len(readable), OFFICIAL_PARTS),
        Share(f"videos listed in {METADATA}", sum(row.status != "missing" for row in rows), len(rows)),
    ]
    return Found.of(rows, tree, left_out, shares=shares)


def _row(part, name, entry, file, there):
    original = entry.get("original") if entry["label"] == "FAKE" else None
    path = None
    if original:
        parts = there.get(original, [])
        home = part if part in parts else parts[0] if len(parts) == 1 else None
        path = None if home is None else _joined(home, original)
    return IndexRow(
        _joined(part, name),
        "dfdc",
        kind_of_name(name),
        LABELS[entry["label"]],
        ORIGINAL if entry["label"] == "REAL" else METHOD,
        (as_name(PurePosixPath(original or name).stem),),
        original=path,
        split=entry.get("split") if entry.get("split") in SPLITS else None,
        **(status_of(file) if file else {"bytes": None, "status": "missing"}),
    )


def _read_metadata(path):
    """What the file maps, or why it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            listed = json.load(file)
    except OSError as error:
        return error.strerror
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return listed if isinstance(listed, dict) else f"a {type(listed).__name__} where an object is expected"


def _is_clear(name, entry):
    if not _is_file_name(name) or kind_of_name(name) is None or not isinstance(entry, dict):
        return False
    label, original = entry.get("label"), entry.get("original")
    return isinstance(label, str) and label in LABELS and (original is None or _is_file_name(original))


def _is_file_name(name):
    """Whether it can be the name of a file in the same folder: what a metadata file says leads nowhere else."""
    if not isinstance(name, str) or not name.strip(".") or "/" in name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _joined(part, name):
    return name if part == "." else f"{part}/{name}"


def _name(path):
    return PurePosixPath(path).name
