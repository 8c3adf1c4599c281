"""From one file to its face crops, in this process: decoding in one thread, detection and cropping in another."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field

import numpy as np

from tfdfd.faces.bounded import IMAGE_SIDE, VIDEO_SIDE, detect_bounded, detect_still
from tfdfd.faces.crop import MARGIN, crop_face, resize_crop
from tfdfd.faces.face import Face, FaceDetector
from tfdfd.media.decode import Frame, MediaFacts, read_media
from tfdfd.media.errors import MediaError
from tfdfd.media.limits import Limits
from tfdfd.media.sampling import FRAMES, InOrder

DETECTION_BATCH = 8
# Part of the frames that are looked at that must be whole: a score from fewer would be one of decoding errors.
MIN_WHOLE = 0.25
# Crops of one input, so that a crowd filmed for a minute stays within memory.
MAX_CROPS = 1024


@dataclass(frozen=True)
class Request:
    """What is wanted of a file.

    Attributes:
        frames: how many equally spaced frames of a video are looked at; at most, with one of the next three.
        in_order: the first frames, as they come, after `skip` of them; decoding ends with the last.
        every_s: as `in_order`, but of each stretch of so many seconds the first frame only.
        boxes: as `in_order`, but the frames listed here only, and nothing is detected: pairs of a frame's number and
            its faces, each `[x, y, width, height, score]` in whole pixels.
        skip: for the three above; a video too long for one answer is read in several.
        size: side of the crops in pixels.
        margin: how much larger than the face's box a crop is.
        video_side: longest side in pixels of the copy of a video frame that the detector sees.
        image_side: the same for an image.
        whole_pixels: crops are cut around boxes rounded as they are answered, so that they can be cut again from them.
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

    def __post_init__(self):
        for name, least in (("frames", 1), ("size", 8), ("margin", 1.0), ("video_side", 32), ("image_side", 32)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}; received {getattr(self, name)!r}.")
        if self.frames > MAX_CROPS:
            raise ValueError(f"frames must be at most {MAX_CROPS}; received {self.frames!r}.")
        self.choice()

    def choice(self) -> int | InOrder:
        """What of a video is to be read."""
        if self.boxes is not None:
            return InOrder(only=frozenset(frame for frame, _ in self.boxes), skip=self.skip, count=self.frames)
        if self.in_order or self.every_s is not None:
            return InOrder(self.every_s, skip=self.skip, count=self.frames)
        return self.frames


@dataclass
class FoundFace:
    """A face in the original frame's pixels and its crop, RGB uint8 `(size, size, 3)`."""

    box: tuple[int, int, int, int]
    score: float | None
    landmarks: list[list[float]] | None
    crop: np.ndarray


@dataclass
class FrameFaces:
    """The faces of one looked-at frame, strongest first."""

    index: int
    time_s: float
    faces: list[FoundFace]


