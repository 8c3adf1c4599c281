"""Images and sampled video frames from an open file. Meant to run in a process of its own.

No decoder ever sees a path: OpenCV gets an image's bytes, PyAV (`video.py`) a file object, so neither an address nor a
`%03d` pattern nor a device name can reach one. The environment of `environment.py` must have been set before.
"""

from __future__ import annotations

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
from tfdfd.media.sampling import InOrder


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
        indices: the frames that were to be looked at and are whole.
        duration_s: when the last frame of a video is over, in seconds; None for an image, or where that is unknown.
        note: something the reader of the score should know, such as a truncated file.
        damaged: so many frames were to be looked at, too, but the decoder had to make up a part of them.
    """

    kind: str
    indices: list[int]
    duration_s: float | None = None
    note: str | None = None
    damaged: int = 0


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

    A frame may be yielded that the facts do not list (it turned out to be damaged, or the file's header stated a wrong
    length); it is to be dropped then. At most a few frames are held at a time, whatever the length of the video.

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
            else:
                # FFmpeg is loaded where there is a video.
                from tfdfd.media.video import read_video

                yield from read_video(file, frames, limits)
        except MemoryError as error:
            raise MediaError("too_large", _out_of_memory(limits)) from error
        except cv2.error as error:
            raise _as_media_error(error, limits) from error


def _read_image(file, limits):
    pixels, note = read_image(file.read(), limits)
    yield Frame(0, 0.0, pixels, still=True)
    yield MediaFacts("image", [0], note=note)


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
