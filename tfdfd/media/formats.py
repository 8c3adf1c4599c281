"""Media formats: magic bytes of images and videos, and the headers of image files. Decodes no pixel.

Only the formats listed here reach a decoder; a playlist or a script never does. OpenCV ignores what depends on an
image's container: the rotation of AVIF, EXIF that begins with `Exif\\0\\0` in WebP, and which pixels a viewer shows.
Each format has a header parser here; fields that it cannot parse keep their defaults.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

HEAD_BYTES = 400

# Image formats and their file name suffixes.
IMAGE_FORMATS = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png", ".apng"),
    "webp": (".webp",),
    "bmp": (".bmp", ".dib"),
    "tiff": (".tif", ".tiff"),
    "gif": (".gif",),
    "avif": (".avif", ".avifs"),
    "heif": (".heic", ".heif", ".heics", ".heifs", ".hif"),
    "jp2": (".jp2", ".jpx", ".jpf", ".jph", ".j2k", ".j2c", ".jpc"),
    "jxl": (".jxl",),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv"}
)
# FFmpeg's names of the containers below; the decoder accepts no others.
VIDEO_DEMUXERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpeg", "mpegvideo", "mpegts", "flv", "asf")

_IMAGE_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"\0\0\0\x0cjP  \r\n\x87\n": "jp2",
    b"\xff\x4f\xff\x51": "jp2",
    b"\0\0\0\x0cJXL \r\n\x87\n": "jxl",
    b"\xff\x0a": "jxl",
}
_MATROSKA = b"\x1a\x45\xdf\xa3"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
# Types of the first box of QuickTime and MP4 files and of their segments. An image in the same container (HEIC, AVIF)
# has another brand.
_MOV_BOXES = (
    *(b"ftyp", b"styp", b"moov", b"moof", b"sidx", b"mdat"),
    *(b"wide", b"free", b"skip", b"uuid", b"pnot", b"prfl"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"avci", b"avcs"})
# Brands of an image in any codec; the compatible brands after them name the codec.
_STILL_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf", b"1pic"})


def image_format(head: bytes) -> str | None:
    """The key of `IMAGE_FORMATS` for the first `HEAD_BYTES` bytes of a file, or None."""
    for magic, name in _IMAGE_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        brands = {head[8:12]}
        if brands & _STILL_BRANDS:
            end = min(int.from_bytes(head[:4], "big"), len(head))
            brands |= {head[offset : offset + 4] for offset in range(16, end - 3, 4)}
        if brands & _AVIF_BRANDS:
            return "avif"
        if brands & (_HEIF_BRANDS | _STILL_BRANDS):
            return "heif"
    return None


def is_mov(head: bytes) -> bool:
    """Whether a file starts like QuickTime, MP4 or a related format."""
    return head[4:8] in _MOV_BOXES


def kind_of_content(head: bytes) -> str | None:
    """`image`, `video` or None, judged by the first `HEAD_BYTES` bytes of a file."""
    if image_format(head) is not None:
        return "image"
    if is_mov(head):
        return "video"
    if head.startswith((_MATROSKA, _ASF, b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3")):
        return "video"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video"
    # Transport streams have a sync byte every 188 bytes, or every 192 bytes after a 4-byte time stamp.
    if any(len(head) > start + step and head[start] == head[start + step] == 0x47 for start, step in _TS_GRIDS):
        return "video"
    return None


_TS_GRIDS = ((0, 188), (4, 192))


def kind_of_name(path: str) -> str | None:
    """`image`, `video` or None, judged by the suffix of a file name."""
    suffix = PurePath(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


# Maximum number of boxes, chunks and tags to parse; bounds the time for a file of empty ones.
_MOST_PARTS = 100_000
_MOST_TAGS = 1000
_MOST_TEXT = 1000

# (quarter turns counterclockwise, then mirrored left to right) of EXIF orientations 1 to 8.
_EXIF = dict(enumerate(((0, 0), (0, 1), (2, 0), (2, 1), (3, 1), (3, 0), (1, 1), (1, 0)), 1))


@dataclass
class ImageHeader:
    """Properties of an image that its container states.

    Attributes:
        format: key of `IMAGE_FORMATS`.
        size: width and height before rotation; None if it was not parsed.
        turns: quarter turns counterclockwise that make it upright.
        mirrored: whether it is then mirrored left to right.
        alpha: type of the transparency: None, `straight` or `premultiplied`.
        alpha_max: opaque value of 16-bit alpha.
        transparent_gray: gray level that is transparent (PNG without an alpha channel), as decoded.
        note: information for the reader of the score.
        refusal: why the image cannot be displayed correctly although its pixels can be decoded.
        exif: the EXIF data, a TIFF file without pixels; empty if there is none.
    """

    format: str
    size: tuple[int, int] | None = None
    turns: int = 0
    mirrored: bool = False
    alpha: str | None = None
    alpha_max: int = 65535
    transparent_gray: int | None = None
    note: str | None = None
    refusal: str | None = None
    exif: bytes = b""

    def turn_by_exif(self, exif: bytes) -> None:
        """Sets the orientation from EXIF data, and keeps the data."""
        self.exif = exif.removeprefix(b"Exif\0\0")
        self.turns, mirrored = _EXIF[exif_orientation(exif)]
        self.mirrored = bool(mirrored)


def read_header(data: bytes) -> ImageHeader:
    """The header of an image that `image_format` recognizes."""
    header = ImageHeader(image_format(data[:HEAD_BYTES]) or "unknown")
    reader = _READERS.get(header.format)
    if reader is not None:
        # If a file ends within its header, the decoder reports the error.
        with contextlib.suppress(struct.error, IndexError):
            reader(data, header)
    return header


_ANIMATED = "animated image: its first frame was looked at; convert it to a video to have all of it scored"
_BESIDE = "animated image: its still image was looked at; convert it to a video to have the animation scored"


def exif_orientation(exif: bytes) -> int:
    """Orientation from 1 to 8 that EXIF data states, with or without a leading `Exif\\0\\0`; 1 if it states none."""
    if exif[:6] == b"Exif\0\0":
        exif = exif[6:]
    try:
        value = tiff_tags(exif).get(274, (1,))
    except (struct.error, IndexError):
        return 1
    return value[0] if value and value[0] in _EXIF else 1


def tiff_tags(data: bytes, count_pages: bool = False) -> dict[int, tuple[int, ...]]:
    """Integer values by tag of the first directory of a TIFF file; with `count_pages`, tag -1 is nonzero if there is a
    second directory.

    Raises:
        struct.error, IndexError: the data ends within the directory.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        return {}
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags = {}
    for number in range(min(count, _MOST_TAGS)):
        offset = start + 2 + 12 * number
        tag, kind, length = struct.unpack_from(order + "HHI", data, offset)
        letter = {1: "B", 3: "H", 4: "I"}.get(kind)
        if letter and 0 < length <= 16:
            text = f"{order}{length}{letter}"
            inside = struct.calcsize(text) <= 4
            at = offset + 8 if inside else struct.unpack_from(order + "I", data, offset + 8)[0]
            tags[tag] = struct.unpack_from(text, data, at)
    if count_pages:
        tags[-1] = struct.unpack_from(order + "I", data, start + 2 + 12 * count)
    return tags


