"""S3's training: a new last layer on stored features ("bottlenecks") of a frozen network.

Section IV of the document: a fully connected layer with a softmax of two classes, plain gradient descent, `steps` steps
of `batch_size` crops drawn at random from the training set, with replacement. A softmax of two classes is a sigmoid of
the difference, so the layer's two columns become the one of `fake_probability`, with equal outputs. The weights of the
last step are kept, as in the document; no step is selected.

A feature cache is a folder, named by a digest of everything that features depend on except the crops: the network with
its arguments, the digest of its weights, size and layer, how crops are prepared, backend and precision. A change of any
of them gives another folder, so the cache never returns stale features. It contains pieces of up to `PIECE` crops,
NumPy arrays of (digest of a crop's file, features). A piece is named by the digest of its bytes, so a damaged piece is
detected, removed and computed again. Pieces are written atomically: a run that was killed resumes after the last one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdfd.data.crops import Faces
from tfdfd.files import sha256, write_atomically
from tfdfd.models import build
from tfdfd.models.blocks import freeze
from tfdfd.pipelines.datasets import eval_pipeline
from tfdfd.training import TrainingError, pipeline_errors
from tfdfd.training.calibrate import finish
from tfdfd.training.crop_set import TRAIN, VAL, CropSet, validation_metrics
from tfdfd.training.engine import Report
from tfdfd.training.history import write_history
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import RunFolder
from tfdfd.weights import cache_folder
from tfdfd.weights.loading import HEAD

# Increase it when `tfdfd.pipelines` decodes or resizes crops to other pixels than before.
PREPARATION = 1
PIECE = 256
BATCH = 32
FOLDER = "bottlenecks"
ROWS_EVERY = 100
NOTES_EVERY = 30.0
_BLOCK = 1 << 20
# Settings of a recipe that do not apply to gradient descent on stored features, and their only accepted values.
_FIXED = {
    "order": "shuffled",
    "augment": None,
    "optimizer": "sgdm",
    "schedule": "constant",
    "loss": "binary_crossentropy",
    "loss_scale": False,
    "gradient_noise": None,
    "ema": None,
    "gradient_flow": False,
    "patience": None,
}


class BottleneckCache:
    """Cache of one layer's features of a frozen network, for crops of any face set.

    Args:
        network: a network of `tfdfd.models` with its weights. It runs in inference mode, with the statistics of its
            norms.
        name: name of the network in `tfdfd.models`.
        arguments: arguments of its builder.
        folder: folder of the caches, see `folder_beside`.
        layer: layer whose output `(batch, width)` is stored.

    Attributes:
        configuration: everything that features depend on, as in `network.json` of the cache.
        path: folder of this cache.
        width: number of features of a crop.

    Raises:
        ValueError: the network has no such layer, or the layer's output is not `(batch, width)`.
    """

    def __init__(
        self,
        network: keras.Model,
        name: str,
        arguments: Mapping,
        folder: str | os.PathLike,
        layer: str = "features",
    ):
        if layer not in [known.name for known in network.layers]:
            raise ValueError(f"{network.name} has no layer {layer!r}; give one whose output is to be stored.")
        self._body = keras.Model(network.input, network.get_layer(layer).output)
        if len(self._body.output_shape) != 2:
            raise ValueError(
                f"the layer {layer!r} of {network.name} gives {self._body.output_shape}; expected (batch, width)."
            )
        self.width = self._body.output_shape[1]
        self.configuration = {
            "network": name,
            "arguments": {key: value for key, value in arguments.items() if key != "freeze"},
            "size": list(network.input_shape[1:3]),
            "layer": layer,
            "weights_sha256": _digest_of(self._body),
            "preparation": PREPARATION,
            "backend": keras.backend.backend(),
            "precision": keras.config.dtype_policy().name,
        }
        self._key = json.dumps(self.configuration, sort_keys=True).encode()
        self.path = Path(folder) / f"{name}-{hashlib.sha256(self._key).hexdigest()[:16]}"
        self._kind = np.dtype([("image", "u1", 32), ("values", "<f4", self.width)])

    def values(self, faces: Faces, tell: Callable[[int, int], None] | None = None) -> Bottlenecks:
        """Returns the features of each crop, computing and storing those that the cache lacks.

        Crops are identified by the current digest of their files, whatever their table says. Memory holds one piece and
        one digest per crop; features stay on disk until they are taken.

        Args:
            faces: the crops.
            tell: called after each piece with the number of computed crops and the number to compute.

        Raises:
            TrainingError: a crop cannot be read or decoded, a feature is not finite, or the cache cannot be written;
                completed pieces stay.
        """
        digests = [_digest_of_file(faces.path(position)) for position in range(len(faces.rows))]
        pieces, locations, removed = self._opened()
        first: dict[bytes, int] = {}
        for position, digest in enumerate(digests):
            if digest not in locations:
                first.setdefault(digest, position)
        missing = list(first.values())
        for start in range(0, len(missing), PIECE):
            positions = missing[start : start + PIECE]
            piece = self._computed(faces, positions, [digests[position] for position in positions])
            locations |= {piece["image"][row].tobytes(): (len(pieces), row) for row in range(len(piece))}
            pieces.append(self._stored(piece))
            if tell:
                tell(start + len(positions), len(missing))
        where = np.array([locations[digest] for digest in digests], np.int64).reshape(-1, 2)
        return Bottlenecks([piece["values"] for piece in pieces], where, self.width, len(missing), removed)

    def _opened(self) -> tuple[list[np.ndarray], dict[bytes, tuple[int, int]], int]:
        """Removes damaged pieces; returns the others, piece and row by digest of a crop, and the number removed."""
        removed = 0
        pieces: list[np.ndarray] = []
        locations: dict[bytes, tuple[int, int]] = {}
        for path in sorted(self.path.glob("*.npy")):
            try:
                is_intact = self._name(_blocks(path)) == path.name
            except FileNotFoundError:  # removed as damaged by another run
                continue
            if not is_intact:
                path.unlink(missing_ok=True)
                removed += 1
                continue
            piece = _mapped(path)
            locations |= {image.tobytes(): (len(pieces), row) for row, image in enumerate(piece["image"])}
            pieces.append(piece)
        return pieces, locations, removed

    def _computed(self, faces: Faces, positions: Sequence[int], digests: Sequence[bytes]) -> np.ndarray:
        part = Faces(faces.root, tuple(faces.rows[position] for position in positions))
        with pipeline_errors("bottlenecks"):
            # All batches have the same size, so that features do not depend on the number of crops.
            batches = eval_pipeline(part, tuple(self.configuration["size"]), BATCH, split=None, pad=True)
            values = np.asarray(self._body.predict(batches, verbose=0), np.float32)[: len(positions)]
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise TrainingError(
                f"{self.configuration['network']} computes features of {part.path(int(np.argmin(finite)))} that are "
                "not finite: its weights are damaged."
            )
        piece = np.empty(len(positions), self._kind)
        piece["image"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        piece["values"] = values
        return piece

    def _stored(self, piece: np.ndarray) -> np.ndarray:
        data = _npy(piece)
        path = self.path / self._name([data])
        try:
            if not (self.path / "network.json").exists():
                self.path.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path / "network.json", json.dumps(self.configuration, indent=1) + "\n")
            write_atomically(path, data)
        except OSError as error:
            raise TrainingError(
                f"{path} could not be written: {error}. Completed pieces stay; free some space, then repeat the same "
                "command to resume."
            ) from error
        return _mapped(path)

    def _name(self, blocks: Iterable[bytes]) -> str:
        digest = hashlib.sha256(self._key)
        for block in blocks:
            digest.update(block)
        return f"{digest.hexdigest()}.npy"


class Bottlenecks:
    """A layer's features of crops, on disk: float32 `(crops, width)`.

    Attributes:
        width: number of features of a crop.
        computed: number of distinct crops that were not in the cache.
        removed: number of damaged pieces of the cache.
    """

    def __init__(self, pieces: list[np.ndarray], where: np.ndarray, width: int, computed: int, removed: int):
        self._pieces, self._where = pieces, where
        self.width, self.computed, self.removed = width, computed, removed

    def __len__(self) -> int:
        return len(self._where)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Returns the features of the crops at these positions, float32 `(positions, width)`."""
        where = self._where[np.asarray(positions, np.int64)]
        values = np.empty((len(where), self.width), np.float32)
        for number in set(where[:, 0].tolist()):
            here = where[:, 0] == number
            values[here] = self._pieces[number][where[here, 1]]
        return values

    def blocks(self, size: int = 4096) -> Iterator[np.ndarray]:
        """Yields all features in order, up to `size` crops at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


def folder_beside(faces: Faces) -> Path:
    """Returns `bottlenecks/` beside the crops if it is writable, else in the user's cache folder."""
    folder = Path(faces.root) / FOLDER
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return cache_folder() / FOLDER


