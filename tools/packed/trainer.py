"""Training of one network on packed crops, on JAX, or with pictures from JAX and the network on PyTorch."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np

from tfdfd import metrics
from tfdfd.files import write_atomically
from tfdfd.models import build
from tfdfd.training.optimizers import set_norm_momentum
from tfdfd.weights.loading import MASK_HEAD, load_safetensors, with_mask_head
from tfdfd.weights.saving import save_weights
from tools.packed import blending
from tools.packed.dataset import Pack, Sampler
from tools.packed.settings import Settings, start_of

STATE, WEIGHTS, MASK_FILE = "state.npz", "weights.safetensors", f"{MASK_HEAD}.npz"
SAVE_SECONDS = 120
PROGRESS_SECONDS = 30
_LOG_STEPS = 100
# Batches of the newest steps that the AUC in the log is of.
_LOG_BATCHES = 20
_SCORED_AT_ONCE = 128


class Trainer:
    """A network in training.

    A step's batch depends on the seed and the step alone, so a resumed training equals an uninterrupted one to the bit.

    Args:
        pack: crops to train and to validate on.
        settings: settings of the training.
        teacher: scorer of pictures whose averaged weights are imitated: a trainer of the same picture size.
        on_device: `(canvases, points, sizes)` of the pack as JAX arrays, to share them; None puts them on the device.

    Attributes:
        model: the network. It keeps its initial weights until `assign`.
        both: the network with its mask head.
        size: side of the pictures.
        grid: side of the masks.
        step: number of steps done.
        log: one entry per 100 steps.

    Raises:
        ValueError: the network, the pack and the settings do not fit, or Keras runs on another backend than JAX.
    """

    def __init__(self, pack: Pack, settings: Settings, teacher: Trainer | None = None, on_device=None):
        if keras.backend.backend() != "jax":
            raise ValueError(f"packed training needs KERAS_BACKEND=jax; Keras runs on {keras.backend.backend()}.")
        self.pack, self.settings, self.teacher = pack, settings, teacher
        self.sampler = Sampler(pack, settings)
        keras.utils.set_random_seed(settings.seed)
        keras.config.set_dtype_policy(settings.precision)
        shape = (settings.size, settings.size, 3) if settings.size else None
        try:
            start = start_of(settings.weights)
            weights = None if start else settings.weights
            self.model = build(settings.network, weights, shape, **settings.arguments)
            if settings.norm_momentum is not None:
                set_norm_momentum(self.model, settings.norm_momentum)
            self.size = self.model.input_shape[1]
            self.both, self.grid = with_mask_head(self.model)
            if start:
                _begin_with(start, self.both, self.model)
        finally:
            keras.config.set_dtype_policy("float32")
        if teacher is not None and teacher.size != self.size:
            raise ValueError(f"the teacher takes pictures of {teacher.size} pixels, the network of {self.size}.")
        self.on_device = on_device or tuple(map(jnp.asarray, (pack.canvases, pack.points, pack.sizes)))
        self._averaged_others = [
            i for i, v in enumerate(self.both.non_trainable_variables) if "moving_" in v.path.rpartition("/")[2]
        ]
        self._decayed = [len(variable.shape) > 1 for variable in self.both.trainable_variables]
        if settings.engine == "torch":
            engine = _torch_step(self.both, settings, self._averaged_others)
            self._array, self._update, self._score = engine.array, engine.update, engine.score
        else:
            self._array = jnp.array
            self._update = jax.jit(self._update_weights, donate_argnums=(0, 1, 2, 3, 4))
            self._score = jax.jit(
                lambda trained, other, x: self.both.stateless_call(trained, other, x, training=False)[0]
            )
        trained, other = self.both.trainable_variables, self.both.non_trainable_variables
        self.trained, self.other, self.ema = (
            [self._array(variable.value) for variable in variables] for variables in (trained, other, trained)
        )
        self.ema_others = [self._array(self.other[i]) for i in self._averaged_others]
        self.moments = tuple(
            [self._array(np.zeros(value.shape, np.float32)) for value in self.trained] for _ in range(2)
        )
        self.step, self.log = 0, []
        self._next = None, (None, None, None)

    @property
    def labels(self) -> np.ndarray:
        """The labels of every batch, float32: 0 for real, 1 for fake."""
        a, b = self.settings.pairs, self.settings.blends
        return np.repeat(np.float32([0, 1, 0, 1]), [a, a, b, b])

    def batch(self, step: int):
        """Pictures, masks and which masks are known, of a step; see `blending.batch_of_pairs`."""
        key = jax.random.key(zlib.crc32(f"{self.settings.seed} {step}".encode()))
        return self._pictures(self.sampler(step), key)

    def _pictures(self, rows, key):
        return blending.batch_of_pairs(
            *self.on_device, *map(jnp.asarray, rows), key=key, out=self.size, grid=self.grid,
            banded=self.settings.banded,
        )  # fmt: skip

    def targets(self, pictures):
        """What P(fake) of a batch is trained towards: smoothed labels, mixed with the teacher's scores."""
        smoothing, share = self.settings.smoothing, self.settings.teacher_weight
        targets = jnp.asarray(self.labels) * (1 - 2 * smoothing) + smoothing
        if self.teacher is None:
            return targets
        return jnp.asarray(share * self.teacher.score(pictures) + (1 - share) * targets)

    def loss(self, trained, other, pictures, masks, known, targets):
        """Binary cross-entropy of labels plus that of known masks.

        Returns:
            The loss, and `(non-trainable variables after the step, loss of the labels, P(fake))`.
        """
        (fake, mask), other = self.both.stateless_call(trained, other, pictures, training=True)
        fake = jnp.clip(fake[:, 0].astype(jnp.float32), 1e-6, 1 - 1e-6)
        label_loss = -(targets * jnp.log(fake) + (1 - targets) * jnp.log(1 - fake)).mean()
        mask = jnp.clip(mask[..., 0].astype(jnp.float32), 1e-6, 1 - 1e-6)
        mask_loss = -(masks * jnp.log(mask) + (1 - masks) * jnp.log(1 - mask)).mean(axis=(1, 2))
        mask_loss = (mask_loss * known).sum() / jnp.maximum(known.sum(), 1)
        return label_loss + self.settings.mask_weight * mask_loss, (other, label_loss, fake)

    def _update_weights(self, trained, other, moments, ema, ema_others, pictures, masks, known, targets, step, rate):
        """One step of AdamW on clipped gradients, and of the moving averages."""
        (_, (other, label_loss, fake)), gradients = jax.value_and_grad(self.loss, has_aux=True)(
            trained, other, pictures, masks, known, targets
        )
        norm = jnp.sqrt(sum(jnp.square(g.astype(jnp.float32)).sum() for g in gradients))
        gradients = [g * jnp.minimum(1.0, 1.0 / (norm + 1e-6)) for g in gradients]
        first = [0.9 * m + 0.1 * g for m, g in zip(moments[0], gradients, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(moments[1], gradients, strict=True)]
        count = step + 1
        updated = []
        for value, m, v, decayed in zip(trained, first, second, self._decayed, strict=True):
            change = (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
            updated.append(value - rate * (change + self.settings.weight_decay * decayed * value))
        decay = jnp.minimum(self.settings.ema, count / (count + 9))
        ema = [decay * old + (1 - decay) * value for old, value in zip(ema, updated, strict=True)]
        ema_others = [
            decay * old + (1 - decay) * other[i] for old, i in zip(ema_others, self._averaged_others, strict=True)
        ]
        return updated, other, (first, second), ema, ema_others, label_loss, fake

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        settings = self.settings
        warm = max(1.0, settings.warm_up * settings.steps)
        if step < warm:
            return settings.learning_rate * (step + 1) / warm
        return settings.learning_rate * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1.0, settings.steps - warm)))

    def advance(self):
        """Does one step. Returns the loss of the labels and P(fake) of the batch, on the device."""
        made, (pictures, masks, known) = self._next
        if made != self.step:
            pictures, masks, known = self.batch(self.step)
        # JAX makes the next batch while the weights are updated.
        if self.step + 1 < self.settings.steps:
            self._next = self.step + 1, self.batch(self.step + 1)
        *state, loss, fake = self._update(
            self.trained, self.other, self.moments, self.ema, self.ema_others,
            pictures, masks, known, self.targets(pictures), jnp.float32(self.step), jnp.float32(self.rate(self.step)),
        )  # fmt: skip
        self.trained, self.other, self.moments, self.ema, self.ema_others = state
        self.step += 1
        return loss, fake

    def averaged(self):
        """The averaged weights, as `stateless_call` takes them."""
        other = list(self.other)
        for i, value in zip(self._averaged_others, self.ema_others, strict=True):
            other[i] = value
        return self.ema, other

    def score(self, pictures):
        """P(fake) of pictures by the averaged weights, float32 `(n,)`."""
        return self._score(*self.averaged(), pictures)[0][:, 0].astype("float32")

    def run(
        self, folder: str | os.PathLike | None = None, seconds: float | None = None, report: Callable = print
    ) -> bool:
        """Trains until the last step.

        Args:
            folder: where the state is saved, every `SAVE_SECONDS` and at the end; None does not save.
            seconds: stop after this time.
            report: called with lines of progress.

        Returns:
            Whether the last step is done.

        Raises:
            ValueError: the loss is not finite.
        """
        start = saved = reported = time.monotonic()
        first, results = self.step, []
        while self.step < self.settings.steps:
            results.append(self.advance())
            last = self.step == self.settings.steps
            now = time.monotonic()
            logged = self.step % _LOG_STEPS == 0 or last
            if logged or now - reported > PROGRESS_SECONDS:
                entry = self._log_entry(results)
                now = reported = time.monotonic()
                left = (now - start) / (self.step - first) * (self.settings.steps - self.step)
                entry["seconds"] = round(now - start, 1)
                report(f"{self.settings.network} {_line(entry, self.settings.steps)}, {_duration(left)} left")
                if logged:
                    self.log.append(entry)
                    results = []
            if folder is not None and now - saved > SAVE_SECONDS and not last:
                self._check_finite(results)
                self.save(folder)
                saved = time.monotonic()
            if seconds is not None and now - start > seconds:
                break
        if folder is not None:
            self._check_finite(results)
            self.save(folder)
        return self.step >= self.settings.steps

    def _log_entry(self, results):
        self._check_finite(results)
        scores = np.stack([np.asarray(fake) for _, fake in results[-_LOG_BATCHES:]])
        labels, count = np.tile(self.labels, (len(scores), 1)), 2 * self.settings.pairs
        areas = {"auc_pairs": auc(labels[:, :count], scores[:, :count])}
        areas["auc_blends"] = auc(labels[:, count:], scores[:, count:])
        loss = float(np.mean([float(loss) for loss, _ in results]))
        return {"step": self.step, "loss": round(loss, 4)} | {
            name: None if np.isnan(area) else round(area, 4) for name, area in areas.items()
        }

    def _check_finite(self, results):
        if not np.isfinite([float(loss) for loss, _ in results]).all():
            raise ValueError(f"the loss is not finite at step {self.step}; lower learning_rate.")

    def save(self, folder: str | os.PathLike) -> None:
        """Saves the state that training resumes from."""
        arrays = {name: np.array(value) for name, value in self._identity().items()}
        arrays |= {"step": np.int64(self.step), "log": np.array(json.dumps(self.log))}
        for name, values in self._state().items():
            arrays |= {f"{name}/{i}": np.asarray(value) for i, value in enumerate(values)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(Path(folder) / STATE, buffer.getvalue())

    def resume(self, folder: str | os.PathLike) -> Trainer:
        """Takes the saved state of a folder, if there is one.

        Raises:
            ValueError: the state is of other settings, another pack or another teacher, or it is damaged.
        """
        file = Path(folder) / STATE
        if file.is_file():
            self._load(file, _read_state(file))
        return self

    def _load(self, file, state):
        now, before = self.settings.plain(), json.loads(str(state["settings"]))
        # Older states lack the settings that came later, and were made with their defaults.
        usual = {each.name: each.default for each in fields(Settings)}
        changed = [name for name in now if before.get(name, usual[name]) != now[name]]
        identity = self._identity()
        # Older states do not name the pack and the teacher.
        changed += [name for name in ("pack", "teacher") if name in state and str(state[name]) != identity[name]]
        if changed:
            raise ValueError(
                f"{file.parent} was started with other settings ({', '.join(changed)}); give the same, or another "
                "folder."
            )
        self.step, self.log = int(state["step"]), json.loads(str(state["log"]))
        self._take(file, state)

    def _take(self, file, state):
        parts = {}
        for name, values in self._state().items():
            parts[name] = [self._array(state[f"{name}/{i}"]) for i in range(len(values)) if f"{name}/{i}" in state]
            if [value.shape for value in parts[name]] != [value.shape for value in values]:
                raise ValueError(f"{file} does not fit {self.settings.network}: {name} has other arrays.")
        self.trained, self.moments = parts["trained"], (parts["first"], parts["second"])
        self.ema, self.ema_others = parts["ema"], parts["ema_others"]
        for i, value in zip(self._changing(), parts["other"], strict=True):
            self.other[i] = value

    def _identity(self):
        teacher = "" if self.teacher is None else self.teacher.digest()
        return {"settings": json.dumps(self.settings.plain()), "pack": self.pack.digest, "teacher": teacher}

    def digest(self) -> str:
        """SHA-256 of the averaged weights."""
        digest = hashlib.sha256()
        for value in (*self.ema, *self.ema_others):
            digest.update(np.asarray(value).tobytes())
        return digest.hexdigest()

    def _changing(self):
        """Indices of the non-trainable variables that a step changes. Frozen weights are those of `weights`."""
        frozen = {id(v) for layer in self.both._flatten_layers() for v in layer._trainable_variables if not v.trainable}
        return [i for i, v in enumerate(self.both.non_trainable_variables) if id(v) not in frozen]

    def _state(self):
        return {
            "trained": self.trained,
            "other": [self.other[i] for i in self._changing()],
            "first": self.moments[0],
            "second": self.moments[1],
            "ema": self.ema,
            "ema_others": self.ema_others,
        }

    def assign(self) -> keras.Model:
        """Assigns the averaged weights to the network and its mask head. Returns the network."""
        for variables, values in zip(
            (self.both.trainable_variables, self.both.non_trainable_variables), self.averaged(), strict=True
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(np.asarray(value))
        return self.model

    def write_weights(self, folder: str | os.PathLike) -> None:
        """Writes the averaged weights of the network, and those of its mask head, into the folder of the run."""
        save_weights(self.assign(), Path(folder) / WEIGHTS)
        buffer = io.BytesIO()
        head = self.both.get_layer(MASK_HEAD)
        np.savez(buffer, **{f"{MASK_HEAD}/{weight.name}": np.asarray(weight.value) for weight in head.weights})
        write_atomically(Path(folder) / MASK_FILE, buffer.getvalue())

    def evaluate(self, report: Callable = print) -> dict[str, float]:
        """AUC on the validation crops: labeled ones by method, and blends by source. Also the share of false alarms.

        Figures of which a class is missing are left out.
        """
        pack, rows = self.pack, np.flatnonzero(self.pack.split == "val")
        scores, labels, methods, datasets = (
            self.score_rows(rows),
            pack.label[rows],
            pack.method[rows],
            pack.dataset[rows],
        )
        figures = {}
        real = np.isin(datasets, datasets[labels == 1]) & (labels == 0)
        for method in ("all", *sorted(set(methods[labels == 1]))):
            chosen = real | ((labels == 1) & ((methods == method) | (method == "all")))
            figures[f"crops {method}"] = auc(labels[chosen], scores[chosen])
            figures[f"videos {method}"] = auc(*by_video(pack.video[rows][chosen], labels[chosen], scores[chosen]))
        for name in sorted(set(datasets[labels == 0])):
            own = (datasets == name) & (labels == 0)
            for kind in ("blended", "swapped"):
                genuine, blends = self.score_blends(rows[own], kind == "swapped")
                figures[f"{kind} {name}"] = auc(np.repeat([0, 1], len(genuine)), np.concatenate([genuine, blends]))
            figures[f"genuine {name} above 0.5"] = float((scores[own] >= 0.5).mean())
        figures = {name: value for name, value in figures.items() if not np.isnan(value)}
        for name, value in figures.items():
            report(f"{self.settings.network} {name}: {value:.4f}")
        return figures

    def score_rows(self, rows):
        """P(fake) of whole crops, as `tfdfd detect` would hand them over."""
        canvases, _, sizes = self.on_device
        scores = [np.zeros(0)]
        for start in range(0, len(rows), _SCORED_AT_ONCE):
            part = rows[start : start + _SCORED_AT_ONCE]
            padded = jnp.asarray(np.resize(part, _SCORED_AT_ONCE))
            pictures = blending.whole_crops(canvases, sizes, padded, self.size)
            scores.append(np.asarray(self.score(pictures))[: len(part)])
        return np.concatenate(scores)

    def score_blends(self, rows, swapped: bool):
        """P(fake) of genuine crops, and of blends of them that are the same in each training."""
        genuine, blends = [np.zeros(0)], [np.zeros(0)]
        # A training batch's shapes are compiled already; one of blends alone pays if most of that batch is pairs.
        labeled, half = self.settings.pairs, self.settings.blends
        if labeled > half:
            labeled, half = 0, labeled + half
        pairs = np.zeros(labeled, np.int32)
        for start in range(0, len(rows), half):
            part = rows[start : start + half]
            padded = np.resize(part, half).astype(np.int32)
            donors = self.pack.donors[padded, 0]
            key = jax.random.key(zlib.crc32(f"validation {start}".encode()))
            pictures, _, _ = self._pictures((pairs, pairs, padded, donors, (donors != padded) & swapped), key)
            scores = np.asarray(self.score(pictures))[2 * labeled :]
            genuine.append(scores[: len(part)])
            blends.append(scores[half : half + len(part)])
        return np.concatenate(genuine), np.concatenate(blends)


def _begin_with(run, both, model):
    """Loads the averaged weights of a finished run, those of its mask head too."""
    files = run / WEIGHTS, run / MASK_FILE
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"weights=packed:{run}: {run} lacks {', '.join(missing)}; give the folder of a finished run.")
    load_safetensors(model, files[0])
    with np.load(files[1]) as arrays:
        for weight in both.get_layer(MASK_HEAD).weights:
            weight.assign(arrays[f"{MASK_HEAD}/{weight.name}"])


def load_teacher(run: str | os.PathLike, pack: Pack, on_device=None) -> Trainer:
    """The network of another packed run, with its averaged weights.

    Args:
        run: folder of the run, or its `state.npz`.
        pack: any pack; the teacher is not trained.
        on_device: see `Trainer`.

    Raises:
        ValueError: there is no state, or it is damaged.
    """
    file = Path(run)
    file = file / STATE if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"the teacher {run} has no {STATE}; give the folder of a packed run.")
    state = _read_state(file)
    settings = json.loads(str(state["settings"]))
    settings = Settings(**settings | {"without": tuple(settings["without"])})
    teacher = Trainer(pack, settings, on_device=on_device)
    teacher._take(file, state)
    return teacher


