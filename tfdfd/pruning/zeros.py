"""What came of pruning: zeros of each kernel, the pattern of two in four, and what files weigh."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from tfdfd.pruning.options import TWO_OF_FOUR

# Of each class the kernels that tfmot prunes. It leaves depthwise ones: a few values each, which all matter.
PRUNABLE = {"Conv2D": ("kernel",), "Dense": ("kernel",), "SeparableConv2D": ("pointwise_kernel",)}


def prunable(described: dict) -> list[str]:
    """Names of the kernels of a described network that are pruned (`tfdfd.pruning.described.describe`)."""
    return [
        layer["weights"][weight]
        for layer in described["layers"].values()
        for weight in PRUNABLE.get(layer["class"], ())
    ]


def zeros(weights: dict[str, np.ndarray], kernels: list[str]) -> dict:
    """Zeros by kernel and in all kernels.

    Returns:
        `share`, `zeros` and `values` of all, and the same of each of `kernels`, by name.
    """
    counted = {name: _counted(int((weights[name] == 0).sum()), weights[name].size) for name in kernels}
    total = _counted(*(sum(one[what] for one in counted.values()) for what in ("zeros", "values")))
    return total | {"kernels": counted}


def lacks_pattern(weights: dict[str, np.ndarray], kernels: list[str]) -> list[str]:
    """Those of the kernels that have, along their input channels, a group of four with less than two zeros.

    Groups begin with the first channel; a last group of three has at least one zero, and a shorter one need have none.
    """
    return [name for name in kernels if not _has_pattern(weights[name])]


def sizes(path: str | os.PathLike) -> dict:
    """`bytes` of a file, and `gzip_bytes` of it compressed as far as gzip goes."""
    data = Path(path).read_bytes()
    return {"bytes": len(data), "gzip_bytes": len(gzip.compress(data, 9, mtime=0))}


def _counted(count, values):
    return {"share": count / values, "zeros": count, "values": values}


def _has_pattern(kernel):
    count, length = TWO_OF_FOUR
    channels = np.moveaxis(kernel, -2, -1)  # (..., outputs, inputs)
    filled = np.pad(channels, [(0, 0)] * (channels.ndim - 1) + [(0, -channels.shape[-1] % length)])
    groups = filled.reshape(-1, length)
    return bool((np.count_nonzero(groups, axis=1) <= length - count).all())
