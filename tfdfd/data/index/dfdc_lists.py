"""The four kinds of lists in which DFDC tells its labels, each as entries by the folder and name of a video.

`metadata.json` of a training part maps `name.mp4` to `{"label": "REAL" or "FAKE", "split": "train", "original":
"name.mp4" or null}`; that of the test set has `"is_fake": 0 or 1` instead. `labels.csv` of the validation (and test)
set has the columns `filename` and `label`, 1 = fake. `dataset.json` of the preview maps `folder/.../name.mp4` to
`{"label": "real" or "fake", "set": "train" or "test", "target_id": person, "swapped_id": person or null}`; the path
begins with `original_videos` or the method.

Lists that were written anew, by pandas above all, are read as well: NaN, "", "nan" or "None" for what is missing,
labels in any case, 0.0 and 1.0, and columns instead of entries: `{"label": {"name.mp4": "FAKE"}, …}`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tfdfd.data.index.found import as_name
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, SPLITS
from tfdfd.media.formats import kind_of_name

METADATA, LABELS_CSV, PREVIEW = "metadata.json", "labels.csv", "dataset.json"
LISTS = (METADATA, LABELS_CSV, PREVIEW)
METHOD = "dfdc"
_LABELS = {"REAL": REAL, "FAKE": FAKE}
_VALUES = {"0": REAL, "1": FAKE} | _LABELS
_MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))
# Of a list that pandas has turned: its columns.
_COLUMNS = frozenset(("label", "is_fake"))
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
    for name, told in _turned(_json(file)).items():
        entry = _of_metadata(told, folder) if _is_video(name) else None
        if entry is None:
            listed.broken.append(joined(folder, name))
        else:
            listed.entries[folder, name] = entry
    return listed


def _of_metadata(told, folder):
    if not isinstance(told, dict):
        return None
    label = _label(told["label"]) if _known(told.get("label")) is not None else _value(told.get("is_fake"))
    # Of a real video nothing but its label matters.
    original = None if label == REAL else _known(told.get("original"))
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
    label = _label(told.get("label"))
    if label is None:
        return None
    people = [_whole(_known(told.get(key))) for key in ("target_id", "swapped_id")]
    if any(not isinstance(person, int | str | None) for person in people):
        return None
    identity = tuple(as_name(str(person)) for person in dict.fromkeys(people) if person is not None)
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


def _known(told):
    """None for all that stands for a missing value."""
    if isinstance(told, float) and math.isnan(told):
        return None
    return None if isinstance(told, str) and told.strip().lower() in _MISSING else told


def _whole(told):
    """A whole number that a column with gaps has made a fraction, as it was."""
    return int(told) if isinstance(told, float) and told.is_integer() else told


def _label(told):
    """The label of `REAL` or `FAKE`, in any case; None for anything else."""
    return _LABELS.get(told.strip().upper()) if isinstance(told, str) else None


def _value(told):
    """The label of `0` or `1`, as a number or text, or of a word; None for anything else."""
    if isinstance(told, bool | float):
        told = _whole(float(told))
    return _VALUES.get(str(told).strip().upper().removesuffix(".0"))


def _turned(listed):
    """The entries of a list, by name, where it has columns of values by name."""
    columns = {key: column for key, column in listed.items() if isinstance(column, dict)}
    if not _COLUMNS & columns.keys() or any(kind_of_name(key) for key in listed):
        return listed
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return {name: {key: column.get(name) for key, column in columns.items()} for name in names}


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
