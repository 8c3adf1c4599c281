"""What a frozen network makes of each crop, computed once and kept in files (document S3's "bottleneck files").

A cache is a folder, named by a digest of all that its values depend on but the crops: the network with its arguments,
its weights' digest, size and layer, how crops are prepared, backend and precision. Another of these is another folder,
so that nothing stale is ever found. In it are pieces of up to `PIECE` crops, NumPy arrays of (digest of a crop's file,
values); a piece is named by the digest of its bytes, so that a damaged one is known, removed and computed anew. A piece
is there as a whole or not at all: a run that was killed goes on after the last one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from tfdfd.data.crops import Faces
from tfdfd.files import sha256, write_atomically
from tfdfd.pipelines.datasets import eval_pipeline
from tfdfd.training.errors import TrainingError, pipeline_errors
from tfdfd.weights.records import cache_folder

# To be raised when `tfdfd.pipelines` decodes or resizes crops to other pixels than before.
PREPARATION = 1
PIECE = 256
BATCH = 32
FOLDER = "bottlenecks"
_BLOCK = 1 << 20


class BottleneckCache:
    """The values of one layer of a frozen network, for crops of any face set.

    Args:
        network: of `tfdfd.models`, with its weights; in inference, so its norms use their statistics.
        name: of the network in `tfdfd.models`.
        arguments: of its builder.
        folder: where caches are; see `folder_beside`.
        layer: whose output is kept, `(batch, width)`.

    Attributes:
        told: what the values depend on, as `network.json` in the cache has it.
        path: of this cache.
        width: values of a crop.

    Raises:
        ValueError: the network has no such layer, or its output is no row of numbers.
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
            raise ValueError(f"{network.name} has no layer {layer!r}; give one whose values are to be kept.")
        self._body = keras.Model(network.input, network.get_layer(layer).output)
        if len(self._body.output_shape) != 2:
            raise ValueError(
                f"the layer {layer!r} of {network.name} gives {self._body.output_shape}; expected (batch, width)."
            )
        self.width = self._body.output_shape[1]
        self.told = {
            "network": name,
            "arguments": {key: value for key, value in arguments.items() if key != "freeze"},
            "size": list(network.input_shape[1:3]),
            "layer": layer,
            "weights_sha256": _digest_of(self._body),
            "preparation": PREPARATION,
            "backend": keras.backend.backend(),
            "precision": keras.config.dtype_policy().name,
        }
        self._key = json.dumps(self.told, sort_keys=True).encode()
        self.path = Path(folder) / f"{name}-{hashlib.sha256(self._key).hexdigest()[:16]}"
        self._kind = np.dtype([("image", "u1", 32), ("values", "<f4", self.width)])

    def values(self, faces: Faces, tell: Callable[[int, int], None] | None = None) -> Bottlenecks:
        """The values of each crop: those in the cache, and the others computed and put there.

        Crops are known by the digest of their files as they are now, whatever their table says. Memory holds one piece
        and a digest a crop; values stay on disk until they are taken.

        Args:
            faces: the crops.
            tell: called with how many of how many crops were computed, after each piece.

        Raises:
            TrainingError: a crop cannot be read or decoded, a value is no number, or the cache cannot be written;
                what was computed before stays.
        """
        digests = [_digest_of_file(faces.path(position)) for position in range(len(faces.rows))]
        pieces, places, removed = self._opened()
        first = {}
        for position, digest in enumerate(digests):
            if digest not in places:
                first.setdefault(digest, position)
        missing = list(first.values())
        for start in range(0, len(missing), PIECE):
            positions = missing[start : start + PIECE]
            piece = self._computed(faces, positions, [digests[position] for position in positions])
            places |= {piece["image"][row].tobytes(): (len(pieces), row) for row in range(len(piece))}
            pieces.append(self._stored(piece))
            if tell:
                tell(start + len(positions), len(missing))
        where = np.array([places[digest] for digest in digests], np.int64).reshape(-1, 2)
        return Bottlenecks([piece["values"] for piece in pieces], where, self.width, len(missing), removed)

    def _opened(self):
        """Sound pieces, piece and row by digest of a crop, and how many pieces were damaged and are no more."""
        pieces, places, removed = [], {}, 0
        for path in sorted(self.path.glob("*.npy")):
            try:
                sound = self._name(_blocks(path)) == path.name
            except FileNotFoundError:  # another run found it damaged
                continue
            if not sound:
                path.unlink(missing_ok=True)
                removed += 1
                continue
            piece = _mapped(path)
            places |= {image.tobytes(): (len(pieces), row) for row, image in enumerate(piece["image"])}
            pieces.append(piece)
        return pieces, places, removed

    def _computed(self, faces, positions, digests):
        part = Faces(faces.root, tuple(faces.rows[position] for position in positions))
        with pipeline_errors("bottlenecks"):
            # All batches alike, so that a crop's values do not depend on how many come with it.
            batches = eval_pipeline(part, tuple(self.told["size"]), BATCH, split=None, pad=True)
            values = np.asarray(self._body.predict(batches, verbose=0), np.float32)[: len(positions)]
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise TrainingError(
                f"{self.told['network']} makes values of {part.path(int(np.argmin(finite)))} that are no numbers: its "
                "weights are damaged."
            )
        piece = np.empty(len(positions), self._kind)
        piece["image"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        piece["values"] = values
        return piece

    def _stored(self, piece):
        data = _npy(piece)
        path = self.path / self._name([data])
        try:
            if not (self.path / "network.json").exists():
                self.path.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path / "network.json", json.dumps(self.told, indent=1) + "\n")
            write_atomically(path, data)
        except OSError as error:
            raise TrainingError(
                f"{path} could not be written: {error}. What was computed before stays; make room, then the same "
                "command goes on."
            ) from error
        return _mapped(path)

    def _name(self, blocks):
        digest = hashlib.sha256(self._key)
        for block in blocks:
            digest.update(block)
        return f"{digest.hexdigest()}.npy"


