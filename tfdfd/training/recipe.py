"""Training recipes: one flat, typed record of settings, and files of settings that a search found best."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import types
import typing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tfdfd.text import did_you_mean

# `tuning/best`: in the installed package, or beside it in a checkout.
_BEST = [Path(__file__).parents[count] / "tuning" / "best" for count in (2, 1)]
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+?)(?=^ {4}\w+: |\Z)", re.MULTILINE | re.DOTALL)
PROCEDURES = ("fit", "svm", "bottleneck", "ensemble", "temporal")
CROPS, BLENDED = "crops", "self-blended"
CHOICES = {
    "procedure": PROCEDURES,
    "data": (CROPS, BLENDED),
    "fakes": ("plain", "varied"),
    "medium": ("photo", "video"),
    "order": ("shuffled", "balanced", "dual", "various"),
    "augment": (None, "s1", "s2", "flip", "modern"),
    "optimizer": ("adam", "sgdm", "radam"),
    "loss": ("binary_crossentropy", "mean_squared_error"),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "monitor": ("val_video_auc", "val_video_balanced_accuracy", "val_auc", "val_loss"),
    "noise_step": ("batch", "epoch"),
    "calibration": ("none", "temperature", "platt"),
}


@dataclass(frozen=True)
class Recipe:
    """One experiment: a network, its data and its training settings.

    Attributes:
        name: name that `tfdfd train` takes.
        source: document and table.
        expected: result that the document reports, and on which data; or the result measured here.
        network: name in `tfdfd.models`.
        arguments: arguments of its builder, such as `alpha` or `freeze`.
        size: side of the network's square input, pixels; None for the network's own size.
        weights: initial weights as `tfdfd.models.build` takes them: None (random), `imagenet`, `imagenet:PATH`,
            `clip:PATH`, a handle or a file; or, for a slimmed MobileNetV3 (`fit`), `slim:` and the handle, file or run
            folder of the full network.
        procedure: `fit`, or another procedure: `svm` (a network, then an SVM on its features), `bottleneck` (a head on
            stored features), `ensemble` (a head on two trained networks), `temporal` (a recurrent layer on a trained
            network).
        members: handles, files or run folders of trained networks that the procedure builds on.
        teacher: handle, file or run folder of a trained network that is imitated (`fit`), see
            `tfdfd.training.engine`; None for labels alone.
        teacher_weight: weight of imitation, against 1 of the labels.
        data: `crops` (labels of the set) or `self-blended` (real crops of the set, and fakes blended from them).
        fakes: kind of `self-blended` fakes: `plain` or `varied` (see `tfdfd.data.pair_sets`).
        medium: degradation of `self-blended` data: as a `photo`, or mostly as frames of a `video`.
        order: order of crops: `shuffled`, `balanced`, or S2's `dual` and `various`.
        augment: policy of `tfdfd.data.augment`, or None.
        batch_size: number of crops in a batch.
        epochs: number of passes over the set.
        steps: number of steps of procedures that do not count epochs.
        optimizer: `adam`, `sgdm` or `radam`.
        learning_rate: initial learning rate.
        momentum: momentum of `sgdm`.
        radam_threshold: ρ above which `radam` adapts: 4 in its paper, 5 in its authors' code and in S2.
        schedule: name of the learning rate schedule, see `tfdfd.training.optimizers`.
        planned_epochs: number of epochs of the schedule, if training ends before them; None for `epochs`.
        loss: `binary_crossentropy` or `mean_squared_error`.
        loss_scale: whether the loss is scaled dynamically.
        gradient_noise: η of the noise added to gradients, or None.
        noise_step: unit of time in which the noise decays: `batch` or `epoch`.
        ema: decay of the moving average of weights that is validated and kept, or None for the weights themselves.
        norm_momentum: momentum of batch normalization's running statistics, or None for the network's own, see
            `tfdfd.training.optimizers.set_norm_momentum`.
        gradient_flow: whether each layer's gradients are recorded.
        precision: Keras dtype policy: `float32`, `mixed_bfloat16` or `mixed_float16`.
        monitor: validation metric that selects the kept epoch.
        patience: number of epochs without improvement after which training ends, or None.
        calibration: calibration of P(fake), fitted on validation and folded into the network's last layer.
        frames: number of crops in a clip (`temporal`).
        val_frames: number of equally spaced crops of each validation video (`tfdfd.data.crops.equally_spaced`); None
            for all.
        limit: largest number of crops (`temporal`: clips) of a split; None for all.
        seed: seed of everything random.
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
    radam_threshold: float = 4.0
    schedule: str = "constant"
    planned_epochs: int | None = None
    loss: str = "binary_crossentropy"
    loss_scale: bool = False
    gradient_noise: float | None = None
    noise_step: str = "batch"
    ema: float | None = None
    norm_momentum: float | None = None
    gradient_flow: bool = False
    precision: str = "float32"
    monitor: str = "val_video_auc"
    patience: int | None = None
    calibration: str = "platt"
    frames: int = 16
    val_frames: int | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                hint = did_you_mean(value, choices, 1)
                expected = ", ".join(map(str, choices))
                raise ValueError(f"{name} must be one of {expected}; received {value!r}{f'; {hint}' if hint else '.'}")
        for name in (
            "batch_size", "epochs", "planned_epochs", "steps", "size", "limit", "frames", "val_frames", "patience",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; received {value}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0; received {self.learning_rate}.")
        if not 0 < self.teacher_weight < math.inf:
            raise ValueError(f"teacher_weight must be above 0; received {self.teacher_weight}.")
        if self.teacher is not None and self.procedure != "fit":
            raise ValueError(
                f"a teacher needs procedure=fit; received teacher={self.teacher} and procedure={self.procedure}."
            )
        for name in ("ema", "norm_momentum"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1; received {value}.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0; received {self.seed}.")

    def input_size(self) -> int:
        """Returns the side of the network's square input, pixels: `size`, or the network's own."""
        from tfdfd.models import spec

        return self.size or spec(self.network).input_shape[0]

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Returns what each setting means and its choices, by key, from this class's documentation."""
        text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
        meanings = {key: " ".join(words.split()) for key, words in _ATTRIBUTE.findall(text)}
        for key, choices in CHOICES.items():
            names = ", ".join("none" if choice is None else str(choice) for choice in choices)
            meanings[key] = f"{meanings.get(key, '').rstrip('.')}. One of: {names}."
        return {key: words.replace("`", "") for key, words in meanings.items()}

    def settings(self) -> dict:
        """Returns the recipe as JSON-serializable values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_settings(cls, settings: dict) -> Recipe:
        """Returns the recipe from what `settings()` returned.

        Raises:
            ValueError: the settings are not those of a recipe.
        """
        try:
            return cls(**settings | {"members": tuple(settings.get("members", ()))})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"no settings of a recipe: {error}.") from error

    def changed(self, assignments: list[str]) -> Recipe:
        """Returns the recipe with changed settings, given as `key=value`.

        `arguments.KEY=value` changes an argument of the network's builder.

        Raises:
            ValueError: a key is unknown (the error lists near matches), or a value has the wrong type.
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
        """Returns a recipe that runs in seconds on a few small crops, to check that it runs, not its results."""
        from tfdfd.models import spec

        smallest = max(spec(self.network).min_size, 64)
        # A network that is built on trained ones takes their input size.
        shrinks = self.procedure not in ("ensemble", "temporal") and (self.size is None or self.size > smallest)
        return replace(
            self,
            size=smallest if shrinks else self.size,
            # Half a dual batch is of one video, of which quick sets have few frames.
            batch_size=min(self.batch_size, 4 if self.order == "dual" else 8),
            epochs=1,
            planned_epochs=None,
            steps=None if self.steps is None else min(self.steps, 20),
            frames=min(self.frames, 4),
            limit=24,
        )


def read_config(file: str | os.PathLike, recipe: Recipe) -> Recipe:
    """Returns the recipe with settings that a search found best.

    Args:
        file: JSON as `tfdfd tune` writes it, with `network` and `settings` (values by the keys of `--set`); or the name
            of a network whose best settings the package contains (`tuning/best`).
        recipe: a recipe of the same network.

    Raises:
        ValueError: the file is missing, is for another network, or contains unknown settings.
    """
    file = _config_file(file)
    try:
        with open(file, encoding="utf-8") as text:
            config = json.load(text)
        network, settings = config["network"], dict(config["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{os.fspath(file)} holds no settings, such as best.json of 'tfdfd tune': {type(error).__name__}: {error}."
        ) from error
    if network != recipe.network:
        raise ValueError(
            f"{os.fspath(file)} has settings for {network}; {recipe.name} trains {recipe.network}. Give a recipe of "
            f"{network}, such as {config.get('recipe')}."
        )
    try:
        return recipe.changed([assignment(key, value) for key, value in settings.items()])
    except ValueError as error:
        raise ValueError(f"{os.fspath(file)}: {error}") from error


def _config_file(name: Any) -> str | os.PathLike:
    if os.fspath(name).endswith(".json") or os.path.exists(name):
        return name
    known = {path.stem: path for folder in _BEST for path in sorted(folder.glob("*.json"))}
    if name in known:
        return known[name]
    raise ValueError(
        f"there is no file {os.fspath(name)!r}, and no best settings of a network by that name; there are those of "
        f"{', '.join(known) or 'none'}, and best.json of 'tfdfd tune'."
    )


def assignment(key: str, value: object) -> str:
    """Returns the `KEY=VALUE` from which `Recipe.changed` restores this value exactly."""
    if key.startswith("arguments.") and value is None:
        return f"{key}=null"
    if value is None or isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, list | tuple):
        return f"{key}={','.join(map(str, value))}"
    # Text for a builder may look like a number or a boolean, such as "1".
    is_ambiguous = isinstance(value, str) and key.startswith("arguments.") and _is_json(value)
    return f"{key}={json.dumps(value) if is_ambiguous else value}"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return text.lower() in ("true", "false")
    return True


def _typed(key: str, text: str, kind: Any) -> Any:
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


def _plain(text: str) -> Any:
    """Parses a builder's argument: number, true, false, null, or text (`none` is text, which `freeze` takes)."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text
