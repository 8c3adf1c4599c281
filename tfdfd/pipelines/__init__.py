"""TFRecord shards of face crops, which `datasets` reads as it reads files: planned, written with an index, and read.

The index is `shards.json`. Each record is a `tf.train.Example` with the bytes of the crop's file as `image`, `label`
and `frame` (int64), and `path`, `method`, `video`, `dataset`, `source_id` (any number) and `split` (one or none) as
bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdfd.data.crops import Faces, check_picture
from tfdfd.data.tables import FAKE, REAL, FaceRow
from tfdfd.files import TEMPORARY, locked, sha256, write_atomically

if TYPE_CHECKING:
    import tensorflow as tf

INDEX = "shards.json"
ENDING = ".tfrecord"
SHARD_BYTES = 128 * 2**20
_SCHEMA = 1
# Encoded crops in memory while shards are shuffled, and shards read at a time: 256 px JPEGs are 20 KB, PNGs 100.
BUFFER, OPEN = 2048, 16
_TEXTS = ("path", "method", "video", "dataset", "source_id", "split")


@dataclass(frozen=True)
class Shard:
    """One file of crops.

    Attributes:
        path: path of the file; in the index its name.
        split: split of all crops in it, or None.
        examples: number of crops.
        real: number of real crops.
        fake: number of fake crops.
        methods: number of crops of each method, by name.
        bytes: size of the file.
        sha256: of the file.
        plan: SHA-256 of the planned content, which tells whether the shard is up to date.
    """

    path: str
    split: str | None
    examples: int
    real: int
    fake: int
    methods: dict[str, int]
    bytes: int
    sha256: str
    plan: str


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be written: its name, split, and the positions of its crops in order."""

    name: str
    split: str | None
    positions: np.ndarray


@dataclass(frozen=True)
class ShardRecord:
    """One crop read back from a shard; fields as in `FaceRow`, `image` holds the bytes of its file."""

    image: bytes
    path: str
    label: int
    method: str
    source_id: tuple[str, ...]
    split: str | None
    dataset: str
    video: str
    frame: int