class Bottlenecks:
    """A layer's values of crops, on disk: float32 `(crops, width)`.

    Attributes:
        width: values of a crop.
        computed: how many distinct crops were not in the cache.
        removed: how many pieces of the cache were damaged.
    """

    def __init__(self, pieces: list[np.ndarray], where: np.ndarray, width: int, computed: int, removed: int):
        self._pieces, self._where = pieces, where
        self.width, self.computed, self.removed = width, computed, removed

    def __len__(self):
        return len(self._where)

    def take(self, positions) -> np.ndarray:
        """The values of the crops at these positions, float32 `(positions, width)`."""
        where = self._where[np.asarray(positions, np.int64)]
        values = np.empty((len(where), self.width), np.float32)
        for number in set(where[:, 0].tolist()):
            here = where[:, 0] == number
            values[here] = self._pieces[number][where[here, 1]]
        return values

    def blocks(self, size: int = 4096) -> Iterator[np.ndarray]:
        """All values in order, so many crops at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


def folder_beside(faces: Faces) -> Path:
    """`bottlenecks/` beside the crops where that can be written, else in the user's cache folder."""
    beside = Path(faces.root) / FOLDER
    with contextlib.suppress(OSError):
        beside.mkdir(exist_ok=True)
        if os.access(beside, os.W_OK | os.X_OK):
            return beside
    return cache_folder() / FOLDER


def _digest_of(model):
    digest = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype} {values.shape}\0".encode())
        digest.update(values)
    return digest.hexdigest()


def _digest_of_file(path):
    try:
        return bytes.fromhex(sha256(path))
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}.") from error


def _blocks(path):
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _npy(array):
    data = io.BytesIO()
    np.lib.format.write_array(data, array, allow_pickle=False)
    return data.getvalue()


def _mapped(path):
    # A plain view of the mapped file: NumPy's own class is slow to take single rows of.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
