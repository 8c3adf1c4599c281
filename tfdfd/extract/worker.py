"""Decoding process: its protocol with `pool.py`, and its main loop.

A request is a line of JSON on standard input, a socket, together with the descriptor of an open file. A response is a
JSON header and raw crops and views of frames on standard output. No pickle is read. The parent checks every field of a
response: a decoder under an attacker's control can misreport a face, but not grow or execute.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import pkgutil
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tfdfd.extract.extraction import MAX_CROPS, STAGES, Extraction, FaceCrop, FrameFaces, Request
from tfdfd.faces.crop import MEASURES
from tfdfd.media import STATUSES

if TYPE_CHECKING:
    from tfdfd.faces import FaceDetector
    from tfdfd.media import Limits

MAX_HEADER = 16 << 20
MAX_DECODER = 200  # letters
_LENGTHS = struct.Struct("<II")  # bytes of header, bytes of crops and views
PREFIX_BYTES = _LENGTHS.size
# Packages that only some formats need. A sealed process cannot import them any more.
LIBRARIES = {"video": "av", "heif": "pillow_heif"}
# A line that asks for the provenance of a file in place of its faces.
PROVENANCE = "provenance"


class ProtocolError(Exception):
    """The decoding process sent a malformed response."""


def pack(response: Extraction | dict[str, Any]) -> list[bytes | memoryview]:
    """A response, or a plain dict (`ready`, `fatal`), as buffers to write one after another."""
    pixels, views = [], []
    if isinstance(response, Extraction):
        header = asdict(response)
        for frame in header["frames"]:
            for face in frame["faces"]:
                pixels.append(np.ascontiguousarray(face.pop("crop")).data)
            if frame["view"] is not None:
                views.append(np.ascontiguousarray(frame["view"]).data)
                frame["view"] = frame["view"].shape[:2]
    else:
        header = response
    text = json.dumps(header).encode()
    pixels += views
    return [_LENGTHS.pack(len(text), sum(each.nbytes for each in pixels)), text, *pixels]


def lengths(prefix: bytes) -> tuple[int, int]:
    """The number of header bytes and of pixel bytes that follow a prefix of `PREFIX_BYTES` bytes."""
    header, pixels = _LENGTHS.unpack(prefix)
    if header > MAX_HEADER:
        raise ProtocolError(f"a header of {header} bytes")
    return header, pixels


def parse(text: bytes) -> dict[str, Any]:
    """The header of a response."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError("a header that is not an object")
    return header


def check_pixel_bytes(header: dict[str, Any], count: int, request: Request) -> None:
    """Raises `ProtocolError` unless `count` bytes are the crops and views that the header lists, within the limits."""
    try:
        frames = header.get("frames", ())
        faces = sum(len(frame["faces"]) for frame in frames)
        views = [_view_size(frame, request.view_side) for frame in frames if frame.get("view") is not None]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"malformed: {error}") from error
    expected = faces * request.size**2 * 3 + sum(height * width * 3 for height, width in views)
    if faces > MAX_CROPS or len(views) > request.views or count != expected:
        raise ProtocolError(f"{count} bytes of pixels for {faces} faces of {request.size} pixels, {len(views)} views")


