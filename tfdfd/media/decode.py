"""Images and sampled video frames of an open file, decoded to upright RGB pixels; runs in a decoding process.

No decoder receives a path: OpenCV gets the bytes of an image (pillow-heif those of HEIC), PyAV (`video.py`) a file
object, so no address, `%03d` pattern or device name can reach one.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np

from tfdfd.media import InOrder, Limits, MediaError
from tfdfd.media.formats import (
    HEAD_BYTES,
    ImageHeader,
    gif_end,
    image_format,
    jpeg_segments,
    kind_of_content,
    png_chunks,
    read_header,
    webp_chunks,
)
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


# Rows composed at a time; bounds the extra memory for a large transparent image.
_ROWS = 256
# Names in OpenCV's build information of the formats that a build may lack.
_BUILD_NAMES = {"avif": "AVIF", "gif": "GIF", "jp2": "JPEG 2000", "webp": "WEBP", "tiff": "TIFF"}
_NO_END = "the end of the file is missing or wrong, but the picture is whole"
_HIDDEN = "every pixel is transparent"


def read_image(data: bytes, limits: Limits) -> tuple[np.ndarray, str | None]:
    """Decodes an image file to upright RGB uint8 pixels; transparent pixels become white.

    Args:
        data: the whole file; its first bytes are those of an image.
        limits: `max_pixels` holds before anything is decoded.

    Returns:
        Pixels `(height, width, 3)`, and a note for the reader of the score or None.

    Raises:
        MediaError: `unsupported` if no installed library reads the format, `too_large`, or `decode_error`.
        cv2.error: OpenCV failed.
    """
    pixels: np.ndarray | None
    header = read_header(data)
    if header.format == "jxl":
        raise MediaError("unsupported", "JPEG XL is not read: convert the picture to JPEG or PNG")
    if header.refusal:
        raise MediaError("unsupported", header.refusal)
    if header.format == "heif":
        pixels, alpha, premultiplied = _decode_heif(data, limits)
        return _on_white(pixels, alpha, 255, premultiplied), _notes(None, alpha)
    if header.size is not None:
        check_pixels(*header.size, limits)
    pixels = _decode_rgb(data, header.format)
    end_note = None
    if pixels is None:
        data = _completed(data, header.format)  # type: ignore[assignment]
        pixels = None if data is None else _decode_rgb(data, header.format)
        end_note = _NO_END
    if pixels is None:
        raise _no_pixels(header.format)
    alpha = _alpha(data, header)
    pixels = _on_white(pixels, alpha, header.alpha_max, header.alpha == "premultiplied")
    return _upright(pixels, header), _notes(header.note, alpha, end_note)


def check_pixels(width: float, height: float, limits: Limits) -> None:
    """Raises `MediaError` for an image of more than `limits.max_pixels` pixels."""
    if width * height > limits.max_pixels:
        size = f"{int(width)} x {int(height)}"
        raise MediaError("too_large", f"an image of {size} pixels; at most {limits.max_pixels:,} (--max-pixels)")


def _notes(note: str | None, alpha: np.ndarray | None, end_note: str | None = None) -> str | None:
    hidden = _HIDDEN if alpha is not None and not alpha.any() else None
    return "; ".join(text for text in (note, end_note, hidden) if text) or None


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    # The header gives the orientation: OpenCV knows that of some formats, depending on its version.
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode_rgb(data: bytes, name: str) -> np.ndarray | None:
    if name != "avif":
        return _decode(data, cv2.IMREAD_COLOR_RGB)
    # For AVIF with transparency, OpenCV (4.14) returns BGR whatever the flag.
    pixels = _decode(data, cv2.IMREAD_COLOR_BGR)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _upright(pixels: np.ndarray, header: ImageHeader) -> np.ndarray:
    pixels = np.rot90(pixels, header.turns)
    return np.ascontiguousarray(pixels[:, ::-1] if header.mirrored else pixels)


def _alpha(data: bytes, header: ImageHeader) -> np.ndarray | None:
    """The alpha channel, or None for an image without one."""
    if header.alpha is None and header.transparent_gray is None:
        return None
    pixels = _decode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise MediaError("decode_error", "the transparency of the image cannot be decoded")
    if header.transparent_gray is not None and pixels.ndim == 2:
        return np.where(pixels == header.transparent_gray, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    if pixels.ndim == 2 or pixels.shape[2] != 4:
        return None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise MediaError("unsupported", f"transparency of {pixels.dtype} pixels is not read: convert the image to PNG")
    alpha = pixels[..., 3]
    # A bitmap's alpha channel of zeros was never filled in; viewers show it as opaque.
    return None if header.format == "bmp" and not alpha.any() else alpha


def _on_white(pixels: np.ndarray, alpha: np.ndarray | None, alpha_max: int, premultiplied: bool) -> np.ndarray:
    """Composes RGB pixels over white; 8-bit alpha is opaque at 255, 16-bit alpha at `alpha_max`."""
    if alpha is None:
        return pixels
    opaque = 255 if alpha.dtype == np.uint8 else alpha_max
    if alpha.min() >= opaque:
        return pixels
    out = np.empty_like(pixels)
    for start in range(0, len(pixels), _ROWS):
        rows = np.s_[start : start + _ROWS]
        share = np.minimum(alpha[rows, :, None].astype(np.float32) / opaque, 1)
        color = pixels[rows].astype(np.float32)
        color = color + 255 * (1 - share) if premultiplied else color * share + 255 * (1 - share)
        out[rows] = np.clip(np.rint(color), 0, 255)
    return out


def _no_pixels(name: str) -> MediaError:
    label = _BUILD_NAMES.get(name)
    if label and re.search(rf"^\s*{label}:\s+NO\b", cv2.getBuildInformation(), re.MULTILINE):
        return MediaError(
            "unsupported",
            f"OpenCV {cv2.__version__} reads no {label}: pip install -U 'opencv-python>=4.12,<5', or convert the "
            "picture to JPEG or PNG",
        )
    return MediaError("decode_error", "the image is damaged or of a variant that OpenCV cannot decode")


def _decode_heif(data: bytes, limits: Limits) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Upright RGB pixels of a HEIC file's primary image; its alpha or None; whether that is premultiplied."""
    try:
        import pillow_heif
    except ImportError:
        raise MediaError(
            "unsupported", "HEIC is read with an extra: pip install 'tfdfd[heif]', or convert the picture to JPEG"
        ) from None
    try:
        # The decoder applies the rotation in the file's properties. EXIF repeats it and is not applied again.
        file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True, bgr_mode=False)
        check_pixels(*file.size, limits)  # type: ignore[call-arg]
        pixels = np.asarray(file)
        premultiplied = bool(getattr(file, "premultiplied_alpha", False))
    except (ValueError, RuntimeError, EOFError, SyntaxError, OSError) as error:
        raise MediaError("decode_error", f"the HEIC picture is damaged: {str(error).strip()}") from error
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    alpha = pixels[..., -1] if channels in (2, 4) else None
    color = pixels[..., : channels - (alpha is not None)]
    return np.ascontiguousarray(np.broadcast_to(color, (*color.shape[:2], 3))), alpha, premultiplied