_EXIF_DIRECTORY = 34665


def tiff_texts(data: bytes, names: dict[int, str]) -> dict[str, bytes]:
    """Texts of the first directory of a TIFF file and of its EXIF directory, at most `_MOST_TEXT` bytes each.

    Args:
        data: the file, or EXIF data.
        names: name of each wanted tag.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    texts: dict[str, bytes] = {}
    with contextlib.suppress(struct.error, IndexError):  # the data ends early: what came before it counts
        directories = [struct.unpack_from(order + "I", data, 4)[0]] if order else []
        for start in directories:
            (count,) = struct.unpack_from(f"{order}H", data, start)
            for offset in range(start + 2, start + 2 + 12 * min(count, _MOST_TAGS), 12):
                tag, kind, length, at = struct.unpack_from(f"{order}HHII", data, offset)
                if kind == 2 and tag in names:
                    at = offset + 8 if length <= 4 else at
                    texts.setdefault(names[tag], data[at : at + min(length, _MOST_TEXT)])
                elif tag == _EXIF_DIRECTORY and len(directories) == 1:
                    directories.append(at)
    return texts


def _read_tiff(data: bytes, header: ImageHeader) -> None:
    header.exif = data
    # OpenCV rotates TIFF upright whatever its flags.
    tags = tiff_tags(data, count_pages=True)
    if tags[-1][0]:
        header.note = "a TIFF file of several pages: the first was looked at"
    samples, photometric, extra = (tags.get(tag, (None,))[0] for tag in (277, 262, 338))
    colors = 3 if photometric == 2 else 1
    if samples != colors + 1 or extra == 0 or (extra is None and colors == 1):
        return
    if colors == 1:
        header.refusal = "gray with transparency in TIFF is not read: convert it to PNG"
    # libtiff premultiplies the colors of straight alpha. Without the tag, as in files that OpenCV writes, it does not.
    header.alpha = "straight" if extra is None else "premultiplied"


# Excludes stuffed and fill bytes, and markers without content.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields `(marker, start, end)` of each JPEG marker and its content, without entropy-coded data.

    Ends with the end marker (0xD9, without content) or at the end of the file.
    """
    offset = 2
    for _ in range(_MOST_PARTS):
        match = _JPEG_MARKER.search(data, offset)
        if match is None:
            return
        marker, offset = data[match.end() - 1], match.end()
        if marker == 0xD9:
            yield marker, offset, offset
            return
        if offset + 2 > len(data):
            return
        end = offset + int.from_bytes(data[offset : offset + 2], "big")
        yield marker, offset + 2, end
        offset = end


