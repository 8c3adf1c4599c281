"""The network in tf_keras, pruned by tfmot: a process of its own, which nothing imports.

    python -m tfdfd.pruning.twin FOLDER...

tfmot knows tf_keras alone, and turns `tf.keras` of the whole process into it. Everything comes and goes through files
of the folder: see `tfdfd.pruning.child`, which starts it and hears of it by JSON lines on its standard output. Its
standard input is a pipe that ends with whoever started it, and so does it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from safetensors import safe_open
from safetensors.numpy import load_file, save

from tfdfd.files import write_atomically
from tfdfd.pruning.options import CONSTANT, TWO_OF_FOUR, PruneOptions, turns
from tfdfd.pruning.proof import differences
from tfdfd.pruning.zeros import PRUNABLE
from tfdfd.srm_kernels import DIVISORS, WHOLE
from tfdfd.training import TrainingError, pipeline_errors
from tfdfd.training.crop_set import CropSet, is_better, validate
from tfdfd.training.recipe import Recipe

_sparsity = tfmot.sparsity.keras


class SRM(tf_keras.layers.Layer):
    """`tfdfd.models.srm.SRM` in TensorFlow operations, for batches."""

    def __init__(self, kernels, combine, truncate, **kwargs):
        super().__init__(**kwargs)
        self._bank = np.stack([np.array(WHOLE[name], np.float32) / DIVISORS[name] for name in kernels], axis=-1)
        self._sums, self._truncate = combine == "sum", truncate

    def call(self, image):
        if self._sums:
            image = tf.reduce_sum(image, axis=-1, keepdims=True)
        bank = np.repeat(self._bank[:, :, None, :], image.shape[-1], axis=2)
        image = tf.pad(image, [[0, 0], [2, 2], [2, 2], [0, 0]], "REFLECT")
        residual = tf.nn.depthwise_conv2d(image, bank, [1, 1, 1, 1], "VALID")
        return residual if self._truncate is None else tf.clip_by_value(residual, -self._truncate, self._truncate)


def _hard_sigmoid(x):
    # tf_keras has Keras 2's, of another slope.
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
# What tf_keras calls otherwise.
_SETTINGS = {"LeakyReLU": {"negative_slope": "alpha"}}
_WEIGHTS = {"DepthwiseConv2D": {"kernel": "depthwise_kernel"}}


class Twin:
    """A described network in tf_keras, all of whose layers train.

    Attributes:
        layers: by path; those of wrapped ones within.
        model: image -> `fake_probability`.
        proof: image -> `features` and `fake_probability`.
    """

    def __init__(self, described: dict, wrap=lambda layer, kind: layer):
        self._described = described
        self.layers = {path: _layer(path, told) for path, told in described["layers"].items()}
        called = {path: wrap(layer, described["layers"][path]["class"]) for path, layer in self.layers.items()}
        image = tf_keras.Input(described["input_shape"], name="image")
        made = {-1: image}
        for number, call in enumerate(described["calls"]):
            sources = [made[source] for source in call["sources"]]
            made[number] = called[call["layer"]](sources if call["joins"] else sources[0])
        outputs = {name: made[number] for name, number in described["outputs"].items()}
        self.model = tf_keras.Model(image, outputs["fake_probability"])
        self.proof = tf_keras.Model(image, outputs)

    def _variables(self):
        for path, told in self._described["layers"].items():
            names = _WEIGHTS.get(told["class"], {})
            for weight, name in told["weights"].items():
                yield name, getattr(self.layers[path], names.get(weight, weight))

    def set_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Fills the twin from arrays by name; all of them, and each of its shape."""
        variables = dict(self._variables())
        if variables.keys() != weights.keys():
            raise ValueError(f"the twin's weights are others: {sorted(variables.keys() ^ weights.keys())}.")
        for name, variable in variables.items():
            variable.assign(weights[name])

    def get_weights(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: variable.numpy() for name, variable in self._variables()}


