"""Twin of a network in tf_keras, pruned by tfmot, in a separate process; no module imports this one.

tfmot supports only tf_keras, and replaces `tf.keras` of the whole process by it. `tfdfd.pruning.child` starts the
process, lists the files of its work folder, and reads its messages.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from safetensors import safe_open
from safetensors.numpy import load_file, save

from tfdfd.child_process import Channel
from tfdfd.files import write_atomically
from tfdfd.pruning import CONSTANT, PRUNABLE, TWO_OF_FOUR, PruneOptions, mask_schedule
from tfdfd.runtime.equality import check_twin
from tfdfd.srm_kernels import DIVISORS, WHOLE
from tfdfd.training import TrainingError, pipeline_errors
from tfdfd.training.crop_set import CropSet, is_better, validate
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import best_weights, keep_best

_sparsity = tfmot.sparsity.keras


class SRM(tf_keras.layers.Layer):
    """`tfdfd.models.srm.SRM` in TensorFlow operations, for batches."""

    def __init__(self, kernels: np.ndarray, combine: Any, truncate: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._bank = np.stack([np.array(WHOLE[name], np.float32) / DIVISORS[name] for name in kernels], axis=-1)
        self._sums, self._truncate = combine == "sum", truncate

    def call(self, image: Any) -> tf.Tensor:
        if self._sums:
            image = tf.reduce_sum(image, axis=-1, keepdims=True)
        bank = np.repeat(self._bank[:, :, None, :], image.shape[-1], axis=2)
        image = tf.pad(image, [[0, 0], [2, 2], [2, 2], [0, 0]], "REFLECT")
        residual = tf.nn.depthwise_conv2d(image, bank, [1, 1, 1, 1], "VALID")
        return residual if self._truncate is None else tf.clip_by_value(residual, -self._truncate, self._truncate)


def _hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
    # That of tf_keras is Keras 2's, with another slope.
    return tf.nn.relu6(x + 3) / 6


ACTIVATIONS = {
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x: x * _hard_sigmoid(x),
    "linear": tf_keras.activations.linear,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "tanh": tf.tanh,
}
# Names that differ in tf_keras.
_SETTINGS = {"LeakyReLU": {"negative_slope": "alpha"}}
_WEIGHTS = {"DepthwiseConv2D": {"kernel": "depthwise_kernel"}}


class Twin:
    """A network in tf_keras, built from its graph specification, with all layers trainable.

    Attributes:
        layers: by path; of wrapped layers the inner ones.
        model: image -> `fake_probability`.
        proof: image -> `features` and `fake_probability`.
    """

    def __init__(self, graph: dict, wrap: Callable[[Any, str], Any] = lambda layer, kind: layer) -> None:
        self._graph = graph
        self.layers = {path: _layer(path, spec) for path, spec in graph["layers"].items()}
        called = {path: wrap(layer, graph["layers"][path]["class"]) for path, layer in self.layers.items()}
        image = tf_keras.Input(graph["input_shape"], name="image")
        made = {-1: image}
        for number, call in enumerate(graph["calls"]):
            sources = [made[source] for source in call["sources"]]
            made[number] = called[call["layer"]](sources if call["joins"] else sources[0])
        outputs = {name: made[number] for name, number in graph["outputs"].items()}
        self.model = tf_keras.Model(image, outputs["fake_probability"])
        self.proof = tf_keras.Model(image, outputs)

    def _variables(self) -> Iterator[tuple[str, Any]]:
        for path, spec in self._graph["layers"].items():
            names = _WEIGHTS.get(spec["class"], {})
            for weight, name in spec["weights"].items():
                yield name, getattr(self.layers[path], names.get(weight, weight))

    def set_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Sets all weights from arrays by name."""
        variables = dict(self._variables())
        if variables.keys() != weights.keys():
            raise ValueError(f"the twin has other weights than given: {sorted(variables.keys() ^ weights.keys())}.")
        for name, variable in variables.items():
            variable.assign(weights[name])

    def get_weights(self) -> dict[str, np.ndarray]:
        """All weights by name."""
        return {name: variable.numpy() for name, variable in self._variables()}