# Markers of a JPEG's frame header, which states its size, and of a scan.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN_MARKER = 0xDA
# Encoders write about ten.
MAX_SCANS = 100


class PictureWork(NamedTuple):
    """What the headers of a PNG or JPEG state about the work of decoding it.

    Attributes:
        pixels: 0 if no header states them.
        scans: number of scans of a JPEG, up to one above `MAX_SCANS`; otherwise 1. A progressive JPEG is decoded
            once for each.
        channels: number of channels of a JPEG; otherwise 3.
    """

    pixels: int
    scans: int
    channels: int


def picture_work(data: bytes) -> PictureWork | None:
    """The work of decoding a PNG or JPEG, of which the headers alone are read; None for any other format."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        sides = struct.unpack(">II", data[16:24]) if data[12:16] == b"IHDR" and len(data) >= 24 else (0, 0)
        return PictureWork(sides[0] * sides[1], 1, 3)
    if not data.startswith(b"\xff\xd8"):
        return None
    pixels = scans = channels = segments = 0
    for marker, start, end in jpeg_segments(data):
        segments += 1
        if marker in _FRAME_MARKERS and end - start >= 5:
            height, width = struct.unpack(">HH", data[start + 1 : start + 5].ljust(4, b"\0"))
            pixels = max(pixels, width * height)
            channels = max(channels, *data[start + 5 : start + 6], 0)
        scans += marker == _SCAN_MARKER
        if scans > MAX_SCANS:
            break
    # Segments after the limit are not read, so the number of scans is unknown.
    return PictureWork(pixels, MAX_SCANS + 1 if segments == _MOST_PARTS else max(scans, 1), channels)


def _read_jpeg(data: bytes, header: ImageHeader) -> None:
    for marker, start, end in jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            header.turn_by_exif(data[start:end])
            return
        if marker == 0xDA:
            return


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields `(type, start, end)` of the content of each complete chunk of a PNG file."""
    offset = 8
    for _ in range(_MOST_PARTS):
        if offset + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + length
        if end + 4 > len(data):
            return
        yield kind, offset + 8, end
        offset = end + 4


