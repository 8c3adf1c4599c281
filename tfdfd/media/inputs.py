"""Inputs: files, folders, and images or files in memory, as open files or typed refusals."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from tfdfd.media import Limits, MediaError
from tfdfd.media.formats import HEAD_BYTES, kind_of_content, kind_of_name

ARRAY, BYTES, PILLOW = "<array>", "<bytes>", "<image>"
_EMPTY = "the file is empty (0 bytes)"


@dataclass
class Input:
    """One input to read; with `error` set, one that is refused.

    Attributes:
        path: name of a local file, or a name in angle brackets for an input in memory.
        kind: `image`, `video` or `folder`, judged by name; None if unknown.
        error: the reason for a refusal, or None.
    """

    path: str
    kind: str | None = None
    error: MediaError | None = None

    def open(self, limits: Limits) -> tuple[BinaryIO, str]:
        """The open file and its kind; see `open_media`."""
        return open_media(self.path, limits)


@dataclass
class Inputs:
    """All inputs in order, and the number of files in folders that were skipped because they are not media."""

    items: list[Input] = field(default_factory=list)
    skipped: int = 0


def open_media(path: str, limits: Limits) -> tuple[BinaryIO, str]:
    """Opens a local file; returns it with its kind, `image` or `video`, judged by content.

    Raises:
        MediaError: the path is not a regular file, or the file is unreadable, empty, too large or of no known format.
    """
    try:
        # Non-blocking: a pipe that replaced the file since it was listed cannot hang this process.
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
        return file, _check_content(file, limits)
    except OSError as error:
        file.close()
        raise MediaError("decode_error", f"the file cannot be read: {error.strerror}") from error
    except MediaError:
        file.close()
        raise


def _check_content(file: BinaryIO, limits: Limits) -> str:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("unsupported", "not a regular file (a folder, device, pipe or socket)")
    if status.st_size == 0:
        raise MediaError("decode_error", _EMPTY)
    if error := _too_large("bytes", status.st_size, limits.max_bytes, "--max-bytes"):
        raise error
    kind = kind_of_content(file.read(HEAD_BYTES))
    file.seek(0)
    if kind is None:
        raise MediaError(
            "unsupported", "the content is in no image or video format that is read (formats are not guessed)"
        )
    return kind


def _too_large(unit: str, count: int, most: int, name: str) -> MediaError | None:
    return MediaError("too_large", f"{count:,} {unit}; at most {most:,} ({name})") if count > most else None


def list_inputs(paths: Iterable[str | bytes | os.PathLike]) -> Inputs:
    """Lists files as given and folders recursively in sorted order; reads nothing but the first bytes of files in
    folders.

    A symbolic link that is named is followed; one in a folder only if it leads to a file in the same folder.
    """
    inputs = Inputs()
    for path in paths:
        _add(os.fsdecode(path), inputs)
    return inputs


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//|.*://)")


def _add(path: str, inputs: Inputs) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        inputs.items.append(Input(path, error=_missing(path, error)))
        return
    if stat.S_ISDIR(status.st_mode):
        before = len(inputs.items)
        skipped = inputs.skipped
        _walk(path, inputs)
        if len(inputs.items) == before:
            count = inputs.skipped - skipped
            message = f"no image or video in this folder ({count} other file{'' if count == 1 else 's'})"
            inputs.items.append(Input(path, "folder", MediaError("not_found", message)))
    elif stat.S_ISREG(status.st_mode):
        inputs.items.append(Input(path, kind_of_name(path)))
    else:
        message = "not a file or folder but a device, pipe or socket"
        inputs.items.append(Input(path, error=MediaError("unsupported", message)))


def _missing(path: str, error: OSError | ValueError) -> MediaError:
    if isinstance(error, ValueError):
        return MediaError("not_found", f"no file can have this name: {error}")
    if _ADDRESS.match(path):
        return MediaError("unsupported", "an address: only local files are read; download it and give the file")
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MediaError("decode_error", f"the file cannot be reached: {error.strerror}")
    if re.search(r"%0?\d*d|[*?]", path):
        return MediaError("not_found", "there is no file of exactly this name, and patterns are not expanded here")
    return MediaError("not_found", "there is no such file or folder")


def _walk(folder: str, inputs: Inputs) -> None:
    root = os.path.realpath(folder)
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            message = f"the folder cannot be read: {error.strerror}"
            inputs.items.append(Input(current, "folder", MediaError("decode_error", message)))
            continue
        for entry in entries:
            if entry.is_symlink():
                _add_link(entry, root, inputs)
            elif entry.is_file(follow_symlinks=False):
                _add_file(entry.path, inputs)
            elif not entry.is_dir(follow_symlinks=False):
                inputs.skipped += 1
        pending += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def _add_file(path: str, inputs: Inputs) -> None:
    kind = kind_of_name(path) or _kind_of_file(path)
    if kind is None:
        inputs.skipped += 1
    else:
        inputs.items.append(Input(path, kind))


def _add_link(entry: os.DirEntry[str], root: str, inputs: Inputs) -> None:
    target = os.path.realpath(entry.path)
    if os.path.commonpath([root, target]) == root and os.path.isfile(target):
        # The resolved name is opened later, so replacing the link in between has no effect.
        _add_file(target, inputs)
    elif kind_of_name(entry.name) is None:
        inputs.skipped += 1
    else:
        message = "a symbolic link that leads out of its folder or nowhere; it is not followed: name the file itself"
        inputs.items.append(Input(entry.path, kind_of_name(entry.name), MediaError("unsupported", message)))


def _kind_of_file(path: str | os.PathLike) -> str | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return kind_of_content(file.read(HEAD_BYTES))
    except OSError:
        # An unreadable file without a media suffix gives no sign of being media.
        return None


_EXPECTED = "an image is an RGB array of uint8, (height, width, 3)"


@dataclass
class MemoryInput(Input):
    """An input without a file; `path` is `<array>`, `<bytes>` or `<image>`.

    Attributes:
        content: returns its bytes as a file.
    """

    content: Callable[[], bytes] = bytes

    def open(self, limits: Limits) -> tuple[BinaryIO, str]:
        """An unnamed temporary file with the content, and its kind; see `open_media`."""
        file: Any = tempfile.TemporaryFile(prefix="tfdfd-", buffering=1 << 20)  # noqa: SIM115
        try:
            file.write(self.content())
            file.seek(0)
            return file, _check_content(file, limits)
        except BaseException:
            file.close()
            raise


def memory_input(value: object, limits: Limits) -> MemoryInput:
    """The input for an array, the bytes of a file, or a Pillow image.

    Args:
        value: an RGB uint8 array `(height, width, 3)`, or an object that `numpy.asarray` turns into one; `bytes` with
            the content of an image or video file; or a `PIL.Image.Image` of any mode.
        limits: a larger value becomes an input with the error `too_large`.

    Raises:
        TypeError: the value is none of these.
        ValueError: the array has another shape or dtype; the message says how to convert it.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        size = memoryview(value).nbytes
        error = _too_large("bytes", size, limits.max_bytes, "Limits.max_bytes")
        return MemoryInput(BYTES, None, error if size else MediaError("decode_error", _EMPTY), lambda: bytes(value))
    pillow = sys.modules.get("PIL.Image")  # a caller with an image has imported it
    if pillow is not None and isinstance(value, pillow.Image):
        if not all(value.size):
            raise ValueError(f"the image is empty: its size is {value.size}.")
        error = _too_large("pixels", value.size[0] * value.size[1], limits.max_pixels, "Limits.max_pixels")
        return MemoryInput(PILLOW, "image", error, lambda: _as_png(value))
    if not hasattr(value, "__array__"):
        raise TypeError(
            "expected a path, an RGB array, the bytes of an image or video file, a Pillow image, or a list of those; "
            f"received {type(value).__name__}."
        )
    pixels = np.asarray(value)
    _check_array(pixels)
    error = _too_large("pixels", pixels.shape[0] * pixels.shape[1], limits.max_pixels, "Limits.max_pixels")
    return MemoryInput(ARRAY, "image", error, lambda: _as_bmp(pixels))


