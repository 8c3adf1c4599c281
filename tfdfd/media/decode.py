"""Images and sampled video frames from an open file, through OpenCV. Meant to run in a process of its own.

OpenCV never sees a path: images come as bytes, videos through a Python file object, so neither an address nor a
`%03d` pattern nor a device name can reach it. The environment of `environment.py` must have been set before.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np

from tfdfd.media.errors import MediaError
from tfdfd.media.images import read_image
from tfdfd.media.kinds import HEAD_BYTES, kind_of_content
from tfdfd.media.limits import Limits
from tfdfd.media.sampling import InOrder, choose_in_order, frame_indices


@dataclass
class Frame:
    """One decoded frame, upright.

    Attributes:
        index: its number, from 0.
        time_s: its presentation time in seconds.
        pixels: RGB uint8 `(height, width, 3)`.
        still: whether it is an image of its own rather than a frame of a video.
    """

    index: int
    time_s: float
    pixels: np.ndarray
    still: bool = False


@dataclass
class MediaFacts:
    """What is known of a file once it is read.

    Attributes:
        kind: `image` or `video`.
        indices: the frames that were to be looked at.
        duration_s: length of a video in seconds; None for an image or where the file states no frame rate.
        note: something the reader of the score should know, such as a truncated file.
    """

    kind: str
    indices: list[int]
    duration_s: float | None = None
    note: str | None = None


def open_media(path: str, limits: Limits) -> tuple[BinaryIO, str]:
    """The open file and its kind, `image` or `video`, judged by content.

    Raises:
        MediaError: no regular file, unreadable, empty, too large, or no known format.
    """
    try:
        # Non-blocking, so that a pipe put in the place of the file since it was listed cannot hang us.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError("not_found", "there is no such file") from None
    except OSError as error:
        raise MediaError("decode_error", f"the file cannot be opened: {error.strerror}") from error
    try:
        file = os.fdopen(descriptor, "rb", buffering=1 << 20)
    except IsADirectoryError:
        os.close(descriptor)
        raise MediaError("unsupported", "not a file but a folder") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MediaError("unsupported", "not a regular file (a folder, device, pipe or socket)")
        if status.st_size == 0:
            raise MediaError("decode_error", "the file is empty (0 bytes)")
        if status.st_size > limits.max_bytes:
            raise MediaError("too_large", _over("bytes", status.st_size, limits.max_bytes, "--max-bytes"))
        kind = kind_of_content(file.read(HEAD_BYTES))
        file.seek(0)
    except OSError as error:
        file.close()
        raise MediaError("decode_error", f"the file cannot be read: {error.strerror}") from error
    except MediaError:
        file.close()
        raise
    if kind is None:
        file.close()
        raise MediaError("unsupported", "the content is no image or video format that is read (it was not guessed at)")
    return file, kind


def read_media(path: str, frames: int | InOrder, limits: Limits) -> Iterator[Frame | MediaFacts]:
    """Frames of an image or video as they are decoded, and at the end its `MediaFacts`.

    A frame may be yielded that the facts do not list (when the file's header stated a wrong length); it is to be
    dropped then. At most a few frames are held at a time, whatever the length of the video.

    Args:
        path: name of a local file.
        frames: how many equally spaced frames of a video, or a choice that is made while it is decoded; decoding then
            ends with the last chosen frame, and the length of the video is known only if that was its end.
        limits: what it may cost.

    Raises:
        MediaError: with the status that the input then has.
    """
    file, kind = open_media(path, limits)
    with file:
        try:
            if kind == "image":
                yield from _read_image(file, limits)
            elif isinstance(frames, InOrder):
                yield from _read_in_order(file, frames, limits)
            else:
                yield from _read_video(file, frames, limits)
        except MemoryError as error:
            raise MediaError("too_large", _out_of_memory(limits)) from error
        except cv2.error as error:
            raise _as_media_error(error, limits) from error


def _read_image(file, limits):
    pixels, note = read_image(file.read(), limits)
    yield Frame(0, 0.0, pixels, still=True)
    yield MediaFacts("image", [0], note=note)


def _read_video(file, count, limits):
    """One pass over a sound file. The header's frame count only guides which frames are kept on the way; the count
    that decides is that of the frames decoded, and where the two disagree a second pass fetches what is missing."""
    capture = _open_capture(file)
    try:
        stated, rate = _stated(capture, limits)
        seen: set[int] = set()
        total = yield from _pass(capture, set(frame_indices(stated, count)), seen, rate, limits)
    finally:
        capture.release()
    if total == 0:
        raise MediaError("decode_error", _NO_FRAME)
    indices = frame_indices(total, count)
    missing = set(indices) - seen
    if missing:
        file.seek(0)
        capture = _open_capture(file)
        try:
            yield from _pass(capture, missing, seen, rate, limits, last=max(missing))
        finally:
            capture.release()
        lost = missing - seen
        if lost:
            raise MediaError("decode_error", f"frame {min(lost)} could be decoded once, but not again")
    yield MediaFacts("video", indices, round(total / rate, 3) if rate else None, _early_end(total, stated))


_NO_FRAME = "no frame could be decoded: the video is damaged or has no frames"


def _stated(capture, limits):
    """Frame count (0: unknown) and rate (None: unknown) that the header states."""
    stated, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    _check_pixels(capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT), limits)
    stated = int(stated) if math.isfinite(stated) and 0 < stated < 2**53 else 0
    return stated, rate if math.isfinite(rate) and 0.01 < rate < 1000 else None


def _early_end(total, stated):
    if stated and total < 0.95 * stated:
        return f"the file ends early: {total} of the {stated} frames that its header states could be decoded"
    return None


def _read_in_order(file, choice, limits):
    """One pass that ends with the last chosen frame."""
    capture = _open_capture(file)
    total, at_end = 0, False
    try:
        stated, rate = _stated(capture, limits)

        def decoded():
            nonlocal total, at_end
            while capture.grab():
                if total >= limits.max_frames:
                    raise MediaError("too_large", f"more than {limits.max_frames} frames (--max-frames)")
                total += 1
                yield total - 1, _time(capture.get(cv2.CAP_PROP_POS_MSEC), total - 1, rate)
            at_end = True

        indices = []
        for index, time in choose_in_order(decoded(), choice):
            read, pixels = capture.retrieve()
            if read and pixels is not None and pixels.size:
                _check_pixels(pixels.shape[1], pixels.shape[0], limits)
                indices.append(index)
                yield Frame(index, time, _rgb(pixels))
    finally:
        capture.release()
    if total == 0:
        raise MediaError("decode_error", _NO_FRAME)
    duration = round(total / rate, 3) if rate and at_end else None
    yield MediaFacts("video", indices, duration, _early_end(total, stated) if at_end else None)


def _pass(capture, wanted, seen, rate, limits, last=None):
    """Decodes in order, yields the wanted frames and adds their numbers to `seen`; returns how many there were."""
    index = 0
    while (last is None or index <= last) and capture.grab():
        if index >= limits.max_frames:
            raise MediaError("too_large", f"more than {limits.max_frames} frames (--max-frames)")
        if index in wanted:
            read, pixels = capture.retrieve()
            if read and pixels is not None and pixels.size:
                _check_pixels(pixels.shape[1], pixels.shape[0], limits)
                seen.add(index)
                yield Frame(index, _time(capture.get(cv2.CAP_PROP_POS_MSEC), index, rate), _rgb(pixels))
        index += 1
    return index


def _open_capture(file):
    # OpenCV drops its reference to the file without holding the interpreter's lock (4.14): that is safe only while
    # somebody else holds one too, as read_media does for as long as a capture lives.
    capture = cv2.VideoCapture(file, cv2.CAP_FFMPEG, [])
    if not capture.isOpened():
        capture.release()
        raise MediaError("decode_error", "no video stream could be opened: the file is damaged, cut off or holds none")
    return capture


def _time(milliseconds, index, rate):
    if math.isfinite(milliseconds) and (milliseconds > 0 or index == 0):
        return round(max(milliseconds, 0.0) / 1000, 3)
    return round(index / rate, 3) if rate else 0.0


def _rgb(pixels):
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB)


def _check_pixels(width, height, limits):
    if width * height > limits.max_pixels:
        size = f"{int(width)} x {int(height)}"
        raise MediaError("too_large", f"frames of {size} pixels; at most {limits.max_pixels:,} (--max-pixels)")


def _as_media_error(error, limits):
    text = str(error)
    if "MAX_IMAGE" in text or "validateInputImageSize" in text:
        return MediaError("too_large", f"an image of more than {limits.max_pixels:,} pixels (--max-pixels)")
    if error.code == cv2.Error.StsNoMem or "Insufficient memory" in text:
        return MediaError("too_large", _out_of_memory(limits))
    return MediaError("decode_error", f"OpenCV could not decode it: {error.err or text}")


def _out_of_memory(limits):
    return f"decoding needs more than {limits.max_memory:,} bytes of memory (--max-memory)"


def _over(unit, value, limit, option):
    return f"{value:,} {unit}; at most {limit:,} ({option})"
