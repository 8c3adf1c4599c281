"""Pruning of networks until most of their kernels' values are zero: options, schedule of the masks, counts of zeros."""

from __future__ import annotations

import gzip
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

POLYNOMIAL, CONSTANT = "polynomial", "constant"
# Zeros and length of the groups that NVIDIA's sparse tensor cores take.
TWO_OF_FOUR = (2, 4)
# Steps between two updates of the masks, unless there are too few steps for it.
FREQUENCY = 100
# The sparsity rises in the first half of the steps; in the second half the network adapts to it.
RAMP = 0.5
_UPDATES = 10


@dataclass(frozen=True)
class PruneOptions:
    """Options of magnitude pruning.

    Attributes:
        sparsity: final share of zeros of each kernel, in (0, 1).
        schedule: `polynomial`: rising from 0 to that share over the first half of the steps (Zhu and Gupta,
            arXiv:1710.01878); `constant`: that share from the first step on.
        two_of_four: two zeros in any four values along a kernel's input channels instead; `sparsity` is then 0.5 from
            the first step on.

    Raises:
        ValueError: another value.
    """

    sparsity: float = 0.8
    schedule: str = POLYNOMIAL
    two_of_four: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity must be a share of zeros above 0 and below 1; received {self.sparsity}.")
        if self.schedule not in (POLYNOMIAL, CONSTANT):
            raise ValueError(f"schedule must be {POLYNOMIAL} or {CONSTANT}; received {self.schedule!r}.")
        if self.two_of_four and (self.sparsity, self.schedule) != (0.5, CONSTANT):
            raise ValueError(
                "two zeros in four values are half of them, from the first step on; received "
                f"sparsity={self.sparsity} and schedule={self.schedule!r}: leave them out."
            )

    def settings(self) -> dict:
        """The options as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class MaskSchedule:
    """Steps, counted from 1, at which masks are updated.

    The updates are at `first` and every `frequency` steps up to `last` (None: to the end). From `settled` on, the
    sparsity is the requested one.
    """

    first: int
    frequency: int
    last: int | None
    settled: int


def mask_schedule(options: PruneOptions, steps: int) -> MaskSchedule:
    """The schedule for `steps` steps. The last step of a rising sparsity is an update, so the sparsity is reached."""
    if options.schedule == CONSTANT or options.two_of_four:
        return MaskSchedule(1, max(1, min(FREQUENCY, steps // _UPDATES)), None, 1)
    ramp = max(1, int(steps * RAMP))
    frequency = max(1, min(FREQUENCY, ramp // _UPDATES))
    last = ramp // frequency * frequency
    return MaskSchedule(0, frequency, last, last)


# Kernels that tfmot prunes, by class. It leaves depthwise kernels: each has only a few values, and all matter.
PRUNABLE = {"Conv2D": ("kernel",), "Dense": ("kernel",), "SeparableConv2D": ("pointwise_kernel",)}


def prunable(graph: dict) -> list[str]:
    """Names of the pruned kernels of a graph specification (`tfdfd.pruning.child.describe`)."""
    return [
        layer["weights"][weight] for layer in graph["layers"].values() for weight in PRUNABLE.get(layer["class"], ())
    ]


def zeros(weights: dict[str, np.ndarray], kernels: list[str]) -> dict:
    """Counts of zeros per kernel and in total.

    Returns:
        `share`, `zeros` and `values` in total, and the same for each of `kernels`, by name.
    """
    counted = {name: _counted(int((weights[name] == 0).sum()), weights[name].size) for name in kernels}
    total = _counted(*(sum(one[what] for one in counted.values()) for what in ("zeros", "values")))
    return total | {"kernels": counted}


def lacks_pattern(weights: dict[str, np.ndarray], kernels: list[str]) -> list[str]:
    """The kernels that have a group of four values along their input channels with fewer than two zeros.

    Groups start at the first channel; a last group of three needs one zero, a shorter one none.
    """
    return [name for name in kernels if not _has_pattern(weights[name])]


def sizes(path: str | os.PathLike) -> dict:
    """`bytes` of a file, and `gzip_bytes` at the highest compression of gzip."""
    data = Path(path).read_bytes()
    return {"bytes": len(data), "gzip_bytes": len(gzip.compress(data, 9, mtime=0))}


def _counted(count: int, values: int) -> dict[str, Any]:
    return {"share": count / values, "zeros": count, "values": values}


def _has_pattern(kernel: np.ndarray) -> bool:
    count, length = TWO_OF_FOUR
    channels = np.moveaxis(kernel, -2, -1)  # (..., outputs, inputs)
    filled = np.pad(channels, [(0, 0)] * (channels.ndim - 1) + [(0, -channels.shape[-1] % length)])
    groups = filled.reshape(-1, length)
    return bool((np.count_nonzero(groups, axis=1) <= length - count).all())
