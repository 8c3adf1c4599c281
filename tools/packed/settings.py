"""Settings of a packed training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from tfdfd.text import near_matches

ENGINES = "jax", "torch"
_PACKED = "packed:"


@dataclass(frozen=True)
class Settings:
    """Settings of one training.

    Attributes:
        network: name in `tfdfd.models`.
        arguments: arguments of its builder.
        weights: initial weights, as `tfdfd.models.build` takes them, or `packed:RUN`: those of a finished packed run.
        size: side of the pictures, a multiple of 16; None for the network's own.
        steps: number of optimizer steps.
        pairs: labeled pairs per batch.
        blends: genuine faces per batch that a blend is made of.
        learning_rate: rate after the warm-up; it falls to 0 along half a cosine.
        warm_up: share of the steps in which the rate rises linearly.
        weight_decay: AdamW's decay of kernels.
        ema: decay of the moving average of the weights.
        norm_momentum: momentum of batch normalization's running statistics; None for the network's own.
        smoothing: label smoothing, in [0, 0.5).
        swapped: share of the blends that take another person's face.
        mask_weight: weight of the mask loss; the label loss has 1.
        teacher_weight: share of the teacher's scores in the targets; the labels have the rest.
        without: methods of labeled fakes that are left out of training.
        banded: share of the blends whose low frequencies are blended apart from the others.
        precision: Keras dtype policy.
        engine: what computes the network: `jax`, or `torch`, which is many times as fast on CPUs.
        seed: seed of everything random.

    Raises:
        ValueError: a value is of the wrong type or out of range.
    """

    network: str
    arguments: dict = field(default_factory=dict)
    weights: str | None = None
    size: int | None = None
    steps: int = 4000
    pairs: int = 32
    blends: int = 32
    learning_rate: float = 5e-4
    warm_up: float = 0.05
    weight_decay: float = 0.02
    ema: float = 0.998
    norm_momentum: float | None = None
    smoothing: float = 0.05
    swapped: float = 0.25
    mask_weight: float = 0.3
    teacher_weight: float = 0.5
    without: tuple[str, ...] = ()
    banded: float = 0.0
    precision: str = "mixed_bfloat16"
    engine: str = "jax"
    seed: int = 0

    def __post_init__(self):
        if self.size is not None:
            _check(self, "size", int, 16)
            if self.size % 16:
                raise ValueError(f"size is {self.size}; expected a multiple of 16.")
        if self.norm_momentum is not None:
            _check(self, "norm_momentum", (int, float), 0, 1)
        for name, least in (("steps", 1), ("pairs", 0), ("blends", 1), ("seed", 0)):
            _check(self, name, int, least)
        for name, most in (
            ("learning_rate", None), ("weight_decay", None), ("mask_weight", None), ("warm_up", 1), ("ema", 1),
            ("smoothing", 0.5), ("swapped", 1), ("banded", 1), ("teacher_weight", 1),
        ):  # fmt: skip
            _check(self, name, (int, float), 0, most)
        for name in ("network", "precision"):
            _check(self, name, str)
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; expected {' or '.join(ENGINES)}.")

    def plain(self) -> dict:
        """The settings as JSON holds them."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def parse(cls, network: str, assignments: Sequence[str]) -> Settings:
        """Settings from `KEY=VALUE`, where `arguments.KEY` is an argument of the network's builder.

        Raises:
            ValueError: a key is unknown, or a value is invalid.
        """
        known = [each.name for each in fields(cls) if each.name not in ("network", "arguments")]
        values, arguments = {}, {}
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise ValueError(f"a setting is KEY=VALUE; received {assignment!r}.")
            if key.startswith("arguments."):
                arguments[key.removeprefix("arguments.")] = _value(text)
            elif key in known:
                values[key] = tuple(text.split(",")) if key == "without" else _value(text)
            else:
                near = near_matches(key, known, 1, cutoff=0.6)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."
                raise ValueError(f"there is no setting {key!r}; {hint}")
        return cls(network, arguments, **values)


def start_of(weights: str | None) -> Path | None:
    """The packed run whose averaged weights initial weights are, by `packed:RUN`; None for all others."""
    return Path(weights.removeprefix(_PACKED)) if weights and weights.startswith(_PACKED) else None


def _check(settings, name, kind, least=None, most=None):
    value = getattr(settings, name)
    right = isinstance(value, kind) and not isinstance(value, bool)
    if right and least is not None:
        right = value >= least and (most is None or value <= most)
    if not right:
        names = {int: "a whole number", str: "a text"}
        bounds = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
        raise ValueError(f"{name} is {value!r}; expected {names.get(kind, 'a number')}{bounds}.")


def _value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text
