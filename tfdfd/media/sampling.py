"""Which frames of a video are looked at. Pure, so that it can be proved once and used everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Frames of a video that are looked at unless told otherwise; the field's usual number (DeepfakeBench, SBI, ISPL).
FRAMES = 32


def frame_indices(total: int, count: int) -> list[int]:
    """`count` frame numbers spread equally over `total` frames, ascending and distinct; all of them if fewer.

    Each is the middle of one of `count` equal stretches, so the first and last frame, often black or broken, are
    not relied on, and any part of the clip is at most half a stretch away from a frame that is looked at.
    """
    if count < 1:
        raise ValueError(f"the number of frames must be at least 1; received {count}.")
    if total <= count:
        return list(range(max(total, 0)))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


# Times are stated to the millisecond: a frame that is due at 1 s may be stated at 0.9996.
_TIME_ERROR = 1e-3


@dataclass(frozen=True)
class InOrder:
    """Frames that can be chosen while a video is decoded, before its length is known.

    Attributes:
        every_s: of each stretch of so many seconds the first frame; None: every frame.
        only: these frame numbers; None: any.
        skip: so many of the chosen frames are passed over.
        count: so many are then taken at most; None: all.
    """

    every_s: float | None = None
    only: frozenset[int] | None = None
    skip: int = 0
    count: int | None = None

    def __post_init__(self):
        if self.every_s is not None and not 0 < self.every_s < math.inf:
            raise ValueError(f"the seconds between frames must be greater than 0; received {self.every_s!r}.")
        if self.skip < 0:
            raise ValueError(f"the number of frames to pass over must be at least 0; received {self.skip}.")
        if self.count is not None and self.count < 1:
            raise ValueError(f"the number of frames must be at least 1; received {self.count}.")


def choose_in_order(frames: Iterable[tuple[int, float]], choice: InOrder) -> Iterator[tuple[int, float]]:
    """The chosen of `(number, seconds)` of a video's frames in order; no frame beyond the last one chosen is asked for.

    With `every_s`, a frame is taken when it is the first at or after a multiple of so many seconds; a video without
    times (all 0) gives its first frame only.
    """
    last = None if choice.only is None else max(choice.only, default=-1)
    stretch, found = -math.inf, 0
    if last == -1:
        return
    for index, time in frames:
        wanted = choice.only is None or index in choice.only
        if choice.every_s is not None and wanted:
            before, stretch = stretch, max(stretch, math.floor((time + _TIME_ERROR) / choice.every_s))
            wanted = stretch > before
        if wanted:
            found += 1
            if found > choice.skip:
                yield index, time
        if found == choice.skip + (choice.count or math.inf) or index == last:
            return
