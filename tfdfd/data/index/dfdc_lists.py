"""The four kinds of lists in which DFDC tells its labels, each as entries by the folder and name of a video.

`metadata.json` of a training part maps `name.mp4` to `{"label": "REAL" or "FAKE", "split": "train", "original":
"name.mp4" or null}`; that of the test set has `"is_fake": 0 or 1` instead. `labels.csv` of the validation (and test)
set has the columns `filename` and `label`, 1 = fake. `dataset.json` of the preview maps `folder/.../name.mp4` to
`{"label": "real" or "fake", "set": "train" or "test", "target_id": person, "swapped_id": person or null}`; the path
begins with `original_videos` or the method.
"""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tfdfd.data.index.found import as_name
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, SPLITS
from tfdfd.media.kinds import kind_of_name

METADATA, LABELS_CSV, PREVIEW = "metadata.json", "labels.csv", "dataset.json"
LISTS = (METADATA, LABELS_CSV, PREVIEW)
METHOD = "dfdc"
_LABELS = {"REAL": REAL, "FAKE": FAKE}
_VALUES = {"0": REAL, "1": FAKE}
# Folders of the data set's own that tell the split where the list does not.
_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
# `1699158_1031393_A_001_0_qat.mp4` shows person 1699158 as in `1699158_A_001.mp4` with the face of person 1031393.
_PREVIEW_FAKE = re.compile(r"(\d+)_\d+_([A-Z])_(\d+)_.*", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """What a list tells of one video; `original` is the name of a file."""

    label: int
    method: str
    original: str | None = None
    split: str | None = None
    identity: tuple[str, ...] = ()


@dataclass
class Listed:
    """What one list holds: entries by `(folder, name)`, and paths of entries that say nothing clear."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def read_list(root: str | os.PathLike, path: str) -> Listed:
    """Reads the list at `path` below `root`.

    Raises:
        ValueError: it cannot be read as one; says why.
    """
    folder, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
    read = {METADATA: _read_metadata, LABELS_CSV: _read_labels, PREVIEW: _read_preview}[name]
    try:
        with open(os.path.join(root, path), encoding="utf-8-sig", newline="") as file:
            return read(file, folder)
    except OSError as error:
        raise ValueError(error.strerror) from error
    except (csv.Error, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def joined(folder: str, name: str) -> str:
    """Their path."""
    return name if folder == "." else f"{folder}/{name}"


def _read_metadata(file, folder):
    listed = Listed()
    for name, told in _json(file).items():
        entry = _of_metadata(told, folder) if _is_video(name) else None
        if entry is None:
            listed.broken.append(joined(folder, name))
        else:
            listed.entries[folder, name] = entry
    return listed


def _of_metadata(told, folder):
    if not isinstance(told, dict):
        return None
    if "label" in told:
        label = _LABELS.get(told["label"]) if isinstance(told["label"], str) else None
    else:
        label = _value(told.get("is_fake"))
    original = told.get("original")
    if label is None or not (original is None or _is_file_name(original)):
        return None
    split = told["split"] if told.get("split") in SPLITS else _split_of(folder)
    return Entry(REAL, ORIGINAL, split=split) if label == REAL else Entry(FAKE, METHOD, original, split)


def _read_labels(file, folder):
    table = csv.DictReader(file)
    if table.fieldnames is None or not {"filename", "label"} <= set(table.fieldnames):
        raise ValueError(f"its columns are {table.fieldnames}; expected filename,label")
    listed = Listed()
    for row in table:
        name, label = row["filename"], _value(row["label"])
        if _is_video(name) and label is not None:
            method = ORIGINAL if label == REAL else METHOD
            listed.entries[folder, name] = Entry(label, method, split=_split_of(folder))
        else:
            listed.broken.append(joined(folder, name or ""))
    return listed


def _read_preview(file, folder):
    listed = Listed()
    for path, told in _json(file).items():
        entry = _of_preview(path, told)
        if entry is None:
            listed.broken.append(joined(folder, path))
        else:
            pure = PurePosixPath(path)
            listed.entries[str(PurePosixPath(folder, pure.parent)), pure.name] = entry
    return listed


def _of_preview(path, told):
    *folders, name = path.split("/")
    if not isinstance(told, dict) or not folders or not all(map(_is_file_name, folders)) or not _is_video(name):
        return None
    label = _LABELS.get(str(told.get("label")).upper())
    if label is None:
        return None
    people = [told.get(key) for key in ("target_id", "swapped_id")]
    if any(not isinstance(person, int | str | None) for person in people):
        return None
    identity = tuple(as_name(str(person)) for person in dict.fromkeys(people) if person not in (None, ""))
    if label == REAL:
        # The person is in the name, where the entry leaves it out.
        person = name.partition("_")[0]
        identity = identity or ((person,) if person.isdigit() and person.isascii() else ())
        return Entry(REAL, ORIGINAL, split=_split_named(told), identity=identity)
    match = _PREVIEW_FAKE.fullmatch(PurePosixPath(name).stem)
    original = f"{match[1]}_{match[2]}_{match[3]}{PurePosixPath(name).suffix}" if match else None
    return Entry(FAKE, as_name(folders[0]), original, _split_named(told), identity)


def _split_named(told):
    return told.get("set") if told.get("set") in SPLITS else None


def _split_of(folder):
    return _FOLDERS.get(PurePosixPath(folder).name)


def _value(told):
    """The label of `0` or `1`, as a number or text; None for anything else."""
    return _VALUES.get(str(int(told)) if isinstance(told, bool) else str(told))


def _json(file):
    listed = json.load(file)
    if not isinstance(listed, dict):
        raise ValueError(f"a {type(listed).__name__} where an object is expected")
    return listed


def _is_video(name):
    return _is_file_name(name) and kind_of_name(name) is not None


def _is_file_name(name):
    """Whether it can be the name of a file or folder: what a list says leads nowhere else."""
    if not isinstance(name, str) or not name.strip(".") or "/" in name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
