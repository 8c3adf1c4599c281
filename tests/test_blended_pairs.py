"""Self-blended pairs of a face set: real crops alone, each once an epoch, the same bytes whoever makes them."""

import os
import subprocess
import sys
from collections import Counter
from functools import partial

import cv2
import numpy as np
import pytest

from tfdfd.data.crops import Faces, faces_of, read_pixels
from tfdfd.data.landmarks import FaceLandmarks, landmarks_of
from tfdfd.data.pair_sets import BlendedPairs, write_blended_set
from tfdfd.data.tables import FaceRow, write_table

SIZE, REAL = 48, 21


@pytest.fixture(scope="module")
def folder(tmp_path_factory, astronaut):
    """A face set of 21 real crops of one portrait to train on, 3 for validation, and 2 fakes; landmarks beside it."""
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for number in range(REAL + 5):
        name, label = f"{number:02d}.png", int(number >= REAL + 3)
        crop = astronaut[50 + number % 5 : 170 + number % 5, 150 + number // 5 : 290 + number // 5, ::-1]
        cv2.imwrite(str(folder / name), crop)
        split, method = ("val" if REAL <= number < REAL + 3 else "train"), ("Deepfakes" if label else "original")
        rows.append(FaceRow(name, "ffpp", f"v{number}", 0, 0.0, 0, (0, 0, 9, 9), 1.0, label, method, (), split=split))
    write_table(folder / "faces.csv", rows, FaceRow)
    found = landmarks_of(faces_of(folder))
    assert {entry.status for entry in found.values()} == {"ok"} and len(found) == REAL + 3
    return folder


@pytest.fixture(scope="module")
def pairs(folder):
    return BlendedPairs(folder, SIZE, seed=3)


def joined(batches):
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, labels


def test_batches_are_real_and_fake_in_turn(pairs):
    batches = list(pairs.batches(8))
    assert [len(images) for images, _ in batches] == [8] * 5 + [2]
    assert len(batches) == pairs.batches_of_epoch(8)
    images, labels = joined(batches)
    assert (images.dtype, images.shape) == (np.float32, (2 * REAL, SIZE, SIZE, 3))
    assert (labels.dtype, labels.ravel().tolist()) == (np.float32, [0.0, 1.0] * REAL)
    assert 0 <= images.min() <= images.max() <= 1
    differs = (images[::2] != images[1::2]).any(axis=3).mean(axis=(1, 2))
    assert (differs > 0).all() and differs.mean() < 0.9  # a fake is its real crop but for the face


def test_each_real_crop_of_the_split_comes_once_an_epoch_in_a_new_order(pairs):
    orders = [pairs.order(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(REAL)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert {(row.split, row.label) for row in pairs.rows} == {("train", 0)}


def test_pairs_are_a_function_of_seed_epoch_and_crop(pairs, folder):
    again, other = BlendedPairs(folder, SIZE, seed=3), BlendedPairs(folder, SIZE, seed=4)
    for number in (5, 0):
        np.testing.assert_array_equal(again.pair(number, 2), pairs.pair(number, 2))
        np.testing.assert_array_equal(again.pair(number, None), pairs.pair(number, None))
    made = [pairs.pair(0, 0), pairs.pair(0, 1), pairs.pair(0, None), pairs.pair(1, 0), other.pair(0, 0)]
    assert len({pair.tobytes() for pair in made}) == 5


def test_threads_change_nothing_and_a_stopped_run_goes_on(pairs):
    whole = [(images.tobytes(), labels.tobytes()) for images, labels in pairs.batches(8, epochs=3, threads=1)]
    later = pairs.batches(8, first_epoch=1, first_batch=4, epochs=2, threads=5)
    assert [(images.tobytes(), labels.tobytes()) for images, labels in later] == whole[6 + 4 :]
    assert pairs.batch(2, 5, 8)[0].tobytes() == whole[-1][0]


def test_without_end(pairs):
    batches = pairs.batches(20, epochs=None)
    sizes = [len(next(batches)[0]) for _ in range(7)]
    batches.close()
    assert sizes == [20, 20, 2] * 2 + [20]


def test_crops_without_landmarks_are_left_out_and_counted(folder):
    known = {file: entry for file, entry in landmarks_of(faces_of(folder)).items() if file != "05.png"}
    known["03.png"] = FaceLandmarks("03.png", None, "no_face")
    left = BlendedPairs(folder, SIZE, landmarks=known)
    assert len(left) == REAL - 2 and left.left_out == Counter(no_face=1, missing=1)
    with pytest.raises(ValueError, match=r"none of the 21 real crops .* \{'missing': 21\}"):
        BlendedPairs(folder, SIZE, landmarks={})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: BlendedPairs(folder, (48, 64)), r"side of a square.*received \(48, 64\)"),
        (lambda folder: BlendedPairs(folder, 0), "received 0"),
        (lambda folder: BlendedPairs(folder, 48, seed=-1), "seed must be an integer"),
        (lambda folder: BlendedPairs(folder, 48, split="test"), "no crop of split 'test'"),
        (lambda folder: BlendedPairs(fakes(folder), 48), "no real crop of split 'train'"),
        (lambda folder: next(BlendedPairs(folder, 48).batches(7)), "even size of at least 2; received 7"),
        (lambda folder: next(BlendedPairs(folder, 48).batches(8, first_batch=6)), "has 6 batches; received"),
        (lambda folder: BlendedPairs(folder, 48).batch(0, 6, 8), "has 6 batches; there is no batch 6"),
    ],
)
def test_what_does_not_fit_is_told(folder, make, told):
    with pytest.raises(ValueError, match=told):
        make(folder)


