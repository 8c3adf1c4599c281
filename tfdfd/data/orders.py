"""Orders of the crops in an epoch: shuffled, class-balanced, and S2's batches of fakes beside their originals.

An order is a function `(rows, batch_size, seed) -> (epoch -> positions)`. Positions are int64 indices into the rows,
cut into batches of `batch_size` one after the other; every epoch has the same number of them. The same arguments give
the same positions, in whichever sequence epochs are requested.

S2 (section 4.3.1) calls a batch "dual" if it holds frames of one fake and its original, and "various" if it holds one
frame of many such pairs. Its formulas leave some points open, which are decided here:

- Epochs are counted from 0 to `total_epochs` - 1.
- The frames `[epoch : frame_step : end]` may be one more than half a batch; the first half a batch is taken.
- `n * epoch / video_length` is rounded down, so that each pass starts one frame later.
- That sum passes the end of some videos of fewer than `n` frames; the last frame is taken then.
- `video_length` counts the frames that both videos of a pair have. Where not every frame was extracted, these are the
  crops there are, and a frame number is a position among them.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfdfd.data.tables import FAKE, REAL, FaceRow

# Largest distance in frames between the crops of a pair: half a second, in which a head hardly moves.
APART = 15
# S2's parameter n of "various" batches.
N = 8
# Permutations of a small stratum are drawn this many crops at a time: a generator for each would be slow.
_BLOCK = 1024

Epochs = Callable[[int], np.ndarray]
Order = Callable[[Sequence[FaceRow], int, int], Epochs]


def shuffled(rows: Sequence[FaceRow], batch_size: int, seed: int) -> Epochs:
    """Order of each crop once per epoch, in a new permutation."""
    return lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(rows))


def balanced(rows: Sequence[FaceRow], batch_size: int, seed: int) -> Epochs:
    """Order with as many real as fake crops, and each method equally often among the fakes.

    One real and one fake crop come in random order, then the next two: a batch of even size is half real. An epoch has
    as many crops as there are rows, and some more until each method has come equally often. A crop is repeated only
    after all others of its class and method, across epochs.

    Raises:
        ValueError: there is no real or no fake crop.
    """
    real: Any = []
    methods: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        (methods[row.method] if row.label == FAKE else real).append(position)
    if not real or not methods:
        raise ValueError(
            f"balancing needs real and fake crops; received {len(real)} real and {len(rows) - len(real)} fake."
        )
    strata = [np.array(methods[method], np.int64) for method in sorted(methods)]
    real, rounds = np.array(real, np.int64), -(-len(rows) // (2 * len(strata)))

    def positions_of(epoch: int) -> np.ndarray:
        draws = [_stretch(stratum, epoch * rounds, rounds, [seed, 1, n]) for n, stratum in enumerate(strata)]
        generator = np.random.default_rng([seed, 0, epoch])
        fakes = generator.permuted(np.stack(draws, axis=1), axis=1).ravel()
        reals = _stretch(real, epoch * len(fakes), len(fakes), [seed, 2])
        return generator.permuted(np.stack([reals, fakes], axis=1), axis=1).ravel()

    return positions_of


def dual(total_epochs: int, skip_short: bool = False) -> Order:
    """Order of S2's "dual" batches: `batch_size` / 2 frames of one fake, each followed by that frame of its original.

    An epoch has one batch for each pair. After `total_epochs` the frames repeat.

    Args:
        total_epochs: number of epochs over which the frames are spread.
        skip_short: leave out pairs with too few frames (somebody who passes by) instead of raising an error.
    """

    def frames(length: int, epoch: int, batch_size: int) -> np.ndarray:
        return dual_frames(length, epoch, total_epochs, batch_size)

    return _paired_order(total_epochs, frames, skip_short)


def various(total_epochs: int, skip_short: bool = False) -> Order:
    """Order of S2's "various" batches: one frame of each of `batch_size` / 2 fakes, followed by its original's.

    An epoch takes one frame of each pair. After `total_epochs` the frames repeat.

    Args:
        total_epochs: number of epochs over which the frames are spread.
        skip_short: see `dual`.
    """

    def frames(length: int, epoch: int, batch_size: int) -> list[int]:
        return [various_frame(length, epoch, total_epochs)]

    return _paired_order(total_epochs, frames, skip_short)


class FacePair(NamedTuple):
    """A face of a fake video and the same face of its original: positions in the rows, frame by frame, int64."""

    fake: np.ndarray
    real: np.ndarray


def dual_frames(video_length: int, epoch: int, total_epochs: int, batch_size: int) -> np.ndarray:
    """Frames that a "dual" batch takes of each of its two videos.

    Args:
        video_length: number of frames.
        epoch: 0 to `total_epochs` - 1.
        total_epochs: planned number of epochs.
        batch_size: images in a batch, even.

    Returns:
        `batch_size` / 2 ascending frame numbers, int64, `frame_step` apart, starting at `epoch`.

    Raises:
        ValueError: an odd batch, an epoch out of range, or a video too short for a step of at least 1.
    """
    half = half_of(batch_size)
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
        video_length: number of frames.
        epoch: 0 to `total_epochs` - 1.
        total_epochs: planned number of epochs.
        n: step in frames from one epoch to the next.

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


def pair_faces(rows: Sequence[FaceRow]) -> tuple[list[FacePair], int]:
    """Pairs each face of each fake video with the same face of the video it was made from.

    Crops are matched by the nearest frame of the original, at most `APART` frames off, and within it by the box that
    overlaps most: track numbers of two videos are unrelated. The original is the one real video of the same data set
    and compression whose first `source_id` is the first of the fake's. That holds for FaceForensics++, Celeb-DF and
    DFDC, and not where many photographs or scenes are one source.

    Args:
        rows: crops of `faces.csv`.

    Returns:
        The pairs, sorted by the fake's video and track, and the number of fake crops without a partner.

    Raises:
        ValueError: several real videos could be the original of a fake.
    """
    tracks = defaultdict(list)
    frames: dict[Any, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position, row in enumerate(rows):
        if row.label == FAKE:
            tracks[row.dataset, row.video, row.track].append(position)
        else:
            frames[row.dataset, row.video][row.frame].append(position)
    original_of = _original_by_source(rows)
    pairs, alone = [], 0
    for (dataset, _, _), positions in sorted(tracks.items()):
        known: Any = frames.get((dataset, original_of(rows[positions[0]])), {})
        positions = sorted(positions, key=lambda position: rows[position].frame)
        partners = [_partner(rows, position, known) for position in positions]
        matched = [both for both in zip(positions, partners, strict=True) if both[1] is not None]
        alone += len(positions) - len(matched)
        if matched:
            pairs.append(FacePair(*np.array(matched, np.int64).T))
    return pairs, alone


def _stretch(stratum: np.ndarray, start: int, count: int, seed: Sequence[int]) -> np.ndarray:
    """`count` crops from position `start` of an endless sequence of permutations of the stratum."""
    times = -(-_BLOCK // len(stratum))
    size = times * len(stratum)
    first, last = start // size, (start + count - 1) // size
    blocks = [
        np.random.default_rng([*seed, block]).permuted(np.tile(stratum, (times, 1)), axis=1).ravel()
        for block in range(first, last + 1)
    ]
    return np.concatenate(blocks)[start - first * size :][:count]


def _paired_order(total_epochs: int, frames: Callable[[int, int, int], Any], skip_short: bool) -> Order:
    """The order that takes `frames(video_length, epoch, batch_size)` of each pair, pairs in a new permutation."""

    def order(rows: Sequence[FaceRow], batch_size: int, seed: int) -> Epochs:
        if total_epochs < 1:
            raise ValueError(f"total_epochs must be at least 1; received {total_epochs}.")
        half_of(batch_size)
        pairs, alone = pair_faces(rows)
        if not pairs:
            raise ValueError(
                f"no fake has its original among these {len(rows)} crops ({alone} fakes are alone); a split must keep "
                "both, and their first source_id must be the same."
            )
        long, first_error = [], None
        for pair in pairs:
            try:
                frames(len(pair.fake), 0, batch_size)
                long.append(pair)
            except ValueError as error:
                first_error = first_error or f"{rows[pair.fake[0]].video} and its original: {error}"
        short = len(pairs) - len(long)
        if short and not (skip_short and long):
            raise ValueError(
                f"{short} of {len(pairs)} pairs are too short. {first_error} Or leave such out with skip_short=True."
            )

        def positions_of(epoch: int) -> np.ndarray:
            positions = []
            for number in np.random.default_rng([seed, epoch]).permutation(len(long)):
                pair = long[number]
                taken = frames(len(pair.fake), epoch % total_epochs, batch_size)
                positions.append(np.stack([pair.fake[taken], pair.real[taken]], axis=1).ravel())
            return np.concatenate(positions)

        return positions_of

    return order


def _original_by_source(rows: Sequence[FaceRow]) -> Callable[[FaceRow], str | None]:
    known = defaultdict(set)
    for row in rows:
        if row.label == REAL:
            known[row.dataset, row.compression, row.source_id[:1]].add(row.video)

    def original_of(row: FaceRow) -> str | None:
        videos = known.get((row.dataset, row.compression, row.source_id[:1]), ())
        if len(videos) > 1:
            raise ValueError(
                f"{row.video} could be made from {' or '.join(sorted(videos)[:3])}, which all have source_id "
                f"{row.source_id[0]}; the first source_id of a fake must be that of its original alone."
            )
        return next(iter(videos), None)

    return original_of


def _partner(rows: Sequence[FaceRow], position: int, known: Mapping[int, Sequence[int]]) -> int | None:
    row = rows[position]
    if not known:
        return None
    nearest = min(known, key=lambda frame: (abs(frame - row.frame), frame))
    if abs(nearest - row.frame) > APART:
        return None
    overlap, best = max((_overlap(row.box, rows[other].box), -other) for other in known[nearest])
    return -best if overlap > 0 else None


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes `(x, y, width, height)`."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared and shared / (one[2] * one[3] + other[2] * other[3] - shared)


def _extract_more(frames: int) -> str:
    """The extraction that the formulas need: they are written for every frame of a video."""
    return f"extract again with 'tfdfd extract --all', as S2 does, or --frames {frames} or more"


def half_of(batch_size: int) -> int:
    """Pairs in a batch; refuses an odd size."""
    if operator.index(batch_size) < 2 or batch_size % 2:
        raise ValueError(f"a batch of pairs needs an even size of at least 2; received {batch_size}.")
    return batch_size // 2


def _check_epoch(epoch: int, total_epochs: int) -> None:
    if not 0 <= epoch < total_epochs:
        raise ValueError(f"epoch must be from 0 to total_epochs - 1 ({total_epochs - 1}); received {epoch}.")
