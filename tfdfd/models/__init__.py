"""The networks by name. A new one is a file with a builder and a row in `MODELS`.

Importing this module imports no Keras: a list of networks must not wait for TensorFlow.
"""

from __future__ import annotations

import difflib
import importlib
import os
from dataclasses import dataclass
from pathlib import Path

from tfdfd.weights.records import WeightRecord, list_records
from tfdfd.weights.store import locate

__all__ = ["MODELS", "ModelSpec", "build", "list_models", "load", "spec"]


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a network without building it.

    Attributes:
        builder: `module:function` under `tfdfd.models`, called as `(input_shape=..., **arguments) -> keras.Model`.
        input_shape: default `(height, width, 3)`, RGB float32 in [0, 1].
        params: weights in all at that shape.
        trainable: those that training changes.
        macs: multiply-accumulates of one image: convolutions and dense layers, without bias, norm and activation.
        source: paper, with table or figure.
        weights: the sets of weights there are, with the licence of each.
    """

    builder: str
    input_shape: tuple[int, int, int]
    params: int
    trainable: int
    macs: int
    source: str
    weights: tuple[WeightRecord, ...] = ()


_MESONET = "Afchar et al., MesoNet, arXiv:1809.00888"

MODELS = {
    "meso4": ModelSpec("meso:meso4", (256, 256, 3), 28_073, 27_977, 60_047_376, f"{_MESONET}, figure 4"),
    "meso_inception4": ModelSpec(
        "meso:meso_inception4", (256, 256, 3), 28_725, 28_615, 57_098_256, f"{_MESONET}, figure 5"
    ),
}


def list_models() -> list[str]:
    """Names that `build` takes."""
    return list(MODELS)


def spec(name: str) -> ModelSpec:
    """What is known of a network, with its sets of weights.

    Raises:
        ValueError: no network has this name; lists the near ones.
    """
    known = _find(name)
    weights = tuple(record for record in list_records().values() if record.model == name)
    return ModelSpec(**{**vars(known), "weights": weights})


def build(name: str, weights: str | os.PathLike | None = None, input_shape=None, **arguments):
    """A new `keras.Model`: RGB faces, float32 in [0, 1], `(batch, height, width, 3)` -> P(fake), `(batch, 1)`.

    Args:
        name: one of `list_models()`.
        weights: None (random: to be trained, never to score), a handle such as `tfdfd/meso4.df`, or a file.
        input_shape: `(height, width, 3)`; None for the published size.
        **arguments: the builder's own.

    Raises:
        ValueError: unknown name, or weights that are absent, altered or of another network.
    """
    if weights is None:
        return _build(name, input_shape, arguments)
    record, path = locate(weights)
    if record.model != name:
        raise ValueError(f"{os.fspath(weights)} holds weights of {record.model}, not of {name}.")
    return _build_with(record, path, input_shape, arguments)


def load(record: WeightRecord, path: Path):
    """The network that a located set of weights is for (`tfdfd.weights.store.locate`), with these weights."""
    return _build_with(record, path, None, {})


def _build_with(record, path, input_shape, arguments):
    from tfdfd.weights.loading import load_weights

    model = _build(record.model, input_shape, arguments)
    load_weights(model, record, path)
    return model


def _build(name, input_shape, arguments):
    known = _find(name)
    module, function = known.builder.split(":")
    builder = getattr(importlib.import_module(f"tfdfd.models.{module}"), function)
    return builder(input_shape=input_shape or known.input_shape, **arguments)


def _find(name):
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(MODELS)}."
    raise ValueError(f"no network is known as {name!r}; {hint}")