def fakes(folder):
    faces = faces_of(folder)
    return Faces(faces.root, tuple(row for row in faces.rows if row.label))


def test_a_crop_that_cannot_be_used_is_named(folder, tmp_path, astronaut):
    known = {
        "a.png": FaceLandmarks(
            "a.png", None, "ok", 1.0, (0, 0, 90, 90), ((9, 9), (70, 9), (40, 40), (15, 70), (65, 70))
        )
    }
    row = faces_of(folder).rows[0]
    faces = Faces(tmp_path, (FaceRow("a.png", "x", "v", 0, 0.0, 0, row.box, 1.0, 0, "original", (), split="train"),))
    made = BlendedPairs(faces, SIZE, landmarks=known)
    with pytest.raises(ValueError, match="a.png cannot be read: No such file"):
        made.pair(0, 0)
    cv2.imwrite(str(tmp_path / "a.png"), astronaut[:40, :40])
    with pytest.raises(ValueError, match="no self-blended pair .*/a.png: .*leave the image of 40x40"):
        next(made.batches(2))


def test_the_tensorflow_pipeline_gives_the_same_bytes(pairs, folder):
    from tfdfd.pipelines.datasets import blended_pipeline

    dataset = blended_pipeline(folder, SIZE, 8, seed=3)
    assert dataset.element_spec[0].shape == (None, SIZE, SIZE, 3) and dataset.element_spec[1].shape == (None, 1)
    assert len(dataset) == 6
    for epoch in range(2):
        for made, expected in zip(dataset, pairs.batches(8, first_epoch=epoch), strict=True):
            for part, wanted in zip(made, expected, strict=True):
                np.testing.assert_array_equal(part, wanted)
    later = blended_pipeline(pairs, SIZE, 8, first_epoch=1, first_batch=4)
    assert len(later) == 6
    for _ in range(2):
        images, _ = joined(later)
    np.testing.assert_array_equal(images, joined(pairs.batches(8, first_epoch=2))[0])
    images, _ = joined(blended_pipeline(pairs, SIZE, 8, first_epoch=1, first_batch=4))
    np.testing.assert_array_equal(images, joined(pairs.batches(8, first_epoch=1))[0][32:])