def _read_png(data: bytes, header: ImageHeader) -> None:
    kind, start, _ = next(png_chunks(data), (b"", 0, 0))
    if kind != b"IHDR":
        return
    *header_size, depth, color = struct.unpack_from(">IIBB", data, start)
    header.size = tuple(header_size)
    if color & 4:
        header.alpha = "straight"
    before_pixels, in_animation, animated = True, False, False
    for kind, start, end in png_chunks(data):
        if kind == b"IDAT":
            before_pixels = False
        elif kind == b"eXIf":
            header.turn_by_exif(data[start:end])
        elif kind == b"tRNS" and color == 0:
            (level,) = struct.unpack_from(">H", data, start)
            header.transparent_gray = level if depth == 16 else level * 255 // (2**depth - 1)
        elif kind == b"tRNS":
            header.alpha = "straight"
        elif kind == b"acTL" and before_pixels:
            animated = struct.unpack_from(">I", data, start)[0] > 1
        elif kind == b"fcTL" and before_pixels:
            in_animation = True
    if animated:
        header.note = _ANIMATED if in_animation else _BESIDE


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields `(type, start, end)` of the content of each complete chunk of a WebP file, whatever its stated size."""
    offset = 12
    for _ in range(_MOST_PARTS):
        if offset + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, offset)
        end = offset + 8 + length
        if end > len(data):
            return
        yield kind, offset + 8, end
        offset = end + length % 2


def _read_webp(data: bytes, header: ImageHeader) -> None:
    frames = 0
    for kind, start, end in webp_chunks(data):
        if (kind == b"VP8X" and data[start] & 0x10) or (kind == b"VP8L" and data[start + 4] & 0x10):
            header.alpha = "straight"
        elif kind == b"EXIF":
            header.turn_by_exif(data[start:end])
        elif kind == b"ANMF":
            frames += 1
    if frames > 1:
        header.note = _ANIMATED


def gif_end(data: bytes) -> tuple[int, int]:
    """End of the last complete block of a GIF file, and the number of images up to there."""
    offset = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    pictures = 0
    for _ in range(_MOST_PARTS):
        block = data[offset : offset + 1]
        if block == b"!":
            end = offset + 2
        elif block == b"," and offset + 10 <= len(data):
            colors = data[offset + 9]
            end = offset + 11 + (3 << ((colors & 7) + 1) if colors & 0x80 else 0)
        else:
            break
        while end < len(data) and data[end]:
            end += data[end] + 1
        if end >= len(data):
            break
        offset = end + 1
        pictures += block == b","
    return offset, pictures


def _read_gif(data: bytes, header: ImageHeader) -> None:
    # An image smaller than the canvas is transparent around it.
    header.alpha = "straight"
    if gif_end(data)[1] > 1:
        header.note = _ANIMATED


def _read_bmp(data: bytes, header: ImageHeader) -> None:
    header_bytes, bits = struct.unpack_from("<I", data, 14)[0], struct.unpack_from("<H", data, 28)[0]
    if header_bytes >= 56 and bits == 32 and struct.unpack_from("<I", data, 66)[0]:
        header.alpha = "straight"


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields `(type, start, end)` of the content of each box of an ISO base media file between two offsets."""
    for _ in range(_MOST_PARTS):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if length == 0 else min(start + length, end)
        if stop < content:
            return
        yield kind, content, stop
        start = stop


_ALPHA_NAMES = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"


