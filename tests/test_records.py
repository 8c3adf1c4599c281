"""Shards: what comes back is what was packed, to the byte; stopped and harmed packings are found out and mended."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from tfdfd.data.crops import faces_of
from tfdfd.data.orders import balanced
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.pipelines import open_shards, plan_shards, read_records, write_shards
from tfdfd.pipelines.datasets import eval_pipeline, train_pipeline

ODD = b"\xff\xc3\xa9".decode("utf-8", "surrogateescape")  # part of a name that is not UTF-8


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A faces.csv of 50 crops in all splits and in none, some names odd."""
    folder = tmp_path_factory.mktemp("faces")
    rows = []
    for number in range(50):
        label, split = number % 2, ("train", "train", "train", "val", None)[number % 5]
        name = f"{('real', 'fake')[label]}/ü {ODD if number == 7 else ''}{number}.{('png', 'jpg')[number % 3 == 0]}"
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        image = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        file.write_bytes(cv2.imencode(file.suffix, image)[1].tobytes())
        rows.append(
            FaceRow(
                name, "ffpp", f"v{number // 5}", number % 5, 0.04, 0, (1, 2, 3, 4), 0.9, label,
                ("original", "Deepfakes")[label], ("a", "b") if label else ("a",), split=split,
                sha256=hashlib.sha256(file.read_bytes()).hexdigest() if number % 2 else None,
            )
        )  # fmt: skip
    write_table(folder / "faces.csv", rows, FaceRow)
    return faces_of(folder)


def pack(faces, target, shards=3):
    return [written for _, written in write_shards(faces, plan_shards(faces, shards), target)]


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def packed(faces, tmp_path_factory):
    target = tmp_path_factory.mktemp("packed")
    assert pack(faces, target) == [True] * 9
    return target


@pytest.fixture
def copy(packed, tmp_path):
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def test_every_crop_comes_back_to_the_byte(faces, packed):
    rows = {row.file: (position, row) for position, row in enumerate(faces.rows)}
    records = list(read_records(open_shards(packed)))
    assert sorted(record.path for record in records) == sorted(rows)
    for record in records:
        position, row = rows[record.path]
        assert record.image == Path(faces.path(position)).read_bytes()
        for name in ("label", "method", "source_id", "split", "dataset", "video", "frame"):
            assert getattr(record, name) == getattr(row, name), name


def test_the_index_says_what_each_shard_holds(packed):
    index = json.loads((packed / "shards.json").read_text())
    assert index["complete"] and len(index["shards"]) == 9
    for entry, shard in zip(index["shards"], open_shards(packed), strict=True):
        data, records = (packed / entry["path"]).read_bytes(), list(read_records([shard]))
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert {record.split for record in records} == {entry["split"]}
        assert (entry["examples"], entry["fake"]) == (len(records), sum(record.label for record in records))
        assert entry["methods"] == Counter(record.method for record in records)
        assert entry["real"] + entry["fake"] == entry["examples"]


def test_shards_are_mixed(packed):
    """A file's neighbours in the table are not its neighbours in the shard."""
    for shard in open_shards(packed, "train"):
        frames = [5 * int(record.video[1:]) + record.frame for record in read_records([shard])]
        assert frames != sorted(frames) and max(frames) - min(frames) > 25


