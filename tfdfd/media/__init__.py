"""Media files: failure statuses, limits of one input, and the choice of video frames. Imports no library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields

# Outcomes of one input; only `ok` comes with a score.
STATUSES = ("ok", "no_face", "decode_error", "unsupported", "too_large", "timeout", "not_found")
# Default number of sampled frames per video, the usual number in the field (DeepfakeBench, SBI, ISPL).
FRAMES = 32


class MediaError(Exception):
    """An input that cannot be scored.

    Attributes:
        status: one of `STATUSES`, such as `decode_error`.
        message: the reason and the remedy, for the user.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status, self.message = status, message

    def __reduce__(self) -> tuple:
        return type(self), (self.status, self.message)


@dataclass(frozen=True)
class Limits:
    """Budget of one input. Exceeding it is an outcome (`too_large`, `timeout`), never a crash.

    Attributes:
        max_bytes: file size.
        max_pixels: pixels of an image or of one video frame.
        max_frames: frames decoded from one video (54,000 are 30 minutes at 30 frames per second).
        max_seconds: wall clock from opening the file to the last crop.
        max_memory: bytes of data memory of the decoding process (enforced on Linux).

    Raises:
        ValueError: a limit is not positive, or too large for a timer or for the operating system.
    """

    max_bytes: int = 4 * 1024**3
    max_pixels: int = 50_000_000
    max_frames: int = 54_000
    max_seconds: float = 300.0
    max_memory: int = 2 * 1024**3

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value, most = getattr(self, name), 10**9 if name == "max_seconds" else 2**62
            if not 0 < value <= most:
                raise ValueError(f"{name} must be greater than 0 and at most {most:,}; received {value!r}.")

    def to_dict(self) -> dict:
        return asdict(self)


def frame_indices(total: int, count: int) -> list[int]:
    """Indices of `count` frames spread evenly over `total` frames, ascending and distinct; all frames if fewer.

    Each is the middle of one of `count` equal segments: the first and last frame, often black or broken, are avoided,
    and no part of the clip is farther than half a segment from a sampled frame.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of frames must be at least 1; received {count}.")
    if total <= count:
        return list(range(max(total, 0)))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


# Time stamps are rounded to milliseconds: a frame due at 1 s may be stamped 0.9996.
_TIME_ERROR = 1e-3


@dataclass(frozen=True)
class InOrder:
    """A choice of frames that is made during decoding, before the length of the video is known.

    Attributes:
        every_s: takes the first frame of each interval of this many seconds; None: every frame.
        only: takes these frame indices only; None: any.
        skip: number of chosen frames to pass over first.
        count: maximum number of frames then taken; None: all.

    Raises:
        ValueError: `every_s` or `count` is not positive, or `skip` is negative.
    """

    every_s: float | None = None
    only: frozenset[int] | None = None
    skip: int = 0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.every_s is not None and not 0 < self.every_s < math.inf:
            raise ValueError(f"the seconds between frames must be greater than 0; received {self.every_s!r}.")
        if self.skip < 0:
            raise ValueError(f"the number of frames to pass over must be at least 0; received {self.skip}.")
        if self.count is not None and self.count < 1:
            raise ValueError(f"the number of frames must be at least 1; received {self.count}.")


def choose_in_order(frames: Iterable[tuple[int, float]], choice: InOrder) -> Iterator[tuple[int, float]]:
    """Yields the chosen `(index, seconds)` of a video's frames; consumes no frame beyond the last chosen one.

    With `every_s`, a frame is taken when it is the first at or after a multiple of that interval; a video without
    time stamps (all 0) yields its first frame only.
    """
    last = None if choice.only is None else max(choice.only, default=-1)
    interval, count = -math.inf, 0
    if last == -1:
        return
    for index, time in frames:
        wanted = choice.only is None or index in choice.only
        if choice.every_s is not None and wanted:
            before, interval = interval, max(interval, math.floor((time + _TIME_ERROR) / choice.every_s))
            wanted = interval > before
        if wanted:
            count += 1
            if count > choice.skip:
                yield index, time
        if count == choice.skip + (choice.count or math.inf) or index == last:
            return
