"""Decoding of images and sampled video frames from an open file; runs in a decoding process.

No decoder receives a path: OpenCV gets the bytes of an image, PyAV (`video.py`) a file object, so no address, `%03d`
pattern or device name can reach one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np

from tfdfd.media import InOrder, Limits, MediaError
from tfdfd.media.formats import HEAD_BYTES, image_format, kind_of_content
from tfdfd.media.images import read_image
from tfdfd.media.inputs import open_media

# Messages by which C++ libraries report that memory ran out. Not all of them raise MemoryError.
_NO_MEMORY = ("insufficient memory", "bad_alloc", "can't start new thread", "cannot allocate memory")


@dataclass
class Frame:
    """One decoded frame, upright.

    Attributes:
        index: frame number, from 0.
        time_s: presentation time in seconds.
        pixels: RGB uint8 `(height, width, 3)`.
        still: True for an image, False for a frame of a video.
    """

    index: int
    time_s: float
    pixels: np.ndarray
    still: bool = False


@dataclass
class MediaInfo:
    """Properties of a file that are known after reading it.

    Attributes:
        kind: `image` or `video`.
        indices: the requested frames that are undamaged.
        duration_s: end of the last frame of a video in seconds; None for an image, or if unknown.
        note: information for the reader of the score, such as a truncated file; or None.
        damaged: number of requested frames that the decoder had to conceal in part.
        decoder: the decoder, the size of the picture, and the number of frames that were decoded, as text.
    """

    kind: str
    indices: list[int]
    duration_s: float | None = None
    note: str | None = None
    damaged: int = 0
    decoder: str = ""


def read_media(source: str | BinaryIO, frames: int | InOrder, limits: Limits) -> Iterator[Frame | MediaInfo]:
    """Yields frames of an image or video as they are decoded, and its `MediaInfo` last.

    A yielded frame that `MediaInfo.indices` does not list must be dropped: it turned out to be damaged, or the header
    stated a wrong length. Only a few frames are held at a time, whatever the length of the video.

    Args:
        source: path of a local file, or an open regular file whose content is an image or video.
        frames: number of evenly spaced frames of a video; or a choice made during decoding, which then ends with the
            last chosen frame, so that the length of the video is known only if that was its end.
        limits: budget of pixels and frames.

    Raises:
        MediaError: with the status of the input.
    """
    if isinstance(source, str):
        file, kind = open_media(source, limits)
    else:
        # Where the file stands is unknown: it may be shared with the process that opened it.
        file = source
        file.seek(0)
        kind = kind_of_content(file.read(HEAD_BYTES)) or "unknown"
        file.seek(0)
    with file:
        try:
            if kind == "image":
                yield from _read_image(file, limits)
            else:
                # FFmpeg takes time to load; images do not need it.
                from tfdfd.media.video import read_video

                yield from read_video(file, frames, limits)
        except Exception as error:
            if is_out_of_memory(error):
                message = f"decoding needs more than {limits.max_memory:,} bytes of memory (--max-memory)"
                raise MediaError("too_large", message) from error
            if isinstance(error, cv2.error):
                raise _as_media_error(error, limits) from error
            raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, OpenCV or another C++ library reports a failed allocation."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        not isinstance(error, MediaError)
        and (getattr(error, "code", None) == cv2.Error.StsNoMem or any(sign in text for sign in _NO_MEMORY))
    )


def _read_image(file: BinaryIO, limits: Limits) -> Iterator[Frame | MediaInfo]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = file.read(size)
    pixels, note = read_image(data, limits)
    yield Frame(0, 0.0, pixels, still=True)
    yield MediaInfo("image", [0], note=note, decoder=f"{image_format(data)}, {pixels.shape[1]}x{pixels.shape[0]}")


def _as_media_error(error: cv2.error, limits: Limits) -> MediaError:
    text = str(error)
    if "MAX_IMAGE" in text or "validateInputImageSize" in text:
        return MediaError("too_large", f"an image of more than {limits.max_pixels:,} pixels (--max-pixels)")
    return MediaError("decode_error", f"OpenCV could not decode it: {error.err or text}")
