"""A pruned network beside the one it was: zeros, sizes, and scores of validation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from tfdfd.data.tables import FaceRow
from tfdfd.metrics.comparison import compare
from tfdfd.metrics.scores import ScoreRow
from tfdfd.models import load
from tfdfd.pruning.described import describe
from tfdfd.pruning.zeros import prunable, sizes, zeros
from tfdfd.training.crop_set import CropSet, score
from tfdfd.training.run_folder import WEIGHTS, RunFolder
from tfdfd.weights.loading import read_safetensors
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import locate


def judged(dense: keras.Model, crops: CropSet, run: RunFolder) -> dict:
    """What pruning gave and took, measured on the files of a finished run.

    Args:
        dense: the network before.
        crops: the set, of whose validation split both are judged.
        run: of the network after.

    Returns:
        `proof`, `zeros`, `sizes`, `auc` and `protocol`, see `tfdfd.pruning.pruned_run.prune`.
    """
    rows, before = score(dense, crops)
    _, after = score(load(*locate(run.path)), crops)
    return {
        "proof": run.result["proof"],
        "zeros": zeros(read_safetensors(run.path / WEIGHTS), prunable(describe(dense))),
        "sizes": _sizes(dense, run.path / WEIGHTS),
        "auc": compare(score_rows(rows, before), score_rows(rows, after), cluster="source"),
        "protocol": f"validation split, {len(rows):,} crops, a video's score the mean of its crops; values and "
        "differences are before less after, intervals of 95 %: DeLong's over videos, the paired bootstrap's over "
        "sources; epoch, calibration and threshold of the pruned network were chosen on this split",
    }


def _sizes(dense, pruned):
    # The source's own file may be of another layout.
    with tempfile.TemporaryDirectory() as folder:
        save_weights(dense, Path(folder) / WEIGHTS)
        before = sizes(Path(folder) / WEIGHTS)
    after = sizes(pruned)
    return {
        "dense": before,
        "pruned": after,
        "gzip_to_dense": after["gzip_bytes"] / before["bytes"],
        "gzip_to_gzip": after["gzip_bytes"] / before["gzip_bytes"],
    }


def score_rows(rows: Iterable[FaceRow], scores: np.ndarray) -> list[ScoreRow]:
    """Crops with their P(fake), `(n,)`, as `tfdfd.metrics.comparison.compare` takes them."""
    names = ("file", "dataset", "video", "frame", "track", "label", "method", "source_id", "compression", "split")
    return [
        ScoreRow(**{name: getattr(row, name) for name in names}, fake_probability=float(value))
        for row, value in zip(rows, scores, strict=True)
    ]