def test_the_same_crops_give_the_same_bytes_anywhere(faces, packed, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(faces.root, moved)
    pack(faces_of(moved), tmp_path / "shards")
    assert bytes_of(tmp_path / "shards") == bytes_of(packed)


@pytest.mark.parametrize("done", [1, 4])
def test_a_stopped_packing_goes_on(faces, packed, tmp_path, done):
    list(islice(write_shards(faces, plan_shards(faces, 3), tmp_path), done))
    # What a kill in the middle of a shard leaves behind.
    (tmp_path / f".{plan_shards(faces, 3)[done].name}.tmp").write_bytes(b"half")
    with pytest.raises(ValueError, match="packing was not finished; run the same `tfdfd pack` again"):
        open_shards(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.tfrecord")}
    assert pack(faces, tmp_path) == [False] * done + [True] * (9 - done)
    assert bytes_of(tmp_path) == bytes_of(packed)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before


def test_nothing_is_written_twice(faces, copy):
    before = {file: file.stat().st_ino for file in copy.glob("*.tfrecord")}
    assert pack(faces, copy) == [False] * 9
    assert {file: file.stat().st_ino for file in before} == before


@pytest.mark.parametrize("harm", ["truncated", "emptied", "missing", "changed"])
def test_a_harmed_shard_is_named_and_written_anew(faces, packed, copy, harm):
    shard = open_shards(copy, "train")[1]
    data = bytearray(Path(shard.path).read_bytes())
    data[len(data) // 2] ^= 1
    kept = {"truncated": data[:-5], "emptied": b"", "missing": None, "changed": data}[harm]
    Path(shard.path).unlink()
    if kept is not None:
        Path(shard.path).write_bytes(kept)
    with pytest.raises(ValueError, match="train-00001-of-00003.tfrecord (is missing|has|cannot be read)"):
        list(read_records(open_shards(copy)))
    if harm != "changed":
        for build in (train_pipeline, eval_pipeline):
            with pytest.raises(ValueError, match="train-00001-of-00003.tfrecord (is missing|has .* truncated)"):
                build(copy, 9, split="train")
    assert sum(pack(faces, copy)) == 1
    assert bytes_of(copy) == bytes_of(packed)


def test_a_changed_table_writes_what_it_changes(faces, copy):
    rows = tuple(
        dataclasses.replace(row, method="Other") if row.split == "val" and row.label else row for row in faces.rows
    )
    changed = dataclasses.replace(faces, rows=rows)
    with_fakes = [shard.fake > 0 and shard.split == "val" for shard in open_shards(copy)]
    assert pack(changed, copy) == with_fakes and any(with_fakes)
    assert {record.method for record in read_records(open_shards(copy, "val"))} == {"original", "Other"}


def test_a_crop_that_is_not_the_tables_is_named(faces, tmp_path):
    moved = Path(shutil.copytree(faces.root, tmp_path / "moved"))
    (moved / "fake" / "ü 1.png").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"ü 1\.png has other bytes than its table says"):
        pack(faces_of(moved), tmp_path / "shards")
    (moved / "fake" / "ü 1.png").unlink()
    for shards in (3, None):
        with pytest.raises(FileNotFoundError, match=r"ü 1\.png"):
            pack(faces_of(moved), tmp_path / "shards", shards)
    assert not list((tmp_path / "shards").glob(".*"))


@pytest.mark.parametrize("split", ["train", "val", None])
def test_pipelines_read_shards_as_they_read_files(faces, packed, split):
    def named(dataset):
        crops = {}
        for batch in dataset:
            for path, image, label in zip(batch["path"].numpy(), batch["image"], batch["label"], strict=True):
                assert path not in crops
                crops[path] = image.numpy(), label.numpy()
        return crops

    wanted = named(eval_pipeline(faces, 12, 8, split=split, named=True))
    assert set(wanted) == {os.fsencode(row.file) for row in faces.rows if split in (None, row.split)}
    for build in (eval_pipeline, train_pipeline):
        dataset = build(packed, 12, 8, split=split, named=True)
        got = named(dataset)
        assert set(got) == set(wanted) and len(dataset) == -(-len(wanted) // 8)
        for path, (image, label) in got.items():
            assert (image == wanted[path][0]).all() and label == wanted[path][1]


def test_training_on_shards_has_a_new_order_each_epoch_and_the_same_for_a_seed(packed):
    def order(dataset):
        return [path for batch in dataset for path in batch["path"].numpy()]

    def build(**arguments):
        return train_pipeline(packed, 9, 8, split=None, named=True, **arguments)

    dataset = build(seed=1)
    epochs = [order(dataset) for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert order(build(seed=1, first_epoch=2)) == epochs[2]
    assert order(build(seed=2)) != epochs[0]


def test_what_streams_cannot_do_is_told(packed):
    for arguments in ({"order": balanced}, {"cache": True}):
        with pytest.raises(ValueError, match="read as streams: no order but `shuffled` and no cache"):
            train_pipeline(packed, 9, split=None, **arguments)
    with pytest.raises(ValueError, match=r"no shard of split 'test' but \['None', 'train', 'val'\]"):
        train_pipeline(packed, 9, split="test")


def test_an_index_that_is_none_is_told(copy):
    (copy / "shards.json").write_text('{"schema": 1, "shards": [{}]}')
    with pytest.raises(ValueError, match="shards.json is not an index of shards"):
        open_shards(copy)


def test_the_verb_packs_and_goes_on(run_tfdfd, faces, packed, tmp_path):
    words = ["pack", faces.root, "-o", tmp_path / "shards", "--shards", 3]
    code, stdout, stderr = run_tfdfd(*words)
    assert code == 0
    sizes = {split: sum(s.bytes for s in open_shards(packed) if s.split == split) for split in (None, "train", "val")}
    assert stdout.splitlines() == [
        f"no split: 10 crops (5 Deepfakes, 5 original), 3 shards, {sizes[None] / 1e6:.1f} MB",
        f"train: 30 crops (15 Deepfakes, 15 original), 3 shards, {sizes['train'] / 1e6:.1f} MB",
        f"val: 10 crops (5 Deepfakes, 5 original), 3 shards, {sizes['val'] / 1e6:.1f} MB",
    ]
    assert "[9/9] val-00002-of-00003.tfrecord" in stderr
    assert bytes_of(tmp_path / "shards") == bytes_of(packed)
    code, again, stderr = run_tfdfd(*words)
    assert (code, again) == (0, stdout) and stderr.endswith("9 of 9 existed\n")


def test_the_verb_tells_wrong_usage(run_tfdfd, faces, packed, tmp_path):
    for words, told in [
        (
            [faces.root, "-o", packed, "--shards", 2],
            "all-00000-of-00003.tfrecord of another packing (9 such",
        ),
        ([faces.root, "-o", faces.root], "is the folder of the crops"),
        ([faces.root, "-o", tmp_path, "--shards", 0], "shards must be at least 1; received 0"),
        ([tmp_path, "-o", tmp_path / "s"], "holds no face crops"),
    ]:
        code, stdout, stderr = run_tfdfd("pack", *words)
        assert (code, stdout) == (2, "") and told in stderr
    (tmp_path / "file").write_text("")
    code, _, stderr = run_tfdfd("pack", faces.root, "-o", tmp_path / "file")
    assert code == 1 and "File exists" in stderr


def test_a_full_disk_leaves_what_was_done(faces, tmp_path, monkeypatch):
    import tensorflow as tf

    class Full(tf.io.TFRecordWriter):
        def write(self, record):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    writing = write_shards(faces, plan_shards(faces, 3), tmp_path)
    first, _ = next(writing)
    monkeypatch.setattr(tf.io, "TFRecordWriter", Full)
    with pytest.raises(OSError, match="all-00001-of-00003.tfrecord cannot be written: No space left on device"):
        next(writing)
    assert sorted(file.name for file in tmp_path.iterdir()) == [Path(first.path).name, "shards.json"]
    monkeypatch.undo()
    assert pack(faces, tmp_path) == [False] + [True] * 8


def test_real_crops(data, tmp_path):
    for name in ("dfdc", "ffpp"):
        faces = faces_of(data / "crops" / name)
        pack(faces, tmp_path / name, 2)
        packed = {record.path: record.image for record in read_records(open_shards(tmp_path / name))}
        assert packed == {row.file: Path(faces.path(n)).read_bytes() for n, row in enumerate(faces.rows)}
