"""The pixels of a face crop, without TensorFlow."""

from __future__ import annotations

import os

import cv2
import numpy as np

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TRAILER = 4096  # what some cameras write behind the end of a picture


def read_pixels(path: str | os.PathLike) -> np.ndarray:
    """Reads and decodes one file: RGB uint8 `(height, width, 3)`, upright.

    Raises:
        ValueError: it cannot be read or decoded; names the file.
    """
    return decoded(read_bytes(path), path)


def read_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a crop's file.

    Raises:
        ValueError: it cannot be read; names it.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read: {error.strerror}") from error


def decoded(data: bytes, name: str | os.PathLike) -> np.ndarray:
    """Decodes the bytes of a PNG or JPEG: RGB uint8 `(height, width, 3)`, upright.

    Raises:
        ValueError: the bytes are neither, or are cut short; names `name`.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:
        pixels = None
    # OpenCV fills what a cut JPEG lacks with grey and says nothing.
    cut = data[:2] == _JPEG and _JPEG_END not in data[-_TRAILER:]
    if pixels is None or cut:
        raise ValueError(f"{printable(name)} ({len(data):,} bytes) cannot be decoded as PNG or JPEG.")
    return pixels


def printable(path):
    return os.fsencode(path).decode("utf-8", "backslashreplace")
