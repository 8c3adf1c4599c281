"""Real and fake equally often, and each method equally often among the fakes, however many crops of each there are.

Nothing is copied on disk. Each stratum is an endless row of permutations of its crops, and an epoch takes the next
stretch of it: a crop comes again only when all others of its stratum have come, across epochs, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tfdfd.data.tables import FAKE, FaceRow
from tfdfd.pipelines.orders import Epochs

# Permutations of a small stratum are drawn so many crops at a time: a generator for each would be slow.
_BLOCK = 1024


def balanced(rows: Sequence[FaceRow], batch_size: int, seed: int) -> Epochs:
    """An order (see `tfdfd.pipelines.orders`): one real and one fake, in random order, then the next two.

    So a batch of even size is half real. An epoch is as long as there are rows, and some more until each method has
    come equally often.

    Raises:
        ValueError: there is no real or no fake crop.
    """
    real, methods = [], defaultdict(list)
    for position, row in enumerate(rows):
        (methods[row.method] if row.label == FAKE else real).append(position)
    if not real or not methods:
        raise ValueError(
            f"balancing needs real and fake crops; received {len(real)} real and {len(rows) - len(real)} fake."
        )
    strata = [np.array(methods[method], np.int64) for method in sorted(methods)]
    real, rounds = np.array(real, np.int64), -(-len(rows) // (2 * len(strata)))

    def epoch_of(epoch):
        draws = [_stretch(stratum, epoch * rounds, rounds, [seed, 1, n]) for n, stratum in enumerate(strata)]
        generator = np.random.default_rng([seed, 0, epoch])
        fakes = generator.permuted(np.stack(draws, axis=1), axis=1).ravel()
        reals = _stretch(real, epoch * len(fakes), len(fakes), [seed, 2])
        return generator.permuted(np.stack([reals, fakes], axis=1), axis=1).ravel()

    return epoch_of


def _stretch(stratum, start, count, seed):
    """`count` places from `start` of the endless row of permutations."""
    times = -(-_BLOCK // len(stratum))
    size = times * len(stratum)
    first, last = start // size, (start + count - 1) // size
    blocks = [
        np.random.default_rng([*seed, block]).permuted(np.tile(stratum, (times, 1)), axis=1).ravel()
        for block in range(first, last + 1)
    ]
    return np.concatenate(blocks)[start - first * size :][:count]
