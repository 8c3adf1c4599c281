"""P(fake) of crops by several networks in one go, each score kept: what was scored once is not scored again."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tfdfd.evaluation.degradations import CONDITIONS
from tfdfd.faces.crop import resize_crop
from tfdfd.files import write_atomically
from tfdfd.metrics.scores import OK, ScoreRow
from tfdfd.models import spec
from tfdfd.runtime.network import Scorer
from tfdfd.runtime.opening import open_network
from tfdfd.weights.store import locate

_BATCH = 32
# Conditions are applied to crops of this size, whatever a network takes: JPEG of a small crop is another thing than
# JPEG of a large one, and networks that stand beside each other are to see the same picture.
SIDE = 256


class Judged:
    """A set of weights that is judged.

    Args:
        model: handle, weights file with its card, or one that is known by its digest.
        name: in cards; None: the handle.
    """

    def __init__(self, model: str | os.PathLike, name: str | None = None):
        self.record, self.path = locate(model)
        self.name = name or self.record.handle
        self.size = (self.record.input_shape or spec(self.record.model).input_shape)[0]

    @cached_property
    def scorer(self) -> Scorer:
        """What `tfdfd detect` scores with."""
        return Scorer(open_network(self.record, self.path)[0])


def score(networks: Sequence[Judged], crops, cache: Path, condition: str | None = None) -> dict[Judged, np.ndarray]:
    """P(fake) of every crop of a set by each network, float64 `(n,)`.

    Args:
        networks: that score.
        crops: of `tools.carrying.crops`.
        cache: folder for scores.
        condition: of `CONDITIONS`, which crops are changed by first; None: as they are.
    """
    files = {network: _file(cache, network, crops, condition) for network in networks}
    waiting = [network for network in networks if not files[network].exists()]
    found = {network: [] for network in waiting}
    if waiting:
        for start in range(0, len(crops), _BATCH):
            numbers = range(start, min(start + _BATCH, len(crops)))
            changed = None if condition is None else _changed(crops, numbers, condition)
            for network in waiting:
                if changed is None:
                    pixels = crops.crops(numbers, network.size)
                else:
                    pixels = np.stack([resize_crop(image, network.size) for image in changed])
                found[network].append(network.scorer(pixels))
    for network, parts in found.items():
        kept = io.BytesIO()
        np.save(kept, np.concatenate(parts).astype(np.float64))
        files[network].parent.mkdir(parents=True, exist_ok=True)
        write_atomically(files[network], kept.getvalue())
    return {network: np.load(files[network]) for network in networks}


def score_rows(crops, scores: np.ndarray) -> list[ScoreRow]:
    """Rows for `tfdfd.metrics`: every crop with its score, and what could have none; with the set's own sources."""
    opened = crops.opened
    rows = [opened.line(number, float(score), OK) for number, score in enumerate(scores)] + list(opened.absent)
    return [replace(row, source_id=(crops.source_of(row),)) for row in rows]


def _changed(crops, numbers, condition):
    return [
        CONDITIONS[condition](image, np.random.default_rng([zlib.crc32(condition.encode()), number]))
        for number, image in zip(numbers, crops.crops(numbers, SIDE), strict=True)
    ]


def _file(cache, network, crops, condition):
    name = crops.key[:16] if condition is None else f"{crops.key[:16]}-{zlib.crc32(condition.encode()):08x}"
    return cache / "scores" / network.record.sha256[:16] / f"{name}.npy"
