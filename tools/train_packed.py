"""Trains any network of `tfdfd.models` from packed files, with NumPy, Keras and JAX alone: for an hour of a GPU.

    python -m tools.train_packed PACK.npz [PACK-2.npz …] NETWORK -o RUN --weights imagenet:FILE --steps 4000

The pack is of `python -m tools.packed.pack`. Each batch holds pairs of a genuine face and a real deepfake of the same
target video, methods in equal shares, and pairs of a genuine face and a blend of it, sources in fixed shares; blending
and degradation run on the device (`tools.packed.blending`). What is kept is the moving average of the weights at the
last step: nothing is chosen on validation, whose figures are only told. The state is saved every two minutes, and the
same command goes on from it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np

from tfdfd.files import write_atomically
from tfdfd.models import build
from tools.packed import blending
from tools.packed.blending import SIDE

# Of the blended pairs, by data set; what a pack lacks falls to the rest.
SOURCE_SHARES = {"utk": 0.3, "ffpp": 0.32, "talking_heads": 0.14, "ffhq": 0.1, "voxceleb2": 0.08, "grid": 0.06}
SAVE_SECONDS = 120
_EVALUATED = 128
_STATE, _LOG, _WEIGHTS = "state.npz", "log.json", "weights.safetensors"


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        network: of `tfdfd.models`.
        arguments: of its builder.
        size: side of its pictures, or None for its own.
        weights: as `tfdfd.models.build` takes them.
        steps: optimizer steps.
        pairs: labeled pairs in a batch.
        blends: genuine faces in a batch that a blend of is made.
        learning_rate: after `warm_up` of the steps; it falls to 0 by half a cosine.
        warm_up: share of the steps.
        weight_decay: of kernels (AdamW).
        ema: decay of the moving average of weights.
        smoothing: of labels, in [0, 0.5).
        swapped: share of blends that take another person's face.
        mask_weight: of telling where a blend lies, against 1 of the labels.
        teacher_weight: of imitating the teacher, in [0, 1]; labels have the rest.
        without: methods of labeled fakes that training leaves out.
        precision: Keras's policy.
        seed: of everything random.
    """

    network: str
    arguments: dict
    weights: str | None
    size: int | None = None
    steps: int = 4000
    pairs: int = 32
    blends: int = 32
    learning_rate: float = 5e-4
    warm_up: float = 0.05
    weight_decay: float = 0.02
    ema: float = 0.998
    smoothing: float = 0.05
    swapped: float = 0.25
    mask_weight: float = 0.3
    teacher_weight: float = 0.5
    without: tuple[str, ...] = ()
    precision: str = "mixed_bfloat16"
    seed: int = 0