def plan_shards(faces: Faces, shards: int | None = None) -> list[PlannedShard]:
    """Distributes the crops of each split over shards in one fixed random order: each shard samples its split.

    Args:
        faces: the crops.
        shards: number for each split (at most one per crop); None: as many as keep them near 128 MiB.

    Raises:
        ValueError: `shards` is below 1.
        OSError: a crop of the table is missing.
    """
    if shards is not None and shards < 1:
        raise ValueError(f"the number of shards must be at least 1; received {shards}.")
    of_split = defaultdict(list)
    for position, row in enumerate(faces.rows):
        of_split[row.split].append(position)
    planned = []
    for split, positions in sorted(of_split.items(), key=lambda item: item[0] or ""):
        positions = np.random.default_rng(0).permutation(positions)  # type: ignore[assignment]
        count = shards or -(-sum(os.path.getsize(faces.path(position)) for position in positions) // SHARD_BYTES)
        count = max(1, min(count, len(positions)))
        for number, part in enumerate(np.array_split(positions, count)):
            planned.append(PlannedShard(f"{split or 'all'}-{number:05d}-of-{count:05d}{ENDING}", split, part))
    return planned


def write_shards(faces: Faces, planned: list[PlannedShard], target: str | os.PathLike) -> Iterator[tuple[Shard, bool]]:
    """Writes shards and their index into a folder; resumes an interrupted run.

    A shard that exists, has the same plan and the digest of the index is not written again. The bytes depend on the
    crops alone, not on where or when they are packed.

    Yields:
        Each shard as it is done, and whether it was written now.

    Raises:
        ValueError: the folder is that of the crops, holds shards of another packing, or is locked by another process;
            or a crop is not a picture, or differs from the digest in its table.
        OSError: a crop cannot be read or a shard cannot be written; finished shards stay.
    """
    target = Path(target)
    if target.resolve() == faces.root.resolve():
        raise ValueError(f"{target} is the folder of the crops; give another one for the shards.")
    with locked(target, "tfdfd pack"):
        yield from _write_shards(faces, planned, target)


def _write_shards(faces: Faces, planned: list[PlannedShard], target: Path) -> Iterator[tuple[Shard, bool]]:
    # The folder is locked, so that temporary files in it are of a run that was killed.
    for left_over in (*target.glob(f".*{ENDING}.tmp"), *target.glob(TEMPORARY)):
        left_over.unlink(missing_ok=True)
    names = {shard.name for shard in planned}
    foreign = sorted(file.name for file in target.glob(f"*{ENDING}") if file.name not in names)
    if foreign:
        raise ValueError(
            f"{target} holds {foreign[0]} of another packing ({len(foreign)} such shards); give an empty folder."
        )
    known = {Path(shard.path).name: shard for shard in read_index(target)[0]} if is_packed(target) else {}
    done = []
    for shard in planned:
        plan = _plan_digest(faces, shard)
        written = not _is_current(known.get(shard.name), plan)
        if written:
            _write_shard(faces, shard, target / shard.name)
        done.append(_summary(faces, shard, target / shard.name, plan) if written else known[shard.name])
        last = len(done) == len(planned)
        if written or last:
            # Shards of the earlier run stay listed, so that a second interruption does not lose them.
            ahead = [known[other.name] for other in planned[len(done) :] if other.name in known]
            write_index(target, done + ahead, complete=last)
        yield done[-1], written


def is_packed(folder: object) -> bool:
    """Whether `folder` holds shards."""
    return isinstance(folder, str | os.PathLike) and (Path(folder) / INDEX).is_file()


def write_index(folder: str | os.PathLike, shards: Iterable[Shard], complete: bool) -> None:
    """Writes `shards.json` atomically."""
    entries = [asdict(shard) | {"path": Path(shard.path).name} for shard in shards]
    text = json.dumps({"schema": _SCHEMA, "complete": complete, "shards": entries}, indent=1) + "\n"
    write_atomically(Path(folder) / INDEX, text)


def read_index(folder: str | os.PathLike) -> tuple[list[Shard], bool]:
    """The shards that the index lists, with paths in `folder`, and whether it is complete.

    Raises:
        ValueError: the index cannot be read or has another form.
    """
    file = Path(folder) / INDEX
    try:
        index = json.loads(file.read_text("utf-8"))
        if index["schema"] != _SCHEMA:
            raise ValueError(f"schema {index['schema']}; expected {_SCHEMA}")
        shards = [Shard(**entry | {"path": str(file.with_name(entry["path"]))}) for entry in index["shards"]]
        return shards, index["complete"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is not an index of shards as `tfdfd pack` writes it: {error}") from error


def open_shards(folder: str | os.PathLike, split: str | None = None) -> list[Shard]:
    """The shards of a split (None: all), each checked to exist in its full size.

    Raises:
        ValueError: packing was not finished, there is no such split, or a shard is missing or has another size; names
            the shard.
    """
    shards, complete = read_index(folder)
    if not complete:
        raise ValueError(f"{folder}: packing was not finished; run the same `tfdfd pack` again, it resumes.")
    for shard in shards:
        size = os.path.getsize(shard.path) if os.path.isfile(shard.path) else None
        if size != shard.bytes:
            problem = "is missing" if size is None else f"has {size:,} bytes: it was truncated or replaced"
            raise ValueError(
                f"{shard.path} {problem}; {INDEX} says {shard.bytes:,} bytes. Run `tfdfd pack` again, it writes that "
                "shard anew."
            )
    chosen = [shard for shard in shards if split is None or shard.split == split]
    if not chosen:
        known = sorted({str(shard.split) for shard in shards})
        raise ValueError(
            f"{folder} has no shard of split {split!r} but {known}; take all: --split none of "
            "'tfdfd evaluate', split=None in Python."
        )
    return chosen


def read_records(shards: list[Shard]) -> Iterator[ShardRecord]:
    """The crops of shards in order.

    Raises:
        ValueError: a shard is damaged; names it.
    """
    import tensorflow as tf

    for shard in shards:
        try:
            for record in tf.data.TFRecordDataset(shard.path):
                yield _parse(tf.train.Example.FromString(record.numpy()).features.feature)
        except tf.errors.OpError as error:
            raise ValueError(f"{shard.path} cannot be read as a shard of crops: {error.message}") from error


def shuffled_records(shards: list[Shard], seed: int, starts: Iterator[tuple[int, int]]) -> tf.data.Dataset:
    """Dataset of serialized examples with `(epoch, position)`, in an order that depends on seed and epoch.

    Each iteration takes from `starts` its epoch and the number of examples to skip at the beginning of it.

    Shards are read in random order, several at a time, and as many crops as fit a buffer are shuffled at once.
    (`Dataset.shuffle` would depend on TensorFlow's global seed, too.)
    """
    import tensorflow as tf

    paths = tf.constant([shard.path for shard in shards])

    def draw() -> tuple:
        epoch, skipped = next(starts)
        generator = np.random.default_rng([seed, epoch])
        return generator.permutation(len(shards)), generator.integers(2**62), np.int64(epoch), np.int64(skipped)

    def examples_of(_: tf.Tensor) -> tf.data.Dataset:
        order, key, epoch, skipped = tf.numpy_function(draw, [], [tf.int64] * 4)
        files = tf.data.Dataset.from_tensor_slices(tf.gather(paths, tf.ensure_shape(order, (None,))))
        records = files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(OPEN, len(shards)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

        def shuffle(number: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
            return tf.random.experimental.stateless_shuffle(block, tf.stack([tf.ensure_shape(key, ()), number]))

        shuffled = records.batch(BUFFER).enumerate().map(shuffle).prefetch(1).unbatch().enumerate()
        turns = shuffled.map(lambda position, record: (record, tf.stack([tf.ensure_shape(epoch, ()), position])))
        return turns.skip(tf.ensure_shape(skipped, ()))

    return tf.data.Dataset.from_tensors(0).flat_map(examples_of)


def _write_shard(faces: Faces, shard: PlannedShard, file: Path) -> None:
    import tensorflow as tf

    # A fixed name: the next run overwrites what a killed run has left behind.
    partial = file.with_name(f".{file.name}.tmp")
    try:
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for position in shard.positions:
                image = faces.read(position)
                check_picture(image, faces.path(position))
                writer.write(_serialize(faces.rows[position], image))
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, file)
    except tf.errors.OpError as error:
        raise OSError(f"{file} cannot be written: {error.message}") from error
    finally:
        partial.unlink(missing_ok=True)


def _summary(faces: Faces, shard: PlannedShard, file: Path, plan: str) -> Shard:
    rows = [faces.rows[position] for position in shard.positions]
    labels, methods = Counter(row.label for row in rows), Counter(row.method for row in rows)
    return Shard(
        path=str(file),
        split=shard.split,
        examples=len(rows),
        real=labels[REAL],
        fake=labels[FAKE],
        methods=dict(sorted(methods.items())),
        bytes=file.stat().st_size,
        sha256=sha256(file),
        plan=plan,
    )


def _is_current(known: Shard | None, plan: str) -> bool:
    if known is None or known.plan != plan or not os.path.isfile(known.path):
        return False
    return os.path.getsize(known.path) == known.bytes and sha256(known.path) == known.sha256


def _plan_digest(faces: Faces, shard: PlannedShard) -> str:
    """Digest of the rows in order; the file size stands in for a digest that the table lacks."""
    digest = hashlib.sha256(shard.name.encode())
    for position in shard.positions:
        row = faces.rows[position]
        digest.update(_serialize(row, (row.sha256 or str(os.path.getsize(faces.path(position)))).encode()))
    return digest.hexdigest()


def _serialize(row: FaceRow, image: bytes) -> bytes:
    import tensorflow as tf

    def texts(values: Iterable[str]) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=map(os.fsencode, values)))

    feature = {name: texts([getattr(row, name)]) for name in ("method", "video", "dataset")}
    feature |= {"path": texts([row.file]), "source_id": texts(row.source_id)}
    feature["split"] = texts([row.split] if row.split else [])
    feature["image"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    for name in ("label", "frame"):
        feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[getattr(row, name)]))
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def _parse(feature: Mapping[str, Any]) -> ShardRecord:
    texts = {name: tuple(os.fsdecode(value) for value in feature[name].bytes_list.value) for name in _TEXTS}
    return ShardRecord(
        image=feature["image"].bytes_list.value[0],
        label=feature["label"].int64_list.value[0],
        frame=feature["frame"].int64_list.value[0],
        source_id=texts.pop("source_id"),
        split=next(iter(texts.pop("split")), None),
        **{name: values[0] for name, values in texts.items()},
    )
