"""DFDC: the training set's parts, the validation and test sets, and the preview, each with its list of labels.

There are four kinds of lists. `metadata.json` of a training part maps `name.mp4` to `{"label": "REAL" or "FAKE",
"split": "train", "original": "name.mp4" or null}`; that of the test set has `"is_fake": 0 or 1` instead. `labels.csv`
of the validation (and test) set has the columns `filename` and `label`, 1 = fake. `dataset.json` of the preview maps
`folder/.../name.mp4` to `{"label": "real" or "fake", "set": "train" or "test", "target_id": person, "swapped_id":
person or null}`; the path begins with `original_videos` or the method.

Rewritten lists, by pandas above all, are read as well: NaN, "", "nan" or "None" for missing values, labels in any case,
0.0 and 1.0, and columns instead of entries: `{"label": {"name.mp4": "FAKE"}, …}`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TextIO

from tfdfd.data.index.layout import File, IndexResult, Share, escape_separator, walk, wrong_layout
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, SPLITS, IndexRow
from tfdfd.media.formats import kind_of_name

OFFICIAL_PARTS = 50
METADATA, LABELS_CSV, PREVIEW = "metadata.json", "labels.csv", "dataset.json"
LISTS = (METADATA, LABELS_CSV, PREVIEW)
METHOD = "dfdc"

NOT_LISTED = "videos that the list of their folder does not name: no label"
NO_LIST = f"videos in folders without a readable list ({', '.join(LISTS)}): no label"
BROKEN_ENTRY = "entries of lists that do not tell a video real or fake"
CONTRADICTED = "videos that two lists label differently"

_LABELS = {"REAL": REAL, "FAKE": FAKE}
_VALUES = {"0": REAL, "1": FAKE} | _LABELS
_MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))
# Columns of a list transposed by pandas.
_COLUMNS = frozenset(("label", "is_fake"))
# Folders that determine the split where the list does not.
_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
# `1699158_1031393_A_001_0_qat.mp4` shows person 1699158 as in `1699158_A_001.mp4` with the face of person 1031393.
_PREVIEW_FAKE = re.compile(r"(\d+)_\d+_([A-Z])_(\d+)_.*", re.ASCII)


@dataclass(frozen=True)
class _Entry:
    """The entry of one video in a list; `original` is the name of a file."""

    label: int
    method: str
    original: str | None = None
    split: str | None = None
    identity: tuple[str, ...] = ()


@dataclass
class _List:
    """The content of one list: entries by `(folder, name)`, and paths of entries without a valid label."""

    entries: dict[tuple[str, str], _Entry] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def add(self, folder: str, name: str, entry: _Entry | None, path: str | None = None) -> None:
        """Adds an entry; None counts as broken."""
        if entry is None:
            self.broken.append(_join(folder, name or "") if path is None else path)
        else:
            self.entries[folder, name] = entry


def index_dfdc(root: str | os.PathLike) -> IndexResult:
    """Indexes every folder that has a list; a listed video that is not there gives a row `missing`.

    `source_id` is the name of the original video, so that a fake stays with it even where the original is elsewhere or
    nowhere; the same name in two parts gives two rows. `original` is searched in the fake's own part, then in the only
    other part that has such a video. The originals of the validation and test set are unknown: each video is its own
    source. `identity` comes from the preview's list; the others name nobody.

    Raises:
        ValueError: no folder has a list.
    """
    tree = walk(root)
    lists = sorted(path for path in tree.others if _name(path) in LISTS)
    if not lists:
        hint = f"A part is a folder with videos and its {METADATA} or labels.csv; the preview has {PREVIEW}."
        raise wrong_layout(root, [f"dfdc_train_part_0/{METADATA}", "dfdc_train_part_0"], "DFDC", hint)
    media: dict[str, dict[str, Any]]
    left_out: dict[str, list[str]]
    media, left_out = defaultdict(dict), {NO_LIST: [], NOT_LISTED: [], BROKEN_ENTRY: [], CONTRADICTED: []}
    for file in tree.media:
        media[str(PurePosixPath(file.path).parent)][_name(file.path)] = file
    entries: dict[tuple[str, str], _Entry]
    entries, readable = {}, []
    for path in lists:
        try:
            listed = _read_list(root, path)
        except ValueError as error:
            left_out.setdefault(f"{_name(path)} that cannot be read: {error}", []).append(path)
            continue
        readable.append(path)
        left_out[BROKEN_ENTRY] += listed.broken
        for key, entry in listed.entries.items():
            if entries.setdefault(key, entry).label != entry.label:
                left_out[CONTRADICTED].append(_join(*key))
    excluded = {*left_out[BROKEN_ENTRY], *left_out[CONTRADICTED]}
    entries = {key: entry for key, entry in entries.items() if _join(*key) not in excluded}
    for part, files in media.items():
        reason = NOT_LISTED if any(_covers(path, part) for path in readable) else NO_LIST
        unlisted = [file.path for name, file in files.items() if (part, name) not in entries]
        left_out[reason] += [path for path in unlisted if path not in excluded]
    there = defaultdict(list)
    for part, name in entries:
        if (file := media[part].get(name)) and file.bytes:  # type: ignore[assignment]
            there[name].append(part)
    rows = [_row(part, name, entry, media[part].get(name), there) for (part, name), entry in entries.items()]
    parts = sum(_name(path) == METADATA for path in readable)
    shares = [Share("parts", parts, OFFICIAL_PARTS)] if parts else []
    names = " and ".join(sorted({_name(path) for path in readable}))
    shares.append(Share(f"videos listed in {names}", sum(row.status != "missing" for row in rows), len(rows)))
    return IndexResult.of(rows, tree, left_out, lists, shares=shares if readable else [])


def _covers(path: str, part: str) -> bool:
    """Whether the list at `path` describes the videos in the folder `part`."""
    folder = PurePosixPath(path).parent
    return str(folder) == part or (_name(path) == PREVIEW and folder in PurePosixPath(part).parents)


def _row(part: str, name: str, entry: _Entry, file: File | None, there: Mapping[str, list[str]]) -> IndexRow:
    original = None
    if entry.original:
        parts = there.get(entry.original, [])
        home = part if part in parts else parts[0] if len(parts) == 1 else None
        original = None if home is None else _join(home, entry.original)
    return IndexRow(
        _join(part, name),
        "dfdc",
        kind_of_name(name),  # type: ignore[arg-type]
        entry.label,
        entry.method,
        (escape_separator(PurePosixPath(entry.original or name).stem),),
        original=original,
        identity=entry.identity,
        split=entry.split,
        **(file.columns if file else {"bytes": None, "status": "missing"}),
    )


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _read_list(root: str | os.PathLike, path: str) -> _List:
    """Reads the list at `path` below `root`.

    Raises:
        ValueError: it cannot be read as one; gives the reason.
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