def _digest_of(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype} {values.shape}\0".encode())
        digest.update(values)  # type: ignore[arg-type]
    return digest.hexdigest()


def _digest_of_file(path: str) -> bytes:
    try:
        return bytes.fromhex(sha256(path))
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}.") from error


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array(data, array, allow_pickle=False)
    return data.getvalue()


def _mapped(path: Path) -> np.ndarray:
    # A plain view of the mapped file: indexing single rows of `np.memmap` is slow.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class SoftmaxLayer:
    """A fully connected layer with a softmax of two classes (0 real, 1 fake) and its gradient descent, in float64.

    Args:
        width: width of its input.
        seed: seed of its initial weights, normal with a standard deviation of 0.001.
        rate: learning rate.
        momentum: share of the last step that is added to the next one; 0 for plain gradient descent.
    """

    def __init__(self, width: int, seed: int, rate: float, momentum: float = 0.0):
        self.kernel = np.random.default_rng([seed, 0]).normal(0, 0.001, (width, 2))
        self.bias = np.zeros(2)
        self._rate, self._momentum = rate, momentum
        self._speed = [np.zeros_like(self.kernel), np.zeros_like(self.bias)]

    def step(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Takes one step on the mean cross-entropy of crops: features `(n, width)`, labels `(n,)` of 0 and 1."""
        logits = values @ self.kernel + self.bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = shares / shares.sum(axis=1, keepdims=True)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        gradients = values.T @ error, error.sum(axis=0)
        for weights, speed, gradient in zip((self.kernel, self.bias), self._speed, gradients, strict=True):
            speed *= self._momentum
            speed -= self._rate * gradient
            weights += speed

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel `(width, 1)` and bias `(1,)`, float32, of the sigmoid that equals the softmax's class 1."""
        with np.errstate(over="ignore"):
            kernel, bias = ((part[..., 1:] - part[..., :1]).astype(np.float32) for part in (self.kernel, self.bias))
            return kernel, bias


def train_bottleneck(recipe: Recipe, crops: CropSet, run: RunFolder, report: Report) -> dict:
    """Trains the last layer of `recipe.network`; all other layers are frozen.

    A resumed run reuses the stored features and repeats the steps, which take a second.

    Returns:
        The result, with table 2's metrics of crops before calibration: `train_accuracy`, `train_cross_entropy` and
        `val_crop_accuracy` (at 0.5), and the seconds for features and for steps.

    Raises:
        ValueError: a setting does not apply to this procedure, or the network has no weights.
        TrainingError: a crop cannot be read, or an output is not finite.
    """
    _check(recipe)
    model = freeze(build(recipe.network, recipe.weights, (crops.size, crops.size, 3), **recipe.arguments), "all")
    start_time = time.monotonic()
    faces = {split: crops.faces(split) for split in (TRAIN, VAL)}
    cache = BottleneckCache(model, recipe.network, recipe.arguments, folder_beside(faces[TRAIN]))
    stored = {split: cache.values(part, _PeriodicNotes(report, split)) for split, part in faces.items()}
    values_seconds = time.monotonic() - start_time
    for split, values in stored.items():
        damaged = f"; {values.removed} damaged pieces were removed" if values.removed else ""
        report.note(f"{split}: values of {values.computed:,} of {len(values):,} crops were computed{damaged}")
    layer, history = _descend(recipe, faces, stored, report)
    write_history(run.path, history, recipe.name)
    model.get_layer(HEAD).set_weights(layer.folded())
    last = history[-1]
    facts = {
        "steps": recipe.steps,
        "train_accuracy": last["accuracy"],
        "train_cross_entropy": last["loss"],
        "val_crop_accuracy": last["val_accuracy"],
        "values_computed": sum(values.computed for values in stored.values()),
        "values_seconds": round(values_seconds, 2),
        "training_seconds": round(time.monotonic() - start_time, 2),
        "bottlenecks": str(cache.path),
    }
    return finish(model, recipe, crops, run, facts)


def _check(recipe: Recipe) -> None:
    if recipe.weights is None:
        raise ValueError(
            f"{recipe.name} keeps {recipe.network} unchanged, so it must have weights: set weights=imagenet, "
            "weights=imagenet:FILE, a handle or a file."
        )
    if recipe.steps is None:
        raise ValueError(f"{recipe.name} counts steps, not epochs: set steps=2500, as S3 does, or another number.")
    if recipe.arguments.get("freeze", "all") != "all":
        raise ValueError(
            f"stored features need a frozen network; received arguments.freeze={recipe.arguments['freeze']}. Omit it, "
            "or train by another recipe."
        )
    for name, expected in _FIXED.items():
        value = getattr(recipe, name)
        if value != expected:
            only = "none" if expected is None else str(expected).lower()
            raise ValueError(f"the bottleneck procedure takes {name}={only} only; received {name}={value}.")


def _descend(
    recipe: Recipe, faces: dict[str, Faces], stored: dict[str, Bottlenecks], report: Report
) -> tuple[SoftmaxLayer, list[dict[str, Any]]]:
    """Returns the trained layer, and a row of the log every `ROWS_EVERY` steps."""
    labels = {split: np.array([row.label for row in part.rows]) for split, part in faces.items()}
    layer = SoftmaxLayer(stored[TRAIN].width, recipe.seed, recipe.learning_rate, recipe.momentum)
    draw, start_time, history = np.random.default_rng([recipe.seed, 1]), time.monotonic(), []
    for step in range(1, recipe.steps + 1):  # type: ignore[operator]
        chosen = draw.integers(len(labels[TRAIN]), size=recipe.batch_size)
        layer.step(stored[TRAIN].take(chosen), labels[TRAIN][chosen])
        if step % ROWS_EVERY and step != recipe.steps:
            continue
        training = validation_metrics(faces[TRAIN].rows, _scores(layer, stored[TRAIN], step))
        row = {"step": step, "learning_rate": recipe.learning_rate}
        row |= {"loss": training["val_loss"], "accuracy": training["val_accuracy"]}
        row |= validation_metrics(faces[VAL].rows, _scores(layer, stored[VAL], step))
        history.append(row | {"seconds": round(time.monotonic() - start_time, 2)})
        report.step(0, 1, step, recipe.steps, row["loss"])  # type: ignore[arg-type]
    return layer, history


def _scores(layer: SoftmaxLayer, values: Bottlenecks, step: int) -> np.ndarray:
    kernel, bias = layer.folded()
    with np.errstate(all="ignore"):
        logits = np.concatenate([block @ kernel + bias for block in values.blocks()])[:, 0].astype(np.float64)
    if not np.isfinite(logits).all():
        raise TrainingError(f"after step {step} the network's outputs are not finite: lower learning_rate.")
    return np.exp(-np.logaddexp(0, -logits))


class _PeriodicNotes:
    """Reports the number of computed features periodically."""

    def __init__(self, report: Report, split: str) -> None:
        self._report, self._split, self._last = report, split, time.monotonic()

    def __call__(self, done: int, count: int) -> None:
        if time.monotonic() - self._last >= NOTES_EVERY:
            self._last = time.monotonic()
            self._report.note(f"{self._split}: values of {done:,} of {count:,} crops")
