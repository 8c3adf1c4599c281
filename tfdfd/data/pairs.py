"""Fakes beside their originals: which crops belong together, and S2's formulas for the frames that a batch takes.

S2 (section 4.3.1) calls a batch "dual" if it holds frames of one fake and its original, and "various" if it holds one
frame of many such pairs. Its formulas leave open, and here it is so:

- Epochs are counted from 0 to `total_epochs` - 1.
- The frames `[epoch : frame_step : end]` may be one more than half a batch; the first half a batch is taken.
- `n * epoch / video_length` is no whole number; it is rounded down, so that each time around starts one frame later.
- That sum passes the end of some videos of fewer than `n` frames; the last frame is taken then.
- `video_length` counts the frames that both videos of a pair have. Where not every frame was extracted, these are the
  crops there are, and a frame number is a position among them.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfdfd.data.tables import FAKE, REAL, FaceRow, IndexRow

# Frames by which the crops of a pair may lie apart: half a second, in which a head hardly moves on.
APART = 15
# S2's parameter n of "various" batches.
N = 8


class Pair(NamedTuple):
    """A face of a fake video and the same of its original: positions in the rows given, frame by frame, int64."""

    fake: np.ndarray
    real: np.ndarray


def dual_frames(video_length: int, epoch: int, total_epochs: int, batch_size: int) -> np.ndarray:
    """Frames that a "dual" batch takes of each of its two videos.

    Args:
        video_length: frames that there are.
        epoch: 0 to `total_epochs` - 1.
        total_epochs: how many epochs are planned.
        batch_size: images in a batch, even.

    Returns:
        `batch_size` / 2 ascending frame numbers, int64, `frame_step` apart, starting at `epoch`.

    Raises:
        ValueError: an odd batch, an epoch out of range, or a video too short for a step of at least 1.
    """
    half = _half(batch_size)
    _check_epoch(epoch, total_epochs)
    frame_step = (video_length - total_epochs) // half
    if frame_step < 1:
        raise ValueError(
            f"a video of {video_length} frames is too short for {half} of them in each of {total_epochs} epochs; "
            f"expected at least {total_epochs + half} frames: {_extract_more(total_epochs + half)}, or give "
            "fewer epochs or a smaller batch."
        )
    return np.arange(epoch, video_length, frame_step, dtype=np.int64)[:half]


def various_frame(video_length: int, epoch: int, total_epochs: int, n: int = N) -> int:
    """The frame that a "various" batch takes of each video of a pair.

    Args:
        video_length: frames that there are.
        epoch: 0 to `total_epochs` - 1.
        total_epochs: how many epochs are planned.
        n: frames to go on from one epoch to the next.

    Raises:
        ValueError: an epoch out of range, `n` below 1, or a video of at most `total_epochs` frames.
    """
    _check_epoch(epoch, total_epochs)
    if n < 1:
        raise ValueError(f"n must be at least 1; received {n}.")
    if video_length <= total_epochs:
        raise ValueError(
            f"a video of {video_length} frames is too short for {total_epochs} epochs; expected at least "
            f"{total_epochs + 1} frames: {_extract_more(total_epochs + 1)}, or give fewer epochs."
        )
    frame = (n * epoch) % (video_length - total_epochs) + (n * epoch) // video_length
    return min(frame, video_length - 1)


def pair_faces(
    rows: Sequence[FaceRow], originals: Mapping[str, str] | None = None, apart: int = APART
) -> tuple[list[Pair], int]:
    """Each face of each fake video with the same face of the video it was made from.

    Crops are matched by the nearest frame of the original, at most `apart` frames off, and there by the box that
    overlaps most: extraction counts the tracks of each video for itself.

    Args:
        rows: crops of `faces.csv`.
        originals: video of a fake -> video of its original, see `originals_of`. None: the one real video of the same
            data set and compression whose first `source_id` is the first of the fake's; that tells it for
            FaceForensics++, Celeb-DF and DFDC, and not where many photographs or scenes are one source.
        apart: frames.

    Returns:
        The pairs, sorted by the fake's video and track, and how many fake crops have no partner.

    Raises:
        ValueError: several real videos could be the original of a fake.
    """
    videos = defaultdict(list)
    for position, row in enumerate(rows):
        videos[row.label, row.dataset, row.video].append(position)
    tracks, frames = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for (label, dataset, video), positions in videos.items():
        for position in positions:
            if label == FAKE:
                tracks[dataset, video, rows[position].track].append(position)
            else:
                frames[dataset, video][rows[position].frame].append(position)
    original_of = _by_name(originals) if originals is not None else _by_source(rows)
    pairs, alone = [], 0
    for (dataset, _, _), positions in sorted(tracks.items()):
        known = frames.get((dataset, original_of(rows[positions[0]])), {})
        positions = sorted(positions, key=lambda position: rows[position].frame)
        partners = [_partner(rows, position, known, apart) for position in positions]
        matched = [both for both in zip(positions, partners, strict=True) if both[1] is not None]
        alone += len(positions) - len(matched)
        if matched:
            pairs.append(Pair(*np.array(matched, np.int64).T))
    return pairs, alone


def originals_of(index: Iterable[IndexRow]) -> dict[str, str]:
    """Video of a fake -> video of its original, as far as an index tells them."""
    return {row.path: row.original for row in index if row.original}


def _by_name(originals):
    return lambda row: originals.get(row.video)


def _by_source(rows):
    known = defaultdict(set)
    for row in rows:
        if row.label == REAL:
            known[row.dataset, row.compression, row.source_id[:1]].add(row.video)

    def original_of(row):
        found = known.get((row.dataset, row.compression, row.source_id[:1]), ())
        if len(found) > 1:
            raise ValueError(
                f"{row.video} could be made from {' or '.join(sorted(found)[:3])}, which all have source_id "
                f"{row.source_id[0]}; give `originals`, which `originals_of` takes from index.csv."
            )
        return next(iter(found), None)

    return original_of


def _partner(rows, position, known, apart):
    row = rows[position]
    if not known:
        return None
    nearest = min(known, key=lambda frame: (abs(frame - row.frame), frame))
    if abs(nearest - row.frame) > apart:
        return None
    overlap, best = max((_overlap(row.box, rows[other].box), -other) for other in known[nearest])
    return -best if overlap > 0 else None


def _overlap(one, other):
    """Intersection over union of two boxes `(x, y, width, height)`."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared and shared / (one[2] * one[3] + other[2] * other[3] - shared)


def _extract_more(frames):
    """The extraction that the formulas need, which is made for every frame of a video."""
    return f"extract again with 'tfdfd extract --all', as S2 does, or --frames {frames} or more"


def _half(batch_size):
    if operator.index(batch_size) < 2 or batch_size % 2:
        raise ValueError(f"a batch of pairs needs an even size of at least 2; received {batch_size}.")
    return batch_size // 2


def _check_epoch(epoch, total_epochs):
    if not 0 <= epoch < total_epochs:
        raise ValueError(f"epoch must be from 0 to total_epochs - 1 ({total_epochs - 1}); received {epoch}.")
