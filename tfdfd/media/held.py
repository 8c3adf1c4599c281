"""Images and files that a program holds in memory, as inputs that are read in the same way as files."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tfdfd.media.errors import MediaError
from tfdfd.media.inputs import Input
from tfdfd.media.limits import Limits

ARRAY, BYTES, PILLOW = "<array>", "<bytes>", "<image>"
_WANTED = "an image is an RGB array of uint8, (height, width, 3)"


@dataclass
class HeldInput(Input):
    """An input without a file; `path` is `<array>`, `<bytes>` or `<image>`.

    Attributes:
        content: makes the bytes of a file of it.
    """

    content: Callable[[], bytes] | None = None

    @contextlib.contextmanager
    def as_file(self) -> Iterator[Input]:
        """A file of its own for as long as it is read; nobody else on this machine can read it."""
        with tempfile.TemporaryDirectory(prefix="tfdfd-") as folder:
            path = os.path.join(folder, "held")
            with open(path, "xb") as file:
                file.write(self.content())
            yield Input(path, self.kind)


def held_input(value: object, limits: Limits) -> HeldInput:
    """The input that an array, the bytes of a file, or a Pillow image is.

    Args:
        value: an RGB uint8 array `(height, width, 3)`, or what becomes one by `numpy.asarray`; `bytes` with the content
            of an image or video file; or a `PIL.Image.Image` of any mode.
        limits: what it may cost; what is larger becomes an input with the status `too_large`.

    Raises:
        TypeError: it is nothing of these.
        ValueError: an array of another shape or type; the message says how to make it one.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        size = memoryview(value).nbytes
        error = _too_large("bytes", size, limits.max_bytes, "max_bytes")
        return HeldInput(BYTES, None, error or (None if size else _EMPTY), lambda: bytes(value))
    pillow = sys.modules.get("PIL.Image")  # who has an image has imported it
    if pillow is not None and isinstance(value, pillow.Image):
        if not all(value.size):
            raise ValueError(f"the image is empty: its size is {value.size}.")
        error = _too_large("pixels", value.size[0] * value.size[1], limits.max_pixels, "max_pixels")
        return HeldInput(PILLOW, "image", error, lambda: _of_pillow(value))
    if not hasattr(value, "__array__"):
        raise TypeError(
            "expected a path, an RGB array, the bytes of an image or video file, a Pillow image, or a list of those; "
            f"received {type(value).__name__}."
        )
    pixels = np.asarray(value)
    _check(pixels)
    error = _too_large("pixels", pixels.shape[0] * pixels.shape[1], limits.max_pixels, "max_pixels")
    return HeldInput(ARRAY, "image", error, lambda: _as_bmp(pixels))


_EMPTY = MediaError("decode_error", "the file is empty (0 bytes)")


def _too_large(unit, count, most, name):
    if count <= most:
        return None
    return MediaError("too_large", f"{count:,} {unit}; at most {most:,} (Limits.{name})")


def _check(pixels):
    shape = pixels.shape
    if pixels.ndim == 4:
        raise ValueError(f"a batch of shape {shape} is not one image; give a list of its images: list(array).")
    if pixels.ndim == 2 or (pixels.ndim == 3 and shape[2] == 1):
        raise ValueError(
            f"{_WANTED}; received a gray one of shape {shape}: repeat it with numpy.dstack([gray, gray, gray])."
        )
    if pixels.ndim == 3 and shape[2] == 4:
        raise ValueError(
            f"{_WANTED}; received one with an alpha channel, {shape}: leave it out with array[..., :3], or give the "
            "file or Pillow image, whose transparency is respected."
        )
    if pixels.ndim == 3 and shape[0] == 3 and shape[2] != 3:
        raise ValueError(f"{_WANTED}; received channels first, {shape}: turn it with array.transpose(1, 2, 0).")
    if pixels.ndim != 3 or shape[2] != 3:
        raise ValueError(f"{_WANTED}; received the shape {shape}.")
    if not pixels.size:
        raise ValueError(f"the image is empty: its shape is {shape}.")
    if pixels.dtype != np.uint8:
        hint = "take its values from 0 to 255 with array.astype('uint8')"
        if pixels.dtype.kind == "f":
            hint = "of values in [0, 1] make it one with (array * 255).round().astype('uint8')"
        raise ValueError(f"{_WANTED}; received {pixels.dtype}: {hint}.")


def _as_bmp(pixels):
    """An uncompressed file: exact, and made as fast as memory is copied."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, -(-width * 3 // 4) * 4), np.uint8)  # each is a multiple of four bytes, the lowest first
    rows[:, : width * 3] = pixels[::-1, :, ::-1].reshape(height, width * 3)
    head = struct.pack("<2sIHHI", b"BM", 54 + rows.nbytes, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.nbytes, 2835, 2835, 0, 0) + rows.data


def _of_pillow(image):
    """A PNG, upright, of the same colors and transparency."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