class Pack:
    """The crops of packed files: columns as arrays, pictures on canvases of `SIDE` pixels.

    Raises:
        ValueError: a file is cut short, is no pack, or a part is missing; or people are in both splits.
    """

    def __init__(self, files):
        parts = [_columns(Path(file)) for file in files]
        numbers = np.concatenate([part["numbers"] for part in parts])
        count = int(parts[0]["count"])
        if sorted(numbers) != list(range(count)):
            raise ValueError(
                f"{', '.join(map(str, files))} hold {len(numbers)} of {count} crops; give all parts of one pack."
            )
        order = np.argsort(numbers)
        for name in ("dataset", "video", "method", "source_id", "split"):
            setattr(self, name, np.concatenate([part[name] for part in parts])[order])
        self.label = np.concatenate([part["label"] for part in parts])[order].astype(int)
        self.points = np.concatenate([part["points"] for part in parts])[order].astype(np.float32)
        self.sizes = np.concatenate([part["sizes"] for part in parts])[order].astype(np.float32)
        self.donors = np.concatenate([part["donors"] for part in parts])[order]
        self.canvases = np.zeros((count, SIDE, SIDE, 3), np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for part in parts:
                ends = np.cumsum(part["lengths"])
                crops = (part["crops"][end - n : end].tobytes() for end, n in zip(ends, part["lengths"], strict=True))
                for number, pixels in zip(part["numbers"], pool.map(_decoded, crops), strict=True):
                    self.canvases[number, : pixels.shape[0], : pixels.shape[1]] = pixels
        self._refuse_leaks()

    def _refuse_leaks(self):
        sources = [
            {source for row in np.flatnonzero(self.split == split) for source in self.source_id[row].split(";")}
            for split in ("train", "val")
        ]
        shared = sorted(sources[0] & sources[1])
        if shared:
            raise ValueError(
                f"{len(shared)} sources are in training and in validation, such as {shared[0]!r}; split the set by "
                "its sources (tfdfd split)."
            )


class Sampler:
    """Which crops are in the batch of a step: of the step's number and the seed alone."""

    def __init__(self, pack: Pack, settings: Settings):
        self._pack, self._settings = pack, settings
        train = pack.split == "train"
        labeled = np.flatnonzero(train & (pack.label == 1) & ~np.isin(pack.method, settings.without))
        if settings.pairs and not len(labeled):
            raise ValueError("the pack has no fakes to train on; set pairs=0 to train on blends alone.")
        # A fake stands beside its target, the first of its two sources.
        self._fakes = {}
        for row in labeled:
            target = pack.source_id[row].split(";")[0]
            self._fakes.setdefault(target, {}).setdefault(pack.method[row], []).append(row)
        genuine = np.flatnonzero(train & (pack.label == 0))
        videos = {}
        for row in genuine:
            videos.setdefault(pack.dataset[row], {}).setdefault(pack.video[row], []).append(row)
        self._videos = {name: list(rows.values()) for name, rows in videos.items()}
        self._paired = [
            (rows, self._fakes[target])
            for rows in (rows for name in videos for rows in videos[name].values())
            if (target := pack.source_id[rows[0]].split(";")[0]) in self._fakes
        ]
        if settings.pairs and not self._paired:
            raise ValueError("no fake of the pack stands beside a genuine crop of its target video.")
        shares = np.array([SOURCE_SHARES.get(name, 0.1) for name in self._videos])
        self._names, self._shares = list(self._videos), shares / shares.sum()

    def __call__(self, step: int):
        settings, rng = self._settings, np.random.default_rng([self._settings.seed, step])
        reals, fakes = [], []
        for choice in rng.integers(len(self._paired), size=settings.pairs) if self._paired else ():
            rows, methods = self._paired[choice]
            method = rng.choice(sorted(methods))
            reals.append(rng.choice(rows))
            fakes.append(rng.choice(methods[method]))
        blended = []
        for name in rng.choice(self._names, p=self._shares, size=settings.blends):
            video = self._videos[name][rng.integers(len(self._videos[name]))]
            blended.append(rng.choice(video))
        blended = np.array(blended, np.int32)
        donors = self._pack.donors[blended, rng.integers(self._pack.donors.shape[1], size=len(blended))]
        swapped = (rng.random(len(blended)) < settings.swapped) & (donors != blended)
        return np.array(reals, np.int32), np.array(fakes, np.int32), blended, donors, swapped


class Trainer:
    """A network in training. `compile()` may run in a thread of its own before `run()`.

    Args:
        pack: what is trained on.
        settings: how.
        on_device: `(canvases, points, sizes)` of the pack as JAX arrays, shared by trainers; None: put there here.
        teacher: another trainer, whose averaged weights are imitated; its pictures must be of the same size.
    """

    def __init__(self, pack, settings, on_device=None, teacher=None):
        self.pack, self.settings, self.teacher = pack, settings, teacher
        self.on_device = on_device or put_on_device(pack)
        keras.utils.set_random_seed(settings.seed)
        keras.config.set_dtype_policy(settings.precision)
        shape = (settings.size, settings.size, 3) if settings.size else None
        try:
            self.model = build(settings.network, settings.weights, shape, **settings.arguments)
            self.size = self.model.input_shape[1]
            self.both, self.grid = with_mask_head(self.model)
        finally:
            keras.config.set_dtype_policy("float32")
        self.sampler = Sampler(pack, settings)
        self.trained = [v.value for v in self.both.trainable_variables]
        self.other = [v.value for v in self.both.non_trainable_variables]
        self._averaged_others = [
            i for i, v in enumerate(self.both.non_trainable_variables) if "moving_" in v.path.rpartition("/")[2]
        ]
        zeros = [jnp.zeros_like(value) for value in self.trained]
        self.moments = (zeros, [jnp.zeros_like(value) for value in zeros])
        self.ema = [jnp.array(value) for value in self.trained]
        self.ema_others = [jnp.array(self.other[i]) for i in self._averaged_others]
        self.step, self.log = 0, []
        self._decayed = [len(value.shape) > 1 for value in self.trained]
        self._update = jax.jit(self._update_weights, donate_argnums=(0, 1, 2, 3, 4))
        self._score = jax.jit(lambda trained, other, x: self.both.stateless_call(trained, other, x, training=False)[0])

    def compile(self):
        """Compiles the step ahead of time."""
        abstract = lambda tree: jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), tree)
        count, pictures = self._count(), (self._count(), self.size, self.size, 3)
        self._update = self._update.lower(
            *abstract((self.trained, self.other, self.moments, self.ema, self.ema_others)),
            jax.ShapeDtypeStruct(pictures, jnp.float32),
            jax.ShapeDtypeStruct((count, self.grid, self.grid), jnp.float32),
            jax.ShapeDtypeStruct((count,), jnp.float32),
            jax.ShapeDtypeStruct((count,), jnp.float32),
            jax.ShapeDtypeStruct((), jnp.float32),
            jax.ShapeDtypeStruct((), jnp.float32),
        ).compile()
        return self

    def _count(self):
        return 2 * (self.settings.pairs + self.settings.blends)

    def labels(self):
        a, b = self.settings.pairs, self.settings.blends
        return np.concatenate([np.zeros(a), np.ones(a), np.zeros(b), np.ones(b)]).astype(np.float32)

    def batch(self, step):
        """Pictures, masks and which masks are known, of a step."""
        key = jax.random.key(zlib.crc32(f"{self.settings.seed} {step}".encode()))
        return blending.batch_of_pairs(
            *self.on_device, *map(jnp.asarray, self.sampler(step)), key=key, out=self.size, grid=self.grid
        )

    def loss(self, trained, other, pictures, masks, known, targets):
        """Cross-entropy of labels and of masks, and the variables that a step changes besides."""
        (fake, mask), other = self.both.stateless_call(trained, other, pictures, training=True)
        fake = jnp.clip(fake[:, 0].astype(jnp.float32), 1e-6, 1 - 1e-6)
        of_labels = -(targets * jnp.log(fake) + (1 - targets) * jnp.log(1 - fake)).mean()
        mask = jnp.clip(mask[..., 0].astype(jnp.float32), 1e-6, 1 - 1e-6)
        of_masks = -(masks * jnp.log(mask) + (1 - masks) * jnp.log(1 - mask)).mean(axis=(1, 2))
        of_masks = (of_masks * known).sum() / jnp.maximum(known.sum(), 1)
        return of_labels + self.settings.mask_weight * of_masks, (other, of_labels, fake)

    def _update_weights(self, trained, other, moments, ema, ema_others, pictures, masks, known, targets, step, rate):
        (_, (other, of_labels, fake)), gradients = jax.value_and_grad(self.loss, has_aux=True)(
            trained, other, pictures, masks, known, targets
        )
        norm = jnp.sqrt(sum(jnp.square(g.astype(jnp.float32)).sum() for g in gradients))
        gradients = [g * jnp.minimum(1.0, 1.0 / (norm + 1e-6)) for g in gradients]
        first = [0.9 * m + 0.1 * g for m, g in zip(moments[0], gradients, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(moments[1], gradients, strict=True)]
        ahead = step + 1
        new = []
        for value, m, v, decayed in zip(trained, first, second, self._decayed, strict=True):
            change = (m / (1 - 0.9**ahead)) / (jnp.sqrt(v / (1 - 0.999**ahead)) + 1e-8)
            new.append(value - rate * (change + self.settings.weight_decay * decayed * value))
        decay = jnp.minimum(self.settings.ema, ahead / (ahead + 9))
        ema = [decay * old + (1 - decay) * value for old, value in zip(ema, new, strict=True)]
        ema_others = [
            decay * old + (1 - decay) * other[i] for old, i in zip(ema_others, self._averaged_others, strict=True)
        ]
        return new, other, (first, second), ema, ema_others, of_labels, fake

    def rate(self, step):
        """The learning rate of a step."""
        settings = self.settings
        warm = max(1.0, settings.warm_up * settings.steps)
        if step < warm:
            return settings.learning_rate * (step + 1) / warm
        return settings.learning_rate * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1.0, settings.steps - warm)))

    def advance(self):
        """One step; the loss and P(fake) of its batch, on the device."""
        pictures, masks, known = self.batch(self.step)
        settings, targets = self.settings, jnp.asarray(self.labels())
        targets = targets * (1 - 2 * settings.smoothing) + settings.smoothing
        if self.teacher is not None:
            imitated = self.teacher.score(pictures)
            targets = settings.teacher_weight * imitated + (1 - settings.teacher_weight) * targets
        *state, loss, fake = self._update(
            self.trained, self.other, self.moments, self.ema, self.ema_others, pictures, masks, known, targets,
            jnp.float32(self.step), jnp.float32(self.rate(self.step)),
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
        """P(fake) of pictures by the averaged weights, float32 `(n,)`, on the device."""
        return self._score(*self.averaged(), pictures)[0][:, 0].astype(jnp.float32)

    def run(self, folder=None, seconds=None, say=print):
        """Trains until the last step, or for so many seconds; True when the last step is done."""
        begun = saved = time.monotonic()
        told, losses = self.step, []
        while self.step < self.settings.steps:
            loss, fake = self.advance()
            losses.append((loss, fake))
            if self.step % 100 == 0 or self.step == self.settings.steps:
                values = [float(value) for value, _ in losses]
                sides = self.labels() == 1
                scores = np.stack([np.asarray(fake) for _, fake in losses[-20:]])
                parts = [scores[:, : 2 * self.settings.pairs], scores[:, 2 * self.settings.pairs :]]
                own = [sides[: 2 * self.settings.pairs], sides[2 * self.settings.pairs :]]
                areas = [auc(np.tile(label, len(part)), part.ravel()) for part, label in zip(parts, own, strict=True)]
                if not np.isfinite(values).all():
                    raise ValueError(f"the loss is not finite at step {self.step}; lower the learning rate.")
                now = time.monotonic()
                entry = {
                    "step": self.step,
                    "loss": round(float(np.mean(values)), 4),
                    "auc_pairs": round(areas[0], 4),
                    "auc_blends": round(areas[1], 4),
                    "seconds": round(now - begun, 1),
                }
                self.log.append(entry)
                left = (now - begun) / (self.step - told) * (self.settings.steps - self.step)
                say(f"{self.settings.network} {entry} {left:.0f} s left")
                losses = []
            now = time.monotonic()
            if folder is not None and now - saved > SAVE_SECONDS:
                self.save(folder)
                saved = now
            if seconds is not None and now - begun > seconds:
                break
        if folder is not None:
            self.save(folder)
        return self.step >= self.settings.steps

    def save(self, folder):
        """The state that training goes on from."""
        arrays = {"step": np.int64(self.step), "settings": np.array(json.dumps(_plain(self.settings)))}
        arrays["log"] = np.array(json.dumps(self.log))
        for name, values in self._state().items():
            arrays |= {f"{name}/{i}": np.asarray(value) for i, value in enumerate(values)}
        import io

        held = io.BytesIO()
        np.savez(held, **arrays)
        write_atomically(Path(folder) / _STATE, held.getvalue())

    def resume(self, folder):
        """Goes on from a saved state, if there is one.

        Raises:
            ValueError: it is of other settings.
        """
        file = Path(folder) / _STATE
        if not file.is_file():
            return self
        with np.load(file) as state:
            before = json.loads(str(state["settings"]))
            now = _plain(self.settings)
            changed = [name for name in now if before.get(name) != now[name]]
            if changed:
                raise ValueError(
                    f"{folder} was begun with other settings ({', '.join(changed)}); give those, or another folder."
                )
            self.step, self.log = int(state["step"]), json.loads(str(state["log"]))
            parts = {
                name: [jnp.asarray(state[f"{name}/{i}"]) for i in range(len(values))]
                for name, values in self._state().items()
            }
        self.trained, self.moments = parts["trained"], (parts["first"], parts["second"])
        self.ema, self.ema_others = parts["ema"], parts["ema_others"]
        # Frozen kernels are in the initial weights; what training changes besides is saved.
        for i, value in zip(self._changing(), parts["other"], strict=True):
            self.other[i] = value
        return self

    def _changing(self):
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

    def assign(self):
        """Puts the averaged weights into the Keras model."""
        trained, other = self.averaged()
        for variable, value in zip(self.both.trainable_variables, trained, strict=True):
            variable.assign(value)
        for variable, value in zip(self.both.non_trainable_variables, other, strict=True):
            variable.assign(value)
        return self.model

    def arrays(self):
        """What training has changed of the network and its mask head, averaged, by `<layer>/<weight>`."""
        from tfdfd.weights.saving import named_weights

        names = {id(v): name for name, v in named_weights(self.both).items()}
        trained, other = self.averaged()
        kept = dict(zip(map(id, self.both.trainable_variables), trained, strict=True))
        kept |= {id(self.both.non_trainable_variables[i]): other[i] for i in self._changing()}
        return {names[key]: np.asarray(value) for key, value in kept.items() if key in names}

    def evaluate(self, say=print):
        """Figures on the validation rows: labeled crops by method, and blends by source. Also all scores."""
        pack, rows = self.pack, np.flatnonzero(self.pack.split == "val")
        scores = self.score_rows(rows)
        figures = {}
        real = (pack.dataset[rows] == "ffpp") & (pack.label[rows] == 0)
        for method in ("all", *sorted(set(pack.method[rows][pack.label[rows] == 1]))):
            fake = (pack.label[rows] == 1) & ((pack.method[rows] == method) | (method == "all"))
            if not fake.any() or not real.any():
                continue
            chosen = real | fake
            figures[f"crops {method}"] = auc(pack.label[rows][chosen], scores[chosen])
            figures[f"videos {method}"] = auc(
                *by_video(pack.video[rows][chosen], pack.label[rows][chosen], scores[chosen])
            )
        for name in sorted(set(pack.dataset[rows])):
            own = rows[(pack.dataset[rows] == name) & (pack.label[rows] == 0)]
            for swapped in (False, True):
                genuine, blends = self.score_blends(own, swapped)
                labels = np.repeat([0, 1], [len(genuine), len(blends)])
                figures[f"{'swapped' if swapped else 'blended'} {name}"] = auc(
                    labels, np.concatenate([genuine, blends])
                )
            figures[f"genuine {name} above 0.5"] = float((scores[np.isin(rows, own)] >= 0.5).mean())
        for name, value in figures.items():
            say(f"{self.settings.network} {name}: {value:.4f}")
        return figures, {"rows": rows, "scores": scores}

    def score_rows(self, rows):
        """P(fake) of whole crops, as `tfdfd detect` would hand them over."""
        canvases, _, sizes = self.on_device
        scores = []
        for start in range(0, len(rows), _EVALUATED):
            part = rows[start : start + _EVALUATED]
            padded = jnp.asarray(np.resize(part, _EVALUATED))
            scores.append(np.asarray(self.score(_windows(canvases, sizes, padded, self.size)))[: len(part)])
        return np.concatenate(scores) if scores else np.zeros(0)

    def score_blends(self, rows, swapped):
        """P(fake) of genuine crops and of blends of them, always the same ones."""
        # The shapes of a training batch, which is compiled already.
        genuine, blends = [], []
        pairs, half = np.zeros(self.settings.pairs, np.int32), self.settings.blends
        for start in range(0, len(rows), half):
            part = rows[start : start + half]
            padded = np.resize(part, half).astype(np.int32)
            donors = self.pack.donors[padded, 0]
            pictures, _, _ = blending.batch_of_pairs(
                *self.on_device, jnp.asarray(pairs), jnp.asarray(pairs), jnp.asarray(padded), jnp.asarray(donors),
                jnp.asarray((donors != padded) & swapped), key=jax.random.key(zlib.crc32(f"validation {start}".encode())),
                out=self.size, grid=self.grid,
            )  # fmt: skip
            scores = np.asarray(self.score(pictures))[2 * len(pairs) :]
            genuine.append(scores[: len(part)])
            blends.append(scores[half : half + len(part)])
        return np.concatenate(genuine or [np.zeros(0)]), np.concatenate(blends or [np.zeros(0)])


def put_on_device(pack):
    """The pictures, points and sizes of a pack as JAX arrays."""
    return jnp.asarray(pack.canvases), jnp.asarray(pack.points), jnp.asarray(pack.sizes)


def with_mask_head(model):
    """The network with a second output, where something was blended in, and the side of its grid.

    The head stands on a transformer's tokens, or on the last feature map of stride 16 (the finest below, if none is).
    """
    from keras import layers

    side = model.input_shape[1] // 16
    tokens = [
        layer for layer in model.layers
        if isinstance(layer, layers.LayerNormalization) and len(layer.output.shape) == 3
    ]  # fmt: skip
    if tokens:
        found = tokens[-1].output
        found = layers.Lambda(lambda x: x[:, 1:], name="mask_tokens")(found)
        found = layers.Reshape((side, side, found.shape[-1]), name="mask_map")(found)
    else:
        maps = [
            layer.output for layer in model.layers
            if not isinstance(layer.output, list) and len(layer.output.shape) == 4 and layer.output.shape[1] == side
        ]  # fmt: skip
        if not maps:
            sides = {layer.output.shape[1] for layer in model.layers if len(getattr(layer.output, "shape", ())) == 4}
            side = max(s for s in sides if s <= side)
            maps = [layer.output for layer in model.layers if layer.output.shape[1:2] == (side,)]
        found = maps[-1]
    mask = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="mask_head")(found)
    return keras.Model(model.input, [model.output, mask]), side