def _layer(path, told):
    settings = dict(told["settings"])
    if "activation" in settings:
        settings["activation"] = ACTIVATIONS[settings["activation"]]
    names = _SETTINGS.get(told["class"], {})
    settings = {names.get(name, name): value for name, value in settings.items()}
    kind = SRM if told["class"] == "SRM" else getattr(tf_keras.layers, told["class"])
    return kind(**settings, name=path.replace("/", "."))


def answers(proof: tf_keras.Model, crops: np.ndarray) -> dict[str, np.ndarray]:
    """`features` and `fake_probability` of crops."""
    return {name: value.numpy() for name, value in proof(crops, training=False).items()}


def tell(**words) -> None:
    """One line to whoever started this."""
    _channel.write(json.dumps(words) + "\n")
    _channel.flush()


def work_in(folder: Path) -> None:
    """Proves the twin of the folder's network and, where there is a `job.json`, prunes it."""
    described = json.loads((folder / "graph.json").read_text("utf-8"))
    weights, proof = load_file(folder / "dense.safetensors"), load_file(folder / "proof.safetensors")
    crops = proof.pop("crops")
    twin = Twin(described)
    twin.set_weights(weights)
    tell(proved=str(folder), apart=differences(proof, answers(twin.proof, crops)))
    if (folder / "job.json").exists():
        job = json.loads((folder / "job.json").read_text("utf-8"))
        pruned = prune(described, weights, job, folder)
        write_atomically(folder / "pruned_proof.safetensors", save(answers(pruned.proof, crops)))
        write_atomically(folder / "pruned.safetensors", save(pruned.get_weights()))
    # The next network's need the room.
    tf_keras.backend.clear_session()


