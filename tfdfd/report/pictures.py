"""Pictures of the report: whole frames, a strip of small frames, crops and heat maps, encoded as soon as an input is
done, so that its pixels need not be kept."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfdfd.detect.results import Detection, FaceTrack, FrameScore
from tfdfd.files import write_atomically
from tfdfd.html import as_jpeg, data_uri, resized
from tfdfd.report import chart

TRACKS_PER_INPUT = len(chart.MARKERS)
# The report has pictures of at most this many inputs, those with the highest P(fake), and of this many bytes.
PICTURED_INPUTS = 200
PICTURE_BYTES = 12 << 20
# Frames that `Detector` keeps for the pictures of an input.
VIEWS = 32
# A strip is for orientation; the frames and crops beside it have more pixels.
_STRIP_QUALITY = 65


@dataclass(frozen=True)
class Sizes:
    """Number and size of the pictures of one input.

    Attributes:
        inputs: the largest number of inputs in a report with these sizes.
        frames, frame_side: number of whole frames, and their longest side in pixels.
        toward_fake, toward_real, crop_side: number of crops of a face with the highest and the lowest scores, and the
            side of a crop.
        cells, cell_side: number of frames in the strip, and their longest side.
        explained: whether heat maps are computed.
    """

    inputs: float
    frames: int
    frame_side: int
    toward_fake: int
    toward_real: int
    crop_side: int
    cells: int
    cell_side: int
    explained: bool = True


_SIZES = (
    Sizes(10, 3, 640, 6, 2, 128, 32, 240),
    Sizes(50, 2, 480, 6, 2, 128, 24, 160),
    Sizes(float("inf"), 1, 288, 2, 1, 72, 8, 80, explained=False),
)


def sizes_for(inputs: int) -> Sizes:
    """The sizes for a report of this many inputs."""
    return next(sizes for sizes in _SIZES if inputs <= sizes.inputs)


def encode(detection: Detection, sizes: Sizes) -> dict[str, Any]:
    """The pictures of an input, as JPEG in data URIs; JSON-serializable.

    Returns:
        `frames`, a list of `{index, time_s, uri, width, height}`; `strip`, None or `{uri, width, height, indices}` of
        frames side by side; `tracks`, by track number as text a dict of lists of `{time_s, fake_probability, uri}` by
        title; `frame_size`, to which boxes refer.

    Raises:
        ValueError: a crop is not an RGB uint8 picture.
    """
    shown = shown_tracks(detection)
    views = detection.views
    return {
        "frames": [
            {"index": index, "time_s": time_s, "uri": _uri(views[index], sizes.frame_side), **_size(views[index])}
            for index, time_s in _telling_frames(detection, shown, sizes.frames)
        ],
        "strip": _strip(views, sizes) if detection.kind == "video" and len(views) > 1 else None,
        "tracks": {str(track.track): groups for track in shown if (groups := _crop_groups(track, sizes))},
        "frame_size": list(detection.frame_size) if detection.frame_size else None,
    }


def shown_tracks(detection: Detection) -> list[FaceTrack]:
    """The faces that the report shows; the deciding one with the highest score comes first."""
    order = sorted(detection.faces, key=lambda track: (not track.decides, -track.fake_probability))
    return order[:TRACKS_PER_INPUT]


class Gallery:
    """The pictures of a report's inputs, within its bounds. Those with the highest P(fake) stay.

    Args:
        inputs: number of inputs of the report.
        folder: stores pictures as files instead of in memory; they are found again by the next `Gallery`.

    Attributes:
        sizes: sizes of the pictures.
    """

    def __init__(self, inputs: int, folder: str | os.PathLike | None = None):
        self.sizes = sizes_for(inputs)
        self._folder = None if folder is None else Path(folder)
        self._in_memory: dict[int, dict[str, Any]] = {}
        # Pairs of P(fake) and the negative number of the input: of equal ones, the first input stays.
        self._kept: list[tuple[float, int]] = []
        self._bytes: dict[int, int] = {}
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
            for path in sorted(self._folder.glob("*.json")):
                if path.stem.isdigit() and (stored := self._read(path)) is not None:
                    self._keep(int(path.stem), stored["fake_probability"], path.stat().st_size)

    def __contains__(self, number: int) -> bool:
        return number in self._bytes

    def add(self, number: int, detection: Detection) -> None:
        """Encodes the pictures of input `number`, from 0, unless those of enough others rank before them."""
        score = detection.fake_probability
        if score is None or number in self or (self._is_full() and (score, -number) < self._kept[0]):
            return
        pictures = (detection.pictures or encode(detection, self.sizes)) | {"fake_probability": score}
        text = json.dumps(pictures)
        if self._folder is None:
            self._in_memory[number] = pictures
        else:
            write_atomically(self._path(number), text)
        self._keep(number, score, len(text))

    def get(self, number: int) -> dict[str, Any] | None:
        """The pictures of input `number`, or None."""
        if number not in self:
            return None
        return self._in_memory[number] if self._folder is None else self._read(self._path(number))

    def _is_full(self) -> bool:
        return len(self._bytes) >= PICTURED_INPUTS or sum(self._bytes.values()) >= PICTURE_BYTES

    def _keep(self, number: int, score: float, size: int) -> None:
        heapq.heappush(self._kept, (score, -number))
        self._bytes[number] = size
        while len(self._bytes) > PICTURED_INPUTS or (
            sum(self._bytes.values()) > PICTURE_BYTES and len(self._bytes) > 1
        ):
            dropped = -heapq.heappop(self._kept)[1]
            del self._bytes[dropped]
            self._in_memory.pop(dropped, None)
            if self._folder is not None:
                self._path(dropped).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:07}.json"  # type: ignore[operator]

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            stored = json.loads(path.read_bytes())
            float(stored["fake_probability"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # interrupted on a file system without atomic renames; the report does without
        return stored


def _telling_frames(detection: Detection, shown: Sequence[FaceTrack], count: int) -> list[tuple[int, float]]:
    """Index and time of the frames to show: of each face the one with its highest score, then the next ones."""
    ranked = [sorted(track.frames, key=lambda frame: -frame.fake_probability) for track in shown]
    chosen: dict[int, float] = {}
    for place in range(max(map(len, ranked), default=0)):
        for frames in ranked:
            if place < len(frames) and len(chosen) < count and frames[place].index in detection.views:
                chosen[frames[place].index] = frames[place].time_s
    return sorted(chosen.items())


def _strip(views: dict[int, np.ndarray], sizes: Sizes) -> dict[str, Any]:
    indices = sorted(views)
    count = min(sizes.cells, len(indices))
    indices = [indices[(2 * k + 1) * len(indices) // (2 * count)] for k in range(count)]
    height, width = views[indices[0]].shape[:2]
    scale = min(1.0, sizes.cell_side / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    strip = np.zeros((height, width * count, 3), np.uint8)
    for place, index in enumerate(indices):
        # A view of another size, in a video whose size changes, fills its cell, too.
        strip[:, place * width : (place + 1) * width] = resized(views[index], width, height)
    uri = data_uri(as_jpeg(strip, max(strip.shape), _STRIP_QUALITY))
    return {"uri": uri, "width": width, "height": height, "indices": indices}


def _crop_groups(track: FaceTrack, sizes: Sizes) -> dict[str, list]:
    """Crops to show: those with the highest and with the lowest scores; and heat maps."""
    with_crop = [frame for frame in track.frames if frame.crop is not None]
    with_crop.sort(key=lambda frame: -frame.fake_probability)
    if len(with_crop) <= sizes.toward_fake + sizes.toward_real:
        groups = {"Every scored face, most fake first" if len(with_crop) > 1 else "The scored face": with_crop}
    else:
        groups = {
            "Strongest toward fake": with_crop[: sizes.toward_fake],
            "Strongest toward real": with_crop[: -sizes.toward_real - 1 : -1],
        }
    encoded = {
        title: [_crop(frame, frame.crop, sizes) for frame in frames]  # type: ignore[arg-type]
        for title, frames in groups.items()
        if frames
    }
    for frame in track.frames:
        for title, picture in frame.explained.items():
            encoded.setdefault(title, []).append(_crop(frame, picture, sizes))
    return encoded


def _crop(frame: FrameScore, pixels: np.ndarray, sizes: Sizes) -> dict[str, Any]:
    uri = _uri(pixels, sizes.crop_side)
    return {"time_s": frame.time_s, "fake_probability": frame.fake_probability, "uri": uri}


def _uri(pixels: np.ndarray, side: int) -> str:
    return data_uri(as_jpeg(pixels, side))


def _size(pixels: np.ndarray) -> dict[str, int]:
    return {"width": pixels.shape[1], "height": pixels.shape[0]}
