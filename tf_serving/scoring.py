"""Scoring of files for both clients, independent of the protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SIGNATURE, INPUT, OUTPUT = "image_bytes", "image_bytes", "fake_probability"
MAX_BATCH = 32
# A gRPC server accepts 4 MiB per message by default; base64 over REST turns three bytes into four.
MAX_REQUEST_BYTES = 3 << 20
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class ServingError(Exception):
    """A request without an answer.

    Attributes:
        status: name of a gRPC status, such as `UNAVAILABLE`, also of a client that speaks HTTP.
        message: what the server or the connection said.
        retry_after_s: seconds that the server asks to wait; 0 where it says nothing.
    """

    def __init__(self, status: str, message: str, retry_after_s: float = 0):
        super().__init__(f"{status}: {message}")
        self.status, self.message, self.retry_after_s = status, message, retry_after_s


@dataclass(frozen=True)
class Scored:
    """One file: its P(fake) in [0, 1], 1 = fake, or why there is none."""

    path: str
    fake_probability: float | None = None
    error: str | None = None


def score_files(
    paths: Iterable[str], predict: Callable[[list[bytes]], list[float]], most: int = MAX_BATCH
) -> Iterator[Scored]:
    """Scores JPEG and PNG files of face crops, in order, at most `most` and 3 MiB a request.

    Args:
        paths: files, each an encoded crop.
        predict: P(fake) of encoded crops, or `ServingError`; a client's `predict`.
        most: crops in one request.

    A server refuses a whole request for one broken crop, so an invalid request is sent again crop by crop. Any other
    error does not depend on a file: the remaining files are not sent and get its message.
    """
    away = None
    for batch in _batches(paths, most):
        crops = [crop for _, crop in batch if isinstance(crop, bytes)]
        if away is None and crops:
            try:
                scores = iter(_one_by_one(crops, predict))
            except ServingError as error:
                away = error
        for path, crop in batch:
            if not isinstance(crop, bytes):
                yield Scored(path, error=crop)
            elif away:
                yield Scored(path, error=str(away))
            else:
                score = next(scores)
                yield Scored(path, error=str(score)) if isinstance(score, Exception) else Scored(path, score)


def checked(values: object, count: int) -> list[float]:
    """The server's numbers as P(fake), one a crop.

    Args:
        values: as decoded: `count` numbers, or as many lists of one number.

    Raises:
        ServingError: `INTERNAL` where they are something else; a score is never made up from them.
    """
    if isinstance(values, list) and all(isinstance(value, list) and len(value) == 1 for value in values):
        values = [value for (value,) in values]
    if not isinstance(values, list) or len(values) != count:
        raise ServingError("INTERNAL", f"expected {OUTPUT} of {count} crops; received {_shortened(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ServingError("INTERNAL", f"{OUTPUT} must be a finite number; received {_shortened(value)}")
        if not 0 <= value <= 1:
            raise ServingError("INTERNAL", f"{OUTPUT} must be in [0, 1]; received {value!r}: another model answers")
    return [float(value) for value in values]


def _one_by_one(crops, predict):
    try:
        return predict(crops)
    except ServingError as error:
        if error.status != "INVALID_ARGUMENT":
            raise
        if len(crops) == 1:
            return [error]
    return [score for crop in crops for score in _one_by_one([crop], predict)]


def _batches(paths, most):
    batch, size = [], 0
    for path in paths:
        crop = _read(path)
        more = len(crop) if isinstance(crop, bytes) else 0
        if len(batch) == most or (batch and size + more > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((path, crop))
        size += more
    if batch:
        yield batch


def _read(path):
    """The file's bytes, or a message why they are not sent."""
    try:
        with Path(path).open("rb") as file:
            crop = file.read(MAX_REQUEST_BYTES + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if len(crop) > MAX_REQUEST_BYTES:
        return f"too large: an encoded crop may have {MAX_REQUEST_BYTES:,} bytes"
    if not crop.startswith(_BEGINNINGS):
        return "neither a JPEG nor a PNG file"
    return crop


def _shortened(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
