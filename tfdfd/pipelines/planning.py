"""Which crops go into which shard, before any is written."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from tfdfd.data.crops import Faces
from tfdfd.pipelines.shards import ENDING

SHARD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class PlannedShard:
    """What is to be written: a name, the split, and positions of the crops in their order."""

    name: str
    split: str | None
    positions: np.ndarray


def plan_shards(faces: Faces, shards: int | None = None) -> list[PlannedShard]:
    """Shares the crops of each split out to shards, in one fixed random order: each shard is a sample of its split.

    Args:
        faces: which crops.
        shards: for each split (at most one a crop); None: as many as keep them near 128 MiB.

    Raises:
        ValueError: `shards` is below 1.
        OSError: a crop of the table is missing.
    """
    if shards is not None and shards < 1:
        raise ValueError(f"the number of shards must be at least 1; received {shards}.")
    of_split = defaultdict(list)
    for position, row in enumerate(faces.rows):
        of_split[row.split].append(position)
    planned = []
    for split, positions in sorted(of_split.items(), key=lambda item: item[0] or ""):
        positions = np.random.default_rng(0).permutation(positions)
        count = shards or -(-sum(os.path.getsize(faces.path(position)) for position in positions) // SHARD_BYTES)
        count = max(1, min(count, len(positions)))
        for number, part in enumerate(np.array_split(positions, count)):
            planned.append(PlannedShard(f"{split or 'all'}-{number:05d}-of-{count:05d}{ENDING}", split, part))
    return planned
