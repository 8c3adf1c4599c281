"""What is pruned, and when: one typed record."""

from __future__ import annotations

from dataclasses import asdict, dataclass

POLYNOMIAL, CONSTANT = "polynomial", "constant"
# Zeros and length of the groups that NVIDIA's sparse tensor cores take.
TWO_OF_FOUR = (2, 4)
# Masks are chosen anew so often, in steps, where there are steps enough for it.
FREQUENCY = 100
# In the first half of the steps the share rises; in the second the network learns to live with it.
RAMP = 0.5
_TURNS = 10


@dataclass(frozen=True)
class PruneOptions:
    """How kernels lose their smallest values.

    Attributes:
        sparsity: share of zeros of each kernel in the end, above 0 and below 1.
        schedule: `polynomial`: from nothing to that share over the first half of the steps (Zhu and Gupta,
            arXiv:1710.01878); `constant`: that share from the first step on.
        two_of_four: two of any four values along a kernel's input channels instead: `sparsity` is 0.5 then, from the
            first step on.

    Raises:
        ValueError: other values than these.
    """

    sparsity: float = 0.8
    schedule: str = POLYNOMIAL
    two_of_four: bool = False

    def __post_init__(self):
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is a share of zeros above 0 and below 1; received {self.sparsity}.")
        if self.schedule not in (POLYNOMIAL, CONSTANT):
            raise ValueError(f"schedule must be {POLYNOMIAL} or {CONSTANT}; received {self.schedule!r}.")
        if self.two_of_four and (self.sparsity, self.schedule) != (0.5, CONSTANT):
            raise ValueError(
                "two of four values are half of them, from the first step on; received "
                f"sparsity={self.sparsity} and schedule={self.schedule!r}: leave them out."
            )

    def settings(self) -> dict:
        """What JSON holds of it."""
        return asdict(self)


@dataclass(frozen=True)
class Turns:
    """At which steps, counted from 1, masks are chosen: `first`, and every `frequency` steps up to `last` (None: to the
    end). From `settled` on, the share of zeros is the one asked for."""

    first: int
    frequency: int
    last: int | None
    settled: int


def turns(options: PruneOptions, steps: int) -> Turns:
    """The turns of a training of so many steps. The last of a rising share is one of them: else it is never reached."""
    if options.schedule == CONSTANT or options.two_of_four:
        return Turns(1, max(1, min(FREQUENCY, steps // _TURNS)), None, 1)
    ramp = max(1, int(steps * RAMP))
    frequency = max(1, min(FREQUENCY, ramp // _TURNS))
    last = ramp // frequency * frequency
    return Turns(0, frequency, last, last)