def _completed(data: bytes, name: str) -> bytes | None:
    """The file with its missing end restored; None if a pixel is missing or the format has no repair."""
    repair = {"jpeg": _complete_jpeg, "png": _complete_png, "gif": _complete_gif, "webp": _complete_webp}.get(name)
    try:
        return repair(data) if repair else None
    except (struct.error, IndexError, KeyError):
        return None


_EOI = b"\xff\xd9"
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _complete_jpeg(data: bytes) -> bytes | None:
    """Complete if every scan is present and appended data changes no pixel."""
    data = data.rstrip(b"\xff")  # half a marker
    final, pixel_data = {}, len(data)
    for marker, start, end in jpeg_segments(data):
        if marker == 0xD9:
            return None
        if marker in _SOF:
            ids = [data[start + 6 + 3 * number] for number in range(data[start + 5])]
            # The lowest bit received of each coefficient: a progressive file sends bits in several scans.
            final = {name: np.full(64, 99) for name in ids}
        elif marker == 0xDA:
            if end > len(data):
                return None
            count = data[start]
            first, last, bits = data[start + 1 + 2 * count : start + 4 + 2 * count]
            pixel_data = end
            for number in range(count):
                final[data[start + 1 + 2 * number]][first : last + 1] = bits & 15
    if not final or any(lowest.any() for lowest in final.values()):
        return None
    repaired = data + _EOI
    pixels = _decode(repaired, cv2.IMREAD_COLOR_RGB)
    for filler in _fillers(data[pixel_data:]):
        other = _decode(data + filler + _EOI, cv2.IMREAD_COLOR_RGB)
        if pixels is None or other is None or not np.array_equal(pixels, other):
            return None
    return repaired