def prune(described: dict, weights: dict[str, np.ndarray], job: dict, folder: Path) -> Twin:
    """Fine-tunes while kernels lose their smallest values, from where the folder is; returns the stripped twin."""
    recipe, options = Recipe.from_settings(job["recipe"]), PruneOptions(**job["options"])
    crops = CropSet(job["data"], recipe, job["size"], allow_leaks=True)  # it was looked at before
    crops.refuse_other(job["digests"], f"{job['data']} has changed since the work was begun")
    steps = recipe.steps or recipe.epochs * crops.steps
    when = turns(options, steps)
    # Draws of which the state can be saved.
    tf_keras.backend.experimental.enable_tf_random_generator()
    tf_keras.utils.set_random_seed(recipe.seed)
    twin = Twin(described, lambda layer, kind: _wrapped(layer, kind, options, when))
    twin.set_weights(weights)
    model = twin.model
    model.compile(tf_keras.optimizers.Adam(recipe.learning_rate), recipe.loss, metrics=["accuracy"], jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    state = _State(model, folder / "state.safetensors")
    place = state.load() or {"step": 0, "best": None, "history": []}
    # States of earlier versions have epochs from 0.
    place["history"] = [row | {"epoch": number} for number, row in enumerate(place["history"], 1)]
    while place["step"] < steps and not _is_over(place, recipe):
        epoch, first = len(place["history"]), place["step"]
        count = min(crops.steps, steps - first)
        with pipeline_errors(f"epoch {epoch + 1}"):
            history = model.fit(
                crops.batches(epoch),
                steps_per_epoch=count,
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=[_sparsity.UpdatePruningStep(), _Watch(epoch + 1, math.ceil(steps / crops.steps), count)],
                shuffle=False,
                verbose=0,
            ).history
        row = {"epoch": epoch + 1, "loss": history["loss"][-1], "zeros": _share_of_zeros(model)} | validate(
            model, crops
        )
        place["history"].append(row)
        place["step"] = first + count
        if place["step"] >= when.settled and _is_best(place, row, recipe.monitor):
            place["best"] = epoch
            write_atomically(_best(folder, epoch), save(twin.get_weights()))
        state.save(place)
        for file in folder.glob("best-*.safetensors"):
            if file != _best(folder, place["best"]):
                file.unlink()
        tell(row=row)
    twin.set_weights(load_file(_best(folder, place["best"])))
    tell(done={"epochs": len(place["history"]), "steps": place["step"], "best_epoch": place["best"] + 1})
    return _stripped(twin, described)


def _wrapped(layer, kind, options, when):
    if kind not in PRUNABLE:
        return layer
    last = -1 if when.last is None else when.last
    arguments = {"begin_step": when.first, "end_step": last, "frequency": when.frequency}
    if options.two_of_four:
        schedule = _sparsity.ConstantSparsity(options.sparsity, **arguments)
        return _sparsity.prune_low_magnitude(layer, schedule, sparsity_m_by_n=TWO_OF_FOUR)
    if options.schedule == CONSTANT:
        schedule = _sparsity.ConstantSparsity(options.sparsity, **arguments)
    else:
        schedule = _sparsity.PolynomialDecay(0.0, options.sparsity, **arguments)
    return _sparsity.prune_low_magnitude(layer, schedule)


def _stripped(twin, described):
    """A plain twin with the weights of what tfmot leaves of a wrapped one, where nothing wrapped is left."""
    left = {layer.name: layer for layer in _sparsity.strip_pruning(twin.model).layers}
    plain = Twin(described)
    for path, layer in plain.layers.items():
        found = left[path.replace("/", ".")]
        if type(found) is not type(layer):
            raise TrainingError(f"{path} is a {type(found).__name__} after stripping, expected {type(layer).__name__}.")
        layer.set_weights(found.get_weights())
    return plain


def _share_of_zeros(model):
    kernels = [weight for layer in model.layers for weight, _, _ in getattr(layer, "pruning_vars", ())]
    return float(sum((kernel.numpy() == 0).sum() for kernel in kernels) / sum(math.prod(k.shape) for k in kernels))


def _is_best(place, row, monitor):
    return place["best"] is None or is_better(row, place["history"][place["best"]], monitor)


def _is_over(place, recipe):
    if recipe.patience is None or place["best"] is None:
        return False
    return len(place["history"]) - 1 - place["best"] >= recipe.patience


def _best(folder, epoch):
    return folder / f"best-{epoch}.safetensors"


class _State:
    """All that going on needs: weights, masks, their step, the optimizer's moments, and what dropout draws next."""

    def __init__(self, model, path):
        self._model, self._path = model, path

    def save(self, place: dict) -> None:
        arrays = {f"{number:05}": np.array(value.numpy(), order="C") for number, value in enumerate(self._variables())}
        write_atomically(self._path, save(arrays, {"place": json.dumps(place)}))

    def load(self) -> dict | None:
        if not self._path.exists():
            return None
        with safe_open(self._path, "np") as file:
            for number, variable in enumerate(self._variables()):
                variable.assign(file.get_tensor(f"{number:05}"))
            return json.loads(file.metadata()["place"])

    def _variables(self):
        # `weights` of tfmot's wrapper has those of the layer within, too.
        draws = [
            layer._random_generator._generator.state
            for layer in self._model.layers
            if isinstance(layer, tf_keras.layers.Dropout)
        ]
        found = [*self._model.weights, *self._model.optimizer.variables, *draws]
        return list({id(variable): variable for variable in found}.values())


class _Watch(tf_keras.callbacks.Callback):
    """Tells each step, and stops at a loss that is no number."""

    def __init__(self, epoch, epochs, steps):
        super().__init__()
        self._place = {"epoch": epoch, "epochs": epochs, "steps": steps}

    def on_train_batch_end(self, batch, logs=None):
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {batch + 1} in epoch {self._place['epoch']}. Lower "
                "learning_rate; the last saved state stays."
            )
        tell(step=self._place | {"step": batch + 1, "loss": loss})


def _end_with_parent():
    # (`sys.stdin` has a lock, which a thread must not hold when Python ends.)
    os.read(0, 1)
    os._exit(1)


def main(folders: list[str]) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for folder in folders:
            work_in(Path(folder))
    except (ValueError, TrainingError, OSError) as error:
        tell(error=str(error), kind=type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    # Nothing but our lines may come there.
    _channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    raise SystemExit(main(sys.argv[1:]))