def _read_avif(data: bytes, header: ImageHeader) -> None:
    if b"avis" in data[8 : min(int.from_bytes(data[:4], "big"), 400)]:
        header.note = _ANIMATED
    meta = _find_box(data, 0, len(data), b"meta")
    if meta is None:
        return
    start, end = meta[0] + 4, meta[1]
    primary, properties = _find_box(data, start, end, b"pitm"), _find_box(data, start, end, b"iprp")
    if max(data.find(name, start, end) for name in _ALPHA_NAMES) >= 0:
        # The decoder divides premultiplied colors by their alpha.
        header.alpha = "straight"
    if primary is None or properties is None:
        return
    item = struct.unpack_from(">I" if data[primary[0]] else ">H", data, primary[0] + 4)[0]
    listed = list(boxes(data, *_find_box(data, *properties, b"ipco") or (0, 0)))
    for number in _property_indices(data, *_find_box(data, *properties, b"ipma") or (0, 0), item):
        if not 0 < number <= len(listed):
            continue
        kind, offset, _ = listed[number - 1]
        if kind == b"ispe":
            header.size = struct.unpack_from(">II", data, offset + 4)
        elif kind == b"irot":
            _turn(header, data[offset] & 3, False)
        elif kind == b"imir":
            # Axis 1 swaps left and right; axis 0 swaps top and bottom, which equals that and a half turn.
            _turn(header, 0 if data[offset] & 1 else 2, True)
        elif kind == b"av1C":
            depth = 8 if not data[offset + 2] & 0x40 else 12 if data[offset + 2] & 0x20 else 10
            header.alpha_max = 2**depth - 1


def _turn(header: ImageHeader, turns: int, mirrored: bool) -> None:
    """Appends a rotation and then a mirroring to the header's."""
    # After a mirroring, rotation has the opposite direction.
    header.turns = (header.turns + (-turns if header.mirrored else turns)) % 4
    header.mirrored ^= mirrored


def _find_box(data: bytes, start: int, end: int, wanted: bytes) -> tuple[int, int] | None:
    return next(((first, last) for kind, first, last in boxes(data, start, end) if kind == wanted), None)


def _property_indices(data: bytes, start: int, end: int, item: int) -> Iterator[int]:
    """Yields the indices of an item's properties, from 1, in the order in which they apply."""
    if end - start < 8:
        return
    version, wide = data[start], data[start + 3] & 1
    offset = start + 8
    for _ in range(min(struct.unpack_from(">I", data, start + 4)[0], _MOST_PARTS)):
        owner, count = struct.unpack_from(">IB" if version else ">HB", data, offset)
        offset += 5 if version else 3
        for _ in range(count):
            number = struct.unpack_from(">H" if wide else ">B", data, offset)[0]
            offset += 2 if wide else 1
            if owner == item:
                yield number & (0x7FFF if wide else 0x7F)


def _read_jp2(data: bytes, header: ImageHeader) -> None:
    jp2h = _find_box(data, 0, len(data), b"jp2h")
    if jp2h is None:
        return
    image, channels = _find_box(data, *jp2h, b"ihdr"), _find_box(data, *jp2h, b"cdef")
    if image is None or channels is None:
        return
    height, width, components = struct.unpack_from(">IIH", data, image[0])
    header.size = width, height
    for number in range(min(struct.unpack_from(">H", data, channels[0])[0], 16)):
        _, kind, _ = struct.unpack_from(">HHH", data, channels[0] + 2 + 6 * number)
        if kind in (1, 2):
            header.alpha = "straight" if kind == 1 else "premultiplied"
            if components == 2:
                header.refusal = "gray with transparency in JPEG 2000 is not read: convert it to PNG"


_READERS = {
    "jpeg": _read_jpeg,
    "png": _read_png,
    "webp": _read_webp,
    "gif": _read_gif,
    "bmp": _read_bmp,
    "tiff": _read_tiff,
    "avif": _read_avif,
    "jp2": _read_jp2,
}
