"""TFRecord shards: crops packed for file systems that like few large files, and read back as they were.

Each record is a `tf.train.Example` with the bytes of the crop's file as `image`, `label` and `frame` (int64), and
`path`, `method`, `video`, `dataset`, `source_id` (any number) and `split` (one or none) as bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfdfd.data.crops import Faces
from tfdfd.data.tables import FAKE, REAL, FaceRow
from tfdfd.files import sha256
from tfdfd.pipelines.planning import PlannedShard
from tfdfd.pipelines.shards import ENDING, Shard, is_packed, read_index, write_index

# Undecoded crops in memory while shards are shuffled, and shards read at a time: 256 px JPEGs are 20 KB, PNGs 100.
BUFFER, OPEN = 2048, 16


@dataclass(frozen=True)
class Record:
    """One crop read back from a shard; fields as in `FaceRow`, `image` the bytes of its file."""

    image: bytes
    path: str
    label: int
    method: str
    source_id: tuple[str, ...]
    split: str | None
    dataset: str
    video: str
    frame: int


def write_shards(faces: Faces, planned: list[PlannedShard], target: str | os.PathLike) -> Iterator[tuple[Shard, bool]]:
    """Writes shards and their index into a folder; goes on where an earlier run was stopped.

    A shard that is there, was planned alike and has the digest that the index says is not written again. The bytes
    depend on the crops alone, not on where or when they are packed.

    Yields:
        Each shard as it is done, and whether it was written now.

    Raises:
        ValueError: the folder is that of the crops or holds shards of another packing, or a crop is no longer the one
            in its table.
        OSError: a crop cannot be read or a shard cannot be written; what was done stays.
    """
    target = Path(target)
    if target.resolve() == faces.root.resolve():
        raise ValueError(f"{target} is the folder of the crops; give another one for the shards.")
    target.mkdir(parents=True, exist_ok=True)
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
        written = not _is_whole(known.get(shard.name), plan)
        if written:
            _write(faces, shard, target / shard.name)
        done.append(_described(faces, shard, target / shard.name, plan) if written else known[shard.name])
        last = len(done) == len(planned)
        if written or last:
            # Shards known from the earlier run stay listed, lest a second stop forget them.
            ahead = [known[other.name] for other in planned[len(done) :] if other.name in known]
            write_index(target, done + ahead, complete=last)
        yield done[-1], written


def read_records(shards: list[Shard]) -> Iterator[Record]:
    """The crops of shards in order.

    Raises:
        ValueError: a shard is damaged; names it.
    """
    for shard in shards:
        try:
            for record in tf.data.TFRecordDataset(shard.path):
                yield _record(tf.train.Example.FromString(record.numpy()).features.feature)
        except tf.errors.OpError as error:
            raise ValueError(f"{shard.path} cannot be read as a shard of crops: {error.message}") from error


def records_in_order(shards: list[Shard]) -> tf.data.Dataset:
    """Serialised examples, shard after shard."""
    return tf.data.TFRecordDataset([shard.path for shard in shards])


def shuffled_records(shards: list[Shard], seed: int, starts: Iterator[tuple[int, int]]) -> tf.data.Dataset:
    """Serialised examples with their turns, in an order that depends on the seed and the epoch that an iteration draws.

    Each iteration draws from `starts` its epoch and how many of that epoch's examples are left out at its beginning.

    Shards are put in random order and read several at a time, and so many crops as fit a buffer are shuffled at once.
    (`Dataset.shuffle` would depend on TensorFlow's global seed, too.)
    """
    paths = tf.constant([shard.path for shard in shards])

    def draw():
        epoch, skipped = next(starts)
        generator = np.random.default_rng([seed, epoch])
        return generator.permutation(len(shards)), generator.integers(2**62), np.int64(epoch), np.int64(skipped)

    def epoch(_):
        order, key, number, skipped = tf.numpy_function(draw, [], [tf.int64] * 4)
        files = tf.data.Dataset.from_tensor_slices(tf.gather(paths, tf.ensure_shape(order, (None,))))
        records = files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(OPEN, len(shards)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

        def mixed(number, block):
            return tf.random.experimental.stateless_shuffle(block, tf.stack([tf.ensure_shape(key, ()), number]))

        mixed_up = records.batch(BUFFER).enumerate().map(mixed).prefetch(1).unbatch().enumerate()
        turns = mixed_up.map(lambda place, record: (record, tf.stack([tf.ensure_shape(number, ()), place])))
        return turns.skip(tf.ensure_shape(skipped, ()))

    return tf.data.Dataset.from_tensors(0).flat_map(epoch)


def _write(faces, shard, file):
    # Always the same name: what a killed run has left behind is written over by the next.
    partial = file.with_name(f".{file.name}.tmp")
    try:
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for position in shard.positions:
                row = faces.rows[position]
                writer.write(_serialised(row, _bytes_of(faces, position)))
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, file)
    except tf.errors.OpError as error:
        raise OSError(f"{file} cannot be written: {error.message}") from error
    finally:
        partial.unlink(missing_ok=True)


def _bytes_of(faces, position):
    row, path = faces.rows[position], faces.path(position)
    data = Path(path).read_bytes()
    if row.sha256 and hashlib.sha256(data).hexdigest() != row.sha256:
        raise ValueError(f"{path} has other bytes than its table says (sha256 {row.sha256}); extract it again.")
    return data


def _described(faces, shard, file, plan):
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


def _is_whole(known, plan):
    if known is None or known.plan != plan or not os.path.isfile(known.path):
        return False
    return os.path.getsize(known.path) == known.bytes and sha256(known.path) == known.sha256


def _plan_digest(faces, shard):
    """Of the rows in their order; a crop without a digest in its table is known by its size."""
    told = hashlib.sha256(shard.name.encode())
    for position in shard.positions:
        row = faces.rows[position]
        told.update(_serialised(row, (row.sha256 or str(os.path.getsize(faces.path(position)))).encode()))
    return told.hexdigest()


def _serialised(row: FaceRow, image: bytes) -> bytes:
    texts = {
        "path": [row.file],
        "method": [row.method],
        "video": [row.video],
        "dataset": [row.dataset],
        "source_id": row.source_id,
        "split": [row.split] if row.split else [],
    }
    feature = {name: _feature(os.fsencode(text) for text in values) for name, values in texts.items()}
    feature["image"] = _feature([image])
    for name in ("label", "frame"):
        feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[getattr(row, name)]))
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def _feature(values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _record(feature):
    texts = {
        name: tuple(os.fsdecode(value) for value in feature[name].bytes_list.value)
        for name in ("path", "method", "video", "dataset", "source_id", "split")
    }
    return Record(
        image=feature["image"].bytes_list.value[0],
        path=texts["path"][0],
        label=feature["label"].int64_list.value[0],
        method=texts["method"][0],
        source_id=texts["source_id"],
        split=texts["split"][0] if texts["split"] else None,
        dataset=texts["dataset"][0],
        video=texts["video"][0],
        frame=feature["frame"].int64_list.value[0],
    )