@dataclass
class Extraction:
    """The one typed outcome of reading one input; `status` is `ok` when there is at least one crop.

    `frames_damaged` counts frames that were to be looked at, too, but whose pixels the decoder had to make up in part.
    `process_died` tells that the decoding process went away meanwhile: the input's doing, or somebody ended it.
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


def faces_of(path: str, detector: FaceDetector | None, request: Request, limits: Limits) -> Extraction:
    """Reads the file and cuts out its faces; every failure of the media is an outcome, not an exception.

    Args:
        path: name of a local file.
        detector: None takes each whole frame as a face crop.
        request: what is wanted.
        limits: what it may cost (wall clock and memory are for the process to enforce).
    """
    frames: dict[int, FrameFaces] = {}
    facts = None
    crowded = False
    scale = 1.0
    given = None
    if request.boxes is not None:
        given = {frame: [Face(tuple(box), score) for *box, score in faces] for frame, faces in request.boxes}
    try:
        for batch in _batches(path, request, limits):
            if isinstance(batch, MediaFacts):
                facts = batch
                continue
            still = batch[0].still
            if given is not None:
                found = [given.get(frame.index, []) for frame in batch]
            else:
                found, scale = _detect(detector, batch, request)
            most = MAX_CROPS // (4 if still else request.frames)
            for frame, faces in zip(batch, found, strict=True):
                crowded |= len(faces) > most
                cut = [_cut(frame.pixels, face, detector is None and given is None, request) for face in faces[:most]]
                frames[frame.index] = FrameFaces(frame.index, frame.time_s, cut)
    except MediaError as error:
        return Extraction(path, facts.kind if facts else None, error.status, error.message)
    looked_at = [frames[index] for index in facts.indices if index in frames]
    notes = [facts.note] if facts.note else []
    if not isinstance(request.choice(), InOrder):
        # Else this may be a piece of a video, and is for the caller to judge with the others.
        if refusal := too_damaged(facts.damaged, len(looked_at)):
            return Extraction(path, facts.kind, "decode_error", refusal, frames_damaged=facts.damaged)
        if facts.damaged:
            notes.insert(0, damage_note(facts.damaged, len(looked_at)))
    if crowded:
        notes.append("only the strongest faces of a crowded frame were kept")
    status = "ok" if any(frame.faces for frame in looked_at) else "no_face"
    if status == "no_face":
        where = "the image" if facts.kind == "image" else f"the {len(looked_at)} frames looked at"
        size = "" if scale == 1 else f" (searched at {max(scale, 0.01):.0%} of its size)"
        notes.insert(0, f"no face was found in {where}{size}")
    message = "; ".join(notes) or None
    return Extraction(path, facts.kind, status, message, facts.duration_s, looked_at, facts.damaged)


def damage_note(damaged: int, whole: int) -> str:
    """A word on the frames that were left out because they are damaged, of those that were looked at."""
    return f"{damaged} of the {damaged + whole} frames looked at are damaged and were left out"


def too_damaged(damaged: int, whole: int) -> str | None:
    """Why there is no score where so many of the frames that were looked at are damaged; None: there are enough."""
    if whole >= max(1, MIN_WHOLE * (damaged + whole)) or not damaged:
        return None
    return (
        f"{damaged} of the {damaged + whole} frames looked at are damaged: the decoder had to make up parts of them; "
        "get an undamaged copy of the video"
    )


def _detect(detector, batch, request):
    """The faces of each frame, and the scale at which a still was searched."""
    pixels = [frame.pixels for frame in batch]
    if detector is None:
        return [[Face((0.0, 0.0, float(image.shape[1]), float(image.shape[0])))] for image in pixels], 1.0
    if batch[0].still:
        faces, scale = detect_still(detector, pixels[0], request.image_side)
        return [faces], scale
    return detect_bounded(detector, pixels, request.video_side), 1.0


def _cut(pixels, face, whole, request):
    box = tuple(round(value) for value in face.box)
    if whole:
        crop = resize_crop(pixels, request.size)
    else:
        crop = crop_face(pixels, box if request.whole_pixels else face.box, request.size, request.margin)
    score = None if face.score is None else round(face.score, 4)
    landmarks = None if face.landmarks is None else np.round(face.landmarks, 1).tolist()
    return FoundFace(box, score, landmarks, crop)


def _batches(path, request, limits):
    """Lists of `Frame` of up to `DETECTION_BATCH` frames, and `MediaFacts` at the end.

    The decoder works ahead in a thread, by at most a batch, while the caller detects.
    """
    ready: queue.Queue = queue.Queue(maxsize=DETECTION_BATCH)
    given_up = threading.Event()

    def decode():
        try:
            for item in read_media(path, request.choice(), limits):
                _put(ready, item, given_up)
        except BaseException as error:  # handed to the caller's thread, which raises it
            _put(ready, error, given_up)
        finally:
            _put(ready, None, given_up)

    thread = threading.Thread(target=decode, name="decode", daemon=True)
    thread.start()
    batch: list[Frame] = []
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Frame):
                batch.append(item)
            if batch and (len(batch) == DETECTION_BATCH or isinstance(item, MediaFacts)):
                yield batch
                batch = []
            if isinstance(item, MediaFacts):
                yield item
    finally:
        given_up.set()
        thread.join()


def _put(ready, item, given_up):
    while not given_up.is_set():
        try:
            return ready.put(item, timeout=0.1)
        except queue.Full:
            continue
