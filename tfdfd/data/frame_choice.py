"""Equally spaced crops of each video: validation and test of one extraction with different numbers of frames.

S2 validates on 7 and tests on 12 equally spaced frames of a video. Its author's program begins at frame 10.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tfdfd.data.tables import FaceRow

FIRST_FRAME = 10


def equally_spaced(rows: Sequence[FaceRow], frames: int | None, first_frame: int = FIRST_FRAME) -> list[FaceRow]:
    """At most `frames` crops of each face track of each video, in the rows' order.

    Args:
        rows: crops of videos.
        frames: crops of a track, from 1; None: all.
        first_frame: number of the first frame that counts, in a video that has that many crops from there on; a shorter
            one is taken from its start.

    Raises:
        ValueError: `frames` is below 1.
    """
    if frames is None:
        return list(rows)
    if frames < 1:
        raise ValueError(f"frames must be at least 1; received {frames}.")
    tracks = defaultdict(list)
    for number, row in enumerate(rows):
        tracks[row.dataset, row.video, row.track].append(number)
    kept = []
    for numbers in tracks.values():
        numbers.sort(key=lambda number: rows[number].frame)
        late = [number for number in numbers if rows[number].frame >= first_frame]
        chosen = late if len(late) >= frames else numbers
        places = np.unique(np.linspace(0, len(chosen) - 1, min(frames, len(chosen))).round().astype(int))
        kept += [chosen[place] for place in places]
    return [rows[number] for number in sorted(kept)]
