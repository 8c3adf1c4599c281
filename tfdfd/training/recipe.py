"""What a training is told: one flat, typed record, whose defaults are a document's own."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import asdict, dataclass, field, fields, replace

from tfdfd.near_matches import did_you_mean

PROCEDURES = ("fit", "svm", "bottleneck", "ensemble", "temporal")
CROPS, BLENDED = "crops", "self-blended"
CHOICES = {
    "procedure": PROCEDURES,
    "data": (CROPS, BLENDED),
    "fakes": ("plain", "varied"),
    "medium": ("photo", "video"),
    "order": ("shuffled", "balanced", "dual", "various"),
    "augment": (None, "s1", "s2", "modern"),
    "optimizer": ("adam", "sgdm", "radam"),
    "loss": ("binary_crossentropy", "mean_squared_error"),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "monitor": ("val_video_auc", "val_auc", "val_loss"),
    "calibration": ("none", "temperature", "platt"),
}


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Attributes:
        name: as `tfdfd train` takes it.
        source: document and table.
        expected: what the document reports, and on what; or what was measured here.
        network: of `tfdfd.models`.
        arguments: of its builder, such as `alpha` or `freeze`.
        size: side of the square that the network takes, pixels; None: the network's own.
        weights: as `tfdfd.models.build` takes them: None (random), `imagenet`, `imagenet:PATH`, `clip:PATH`, a handle
            or a file; or, for a slimmed MobileNetV3 (`fit`), `slim:` and handle, file or run folder of the whole one.
        procedure: `fit`, or one that trains otherwise: `svm` (a network, then an SVM on its features), `bottleneck` (a
            head on stored features), `ensemble` (a head on two trained networks), `temporal` (a recurrent layer on a
            trained network).
        members: handles, files or run folders of trained networks that the procedure starts from.
        teacher: handle, file or run folder of a trained network that the one in training (`fit`) imitates beside the
            labels, see `tfdfd.training.distilling`; None: labels alone.
        teacher_weight: of imitating, against 1 of the labels.
        data: `crops` (labels of the set) or `self-blended` (real crops of the set, and fakes made of them).
        fakes: of `self-blended` data: `plain` or `varied` (see `tfdfd.data.pair_sets`).
        medium: of `self-blended` data: degraded as a `photo`, or most as frames of a `video`.
        order: in which crops come: `shuffled`, `balanced`, or S2's `dual` and `various`.
        augment: policy of `tfdfd.data.augment`, or None.
        batch_size: crops in a batch.
        epochs: how often the set is gone through.
        steps: steps of procedures that count no epochs.
        optimizer: `adam`, `sgdm` or `radam`.
        learning_rate: at the start.
        momentum: of `sgdm`.
        schedule: of the learning rate, by name: see `tfdfd.training.schedules`.
        loss: `binary_crossentropy` or `mean_squared_error`.
        loss_scale: whether the loss is scaled, dynamically, while gradients are computed.
        gradient_noise: η of the noise added to gradients, or None.
        ema: decay of the moving average of weights that is validated and kept, or None for the weights themselves.
        norm_momentum: of the running statistics of batch normalisation, or None for the network's own; MobileNetV3's is
            for long trainings, see `tfdfd.training.norms`.
        gradient_flow: whether each layer's gradients are recorded.
        precision: of Keras: `float32`, `mixed_bfloat16` or `mixed_float16`.
        monitor: what the kept epoch is best in, on validation.
        patience: epochs without a better one after which training ends, or None.
        calibration: of P(fake), fitted on validation and put into the network's last layer.
        frames: crops of a clip (`temporal`).
        limit: at most so many crops (of `temporal`: clips) of a split; None: all.
        seed: of everything random.
    """

    name: str
    source: str
    expected: str
    network: str
    arguments: dict = field(default_factory=dict)
    size: int | None = None
    weights: str | None = None
    procedure: str = "fit"
    members: tuple[str, ...] = ()
    teacher: str | None = None
    teacher_weight: float = 1.0
    data: str = CROPS
    fakes: str = "plain"
    medium: str = "photo"
    order: str = "shuffled"
    augment: str | None = None
    batch_size: int = 32
    epochs: int = 20
    steps: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    schedule: str = "constant"
    loss: str = "binary_crossentropy"
    loss_scale: bool = False
    gradient_noise: float | None = None
    ema: float | None = None
    norm_momentum: float | None = None
    gradient_flow: bool = False
    precision: str = "float32"
    monitor: str = "val_video_auc"
    patience: int | None = None
    calibration: str = "platt"
    frames: int = 16
    limit: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                hint = did_you_mean(value, choices, 1)
                expected = ", ".join(map(str, choices))
                raise ValueError(f"{name} must be one of {expected}; received {value!r}{f'; {hint}' if hint else '.'}")
        for name in ("batch_size", "epochs", "steps", "size", "limit", "frames", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; received {value}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0; received {self.learning_rate}.")
        if not 0 < self.teacher_weight < math.inf:
            raise ValueError(f"teacher_weight must be above 0; received {self.teacher_weight}.")
        if self.teacher is not None and self.procedure != "fit":
            raise ValueError(
                f"a teacher is imitated in procedure=fit alone; received teacher={self.teacher} for {self.procedure!r}."
            )
        for name in ("ema", "norm_momentum"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1; received {value}.")
        if self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; received {self.seed}.")

    def settings(self) -> dict:
        """What JSON holds of it."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_settings(cls, settings: dict) -> Recipe:
        """The recipe that `settings()` was taken of.

        Raises:
            ValueError: it is none.
        """
        try:
            return cls(**settings | {"members": tuple(settings.get("members", ()))})
        except TypeError as error:
            raise ValueError(f"no settings of a recipe: {error}.") from error

    def changed(self, assignments: list[str]) -> Recipe:
        """The recipe with settings given as `key=value`; `arguments.KEY=value` is for the network's builder.

        Raises:
            ValueError: an unknown key, or a value of another kind; names the near keys.
        """
        known = {setting.name: setting for setting in fields(self)}
        kinds = typing.get_type_hints(type(self))
        changes, arguments = {}, dict(self.arguments)
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise ValueError(f"a setting is KEY=VALUE, such as epochs=5; received {assignment!r}.")
            if key.startswith("arguments."):
                arguments[key.removeprefix("arguments.")] = _plain(text)
            elif key in known and key not in ("name", "source", "expected", "arguments"):
                changes[key] = _typed(key, text, kinds[key])
            else:
                hint = did_you_mean(key, known, otherwise=f"there are {', '.join(known)}.")
                raise ValueError(f"{self.name} has no setting {key!r}; {hint}")
        return replace(self, **changes, arguments=arguments)

    def quick(self) -> Recipe:
        """The same procedure in seconds, on few small crops: to see that it runs, never to judge it."""
        from tfdfd.models import spec

        smallest = max(spec(self.network).min_size, 64)
        # A network that is built on trained ones has their size.
        shrinks = self.procedure not in ("ensemble", "temporal") and (self.size is None or self.size > smallest)
        return replace(
            self,
            size=smallest if shrinks else self.size,
            batch_size=min(self.batch_size, 8),
            epochs=1,
            steps=None if self.steps is None else min(self.steps, 20),
            frames=min(self.frames, 4),
            # Pairs of videos need more frames than so few crops have.
            order="shuffled" if self.order in ("dual", "various") else self.order,
            limit=24,
        )


def _typed(key, text, kind):
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in options and text.lower() in ("none", ""):
        return None
    for option in options:
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if option is str:
            return text
        if typing.get_origin(option) is tuple:
            return tuple(part for part in text.split(",") if part)
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
    names = " or ".join("none" if option is type(None) else option.__name__ for option in options)
    raise ValueError(f"{key} must be {names}; received {text!r}.")


def _plain(text):
    """A builder's argument: a number, true, false, null, or a word (`none` is one: `freeze` takes it)."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text
