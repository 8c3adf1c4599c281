"""FaceForensics++ in the layout of its download script, with DeepFakeDetection and its actors.

`original_sequences/{youtube,actors}/COMPRESSION/videos` and `manipulated_sequences/METHOD/COMPRESSION/videos`;
`raw` is c0. Names, according to the data set's description: `519.mp4` is a YouTube clip; `519_515.mp4` shows clip 519
with the face of 515; `03__walk_down_hall_angry.mp4` shows actor 03; `03_27__walk_down_hall_angry__KWGI1LSZ.mp4` shows
that scene with the face of actor 27. Masks and extracted `images` are ignored.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from tfdfd.data.index.layout import IndexResult, Share, escape_separator, walk, wrong_layout
from tfdfd.data.tables import FAKE, ORIGINAL, REAL, IndexRow

FOLDERS = ("original_sequences", "manipulated_sequences")
COMPRESSIONS = {"c0": "c0", "raw": "c0", "c23": "c23", "c40": "c40"}
PAIRED = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
ACTED = "DeepFakeDetection"
# Number of videos per compression in the official set.
OFFICIAL = {"youtube": 1000, "actors": 363, **dict.fromkeys(PAIRED, 1000), ACTED: 3068}

UNKNOWN_FOLDER = "videos in folders that are none of FaceForensics++"
UNKNOWN_NAME = "videos whose names are none of FaceForensics++"


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
    left_out: dict[str, list[str]] = {UNKNOWN_FOLDER: [], UNKNOWN_NAME: []}
    placed = []
    for file in tree.media:
        folders = _method_and_compression(file.path)
        if folders is None:
            left_out[UNKNOWN_FOLDER].append(file.path)
        elif not (match := _NAMES[folders[0]].fullmatch(file.stem)):
            left_out[UNKNOWN_NAME].append(file.path)
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


_NAMES = {
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
        for method, count in OFFICIAL.items()
    ]
