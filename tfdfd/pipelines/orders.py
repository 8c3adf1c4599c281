"""In which order the crops of an epoch come: pure functions of the rows, the seed and the epoch.

An order is a function `(rows, batch_size, seed) -> (epoch -> positions)`. Positions are int64 in the rows, cut into
batches of `batch_size` one after the other; every epoch has the same number of them. The same arguments give the same
positions, in whichever order the epochs are asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tfdfd.data.pairs import N, dual_frames, pair_faces, various_frame
from tfdfd.data.tables import FaceRow

Epochs = Callable[[int], np.ndarray]


def shuffled(rows: Sequence[FaceRow], batch_size: int, seed: int) -> Epochs:
    """Each crop once an epoch, in a new permutation of them all."""
    return lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(rows))


def dual(total_epochs: int, originals: Mapping[str, str] | None = None, skip_short: bool = False):
    """S2's "dual" batches: each is `batch_size` / 2 frames of one fake, each followed by the same of its original.

    An epoch has one batch for each pair. After `total_epochs` the frames begin again.

    Args:
        total_epochs: that the frames are spread over.
        originals: see `tfdfd.data.pairs.pair_faces`.
        skip_short: leave out pairs with too few frames (somebody who passes by) instead of raising an error.
    """

    def order(rows, batch_size, seed):
        _check_epochs(total_epochs)
        pairs = _pairs(rows, originals)
        take = lambda pair, epoch: dual_frames(len(pair.fake), epoch % total_epochs, total_epochs, batch_size)  # noqa: E731
        return _of_pairs(rows, pairs, seed, take, skip_short)

    return order


def various(total_epochs: int, n: int = N, originals: Mapping[str, str] | None = None, skip_short: bool = False):
    """S2's "various" batches: one frame of each of `batch_size` / 2 fakes, each followed by the same of its original.

    An epoch takes one frame of each pair. After `total_epochs` the frames begin again.

    Args:
        total_epochs: that the frames are spread over.
        n: frames to go on from one epoch to the next.
        originals: see `tfdfd.data.pairs.pair_faces`.
        skip_short: leave out pairs with too few frames (somebody who passes by) instead of raising an error.
    """

    def order(rows, batch_size, seed):
        _check_epochs(total_epochs)
        if batch_size % 2:
            raise ValueError(f"a batch of pairs needs an even size; received {batch_size}.")
        pairs = _pairs(rows, originals)
        take = lambda pair, epoch: [various_frame(len(pair.fake), epoch % total_epochs, total_epochs, n)]  # noqa: E731
        return _of_pairs(rows, pairs, seed, take, skip_short)

    return order


def starts(first_epoch: int, first_batch: int, batches: int, one_epoch: bool) -> Iterator[tuple[int, int]]:
    """For each iteration its epoch, and the batch in it with which it begins: 0 from the second iteration on.

    With `one_epoch`, each iteration is like the first.

    Raises:
        ValueError: an epoch, which has so many `batches`, has no such batch.
    """
    if first_epoch < 0 or not 0 <= first_batch < batches:
        raise ValueError(
            f"first_epoch must be at least 0 and first_batch from 0 to {batches - 1}, an epoch having {batches} "
            f"batches; received {first_epoch} and {first_batch}. After the last batch comes the next epoch's batch 0."
        )
    if one_epoch:
        return itertools.repeat((first_epoch, first_batch))
    return itertools.chain([(first_epoch, first_batch)], zip(itertools.count(first_epoch + 1), itertools.repeat(0)))


def _check_epochs(total_epochs):
    if total_epochs < 1:
        raise ValueError(f"total_epochs must be at least 1; received {total_epochs}.")


def _pairs(rows, originals):
    pairs, alone = pair_faces(rows, originals)
    if not pairs:
        raise ValueError(
            f"no fake has its original among these {len(rows)} crops ({alone} fakes are alone); a split must keep "
            "both, and `originals` tells them where source_id does not."
        )
    return pairs


def _of_pairs(rows, pairs, seed, take, skip_short):
    long, told = [], None
    for pair in pairs:
        try:
            take(pair, 0)
            long.append(pair)
        except ValueError as error:
            told = told or f"{rows[pair.fake[0]].video} and its original: {error}"
    short = len(pairs) - len(long)
    if short and not (skip_short and long):
        raise ValueError(f"{short} of {len(pairs)} pairs are too short. {told} Or leave such out with skip_short=True.")

    def epoch_of(epoch):
        positions = []
        for number in np.random.default_rng([seed, epoch]).permutation(len(long)):
            frames = take(long[number], epoch)
            positions.append(np.stack([long[number].fake[frames], long[number].real[frames]], axis=1).ravel())
        return np.concatenate(positions)

    return epoch_of
