"""Annotated copy of a video: boxes, face numbers and scores drawn into its frames.

The frames come from a decoding process; only the drawn copy is encoded here.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from statistics import median

import av
import cv2
import numpy as np

from tfdfd.detect.detector import Detector
from tfdfd.detect.results import Detection, FaceTrack, FrameScore
from tfdfd.files import write_atomically
from tfdfd.html import shown_probability
from tfdfd.media.inputs import Input
from tfdfd.report.chart import GAP
from tfdfd.report.pictures import shown_tracks

MAX_FRAMES = 1500
SIDE = 640
_FRAMES_AT_ONCE = 128
# RGB, the colors of the page's boxes.
_COLORS = ((165, 180, 252), (251, 146, 60), (45, 212, 191), (232, 121, 249), (163, 230, 53), (253, 164, 175))
_MILLISECOND = Fraction(1, 1000)


def write_annotated(path: str | os.PathLike, item: Input, detection: Detection, detector: Detector) -> int:
    """Writes an MP4 (H.264, without sound) of the first `MAX_FRAMES` frames, at most `SIDE` pixels wide and high.

    A box is drawn thick in the frames that were scored, and thin in between, where it is interpolated.

    Args:
        path: the file, which is written atomically.
        item: the video.
        detection: its outcome, with `frame_size`.
        detector: the one that scored it.

    Returns:
        The number of frames.

    Raises:
        ValueError: the input is not a scored video, or cannot be decoded again.
        OSError: the file cannot be written.
    """
    if detection.kind != "video" or detection.status != "ok" or not detection.frame_size:
        raise ValueError(f"only a scored video can be annotated; {item.path} is {detection.kind}, {detection.status}.")
    tracks = shown_tracks(detection)
    buffer, count = io.BytesIO(), 0
    with av.open(buffer, "w", format="mp4") as file:
        stream = None
        last = -1
        while count < MAX_FRAMES:
            frames = detector.whole_frames(item, count, min(_FRAMES_AT_ONCE, MAX_FRAMES - count), SIDE)
            for index, time_s, view in frames:
                if stream is None:
                    stream = file.add_stream("libx264", options={"crf": "20", "preset": "veryfast"})
                    stream.height, stream.width = (side + side % 2 for side in view.shape[:2])
                    stream.pix_fmt, stream.time_base = "yuv420p", _MILLISECOND
                    stream.codec_context.time_base = _MILLISECOND
                canvas = np.zeros((stream.height, stream.width, 3), np.uint8)
                fitting = view[: stream.height, : stream.width]
                canvas[: fitting.shape[0], : fitting.shape[1]] = fitting
                _draw(canvas, index, tracks, detection, view.shape[:2])
                frame = av.VideoFrame.from_ndarray(canvas, format="rgb24")
                last = max(round(time_s * 1000), last + 1)
                frame.pts, frame.time_base = last, _MILLISECOND
                file.mux(stream.encode(frame))
            count += len(frames)
            if len(frames) < _FRAMES_AT_ONCE:
                break
        if stream is None:
            raise ValueError(f"{item.path} has no frames to annotate.")
        file.mux(stream.encode())
    write_atomically(path, buffer.getvalue())
    return count


def box_at(track: FaceTrack, index: int) -> tuple[tuple[float, ...], FrameScore, bool] | None:
    """The box of a face in any frame: box, nearest scored frame, and whether it is this frame; None without a face.

    Between two scored frames the box moves evenly, unless the face was away; see `tfdfd.report.chart.GAP`.
    """
    indices = [frame.index for frame in track.frames]
    step = median(later - earlier for earlier, later in zip(indices, indices[1:], strict=False)) if indices[1:] else 1
    place = bisect_right(indices, index)
    before = track.frames[place - 1] if place else None
    after = track.frames[place] if place < len(indices) else None
    if before is not None and before.index == index:
        return tuple(map(float, before.box)), before, True
    if before is None or after is None:
        edge = after or before
        near = edge is not None and abs(edge.index - index) <= step / 2
        return (tuple(map(float, edge.box)), edge, False) if edge is not None and near else None
    if after.index - before.index > GAP * step:
        return None
    share = (index - before.index) / (after.index - before.index)
    box = tuple(one + share * (other - one) for one, other in zip(before.box, after.box, strict=True))
    return box, before if share < 0.5 else after, False


def _draw(
    canvas: np.ndarray, index: int, tracks: Sequence[FaceTrack], detection: Detection, shown: tuple[int, int]
) -> None:
    height, width = detection.frame_size  # type: ignore[misc]
    scale = shown[1] / width, shown[0] / height, shown[1] / width, shown[0] / height
    for track, color in zip(tracks, _COLORS, strict=False):
        if (found := box_at(track, index)) is None:
            continue
        box, frame, scored = found
        x, y, w, h = (round(side * factor) for side, factor in zip(box, scale, strict=True))
        for shade, thickness in (((0, 0, 0), 5 if scored else 3), (color, 3 if scored else 1)):
            cv2.rectangle(canvas, (x, y), (x + w, y + h), shade, thickness, cv2.LINE_AA)
        _write(canvas, f"{track.track + 1}: {shown_probability(frame.fake_probability)}", (x, max(16, y - 7)), color)
    head = f"{detection.verdict}  P(fake) {shown_probability(detection.fake_probability)}"  # type: ignore[arg-type]
    _write(canvas, head, (8, canvas.shape[0] - 10), (255, 255, 255))


def _write(canvas: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int]) -> None:
    for shade, thickness in (((0, 0, 0), 4), (color, 1)):
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, shade, thickness, cv2.LINE_AA)