def _read_metadata(file: TextIO, folder: str) -> _List:
    listed = _List()
    for name, values in _by_name(_json(file)).items():
        listed.add(folder, name, _metadata_entry(values, folder) if _is_video(name) else None)
    return listed


def _metadata_entry(values: Any, folder: str) -> _Entry | None:
    if not isinstance(values, dict):
        return None
    label = _label(values["label"]) if _known(values.get("label")) is not None else _value(values.get("is_fake"))
    # Only the label of a real video matters.
    original = None if label == REAL else _known(values.get("original"))
    if label is None or not (original is None or _is_file_name(original)):
        return None
    split = values["split"] if values.get("split") in SPLITS else _split_of(folder)
    return _Entry(REAL, ORIGINAL, split=split) if label == REAL else _Entry(FAKE, METHOD, original, split)


def _read_labels(file: TextIO, folder: str) -> _List:
    table = csv.DictReader(file)
    if table.fieldnames is None or not {"filename", "label"} <= set(table.fieldnames):
        raise ValueError(f"its columns are {table.fieldnames}; expected filename,label")
    listed = _List()
    for row in table:
        name, label = row["filename"], _value(row["label"])
        method = ORIGINAL if label == REAL else METHOD
        valid = _is_video(name) and label is not None
        listed.add(folder, name, _Entry(label, method, split=_split_of(folder)) if valid else None)  # type: ignore[arg-type]
    return listed


def _read_preview(file: TextIO, folder: str) -> _List:
    listed = _List()
    for path, values in _json(file).items():
        pure = PurePosixPath(path)
        entry = _preview_entry(path, values)
        listed.add(str(PurePosixPath(folder, pure.parent)), pure.name, entry, _join(folder, path))
    return listed


def _preview_entry(path: str, values: Any) -> _Entry | None:
    *folders, name = path.split("/")
    if not isinstance(values, dict) or not folders or not all(map(_is_file_name, folders)) or not _is_video(name):
        return None
    label = _label(values.get("label"))
    if label is None:
        return None
    split = values.get("set") if values.get("set") in SPLITS else None
    people = [_integer(_known(values.get(key))) for key in ("target_id", "swapped_id")]
    if any(not isinstance(person, int | str | None) for person in people):
        return None
    identity = tuple(escape_separator(str(person)) for person in dict.fromkeys(people) if person is not None)
    if label == REAL:
        # The name has the person where the entry does not.
        person = name.partition("_")[0]
        identity = identity or ((person,) if person.isdigit() and person.isascii() else ())
        return _Entry(REAL, ORIGINAL, split=split, identity=identity)
    match = _PREVIEW_FAKE.fullmatch(PurePosixPath(name).stem)
    original = f"{match[1]}_{match[2]}_{match[3]}{PurePosixPath(name).suffix}" if match else None
    return _Entry(FAKE, escape_separator(folders[0]), original, split, identity)


def _split_of(folder: str) -> str | None:
    return _FOLDERS.get(PurePosixPath(folder).name)


def _known(value: Any) -> Any:
    """The value, or None for every form of a missing one."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return None if isinstance(value, str) and value.strip().lower() in _MISSING else value


def _integer(value: Any) -> Any:
    """Restores an integer that a column with gaps has made a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _label(value: Any) -> int | None:
    """The label of `REAL` or `FAKE`, in any case; None for anything else."""
    return _LABELS.get(value.strip().upper()) if isinstance(value, str) else None


def _value(value: Any) -> int | None:
    """The label of `0` or `1`, as a number or text, or of a word; None for anything else."""
    if isinstance(value, bool | float):
        value = _integer(float(value))
    return _VALUES.get(str(value).strip().upper().removesuffix(".0"))


def _by_name(listed: dict[str, Any]) -> dict[str, Any]:
    """Entries by name, also of a list that has columns of values by name."""
    columns = {key: column for key, column in listed.items() if isinstance(column, dict)}
    if not _COLUMNS & columns.keys() or any(kind_of_name(key) for key in listed):
        return listed
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return {name: {key: column.get(name) for key, column in columns.items()} for name in names}


def _json(file: TextIO) -> Any:
    listed = json.load(file)
    if not isinstance(listed, dict):
        raise ValueError(f"a {type(listed).__name__} where an object is expected")
    return listed


def _is_video(name: Any) -> bool:
    return _is_file_name(name) and kind_of_name(name) is not None


def _is_file_name(name: Any) -> bool:
    """Whether it can be the name of a file or folder: entries must not lead elsewhere."""
    if not isinstance(name, str) or not name.strip(".") or "/" in name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
