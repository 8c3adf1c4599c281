"""Whole clips and pictures by `tfdfd.Detector`: the few deepfakes that are at hand, and the package's own samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfdfd.data.index import INDEXERS
from tfdfd.data.tables import FAKE, ORIGINAL, REAL
from tfdfd.detect.detector import Detector
from tfdfd.files import write_atomically
from tfdfd.metrics.scores import ScoreRow
from tools.carrying.crops import video_of
from tools.carrying.scoring import Judged

SAMPLES = Path(__file__).resolve().parents[2] / "tfdfd/samples"


@dataclass(frozen=True)
class Clip:
    """A video or a picture, and what it is.

    Attributes:
        name: in cards.
        path: of the file.
        dataset: `dfdc`, `ffpp` or `samples`.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation.
        sources: what it shows, or was made of; clips that share one are drawn together.
    """

    name: str
    path: Path
    dataset: str
    label: int
    method: str
    sources: tuple[str, ...] = ()


def clips_in(folder: Path) -> list[Clip]:
    """The videos below `folder/dfdc` and `folder/ffpp`, labelled by `metadata.json` and by the names of folders.

    Raises:
        ValueError: a folder is not laid out like its data set.
    """
    return [
        Clip(f"{dataset}/{row.path}", folder / dataset / row.path, dataset, row.label, row.method, row.source_id)
        for dataset in ("dfdc", "ffpp")
        for row in INDEXERS[dataset](folder / dataset).rows
        if row.status == "ok"
    ]


def pictures_in(folder: Path) -> list[Clip]:
    """The pictures in `real/` and `fake/` below each data set of a folder.

    They are cut wider than networks are fed, and not square. So they are pictures here, in which faces are found first.

    Raises:
        ValueError: there are none.
    """
    found = [
        Clip(f"{dataset}/{name}/{path.name}", path, dataset, label, name, (video_of(path.name),))
        for dataset in ("dfdc", "ffpp")
        for label, name in ((REAL, "real"), (FAKE, "fake"))
        for path in sorted((folder / dataset / name).glob("*.png"))
    ]
    if not found:
        raise ValueError(f"{folder} has no pictures dfdc/real/*.png, dfdc/fake/*.png, ffpp/…; give their folder.")
    return found


def own_samples() -> list[Clip]:
    """The two clips that the package carries, made of a portrait in the public domain."""
    known = (("genuine.mp4", REAL, ORIGINAL), ("blended.mp4", FAKE, "self-blended"))
    return [Clip(name, SAMPLES / name, "samples", label, method) for name, label, method in known]


def detect_clips(network: Judged, clips: Sequence[Clip], cache: Path) -> list[dict]:
    """What `tfdfd detect` says of each clip: `{clip, label, method, status, fake_probability, verdict, frames_scored}`.

    Args:
        network: that scores.
        clips: what is looked at.
        cache: folder where outcomes are kept.
    """
    told = [[clip.name, clip.path.stat().st_size, clip.label] for clip in clips]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    file = cache / "clips" / network.record.sha256[:16] / f"{key}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(_detected(network, clips), indent=1) + "\n")
    return json.loads(file.read_text("utf-8"))


def clip_rows(clips: Sequence[Clip], found: Sequence[dict]) -> list[ScoreRow]:
    """Rows for `tfdfd.metrics`: a clip counts as one example, with the score of the whole clip."""
    return [
        ScoreRow(
            clip.name, clip.dataset, clip.name, 0, 0, clip.label, clip.method, clip.sources, None, None,
            one["fake_probability"], one["status"],
        )
        for clip, one in zip(clips, found, strict=True)
    ]  # fmt: skip


def _detected(network, clips):
    with Detector(network.path) as detector:
        outcomes = {outcome.path: outcome for outcome in detector.detect_many([clip.path for clip in clips])}
    return [
        {
            "clip": clip.name,
            "label": clip.label,
            "method": clip.method,
            "status": outcome.status,
            "fake_probability": outcome.fake_probability,
            "verdict": outcome.verdict,
            "frames_scored": outcome.frames_scored,
        }
        for clip in clips
        for outcome in [outcomes[str(clip.path)]]
    ]
