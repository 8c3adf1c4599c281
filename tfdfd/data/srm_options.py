"""Which noise a face set is cloned as."""

from __future__ import annotations

from dataclasses import dataclass

from tfdfd.srm_kernels import WHOLE

STEPS = 127  # grey levels of a file on either side of no noise
LARGEST = 3 * 4 * 255  # of all residuals: KV's on the sum of three colours


@dataclass(frozen=True)
class SrmOptions:
    """Which residuals, and how large they may be.

    Attributes:
        kernels: all three, on the sum of the colours, one a channel of the noise, as Zhou et al. and the networks
            `srm_*` have it (`SRM(combine="sum")`); or one, on each colour, as document S4 has it (`combine="each"`).
        truncate: T in grey levels, above 0, at most 3,060; what exceeds it is clipped.

    Raises:
        ValueError: other values.
    """

    kernels: tuple[str, ...] = tuple(WHOLE)
    truncate: float = float(STEPS)

    def __post_init__(self):
        unknown = [name for name in self.kernels if name not in WHOLE]
        if unknown or len(self.kernels) not in (1, 3) or len(set(self.kernels)) < len(self.kernels):
            raise ValueError(
                f"kernels must be one of {', '.join(WHOLE)}, or all three, so that the noise has three channels; "
                f"received {' '.join(self.kernels) or 'none'}."
            )
        if not 0 < self.truncate <= LARGEST:
            raise ValueError(
                f"truncate must be above 0 and at most {LARGEST:,} grey levels; received {self.truncate!r}."
            )

    @property
    def combine(self) -> str:
        """The SRM layer's argument of that name."""
        return "each" if len(self.kernels) == 1 else "sum"
