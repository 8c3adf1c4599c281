"""Networks that score batches of face crops or clips, opened from located weights on the fastest runtime.

A network is a Keras model or a conversion of one, which is compared with the model before its first use. A conversion
is cached on disk, so that later starts need no TensorFlow. A cache file holds the SHA-256 of the rest, the length of
the graph, the graph and the weights. Only what this package wrote is parsed: a file that is damaged, or that another
user could have written, counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from tfdfd.files import code_digest, write_atomically
from tfdfd.models import load, spec
from tfdfd.runtime import AUTO, OPENVINO, TENSORFLOW, check_runtime, is_installed
from tfdfd.runtime.equality import BOUNDS, check_equal, proof_crops
from tfdfd.runtime.openvino import OpenvinoNetwork, convert, identity
from tfdfd.version import __version__
from tfdfd.weights import WeightRecord, cache_folder

if TYPE_CHECKING:
    import keras


@runtime_checkable
class Network(Protocol):
    """A model with its weights, ready to run.

    Attributes:
        runtime: name of the runtime.
        name: name of the model, for messages.
        size: side of the crops in pixels.
        frames: crops of a clip; None for a network of single crops. Where it is given, each crop below is a clip,
            `(frames, size, size, 3)`.
        batch_sizes: permitted batch sizes, ascending; each is prepared at its first use.
    """

    runtime: str
    name: str
    size: int
    frames: int | None
    batch_sizes: tuple[int, ...]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)`, of uint8 RGB crops `(n, size, size, 3)`, C-contiguous, `n` one of `batch_sizes`."""


