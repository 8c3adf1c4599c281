"""Index builders of the data sets in the literature: FaceForensics++ with DeepFakeDetection, Celeb-DF v2, and DFDC.

FaceForensics++, as its download script lays it out: `original_sequences/{youtube,actors}/COMPRESSION/videos` and
`manipulated_sequences/METHOD/COMPRESSION/videos`; `raw` is c0. Names, according to the data set's description:
`519.mp4` is a YouTube clip; `519_515.mp4` shows clip 519 with the face of 515; `03__walk_down_hall_angry.mp4` shows
actor 03; `03_27__walk_down_hall_angry__KWGI1LSZ.mp4` shows that scene with the face of actor 27. Masks and extracted
`images` are ignored.

Celeb-DF: `Celeb-real/id0_0000.mp4` shows celebrity id0; `Celeb-synthesis/id0_id1_0000.mp4` shows that video with the
face of id1; `YouTube-real/00000.mp4` shows an unnamed person. `List_of_testing_videos.txt` has lines `{value} {path}`
in which 1 means REAL; it is inverted here.

DFDC has four kinds of lists. `metadata.json` of a training part maps `name.mp4` to `{"label": "REAL" or "FAKE",
"split": "train", "original": "name.mp4" or null}`; that of the test set has `"is_fake": 0 or 1` instead. `labels.csv`
of the validation (and test) set has the columns `filename` and `label`, 1 = fake. `dataset.json` of the preview maps
`folder/.../name.mp4` to `{"label": "real" or "fake", "set": "train" or "test", "target_id": person, "swapped_id":
person or null}`; the path begins with `original_videos` or the method. Rewritten lists, by pandas above all, are read
as well: NaN, "", "nan" or "None" for missing values, labels in any case, 0.0 and 1.0, and columns instead of entries:
`{"label": {"name.mp4": "FAKE"}, …}`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, TextIO

from tfdfd.data.index.layout import File, IndexResult, Share, escape_separator, is_inside, walk, wrong_layout
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, SPLITS, IndexRow
from tfdfd.media.formats import kind_of_name

FOLDERS = ("original_sequences", "manipulated_sequences")
COMPRESSIONS = {"c0": "c0", "raw": "c0", "c23": "c23", "c40": "c40"}
PAIRED = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
ACTED = "DeepFakeDetection"
# Number of videos per compression in the official set.
FFPP_COUNTS = {"youtube": 1000, "actors": 363, **dict.fromkeys(PAIRED, 1000), ACTED: 3068}

UNKNOWN_FOLDER = "videos in folders that are none of FaceForensics++"
NOT_IN_FFPP = "videos whose names are none of FaceForensics++"


def index_ffpp(root: str | os.PathLike) -> IndexResult:
    """Indexes FaceForensics++, complete or in part.

    `source_id` holds both clips of a pair, and the YouTube video (`youtube_ID`) where two clips were cut from one; for
    actors, whom `identity` names, the video of the scene. `split` is the official one of the pair; None for pairs
    without one, and for actors.

    Raises:
        ValueError: neither of the two top folders is there.
    """
    tree = walk(root, FOLDERS, skip=frozenset({"masks", "images"}))
    if not any(os.path.isdir(os.path.join(root, folder)) for folder in FOLDERS):
        hint = "Give the folder in which they lie, as the download script made it."
        raise wrong_layout(root, FOLDERS, "FaceForensics++", hint)
    left_out: dict[str, list[str]] = {UNKNOWN_FOLDER: [], NOT_IN_FFPP: []}
    placed = []
    for file in tree.media:
        folders = _method_and_compression(file.path)
        if folders is None:
            left_out[UNKNOWN_FOLDER].append(file.path)
        elif not (match := _FFPP_NAMES[folders[0]].fullmatch(file.stem)):
            left_out[NOT_IN_FFPP].append(file.path)
        else:
            placed.append((file, *folders, match))
    originals: dict[tuple[str, str, str], str] = {}
    for file, method, compression, _ in placed:
        if method in ("youtube", "actors") and file.bytes:
            originals.setdefault((method, file.stem, compression), file.path)
    rows = [
        IndexRow(
            file.path,
            "ffpp",
            file.kind,
            REAL if method in ("youtube", "actors") else FAKE,
            ORIGINAL if method in ("youtube", "actors") else method,
            compression=compression,
            **_people_of(method, compression, match, originals),
            **file.columns,
        )
        for file, method, compression, match in placed
    ]
    return IndexResult.of(rows, tree, left_out, shares=_shares(placed), notes=_notes(rows))


_FFPP_NAMES = {
    "youtube": re.compile(r"(\d{3})", re.ASCII),
    "actors": re.compile(r"(\d\d)__(.+)", re.ASCII | re.DOTALL),
    **dict.fromkeys(PAIRED, re.compile(r"(\d{3})_(\d{3})", re.ASCII)),
    ACTED: re.compile(r"(\d\d)_(\d\d)__(.+)__[A-Z0-9]+", re.ASCII | re.DOTALL),
}
_GROUPS = {"original_sequences": ("youtube", "actors"), "manipulated_sequences": (*PAIRED, ACTED)}


def _method_and_compression(path: str) -> tuple[str, str] | None:
    """Method (`youtube` or `actors` for originals) and compression of the folders; None for other folders."""
    group, *folders, _ = path.split("/")
    if len(folders) == 3 and folders[0] in _GROUPS[group] and folders[2] == "videos":
        method, compression, _ = folders
        if compression in COMPRESSIONS:
            return method, COMPRESSIONS[compression]
    return None


def _people_of(
    method: str, compression: str, match: re.Match[str], originals: Mapping[tuple[str, str, str], str]
) -> dict[str, Any]:
    if method in ("actors", ACTED):
        *actors, scene = match.groups()
        video = f"{actors[0]}__{scene}"
        people = {"source_id": (escape_separator(video),), "identity": tuple(actors)}
        return people | {"original": originals.get(("actors", video, compression)) if method == ACTED else None}
    clips = match.groups()
    shared = official()["youtube"]
    videos = tuple(dict.fromkeys(shared[clip] for clip in clips if clip in shared))
    people = {"source_id": clips + videos, "split": official()["split"].get(frozenset(clips))}
    return people | {"original": originals.get(("youtube", clips[0], compression)) if method != "youtube" else None}


@cache
def official() -> dict:
    """Facts about the data set: `split` by the set of clips (a pair or one), `youtube` video by clip where shared."""
    facts = json.loads((files("tfdfd.data.index") / "faceforensics.json").read_text("utf-8"))
    split: dict[frozenset[str], Any] = {}
    for name, pairs in facts["pairs"].items():
        for pair in pairs.split():
            clips = pair.split("_")
            split |= dict.fromkeys([frozenset(clips), *(frozenset([clip]) for clip in clips)], name)
    shared = {
        clip: f"youtube_{video}" for video, clips in facts["same_youtube_video"].items() for clip in clips.split()
    }
    return {"split": split, "youtube": shared}


def _notes(rows: Sequence[IndexRow]) -> list[str]:
    splits = defaultdict(set)
    for row in rows:
        for source in row.source_id:
            splits[source].add(row.split)
    crossing = sorted(name for name in official()["youtube"].values() if len(splits[name] - {None}) > 1)
    crossing = list(dict.fromkeys(crossing))
    if not crossing:
        return []
    return [
        f"the official split separates clips of one YouTube video: {', '.join(crossing)}; here they share that source"
    ]


def _shares(placed: Any) -> list[Share]:
    there = defaultdict(set)
    for file, method, compression, match in placed:
        known = method in ("actors", ACTED) or frozenset(match.groups()) in official()["split"]
        if known and file.bytes:
            there[compression, method].add(file.stem)
    compressions = sorted({compression for compression, _ in there}, key=lambda name: int(name[1:]))
    return [
        Share(f"{method} {compression}", len(there[compression, method]), count)
        for compression in compressions
        for method, count in FFPP_COUNTS.items()
    ]


TEST_LIST = "List_of_testing_videos.txt"
CELEBRITIES, STRANGERS, FAKES = "Celeb-real", "YouTube-real", "Celeb-synthesis"
CELEBDF_COUNTS = {CELEBRITIES: 590, STRANGERS: 300, FAKES: 5639}
OFFICIAL_TESTS = 518

NOT_IN_CELEBDF = "files whose names are none of Celeb-DF"
_CELEBDF_NAMES = {
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
    tree = walk(root, tuple(CELEBDF_COUNTS))
    if not any(os.path.isdir(os.path.join(root, folder)) for folder in CELEBDF_COUNTS):
        raise wrong_layout(root, CELEBDF_COUNTS, "Celeb-DF v2", "Give the folder in which they lie.")
    listed = read_test_list(os.path.join(root, TEST_LIST)) if is_inside(root, TEST_LIST) else None
    there = {_key(file.path): file.path for file in tree.media if file.bytes and _columns(file.path, {})}
    rows = []
    left_out: dict[str, list[str]] = {NOT_IN_CELEBDF: []}
    for file in tree.media:
        columns = _columns(file.path, there)
        if columns is None:
            left_out[NOT_IN_CELEBDF].append(file.path)
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
        Share(folder, sum(key.startswith(f"{folder}/") for key in there), count)
        for folder, count in CELEBDF_COUNTS.items()
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
    if (
        folder not in _CELEBDF_NAMES
        or not (match := _CELEBDF_NAMES[folder].fullmatch(PurePosixPath(name).stem))
        or "/" in name
    ):
        return None
    if folder == STRANGERS:
        return {"label": REAL, "method": ORIGINAL, "source_id": (f"youtube_{match[1]}",)}
    *people, number = match.groups()
    video = f"{people[0]}_{number}"
    shown = {"source_id": (video,), "identity": tuple(people)}
    if folder == CELEBRITIES:
        return {"label": REAL, "method": ORIGINAL} | shown
    return {"label": FAKE, "method": FAKES, "original": there.get(f"{CELEBRITIES}/{video}")} | shown


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
    media: dict[str, dict[str, Any]] = defaultdict(dict)
    left_out: dict[str, list[str]] = {NO_LIST: [], NOT_LISTED: [], BROKEN_ENTRY: [], CONTRADICTED: []}
    for file in tree.media:
        media[str(PurePosixPath(file.path).parent)][_name(file.path)] = file
    readable = []
    entries: dict[tuple[str, str], _Entry] = {}
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
    for part, present in media.items():
        reason = NOT_LISTED if any(_covers(path, part) for path in readable) else NO_LIST
        unlisted = [file.path for name, file in present.items() if (part, name) not in entries]
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
