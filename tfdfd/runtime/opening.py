"""From located weights to a network that runs: the kept conversion, a new and proved one, or Keras itself."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from tfdfd.files import code_digest
from tfdfd.models import load, spec
from tfdfd.runtime.equality import BOUNDS, check_equal, proof_crops
from tfdfd.runtime.kept import fetch, keep
from tfdfd.runtime.names import AUTO, OPENVINO, TENSORFLOW, check_runtime, is_installed
from tfdfd.runtime.network import Network
from tfdfd.runtime.with_keras import KerasNetwork
from tfdfd.runtime.with_openvino import OpenvinoNetwork, convert, identity
from tfdfd.version import __version__
from tfdfd.weights.records import WeightRecord

TOLERANCE = BOUNDS["runtime"].tolerance


def open_network(record: WeightRecord, path: Path, runtime: str = AUTO) -> tuple[Network, str | None]:
    """The network of a located set of weights (`tfdfd.weights.store.locate`), and what a user should be told.

    A conversion is proved against the Keras model before it is used or kept, and found again only for the same
    weights, code, libraries and kind of processor. With `auto`, one that fails is no error: Keras runs the model.

    Raises:
        ValueError: the runtime is unknown, not installed, or was asked for and cannot run this network as Keras does.
    """
    check_runtime(runtime)
    if runtime == TENSORFLOW or not is_installed(OPENVINO):
        return KerasNetwork(load(record, path)), None
    kept = _kept(record)
    if kept:
        return kept, None
    model = load(record, path)
    try:
        return _converted(record, model), None
    except Exception as error:  # of a conversion, whatever it is, none is a reason not to score
        reason = str(error).rstrip(".")
        if runtime == OPENVINO:
            raise ValueError(f"openvino cannot run {record.handle}: {reason}; use the runtime 'tensorflow'.") from error
        return KerasNetwork(model), f"openvino cannot run {record.handle}: {reason}; tensorflow did."


def check_same_scores(network: Network, expected: Network) -> None:
    """Raises `ValueError` unless both score the same crops the same, in batches of any size, and the crops tell."""
    crops = proof_crops(expected.size, expected.batch_sizes[-1])
    scores = expected(crops)
    sizes = network.batch_sizes
    found = np.concatenate([network(crops[:count]) for count in sizes])
    check_equal("its P(fake)", found, np.concatenate([scores[:count] for count in sizes]), "runtime")


def _kept(record):
    try:
        parts = fetch(_name(record))
        return OpenvinoNetwork(record.model, *parts) if parts else None
    except Exception:  # it is converted anew, and what is wrong with OpenVINO itself is said then
        return None


def _converted(record, model):
    parts = convert(model)
    network = OpenvinoNetwork(record.model, *parts)
    check_same_scores(network, KerasNetwork(model))
    keep(_name(record), *parts)
    return network


def _name(record):
    """Of the kept file: it changes with all that a conversion and its proof depend on."""
    parts = {
        "weights": record.sha256,
        "card": record.card,
        "layout": record.layout,
        "polarity": record.polarity,
        "input": spec(record.model).input_shape,
        "code": code_digest("models", "runtime", "weights"),
        "openvino": identity(),
        "versions": [__version__, _version("keras"), _version("tensorflow")],
    }
    return f"{record.model}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}.openvino"


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:  # TensorFlow has builds under other names
        return None
