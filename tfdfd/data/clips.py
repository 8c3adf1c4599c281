"""Clips of a face set: the crops of one face of each video, in the order of time. No pixels are read here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfdfd.data.tables import FaceRow


@dataclass(frozen=True, eq=False)
class Clip:
    """One face of one video.

    Attributes:
        row: of the first crop, which says video, label and split of all.
        positions: of all its crops in the rows, int64, in the order of time.
    """

    row: FaceRow
    positions: np.ndarray

    @property
    def label(self) -> int:
        """0 real, 1 fake."""
        return self.row.label

    def frames(self, count: int, offset: float = 0.5) -> np.ndarray:
        """Positions of `count` equally spaced crops.

        The video is cut into `count` equal parts, and the crop at `offset` of each part, in [0, 1), is taken. Of fewer
        crops, each one comes as often as parts begin in it, one after the other.
        """
        places = (np.arange(count) + offset) * len(self.positions) / count
        return self.positions[np.minimum(places.astype(np.int64), len(self.positions) - 1)]


def clips_of(rows: Sequence[FaceRow], frames: int) -> tuple[list[Clip], Counter]:
    """The clips of all videos, in the order in which videos first come, and counts.

    Of a video with several faces, the one with most crops is taken (of equals, the first track). A video in which that
    one has a single crop has no clip: nothing happens in it.

    Args:
        rows: crops, in any order.
        frames: of a clip; only for the count of `padded`.

    Returns:
        Clips, and how many videos there are of each kind: `clips` (all that are taken), `padded` (those of them with
        fewer crops than `frames`, some of which come more than once), `left_out` (with a single crop).
    """
    tracks = defaultdict(lambda: defaultdict(list))
    for position, row in enumerate(rows):
        tracks[row.dataset, row.video][row.track].append(position)
    clips, counts = [], Counter(clips=0, padded=0, left_out=0)
    for of_video in tracks.values():
        longest = min(of_video, key=lambda track: (-len(of_video[track]), track))
        positions = sorted(of_video[longest], key=lambda position: (rows[position].frame, rows[position].time_s))
        if len(positions) < 2:
            counts["left_out"] += 1
            continue
        counts["clips"] += 1
        counts["padded"] += len(positions) < frames
        clips.append(Clip(rows[positions[0]], np.array(positions, np.int64)))
    return clips, counts