def auc(labels, scores) -> float:
    """`tfdfd.metrics.auc`; NaN where a class is missing."""
    try:
        return metrics.auc(np.ravel(labels), np.ravel(scores))
    except metrics.MetricError:
        return np.nan


def by_video(videos, labels, scores):
    """Labels and mean scores of videos."""
    names, first, places = np.unique(videos, return_index=True, return_inverse=True)
    return labels[first], np.bincount(places, scores, len(names)) / np.bincount(places, minlength=len(names))


def _torch_step(network, settings, averaged_others):
    try:
        from tools.packed.torch_network import TorchStep
    except ImportError as error:
        raise ValueError(
            f"engine=torch needs PyTorch, which cannot be imported ({error}): pip install torch."
        ) from error
    return TorchStep(network, settings, averaged_others)


def _read_state(file):
    try:
        with np.load(file) as archive:
            state = {name: archive[name] for name in archive.files}
        missing = {"settings", "step", "log"} - state.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    # NumPy raises many types of exceptions for a truncated or foreign file.
    except Exception as error:
        raise ValueError(f"{file} is not a training's state: {error}; remove it to start anew.") from error
    return state


def _line(entry, steps):
    figures = [
        f"{name} {value}" for name, value in entry.items() if name not in ("step", "seconds") and value is not None
    ]
    return ", ".join([f"step {entry['step']}/{steps}", *figures, f"{_duration(entry['seconds'])} done"])


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