def auc(labels, scores):
    """Area under the ROC curve, ties counted half; NaN where a class is missing."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    fakes, reals = (labels == 1).sum(), (labels == 0).sum()
    return float((ranks[labels == 1].sum() - fakes * (fakes + 1) / 2) / (fakes * reals)) if fakes * reals else np.nan


def by_video(videos, labels, scores):
    """Labels and mean scores of videos."""
    names, first, places = np.unique(videos, return_index=True, return_inverse=True)
    return labels[first], np.bincount(places, scores, len(names)) / np.bincount(places, minlength=len(names))


def _windows(canvases, sizes, rows, out):
    return _windows_of(canvases, sizes, rows, out)


_windows_of = jax.jit(
    lambda canvases, sizes, rows, out: jax.vmap(
        lambda row: jnp.clip(blending.window(canvases[row].astype(jnp.float32) / 255, sizes[row], out), 0, 1)
    )(rows),
    static_argnums=3,
)


def _columns(file):
    try:
        with np.load(file) as part:
            columns = {name: part[name] for name in part.files}
        missing = {"numbers", "count", "crops", "lengths", "points", "sizes", "donors", "label"} - columns.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if columns["lengths"].sum() != columns["crops"].size:
            raise ValueError("its crops are cut short")
    # NumPy reports a file that is cut short in many ways.
    except Exception as error:
        raise ValueError(f"{file} is no whole pack: {error}. Make it with python -m tools.packed.pack.") from error
    return columns


def _decoded(data):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _plain(settings):
    return json.loads(json.dumps(asdict(settings)))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.train_packed")
    parser.add_argument("packs", nargs="+", metavar="PACK.npz")
    parser.add_argument("network")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, such as steps=4000")
    parser.add_argument("--seconds", type=float, help="stop after so long; the same command goes on")
    options = parser.parse_args(arguments)
    from tfdfd.weights.saving import save_weights

    settings = _settings(options.network, options.set)
    trainer = Trainer(Pack(options.packs), settings).resume(options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    say = lambda text: print(text, file=sys.stderr, flush=True)
    if trainer.run(options.output, options.seconds, say):
        figures, _ = trainer.evaluate(say)
        save_weights(trainer.assign(), options.output / _WEIGHTS)
        log = {"settings": _plain(settings), "log": trainer.log, "validation": figures}
        write_atomically(options.output / _LOG, json.dumps(log, indent=1) + "\n")


def _settings(network, assignments):
    values, arguments = {}, {}
    known = {name: kind for name, kind in Settings.__annotations__.items()}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        name = key.removeprefix("arguments.")
        if not equals or (name == key and key not in known):
            raise SystemExit(f"a setting is KEY=VALUE with one of {', '.join(known)}; received {assignment!r}.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        (arguments if name != key else values)[name] = tuple(text.split(",")) if name == "without" else value
    return Settings(network=network, **{"arguments": arguments, "weights": None} | values)


if __name__ == "__main__":
    main()
