"""What a network was most wrong about: by file name and score for its card, as pictures beside its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.contact_sheet import as_png
from tfdfd.data.pair_sets import METHOD
from tfdfd.detect.detector import Detector
from tfdfd.evaluation.table import one_line
from tfdfd.files import write_atomically
from tools.carrying.clips import Clip
from tools.carrying.scoring import Judged

MOST = 5  # of a set
_SIDE, _CAPTION, _GAP, _LETTERS = 128, 30, 4, 20


def failure_cases(name: str, hardest: Sequence[dict]) -> list[dict]:
    """Rows `{set, file, label, method, fake_probability}` of wrong verdicts, the worst first.

    Args:
        name: of the set.
        hardest: of `tfdfd.metrics.judge`.
    """
    return [
        {
            "set": name,
            "file": one["files"][0],
            "label": ("real", "fake")[one["label"]],
            "method": one["method"],
            "fake_probability": round(one["fake_probability"], 4),
        }
        for one in hardest
        if one["wrong"]
    ][:MOST]


def write_sheet(file: Path, cases: Sequence[tuple[object, dict]]) -> bool:
    """A PNG with the crops of failure cases, each with its set, label and score; False where there is none.

    Args:
        file: to be written.
        cases: the set of crops (of `tools.carrying.crops`) and the row of each case.
    """
    if not cases:
        return False
    tiles = [_tile(crops, case) for crops, case in cases]
    rows = [tiles[start : start + MOST] for start in range(0, len(tiles), MOST)]
    blank = np.full_like(tiles[0], 255)
    sheet = np.vstack([np.hstack(row + [blank] * (MOST - len(row))) for row in rows])
    write_atomically(file, as_png(sheet))
    return True


def sample_failures(
    network: Judged, clips: Sequence[Clip], found: Sequence[dict], folder: Path, cache: Path
) -> list[dict]:
    """The outcomes of own samples, and of each whose verdict is wrong `picture`: its most wrong crop, written as JPEG.

    Args:
        network: that scored.
        clips: of `own_samples`.
        found: of `detect_clips`.
        folder: for pictures.
        cache: folder where they are kept.
    """
    told = []
    for clip, one in zip(clips, found, strict=True):
        if one["verdict"] == ("fake", "real")[clip.label]:
            kept = cache / "pictures" / network.record.sha256[:16] / f"{clip.path.stem}.jpg"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(kept, _worst_crop(network, clip))
            one = one | {"picture": f"{network.record.handle.removeprefix('tfdfd/')}-{kept.name}"}
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / one["picture"], kept.read_bytes())
        told.append(one)
    return told


def _worst_crop(network, clip):
    with Detector(network.path) as detector:
        faces = detector.detect(clip.path).faces
    deciding = [face for face in faces if face.decides]
    frames = [frame for face in deciding or faces for frame in face.frames]
    worst = max(frames, key=lambda frame: abs(frame.fake_probability - clip.label))
    return cv2.imencode(".jpg", worst.crop[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def _tile(crops, case):
    fake = case["method"] == METHOD
    number = next(
        number
        for number, row in enumerate(crops.opened.rows)
        if row.file == case["file"] and (row.method == METHOD) == fake
    )
    tile = np.full((_SIDE + _CAPTION + _GAP, _SIDE + _GAP, 3), 255, np.uint8)
    tile[:_SIDE, :_SIDE] = crops.crops([number], _SIDE)[0]
    name = one_line(case["file"].partition("/")[2] or case["file"])
    lines = (f"{case['label']}, P(fake) {case['fake_probability']:.2f}", name[:_LETTERS])
    for place, text in enumerate(lines):
        at = (0, _SIDE + 12 + 14 * place)
        cv2.putText(tile, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.33, (0, 0, 0), 1, cv2.LINE_AA)
    return tile
