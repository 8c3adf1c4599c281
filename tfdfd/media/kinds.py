"""What a file is, by its first bytes. Only these formats reach a decoder; a playlist or a script never does."""

from __future__ import annotations

from pathlib import PurePath

HEAD_BYTES = 400

# Image formats by the endings of their file names.
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
# FFmpeg's names of the containers below: the decoder is told to accept no others.
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
# First boxes that QuickTime and MP4 files and segments of them open with. A still in the same container (HEIC, AVIF)
# has another brand.
_MOV_BOXES = (
    *(b"ftyp", b"styp", b"moov", b"moof", b"sidx", b"mdat"),
    *(b"wide", b"free", b"skip", b"uuid", b"pnot", b"prfl"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"avci", b"avcs"})
# Brands of a still whatever its coding, which the brands behind them tell.
_STILL_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf", b"1pic"})


def image_format(head: bytes) -> str | None:
    """A key of `IMAGE_FORMATS`, or None, for the first `HEAD_BYTES` bytes of a file."""
    for magic, name in _IMAGE_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        brands = {head[8:12]}
        if brands & _STILL_BRANDS:
            end = min(int.from_bytes(head[:4], "big"), len(head))
            brands |= {head[place : place + 4] for place in range(16, end - 3, 4)}
        if brands & _AVIF_BRANDS:
            return "avif"
        if brands & (_HEIF_BRANDS | _STILL_BRANDS):
            return "heif"
    return None


def is_mov(head: bytes) -> bool:
    """Whether the first bytes of a file are those of QuickTime, MP4 or a relative."""
    return head[4:8] in _MOV_BOXES


def kind_of_content(head: bytes) -> str | None:
    """`image`, `video` or None for the first `HEAD_BYTES` bytes of a file."""
    if image_format(head) is not None:
        return "image"
    if is_mov(head):
        return "video"
    if head.startswith((_MATROSKA, _ASF, b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3")):
        return "video"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video"
    # Transport streams have a sync byte every 188 bytes, or every 192 behind a 4-byte time stamp.
    if any(len(head) > start + step and head[start] == head[start + step] == 0x47 for start, step in _TS_GRIDS):
        return "video"
    return None


_TS_GRIDS = ((0, 188), (4, 192))


def kind_of_name(path: str) -> str | None:
    """`image`, `video` or None by the file name's ending."""
    suffix = PurePath(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None