def _layer(path: str, spec: dict[str, Any]) -> Any:
    settings = dict(spec["settings"])
    if "activation" in settings:
        settings["activation"] = ACTIVATIONS[settings["activation"]]
    names = _SETTINGS.get(spec["class"], {})
    settings = {names.get(name, name): value for name, value in settings.items()}
    kind = SRM if spec["class"] == "SRM" else getattr(tf_keras.layers, spec["class"])
    return kind(**settings, name=path.replace("/", "."))


def answers(proof: tf_keras.Model, crops: np.ndarray) -> dict[str, np.ndarray]:
    """`features` and `fake_probability` of crops."""
    return {name: value.numpy() for name, value in proof(crops, training=False).items()}


def work_in(folder: Path, channel: Channel) -> None:
    """Proves the twin of the folder's network and, given a `job.json`, prunes it."""
    graph = json.loads((folder / "graph.json").read_text("utf-8"))
    weights, proof = load_file(folder / "dense.safetensors"), load_file(folder / "proof.safetensors")
    crops = proof.pop("crops")
    twin = Twin(graph)
    twin.set_weights(weights)
    channel.send(proved=str(folder), apart=check_twin(answers(twin.proof, crops), proof))
    if (folder / "job.json").exists():
        job = json.loads((folder / "job.json").read_text("utf-8"))
        pruned = prune(graph, weights, job, folder, channel)
        write_atomically(folder / "pruned_proof.safetensors", save(answers(pruned.proof, crops)))
        write_atomically(folder / "pruned.safetensors", save(pruned.get_weights()))
    # Frees the memory for the next network.
    tf_keras.backend.clear_session()


