"""What a file is, by its first bytes. Only these formats reach a decoder; a playlist or a script never does."""

from __future__ import annotations

from pathlib import PurePath

HEAD_BYTES = 400

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv"}
)
# FFmpeg's names of the containers below: the decoder is told to accept no others.
VIDEO_DEMUXERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpeg", "mpegvideo", "mpegts", "flv", "asf")

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a")
_MATROSKA = b"\x1a\x45\xdf\xa3"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
# First boxes that QuickTime and MP4 files and segments of them open with. A still in the same container (HEIC, AVIF)
# has another brand.
_MOV_BOXES = (
    *(b"ftyp", b"styp", b"moov", b"moof", b"sidx", b"mdat"),
    *(b"wide", b"free", b"skip", b"uuid", b"pnot", b"prfl"),
)
_STILL_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"jxl ")


def is_mov(head: bytes) -> bool:
    """Whether the first bytes of a file are those of QuickTime, MP4 or a relative."""
    return head[4:8] in _MOV_BOXES


def kind_of_content(head: bytes) -> str | None:
    """`image`, `video` or None for the first `HEAD_BYTES` bytes of a file."""
    if head.startswith(_IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if is_mov(head):
        return None if head[8:12] in _STILL_BRANDS else "video"
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
