"""How the decoding process answers: a JSON header and raw crops. Nothing that is read can run anything (no pickle),
and nothing that is read is trusted: a decoder that was taken over can lie about a face, but not grow or execute."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict

import numpy as np

from tfdfd.extract.faces_of import MAX_CROPS, Extraction, FoundFace, FrameFaces
from tfdfd.media.errors import STATUSES

MAX_HEADER = 16 << 20
_LENGTHS = struct.Struct("<II")  # bytes of header, bytes of crops


class WireError(Exception):
    """The decoding process answered something that is no answer."""


def pack(answer: Extraction | dict) -> list[bytes]:
    """An answer, or a plain dict (`ready`, `fatal`), as buffers to write one after another."""
    crops = []
    if isinstance(answer, Extraction):
        header = asdict(answer)
        for frame in header["frames"]:
            for face in frame["faces"]:
                crops.append(np.ascontiguousarray(face.pop("crop")).data)
    else:
        header = answer
    text = json.dumps(header).encode()
    return [_LENGTHS.pack(len(text), sum(crop.nbytes for crop in crops)), text, *crops]


def lengths(prefix: bytes) -> tuple[int, int]:
    """Bytes of header and of crops that follow the prefix of `PREFIX_BYTES` bytes."""
    header, crops = _LENGTHS.unpack(prefix)
    if header > MAX_HEADER:
        raise WireError(f"a header of {header} bytes")
    return header, crops


PREFIX_BYTES = _LENGTHS.size


def parse(text: bytes) -> dict:
    """The header of an answer."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON: {error}") from error
    if not isinstance(header, dict):
        raise WireError("a header that is no object")
    return header


def check_crop_bytes(header: dict, count: int, size: int) -> None:
    """Raises `WireError` unless `count` bytes are the crops that the header lists, within the agreed number."""
    try:
        faces = sum(len(frame["faces"]) for frame in header.get("frames", ()))
    except (KeyError, TypeError) as error:
        raise WireError(f"a malformed answer: {error}") from error
    if faces > MAX_CROPS or count != faces * size * size * 3:
        raise WireError(f"{count} bytes of crops for {faces} faces of {size} pixels")


def unpack(path: str, header: dict, crops: bytes, size: int) -> Extraction:
    """The answer of a header that `check_crop_bytes` passed."""
    pixels = np.frombuffer(crops, np.uint8).reshape(-1, size, size, 3)
    try:
        if header["status"] not in STATUSES:
            raise WireError(f"status {header['status']!r}")
        if (header["status"] == "ok") != bool(len(pixels)):
            raise WireError(f"status {header['status']!r} with {len(pixels)} faces")
        kind, message, duration = header["kind"], header["message"], header["duration_s"]
        if kind not in ("image", "video", None) or not isinstance(message, (str, type(None))):
            raise WireError(f"kind {kind!r} with message {message!r}")
        numbers = iter(range(len(pixels)))
        frames = [
            FrameFaces(
                int(_number(frame["index"])),
                _number(frame["time_s"]),
                [
                    FoundFace(
                        _box(face["box"]),
                        None if face["score"] is None else _number(face["score"]),
                        face["landmarks"],
                        pixels[next(numbers)],
                    )
                    for face in frame["faces"]
                ],
            )
            for frame in header["frames"]
        ]
        duration = None if duration is None else _number(duration)
        damaged = int(_number(header["frames_damaged"]))
        return Extraction(path, kind, header["status"], message, duration, frames, damaged)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a malformed answer: {error}") from error


def _number(value):
    value = float(value)
    if not 0 <= value < math.inf:
        raise ValueError(f"the number {value}")
    return value


def _box(values):
    x, y, width, height = map(int, values)
    return x, y, width, height