def _check_array(pixels: np.ndarray) -> None:
    shape = pixels.shape
    if pixels.ndim == 4:
        raise ValueError(f"a batch of shape {shape} is not one image; give a list of its images: list(array).")
    if pixels.ndim == 2 or (pixels.ndim == 3 and shape[2] == 1):
        raise ValueError(
            f"{_EXPECTED}; received a gray one of shape {shape}: repeat it with numpy.dstack([gray, gray, gray])."
        )
    if pixels.ndim == 3 and shape[2] == 4:
        raise ValueError(
            f"{_EXPECTED}; received one with an alpha channel, {shape}: leave it out with array[..., :3], or give the "
            "file or Pillow image, whose transparency is respected."
        )
    if pixels.ndim == 3 and shape[0] == 3 and shape[2] != 3:
        raise ValueError(f"{_EXPECTED}; received channels first, {shape}: turn it with array.transpose(1, 2, 0).")
    if pixels.ndim != 3 or shape[2] != 3:
        raise ValueError(f"{_EXPECTED}; received the shape {shape}.")
    if not pixels.size:
        raise ValueError(f"the image is empty: its shape is {shape}.")
    if pixels.dtype != np.uint8:
        hint = "take its values from 0 to 255 with array.astype('uint8')"
        if pixels.dtype.kind == "f":
            hint = "of values in [0, 1] make it one with (array * 255).round().astype('uint8')"
        raise ValueError(f"{_EXPECTED}; received {pixels.dtype}: {hint}.")


def _as_bmp(pixels: np.ndarray) -> bytes:
    """An uncompressed file: lossless, and as fast as copying memory."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, -(-width * 3 // 4) * 4), np.uint8)  # padded to four bytes, bottom row first
    rows[:, : width * 3] = pixels[::-1, :, ::-1].reshape(height, width * 3)
    head = struct.pack("<2sIHHI", b"BM", 54 + rows.nbytes, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.nbytes, 2835, 2835, 0, 0) + rows.data


def _as_png(image: Any) -> bytes:
    """A Pillow image as an upright PNG of the same colors and transparency."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