def test_evaluation_has_fixed_pairs_with_names(folder):
    from tfdfd.pipelines.datasets import blended_eval

    build = partial(blended_eval, folder, SIZE, 4, split="val", seed=3)
    dataset = build(named=True)
    first, second = ([{k: v.numpy() for k, v in batch.items()} for batch in dataset] for _ in range(2))
    assert len(dataset) == len(first) == 2
    for one, other in zip(first, second, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    got = {key: np.concatenate([batch[key] for batch in first]) for key in first[0]}
    assert got["image"].shape == (6, SIZE, SIZE, 3) and got["label"].ravel().tolist() == [0, 1] * 3
    assert got["path"].tolist() == [b"21.png"] * 2 + [b"22.png"] * 2 + [b"23.png"] * 2
    assert got["method"].tolist() == [b"original", b"self-blended"] * 3
    assert got["video"].tolist()[:2] == [b"v21", b"v21#self-blended"]
    np.testing.assert_array_equal(joined(build())[0], got["image"])
    fixed = BlendedPairs(folder, SIZE, split="val", seed=3)
    np.testing.assert_allclose(got["image"][:2], fixed.pair(0, None) / 255, atol=1e-6)
    images, labels, weights = (np.concatenate(parts) for parts in zip(*build(pad=True), strict=True))
    assert len(images) == 8 and weights.tolist() == [1] * 6 + [0] * 2 and labels.sum() == 3


def test_pipelines_of_other_shapes_or_broken_crops_are_told(pairs, folder, tmp_path, astronaut):
    import tensorflow as tf

    from tfdfd.pipelines.datasets import blended_pipeline

    with pytest.raises(ValueError, match=r"a square's.*received \(48, 64\)"):
        blended_pipeline(folder, (48, 64))
    (tmp_path / "real").mkdir()
    cv2.imwrite(str(tmp_path / "real" / "a.png"), astronaut[50:170, 150:290, ::-1])
    dataset = blended_pipeline(tmp_path, (SIZE, SIZE), 2, split=None)
    (tmp_path / "real" / "a.png").write_bytes(b"no picture")
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"real/a\.png cannot be decoded as PNG or JPEG \(10 bytes\)"
    ):
        list(dataset)


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from tfdfd.data.pair_sets import BlendedPairs
images, labels = next(BlendedPairs(sys.argv[1], 48).batches(4))
print(images.shape, labels.ravel().tolist())
"""


def test_no_tensorflow_is_needed(folder):
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(folder)], env=os.environ, check=True, capture_output=True
    )
    assert answer.stdout.decode() == "(4, 48, 48, 3) [0.0, 1.0, 0.0, 1.0]\n"


@pytest.mark.parametrize("kind", [cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED])
def test_pixels_are_rgb_whatever_the_file(tmp_path, astronaut, kind):
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), astronaut[:20, :30, ::-1])
    if kind == cv2.IMREAD_GRAYSCALE:
        cv2.imwrite(str(file), cv2.imread(str(file), kind))
        assert read_pixels(file).shape == (20, 30, 3)
    else:
        np.testing.assert_array_equal(read_pixels(file), astronaut[:20, :30])


def test_real_crops_blend(data, tmp_path):
    """UTKFace and DFDC: each photograph with a face gives a pair."""
    (tmp_path / "real").mkdir()
    files = sorted((data / "faces" / "utkface_adults").glob("*.jpg"))[::1000]
    for file in [*files, *sorted((data / "crops" / "dfdc" / "real").glob("*.png"))[:4]]:
        (tmp_path / "real" / file.name).write_bytes(file.read_bytes())
    pairs = BlendedPairs(tmp_path, 224, split=None)
    images, _ = joined(pairs.batches(4))
    assert len(images) == 2 * len(pairs) >= 16
    assert (np.abs(images[::2] - images[1::2]).max(axis=(1, 2, 3)) > 0.02).all()


def test_a_set_of_files_has_each_crop_and_its_fake(folder, tmp_path, run_tfdfd):
    code, out, err = run_tfdfd("data", "blend", folder, "-o", tmp_path / "set", "--size", SIZE, "--seed", 3, "--quiet")
    assert code == 0, err
    assert f"{REAL + 3} real crops and as many fakes; left out: none" in out
    faces = faces_of(tmp_path / "set")
    assert Counter((row.split, row.method) for row in faces.rows) == {
        ("train", "original"): REAL,
        ("train", "self-blended"): REAL,
        ("val", "original"): 3,
        ("val", "self-blended"): 3,
    }
    fixed = BlendedPairs(folder, SIZE, split=None, seed=3)
    for number in (0, REAL + 2):
        real, fake = (read_pixels(faces.path(2 * number + one)) for one in (0, 1))
        np.testing.assert_array_equal(np.stack([real, fake]), fixed.pair(number, None))


def test_a_set_of_files_goes_on_where_it_was_stopped(folder, tmp_path, run_tfdfd):
    words = ["data", "blend", folder, "--size", SIZE, "--quiet", "-o"]
    assert run_tfdfd(*words, tmp_path / "whole")[0] == 0
    partly = write_blended_set(BlendedPairs(folder, SIZE, split=None), tmp_path / "partly")
    for _ in range(5):
        next(partly)
    partly.close()
    assert not (tmp_path / "partly/faces.csv").exists()
    assert run_tfdfd(*words, tmp_path / "partly")[0] == 0
    whole, partly = (
        {file.relative_to(base): file.read_bytes() for file in base.rglob("*") if file.is_file()}
        for base in (tmp_path / "whole", tmp_path / "partly")
    )
    assert whole == partly
    code, _, err = run_tfdfd(*words, tmp_path / "whole", "--seed", 1)
    assert code == 2
    assert "started with other settings: seed was 0, now 1" in err
    code, _, err = run_tfdfd(*words, folder)
    assert code == 2
    assert "holds no such set" in err