class KerasNetwork:
    """A `Network` on the backend that Keras uses.

    Args:
        model: takes RGB float32 in [0, 1] `(batch, size, size, 3)`, or clips `(batch, frames, size, size, 3)`, and
            returns P(fake) `(batch, 1)`.
    """

    runtime = TENSORFLOW
    # Each size is traced once. On two cores, 8 crops per call are as fast as 32 and take 300 MB less.
    batch_sizes: tuple[int, ...] = (1, 4, 8)

    def __init__(self, model: keras.Model):
        # Compilation by XLA takes seconds and saves milliseconds at these batch sizes.
        model.jit_compile = False
        self._model = model
        self.name = model.name
        self.size = model.input_shape[-2]
        self.frames: int | None = None
        if len(model.input_shape) == 5:
            # A clip has as many crops as a batch of single ones.
            self.frames, self.batch_sizes = model.input_shape[1], (1,)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)`, of uint8 RGB crops; see `Network`."""
        return np.asarray(self._model.predict_on_batch(crops / np.float32(255)))[:, 0]


class Scorer:
    """Scores any number of crops, in batches that the network is prepared for.

    Args:
        network: a `Network`, or a Keras model of `tfdfd.models`, which then runs on Keras.
    """

    def __init__(self, network: Network | keras.Model):
        self._network = network if isinstance(network, Network) else KerasNetwork(network)
        self.size = self._network.size

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)` in [0, 1], of uint8 RGB crops `(n, size, size, 3)` or clips of them.

        Raises:
            ValueError: a score of the network is not a probability.
        """
        most = self._network.batch_sizes[-1]
        scores = [self._score_batch(crops[i : i + most]) for i in range(0, len(crops), most)]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def _score_batch(self, crops: np.ndarray) -> np.ndarray:
        padding = next(size for size in self._network.batch_sizes if size >= len(crops)) - len(crops)
        if padding:
            padded = np.concatenate([crops, np.zeros((padding, *crops.shape[1:]), np.uint8)])
        else:
            padded = np.ascontiguousarray(crops)
        scores = self._network(padded)[: len(crops)]
        if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
            raise ValueError(f"{self._network.name} answered values outside [0, 1]: its weights are damaged.")
        return scores


# Maximum difference in P(fake) between a converted network and the Keras model.
TOLERANCE = BOUNDS["runtime"].tolerance
_log = logging.getLogger(__name__)


def open_network(record: WeightRecord, path: Path, runtime: str = AUTO) -> tuple[Network, str | None]:
    """Opens the network of located weights (`tfdfd.weights.store.locate`).

    A conversion is compared with the Keras model before it is used or cached, and the cache returns it only for the
    same weights, code, libraries and type of processor. With `auto`, a conversion that fails is not an error: Keras
    runs the model.

    Returns:
        The network, and a note for the user or None.

    Raises:
        ValueError: the runtime is unknown or not installed, or was requested and cannot run this network as Keras
            does.
    """
    check_runtime(runtime)
    if runtime == TENSORFLOW or not is_installed(OPENVINO):
        _log.info("%s runs on Keras: %s", record.handle, "as asked" if runtime == TENSORFLOW else "no OpenVINO here")
        return KerasNetwork(load(record, path)), None
    cached = _cached_network(record)
    if cached:
        _log.info("%s runs on OpenVINO: cached conversion %s", record.handle, conversion_path(conversion_name(record)))
        return cached, None
    _log.info("%s is converted to OpenVINO and compared with Keras: no cached conversion", record.handle)
    model = load(record, path)
    try:
        return _convert_and_check(record, model), None
    except Exception as error:  # no failure of a conversion is a reason not to score
        reason = str(error).rstrip(".")
        if runtime == OPENVINO:
            raise ValueError(f"openvino cannot run {record.handle}: {reason}; use the runtime 'tensorflow'.") from error
        return KerasNetwork(model), f"openvino cannot run {record.handle}: {reason}; tensorflow did."


def network_on(runtime: str, model: keras.Model) -> Network:
    """A Keras model on a runtime of `RUNTIMES`, neither checked nor cached; for measurements."""
    return OpenvinoNetwork(model.name, *convert(model)) if runtime == OPENVINO else KerasNetwork(model)


def check_same_scores(network: Network, expected: Network) -> None:
    """Raises `ValueError` unless both score the same crops the same, in batches of any size, and the crops tell."""
    if expected.frames:
        clips = proof_crops(expected.size, frames=expected.frames)
        found, scores = (np.concatenate([one(clip[None]) for clip in clips]) for one in (network, expected))
        check_equal("its P(fake)", found, scores, "runtime")
        return
    crops = proof_crops(expected.size, expected.batch_sizes[-1])
    scores = expected(crops)
    sizes = network.batch_sizes
    found = np.concatenate([network(crops[:count]) for count in sizes])
    check_equal("its P(fake)", found, np.concatenate([scores[:count] for count in sizes]), "runtime")


def _cached_network(record: WeightRecord) -> OpenvinoNetwork | None:
    try:
        parts = fetch_conversion(conversion_name(record))
        return OpenvinoNetwork(record.model, *parts) if parts else None
    except Exception:  # a new conversion follows, which reports what is wrong with OpenVINO itself
        return None


def _convert_and_check(record: WeightRecord, model: keras.Model) -> OpenvinoNetwork:
    parts = convert(model)
    network = OpenvinoNetwork(record.model, *parts)
    check_same_scores(network, KerasNetwork(model))
    store_conversion(conversion_name(record), *parts)
    return network


_DIGEST_BYTES, _LENGTH_BYTES = 32, 8


def conversion_name(record: WeightRecord) -> str:
    """File name of a cached conversion; it depends on everything that the conversion and its check depend on."""
    parts = {
        "weights": record.sha256,
        "card": record.card,
        "layout": record.layout,
        "polarity": record.polarity,
        "input": record.input_shape or spec(record.model).input_shape,
        "code": code_digest("models", "runtime", "weights"),
        "openvino": identity(),
        "versions": [__version__, _version("keras"), _version("tensorflow")],
    }
    return f"{record.model}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}.openvino"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # some builds of TensorFlow have other names
        return None


def conversion_path(name: str) -> Path:
    """File of a cached conversion: in `runtimes` in the cache folder of the weights. The folder may be deleted."""
    return cache_folder() / "runtimes" / name


def fetch_conversion(name: str) -> tuple[bytes, bytes] | None:
    """Graph and weights of a cached conversion; None if they are absent, damaged or not this user's."""
    try:
        with conversion_path(name).open("rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            digest, rest = file.read(_DIGEST_BYTES), file.read()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    if hashlib.sha256(rest).digest() != digest:
        return None
    length = int.from_bytes(rest[:_LENGTH_BYTES], "little")
    body = memoryview(rest)[_LENGTH_BYTES:]
    return bytes(body[:length]), bytes(body[length:])


def store_conversion(name: str, graph: bytes, weights: bytes) -> None:
    """Caches graph and weights of a conversion. Where that is impossible, the next start converts again."""
    rest = len(graph).to_bytes(_LENGTH_BYTES, "little") + graph + weights
    try:
        conversion_path(name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(conversion_path(name), hashlib.sha256(rest).digest() + rest)
    except (OSError, RuntimeError):
        pass


def _is_ours(status: os.stat_result) -> bool:
    # In a folder that others can write, their file could hold a network that calls every face real.
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o002