def unpack(path: str, header: dict[str, Any], data: bytes, request: Request) -> Extraction:
    """The response with a header that `check_pixel_bytes` accepted."""
    try:
        sizes = [_view_size(frame, request.view_side) for frame in header["frames"] if frame.get("view") is not None]
        start = len(data) - sum(height * width * 3 for height, width in sizes)
        pixels = np.frombuffer(data[:start], np.uint8).reshape(-1, request.size, request.size, 3)
        views = iter(_views(np.frombuffer(data, np.uint8, offset=start), sizes) if sizes else [])
        if header["status"] not in STATUSES:
            raise ProtocolError(f"status {header['status']!r}")
        if (header["status"] == "ok") != bool(len(pixels)):
            raise ProtocolError(f"status {header['status']!r} with {len(pixels)} faces")
        kind, message, duration = header["kind"], header["message"], header["duration_s"]
        if kind not in ("image", "video", None) or not isinstance(message, (str, type(None))):
            raise ProtocolError(f"kind {kind!r} with message {message!r}")
        positions = iter(range(len(pixels)))
        frames = [
            FrameFaces(
                int(_number(frame["index"])),
                _number(frame["time_s"]),
                [
                    FaceCrop(
                        _box(face["box"]),
                        None if face["score"] is None else _number(face["score"]),
                        face["landmarks"],
                        pixels[next(positions)],
                        {name: _number(value) for name, value in face["measures"].items() if name in MEASURES},
                    )
                    for face in frame["faces"]
                ],
                None if frame.get("view") is None else next(views),
            )
            for frame in header["frames"]
        ]
        duration = None if duration is None else _number(duration)
        damaged = int(_number(header["frames_damaged"]))
        frame_size = None
        if header.get("frame_size") is not None:
            height, width = (int(_number(side)) for side in header["frame_size"])
            frame_size = max(1, height), max(1, width)
        seconds = {name: _number(value) for name, value in header.get("seconds", {}).items() if name in STAGES}
        return Extraction(
            path,
            kind,
            header["status"],
            message,
            duration,
            frames,
            damaged,
            frame_size=frame_size,
            decoder=str(header.get("decoder", ""))[:MAX_DECODER],
            seconds=seconds,
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ProtocolError(f"malformed: {error}") from error


def _view_size(frame: dict[str, Any], side: int) -> tuple[int, int]:
    height, width = frame["view"]
    if not (type(height) is type(width) is int and 1 <= height <= side and 1 <= width <= side):
        raise ValueError(f"a view of {frame['view']!r:.50} pixels")
    return height, width


def _views(pixels: np.ndarray, sizes: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
    start = 0
    for height, width in sizes:
        end = start + height * width * 3
        yield pixels[start:end].reshape(height, width, 3)
        start = end


def _number(value: Any) -> float:
    value = float(value)
    if not 0 <= value < math.inf:
        raise ValueError(f"the number {value}")
    return value


def _box(values: Any) -> tuple[int, int, int, int]:
    x, y, width, height = map(int, values)
    return x, y, width, height


def main(config: dict[str, Any]) -> None:
    """Serves requests until standard input ends.

    The process must have been started with `tfdfd.extract.sandbox.worker_environment`.

    Args:
        config: `detector` (name), `options`, `limits`, `threads`, `sandbox`, `libraries` (keys of `LIBRARIES`), and
            `provenance`, whether it will be asked for.
    """
    # A terminal sends Ctrl-C to this process, too. The parent handles it; here it would look like a crash.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The output of libraries must not end up between responses.
    responses = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        channel = socket.socket(fileno=os.dup(0))
        detector, limits, note = _prepare(config)
    except Exception as error:
        _send(responses, pack({"fatal": str(error), "usage": isinstance(error, ValueError)}))
        return
    _send(responses, pack({"ready": True, "sandbox_note": note}))
    for request, file in _requests(channel):
        # The parent kills a late process; the alarm is for a process without a parent.
        signal.alarm(math.ceil(limits.max_seconds) + 10)
        response = _serve_provenance(file) if PROVENANCE in request else _serve(request, file, detector, limits)
        signal.alarm(0)
        _send(responses, pack(response))


def _prepare(config: dict[str, Any]) -> tuple[FaceDetector | None, Limits, str | None]:
    """The detector, the limits, and the reason that the process is not sealed, or None."""
    import cv2

    from tfdfd.extract import sandbox
    from tfdfd.faces import build_detector
    from tfdfd.media import Limits, provenance

    limits = Limits(**config["limits"])
    cv2.setNumThreads(config["threads"])
    for name in config["libraries"]:
        _import_all(LIBRARIES[name])
    if "video" in config["libraries"]:
        importlib.import_module("tfdfd.media.video")
    if config["provenance"]:
        provenance.prepare()
    detector = build_detector(config["detector"], **config["options"])
    threading.Thread(target=end_with_parent, daemon=True).start()
    _warm_up(detector)
    sandbox.restrict_resources(limits)
    note = None
    if config["sandbox"] != sandbox.OFF:
        try:
            sandbox.seal()
        except sandbox.SandboxError as error:
            if config["sandbox"] == sandbox.REQUIRE:
                raise ValueError(
                    f"the decoding processes cannot be sealed: {error}; --sandbox auto decodes in unsealed ones."
                ) from error
            note = f"the decoding processes are not sealed against the system: {error}"
    return detector, limits, note


def _import_all(library: str) -> None:
    """Imports a package, if it is installed, with its submodules, some of which it imports at their first use."""
    with contextlib.suppress(ImportError):
        package = importlib.import_module(library)
        for module in pkgutil.walk_packages(package.__path__, f"{library}."):
            if not module.name.endswith(("__main__", ".datasets")):
                importlib.import_module(module.name)


def _warm_up(detector: FaceDetector | None) -> None:
    """Runs decoder, detector and measures once, so that they load what they load at their first use."""
    import cv2

    from tfdfd.faces.crop import measure_face
    from tfdfd.media import Limits
    from tfdfd.media.decode import read_image

    cv2.getNumberOfCPUs()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    _, jpeg = cv2.imencode(".jpg", pixels)
    with contextlib.suppress(cv2.error):  # a small limit of pixels holds here, too
        read_image(jpeg.tobytes()[:-2], Limits())  # without its end marker: runs the repair, too
    if detector is not None:
        detector.detect([pixels], [1.0])
    measure_face(pixels, pixels)


def _requests(channel: socket.socket) -> Iterator[tuple[dict[str, Any], BinaryIO]]:
    line, descriptors = bytearray(), []
    while True:
        data, received, _, _ = socket.recv_fds(channel, 1 << 16, 1)
        if not data:
            return
        line += data
        descriptors += received
        if line.endswith(b"\n"):
            with os.fdopen(descriptors.pop(), "rb", buffering=1 << 20) as file:
                yield json.loads(line), file
            line.clear()


def _serve(request: dict[str, Any], file: BinaryIO, detector: FaceDetector | None, limits: Limits) -> Extraction:
    from tfdfd.extract import extraction
    from tfdfd.media.decode import is_out_of_memory

    try:
        return extraction.extract_faces(file, detector, extraction.Request(**request), limits)
    except Exception as error:
        # Media that the reader did not anticipate, or detection that ran out of memory. The other inputs go on, and
        # the user learns about it.
        if is_out_of_memory(error):
            reason = "too_large", f"needs more than {limits.max_memory:,} bytes of memory (--max-memory)"
        else:
            reason = "decode_error", f"unforeseen failure, please report it: {type(error).__name__}: {error}"
        return Extraction("", None, *reason)


def _serve_provenance(file: BinaryIO) -> dict[str, Any]:
    from tfdfd.media import provenance

    try:
        return {PROVENANCE: provenance.read_provenance(file)}
    except Exception as error:
        # A statement that cannot be read does not stop the score of the file.
        return {PROVENANCE: provenance.not_read(provenance.clean(f"{type(error).__name__}: {error}"))}


def end_with_parent() -> None:
    """Ends this process, whatever it is doing, when the other end of standard input is closed."""
    if hasattr(select, "poll"):
        hangup = select.poll()
        hangup.register(0, 0)
        hangup.poll()
        os._exit(1)


def _send(responses: BinaryIO, buffers: Iterable[bytes | memoryview]) -> None:
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        while view:
            view = view[responses.write(view) :]
