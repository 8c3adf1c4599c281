"""Face crops of one open file, in this process: decoding in one thread, detection and cropping in another."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import cv2
import numpy as np

from tfdfd.faces import MARGIN, Face, FaceDetector
from tfdfd.faces.crop import crop_face, measure_face, resize_crop, square_around
from tfdfd.faces.detectors import IMAGE_SIDE, VIDEO_SIDE, detect_bounded, detect_still
from tfdfd.media import FRAMES, InOrder, Limits, MediaError
from tfdfd.media.decode import Frame, MediaInfo, read_media

DETECTION_BATCH = 8
# Bytes of the frames in one batch: eight frames up to 4K, two at 8K. As many again wait in the queue.
_BATCH_BYTES = 1 << 28
# Minimum share of undamaged frames among the requested ones; a score from fewer would measure decoding errors.
MIN_WHOLE = 0.25
# Maximum number of crops per input; bounds the memory for a crowd filmed for a minute.
MAX_CROPS = 1024
# Maximum number of views per input, and of their bytes.
MAX_VIEWS = 128
MAX_VIEW_BYTES = 1 << 28
STAGES = ("decode", "faces", "crops")


@dataclass(frozen=True)
class Request:
    """What to extract from a file.

    Attributes:
        frames: number of evenly spaced frames of a video; the maximum with one of `in_order`, `every_s` and `boxes`.
        size: side of the crops in pixels.
        margin: side of the crop relative to the long side of the face's box, at least 1.
        video_side: longest side in pixels of the copy of a video frame that the detector sees.
        image_side: the same for an image.
        in_order: takes the first frames after `skip` of them; decoding ends with the last one.
        every_s: as `in_order`, but takes only the first frame of each interval of this many seconds.
        boxes: as `in_order`, but takes only the frames listed here, without detection: pairs of a frame index and
            its faces, each `[x, y, width, height, score]` in whole pixels.
        skip: frames to pass over, for the three above; reads a video in parts that is too long for one response.
        whole_pixels: crops around the rounded boxes of the result, so that the crops can be reproduced from it.
        measure: measures each face, see `tfdfd.faces.crop`.
        views: maximum number of whole frames, evenly spaced among the requested ones, to return as reduced copies.
        view_side: longest side of these copies in pixels.

    Raises:
        ValueError: a value is out of range.
    """

    frames: int = FRAMES
    size: int = 256
    margin: float = MARGIN
    video_side: int = VIDEO_SIDE
    image_side: int = IMAGE_SIDE
    in_order: bool = False
    every_s: float | None = None
    boxes: tuple | None = None
    skip: int = 0
    whole_pixels: bool = False
    measure: bool = False
    views: int = 0
    view_side: int = 640

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("size", 8), ("margin", 1.0), ("video_side", 32), ("image_side", 32)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}; received {getattr(self, name)!r}.")
        if self.frames > MAX_CROPS:
            raise ValueError(f"frames must be at most {MAX_CROPS}; received {self.frames!r}.")
        if not (0 <= self.views <= MAX_VIEWS and self.view_side >= 8 and self.view_bytes() <= MAX_VIEW_BYTES):
            raise ValueError(
                f"views must be at most {MAX_VIEWS}, of at least 8 pixels and at most {MAX_VIEW_BYTES:,} bytes in all; "
                f"received {self.views!r} views of {self.view_side!r} pixels."
            )
        self.choice()

    def view_bytes(self) -> int:
        """The maximum number of bytes of all views."""
        return self.views * self.view_side**2 * 3

    def choice(self) -> int | InOrder:
        """The frames to read, for `read_media`."""
        if self.boxes is not None:
            return InOrder(only=frozenset(frame for frame, _ in self.boxes), skip=self.skip, count=self.frames)
        if self.in_order or self.every_s is not None:
            return InOrder(self.every_s, skip=self.skip, count=self.frames)
        return self.frames


@dataclass
class FaceCrop:
    """One face in one frame.

    Attributes:
        box: `(x, y, width, height)` in pixels of the original frame.
        score: the detector's confidence, or None.
        landmarks: five `[x, y]` in pixels of the original frame, or None.
        crop: RGB uint8 `(size, size, 3)`.
        measures: by name of `tfdfd.faces.crop.MEASURES`; empty if not requested.
    """

    box: tuple[int, int, int, int]
    score: float | None
    landmarks: list[list[float]] | None
    crop: np.ndarray
    measures: dict[str, float] = field(default_factory=dict)


@dataclass
class FrameFaces:
    """The faces of one requested frame in descending order of score.

    Attributes:
        index, time_s: frame number, and presentation time in seconds.
        faces: the faces.
        view: reduced copy of the whole frame, RGB uint8 `(height, width, 3)`, or None.
    """

    index: int
    time_s: float
    faces: list[FaceCrop]
    view: np.ndarray | None = None


@dataclass
class Extraction:
    """The outcome for one input.

    Attributes:
        path: path of the input.
        kind: `image`, `video`, or None if unknown.
        status: one of `tfdfd.media.STATUSES`; `ok` if there is at least one crop.
        message: reason for any other status, or notes, or None.
        duration_s: duration of a video in seconds, if known.
        frames: the undamaged frames that were requested.
        frames_damaged: number of requested frames that the decoder had to conceal in part.
        elapsed_s: wall clock in seconds.
        process_died: True if the decoding process ended meanwhile, because of the input or by a signal.
        provenance: what the file states about its origin, see `tfdfd.media.provenance.checked`; None if not read.
        frame_size: `(height, width)` in pixels of the original frames, to which boxes refer; None without views.
        decoder: see `MediaInfo`.
        seconds: waiting for decoded frames (`decode`), finding faces (`faces`) and cutting crops (`crops`).
    """

    path: str
    kind: str | None
    status: str
    message: str | None = None
    duration_s: float | None = None
    frames: list[FrameFaces] = field(default_factory=list)
    frames_damaged: int = 0
    elapsed_s: float = 0.0
    process_died: bool = False
    provenance: dict[str, Any] | None = None
    frame_size: tuple[int, int] | None = None
    decoder: str = ""
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


def extract_faces(
    source: str | BinaryIO, detector: FaceDetector | None, request: Request, limits: Limits
) -> Extraction:
    """Reads a file and crops its faces. A failure of the media is an outcome, not an exception.

    Args:
        source: path of a local file, or an open file, as for `read_media`.
        detector: None takes each whole frame as a face crop.
        request: what to extract.
        limits: budget of the input; the process, not this function, enforces wall clock and memory.
    """
    path = source if isinstance(source, str) else ""
    frames: dict[int, FrameFaces] = {}
    info: MediaInfo | None = None
    crowded = False
    scale = 1.0
    frame_size = given = None
    position = 0
    whole_frames = detector is None and request.boxes is None
    if request.boxes is not None:
        given = {frame: [Face(tuple(box), score) for *box, score in faces] for frame, faces in request.boxes}
    seconds = dict.fromkeys(STAGES, 0.0)
    last = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name] += now - last
        last = now

    try:
        for batch in _batches(source, request, limits):
            stage("decode")
            if isinstance(batch, MediaInfo):
                info = batch
                continue
            still = batch[0].still
            if given is not None:
                detected = [given.get(frame.index, []) for frame in batch]
            else:
                detected, scale = _detect(detector, batch, request)
            stage("faces")
            most = MAX_CROPS // (4 if still else request.frames)
            if request.views:
                frame_size = frame_size or batch[0].pixels.shape[:2]
            for frame, faces in zip(batch, detected, strict=True):
                crowded |= len(faces) > most
                crops = [_crop(frame.pixels, face, whole_frames, request) for face in faces[:most]]
                wanted = request.views and position % -(-request.frames // request.views) == 0
                view = _reduced(frame.pixels, request.view_side) if wanted else None
                frames[frame.index] = FrameFaces(frame.index, frame.time_s, crops, view)
                position += 1
            stage("crops")
    except MediaError as error:
        return Extraction(path, info.kind if info else None, error.status, error.message)
    if info is None:
        raise RuntimeError("the reader ended without a MediaInfo")
    sampled = [frames[index] for index in info.indices if index in frames]
    notes = [info.note] if info.note else []
    # A choice made in order may cover a part of a video; the caller then judges the damage over all parts.
    if not isinstance(request.choice(), InOrder):
        if refusal := too_damaged(info.damaged, len(sampled)):
            return Extraction(path, info.kind, "decode_error", refusal, frames_damaged=info.damaged)
        if info.damaged:
            notes.insert(0, damage_note(info.damaged, len(sampled)))
    if crowded:
        notes.append("only the strongest faces of a crowded frame were kept")
    status = "ok" if any(frame.faces for frame in sampled) else "no_face"
    if status == "no_face":
        where = "the image" if info.kind == "image" else f"the {len(sampled)} frames looked at"
        size = "" if scale == 1 else f" (searched at {max(scale, 0.01):.0%} of its size)"
        notes.insert(0, f"no face was found in {where}{size}")
    message = "; ".join(notes) or None
    seconds = {name: round(value, 3) for name, value in seconds.items()}
    return Extraction(
        path,
        info.kind,
        status,
        message,
        info.duration_s,
        sampled,
        info.damaged,
        frame_size=frame_size,
        decoder=info.decoder,
        seconds=seconds,
    )


def damage_note(damaged: int, whole: int) -> str:
    """The note on damaged frames that were left out, beside `whole` undamaged ones."""
    return f"{damaged} of the {damaged + whole} frames looked at are damaged and were left out"


def too_damaged(damaged: int, whole: int) -> str | None:
    """The reason for refusing a score because too few frames are undamaged; None if there are enough."""
    if whole >= max(1, MIN_WHOLE * (damaged + whole)) or not damaged:
        return None
    return (
        f"{damaged} of the {damaged + whole} frames looked at are damaged: the decoder had to make up parts of them; "
        "get an undamaged copy of the video"
    )


def _detect(detector: FaceDetector | None, batch: Sequence[Frame], request: Request) -> tuple[list[list[Face]], float]:
    """The faces of each frame, and the scale at which an image was searched."""
    pixels = [frame.pixels for frame in batch]
    if detector is None:
        return [[Face((0.0, 0.0, float(image.shape[1]), float(image.shape[0])))] for image in pixels], 1.0
    if batch[0].still:
        faces, scale = detect_still(detector, pixels[0], request.image_side)
        return [faces], scale
    return detect_bounded(detector, pixels, request.video_side), 1.0


def _crop(pixels: np.ndarray, face: Face, whole_frame: bool, request: Request) -> FaceCrop:
    box: tuple[int, int, int, int] = tuple(round(value) for value in face.box)  # type: ignore[assignment]
    if whole_frame:
        crop = resize_crop(pixels, request.size)
    else:
        crop = crop_face(pixels, box if request.whole_pixels else face.box, request.size, request.margin)
    score = None if face.score is None else round(face.score, 4)
    landmarks = None if face.landmarks is None else np.round(face.landmarks, 1).tolist()
    measures = {}
    if request.measure:
        source = pixels if whole_frame else _around(pixels, face.box, request.margin)
        measures = measure_face(source, crop, face.landmarks)
    return FaceCrop(box, score, landmarks, crop, measures)


def _around(pixels: np.ndarray, box: tuple[float, float, float, float], margin: float) -> np.ndarray:
    """The part of a frame that the crop of a face shows."""
    height, width = pixels.shape[:2]
    x, y, side = square_around(box, margin)
    left, top = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    return pixels[top : max(y + side, top + 1), left : max(x + side, left + 1)]


def _reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """A copy of a frame whose longest side is at most `side`."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    # Most pixels of a large frame are skipped: averaging all of them takes longer than decoding.
    step = max(1, int(1 / scale) // 2)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(np.ascontiguousarray(pixels[::step, ::step]), size, interpolation=cv2.INTER_AREA)


def _batches(source: str | BinaryIO, request: Request, limits: Limits) -> Iterator[list[Frame] | MediaInfo]:
    """Yields lists of up to `DETECTION_BATCH` frames, and the `MediaInfo` last.

    A thread decodes ahead of the caller by at most one batch.
    """
    ready = _FrameQueue()
    thread = threading.Thread(target=_decode, args=(source, request, limits, ready), name="decode", daemon=True)
    thread.start()
    batch: list[Frame] = []
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                try:
                    raise item
                finally:
                    # The traceback refers to this frame. A reference back to the exception would be a cycle, which
                    # would hold all frames of the input until the next garbage collection.
                    del item
            if isinstance(item, Frame):
                batch.append(item)
            if batch and (len(batch) == ready.batch_size or isinstance(item, MediaInfo)):
                yield batch
                batch = []
            if isinstance(item, MediaInfo):
                yield item
    finally:
        ready.close()
        thread.join()


def _decode(source: str | BinaryIO, request: Request, limits: Limits, ready: _FrameQueue) -> None:
    try:
        for item in read_media(source, request.choice(), limits):
            ready.put(item)
    except BaseException as error:  # raised again in the caller's thread
        ready.put(error)
    finally:
        ready.put(None)


class _FrameQueue:
    """Hands frames to another thread, one batch ahead. `batch_size` follows from the size of the first frame."""

    def __init__(self) -> None:
        self._queue: queue.Queue = queue.Queue()
        self._closed = threading.Event()
        self.batch_size = DETECTION_BATCH

    def put(self, item: Any) -> None:
        if isinstance(item, Frame) and self._queue.maxsize == 0:
            self.batch_size = max(1, min(DETECTION_BATCH, _BATCH_BYTES // max(item.pixels.nbytes, 1)))
            self._queue.maxsize = self.batch_size
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def get(self) -> Any:
        return self._queue.get()

    def close(self) -> None:
        self._closed.set()