def prune(graph: dict, weights: dict[str, np.ndarray], job: dict, folder: Path, channel: Channel) -> Twin:
    """Fine-tunes while kernels lose their smallest values, from the folder's saved state; gives the stripped twin."""
    recipe, options = Recipe.from_settings(job["recipe"]), PruneOptions(**job["options"])
    crops = CropSet(job["data"], recipe, job["size"], allow_leaks=True)  # checked by the parent
    crops.refuse_other(job["digests"], f"{job['data']} has changed since the pruning started")
    steps = recipe.steps or recipe.epochs * crops.steps
    masks = mask_schedule(options, steps)
    # Random generators whose state can be saved.
    tf_keras.backend.experimental.enable_tf_random_generator()
    tf_keras.utils.set_random_seed(recipe.seed)
    twin = Twin(graph, lambda layer, kind: _wrapped(layer, kind, options, masks))
    twin.set_weights(weights)
    model = twin.model
    model.compile(tf_keras.optimizers.Adam(recipe.learning_rate), recipe.loss, metrics=["accuracy"], jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    state = _State(model, folder / "state.safetensors")
    progress = state.load() or {"step": 0, "best": None, "history": []}
    # States of earlier versions have epochs from 0.
    progress["history"] = [row | {"epoch": number} for number, row in enumerate(progress["history"], 1)]
    while progress["step"] < steps and not _is_over(progress, recipe):
        epoch, first = len(progress["history"]), progress["step"]
        count = min(crops.steps, steps - first)
        with pipeline_errors(f"epoch {epoch + 1}"):
            history = model.fit(
                crops.batches(epoch),
                steps_per_epoch=count,
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=[
                    _sparsity.UpdatePruningStep(),
                    _Watch(channel, epoch + 1, math.ceil(steps / crops.steps), count),
                ],
                shuffle=False,
                verbose=0,
            ).history
        row = {"epoch": epoch + 1, "loss": history["loss"][-1], "zeros": _share_of_zeros(model)} | validate(
            model, crops
        )
        progress["history"].append(row)
        progress["step"] = first + count
        best = progress["best"]
        is_best = best is None or is_better(row, progress["history"][best], recipe.monitor)
        if progress["step"] >= masks.settled and is_best:
            progress["best"] = epoch
            write_atomically(best_weights(folder, epoch), save(twin.get_weights()))
        state.save(progress)
        keep_best(folder, progress["best"])
        channel.send(row=row)
    twin.set_weights(load_file(best_weights(folder, progress["best"])))
    channel.send(
        done={"epochs": len(progress["history"]), "steps": progress["step"], "best_epoch": progress["best"] + 1}
    )
    return _stripped(twin, graph)


def _wrapped(layer: Any, kind: str, options: PruneOptions, masks: Any) -> Any:
    if kind not in PRUNABLE:
        return layer
    last = -1 if masks.last is None else masks.last
    arguments = {"begin_step": masks.first, "end_step": last, "frequency": masks.frequency}
    if options.two_of_four:
        schedule = _sparsity.ConstantSparsity(options.sparsity, **arguments)
        return _sparsity.prune_low_magnitude(layer, schedule, sparsity_m_by_n=TWO_OF_FOUR)
    if options.schedule == CONSTANT:
        schedule = _sparsity.ConstantSparsity(options.sparsity, **arguments)
    else:
        schedule = _sparsity.PolynomialDecay(0.0, options.sparsity, **arguments)
    return _sparsity.prune_low_magnitude(layer, schedule)


def _stripped(twin: Any, graph: dict[str, Any]) -> Twin:
    """A plain twin with the weights that tfmot leaves after stripping its wrappers."""
    left = {layer.name: layer for layer in _sparsity.strip_pruning(twin.model).layers}
    plain = Twin(graph)
    for path, layer in plain.layers.items():
        stripped = left[path.replace("/", ".")]
        if type(stripped) is not type(layer):
            kinds = type(stripped).__name__, type(layer).__name__
            raise TrainingError(f"{path} is a {kinds[0]} after stripping, expected {kinds[1]}.")
        layer.set_weights(stripped.get_weights())
    return plain


def _share_of_zeros(model: Any) -> float:
    kernels = [weight for layer in model.layers for weight, _, _ in getattr(layer, "pruning_vars", ())]
    return float(sum((kernel.numpy() == 0).sum() for kernel in kernels) / sum(math.prod(k.shape) for k in kernels))


def _is_over(progress: dict[str, Any], recipe: Recipe) -> bool:
    if recipe.patience is None or progress["best"] is None:
        return False
    return len(progress["history"]) - 1 - progress["best"] >= recipe.patience


class _State:
    """State for resuming: weights, masks, their step, the optimizer's moments, and generators of dropout."""

    def __init__(self, model: Any, path: Path) -> None:
        self._model, self._path = model, path

    def save(self, progress: dict) -> None:
        arrays = {f"{number:05}": np.array(value.numpy(), order="C") for number, value in enumerate(self._variables())}
        write_atomically(self._path, save(arrays, {"place": json.dumps(progress)}))

    def load(self) -> dict | None:
        if not self._path.exists():
            return None
        with safe_open(self._path, "np") as file:
            for number, variable in enumerate(self._variables()):
                variable.assign(file.get_tensor(f"{number:05}"))
            return json.loads(file.metadata()["place"])

    def _variables(self) -> list:
        # `weights` of tfmot's wrapper includes those of the inner layer.
        draws = [
            layer._random_generator._generator.state
            for layer in self._model.layers
            if isinstance(layer, tf_keras.layers.Dropout)
        ]
        found = [*self._model.weights, *self._model.optimizer.variables, *draws]
        return list({id(variable): variable for variable in found}.values())


class _Watch(tf_keras.callbacks.Callback):
    """Reports each step, and stops at a loss that is not finite."""

    def __init__(self, channel: Channel, epoch: int, epochs: int, steps: int) -> None:
        super().__init__()
        self._channel = channel
        self._position = {"epoch": epoch, "epochs": epochs, "steps": steps}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = float(logs["loss"])  # type: ignore[index]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {batch + 1} in epoch {self._position['epoch']}. Lower "
                "learning_rate; the last saved state stays."
            )
        self._channel.send(step=self._position | {"step": batch + 1, "loss": loss})


def main(folders: list[str]) -> int:
    """Runs over work folders; an error is the last message."""
    channel = Channel()
    try:
        for folder in folders:
            work_in(Path(folder), channel)
    except (ValueError, TrainingError, OSError) as error:
        channel.send(error=str(error), kind=type(error).__name__)
        return 1
    return 0