def _fillers(scan: bytes) -> Iterator[bytes]:
    """Yields various data that could continue a scan, with the next restart markers."""
    last = max(range(8), key=lambda number: scan.rfind(bytes((0xFF, 0xD0 + number))))
    first = last + 1 if bytes((0xFF, 0xD0 + last)) in scan else 0
    random = np.random.default_rng(0).integers(0, 255, (2, 200), np.uint8)
    for part in (b"\x55" * 200, b"\xaa" * 200, b"\xfe" * 200, *(row.tobytes() for row in random)):
        yield part + b"".join(bytes((0xFF, 0xD0 + (first + number) % 8)) + part for number in range(8))


def _complete_png(data: bytes) -> bytes | None:
    """Complete if the compressed data decompresses to the number of bytes that the header implies."""
    before, packed, offset = [], [], 8
    for kind, start, end in png_chunks(data):
        if kind == b"IDAT":
            packed.append(data[start:end])
        elif not packed and kind not in (b"acTL", b"fcTL"):
            before.append(data[start - 8 : end + 4])
        if kind == b"IEND":
            return None
        offset = end + 4
    if offset + 8 <= len(data) and data[offset + 4 : offset + 8] == b"IDAT":
        packed.append(data[offset + 8 :])
    if not before or not packed:
        return None
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", before[0][8:21])
    expected = _png_bytes(width, height, depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 0), interlaced)
    try:
        rows = zlib.decompressobj().decompress(b"".join(packed), expected)
    except zlib.error:
        return None
    if len(rows) < expected:
        return None
    return data[:8] + b"".join(before) + _png_chunk(b"IDAT", zlib.compress(rows, 1)) + _png_chunk(b"IEND", b"")


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# First column and row, and steps, of the seven passes of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _png_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // step_x), -(-(height - y) // step_y)) for x, y, step_x, step_y in passes]
    return sum((1 + (columns * bits + 7) // 8) * rows for columns, rows in sizes if columns > 0 and rows > 0)


def _complete_gif(data: bytes) -> bytes | None:
    # OpenCV rejects an image whose codes end early.
    end, pictures = gif_end(data)
    if pictures:
        return data[:end] + b";"
    # The last block may lack the zero that ends it.
    end, pictures = gif_end(data + b"\0")
    return data + b"\0;" if pictures else None


def _complete_webp(data: bytes) -> bytes | None:
    """The complete chunks, with their actual length in the header."""
    end, kinds = 12, set()
    for kind, _, end in webp_chunks(data):  # noqa: B007
        kinds.add(kind)
    if not kinds & {b"VP8 ", b"VP8L", b"ANMF"}:
        return None
    chunks = data[12:end] + b"\0" * (end % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
