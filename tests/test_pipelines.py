"""Pipelines: which crops come, in which order, how often, and with which pixels and labels."""

import itertools
from collections import Counter
from functools import partial

import cv2
import numpy as np
import pytest

from tfdfd.data.crops import faces_of
from tfdfd.data.orders import balanced, dual, shuffled, various
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.faces.crop import resize_crop
from tfdfd.pipelines import plan_shards, write_shards
from tfdfd.pipelines.augmentation import Augmentation
from tfdfd.pipelines.datasets import eval_pipeline, train_pipeline

SIDE = 8


def paint(folder, name, number, side=SIDE):
    """A crop whose colour is its number."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    blue_green_red = (number // 256 // 256, number // 256 % 256, number % 256)
    cv2.imwrite(str(file), np.full((side, side, 3), blue_green_red, np.uint8))


def numbers(images):
    """The numbers back from the colours."""
    red, green, blue = np.rint(np.asarray(images)[:, 0, 0] * 255).astype(int).T
    return (red + 256 * green + 256 * 256 * blue).tolist()


def seen(dataset):
    """Batches of one iteration, as numbers."""
    return [numbers(batch[0]) for batch in dataset]


def flat(dataset):
    return [number for batch in seen(dataset) for number in batch]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """real/ 0 to 299; fake/A 300 to 304, fake/B 305 to 319: in sorted order, so that a number is a position."""
    folder = tmp_path_factory.mktemp("folder")
    for number in range(320):
        kind = "real" if number < 300 else "fake/A" if number < 305 else "fake/B"
        paint(folder, f"{kind}/{number:03d}.png", number)
    return folder


def face(video, frame, label, source_id, split="train", method=None):
    method = method or ("Deepfakes" if label else "original")
    name = f"{method}/{video}/{frame}.png"
    return FaceRow(
        name, "ffpp", f"{method}/{video}", frame, 0.0, 0, (0, 0, 9, 9), 1.0, label, method, source_id, (), None, split
    )


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """A faces.csv with 20 frames of three originals and of four fakes of them; colours are row numbers."""
    folder = tmp_path_factory.mktemp("paired")
    rows = [face(video, frame, 0, (video,)) for video in ("1", "2", "3") for frame in range(20)]
    fakes = [("1_2", ("1", "2"), "A"), ("1_2", ("1", "2"), "B"), ("2_1", ("2", "1"), "A"), ("3_1", ("3", "1"), "A")]
    rows += [face(video, frame, 1, source, method=m) for video, source, m in fakes for frame in range(20)]
    rows += [face("9", 0, 0, ("9",), split="val"), face("8", 0, 1, ("8",), split=None)]
    for number, row in enumerate(rows):
        paint(folder, row.file, number)
    write_table(folder / "faces.csv", rows, FaceRow)
    return folder, rows


def test_an_epoch_is_a_permutation_of_all_crops_and_the_next_is_another(folder):
    dataset = train_pipeline(folder, SIDE, 32, split=None, seed=3)
    first, second = flat(dataset), flat(dataset)
    assert sorted(first) == sorted(second) == list(range(320))
    assert first != second
    assert first[:100] != sorted(first)[:100] and max(first[:32]) > 200  # the whole set is shuffled, not a window
    assert len(dataset) == 10


def test_the_seed_and_the_epoch_say_the_order(folder):
    build = partial(train_pipeline, folder, SIDE, 32, split=None)
    dataset = build(seed=3)
    epochs = [flat(dataset) for _ in range(3)]
    again = build(seed=3)
    assert [flat(again) for _ in range(3)] == epochs
    assert flat(build(seed=3, first_epoch=2)) == epochs[2]
    assert flat(build(seed=4)) != epochs[0]


def test_tensorflows_own_seed_changes_nothing(folder):
    import tensorflow as tf

    build = partial(train_pipeline, folder, SIDE, 32, split=None)
    tf.random.set_seed(1)
    first = flat(build())
    tf.random.set_seed(2)
    assert flat(build()) == first


def test_batches_are_what_a_network_takes(folder):
    dataset = train_pipeline(folder, SIDE, 32, split=None)
    image, label = next(iter(dataset))
    assert (image.dtype, image.shape) == ("float32", (32, SIDE, SIDE, 3))
    assert (label.dtype, label.shape) == ("float32", (32, 1))
    assert dataset.element_spec[0].shape == (None, SIDE, SIDE, 3) and dataset.element_spec[1].shape == (None, 1)
    assert label.numpy().ravel().tolist() == [float(number >= 300) for number in numbers(image)]


def test_named_batches_tell_the_file(folder):
    for batch in train_pipeline(folder, SIDE, 64, split=None, named=True):
        for number, path, method in zip(numbers(batch["image"]), batch["path"], batch["method"], strict=True):
            wanted = "original" if number < 300 else "A" if number < 305 else "B"
            assert (path.numpy().decode().split("/")[-1], method.numpy().decode()) == (f"{number:03d}.png", wanted)


def test_the_cache_changes_speed_only(folder, monkeypatch):
    opened = Counter()

    def counted(path):
        opened[path] += 1
        return read(path)

    from tfdfd.pipelines.datasets import read_pixels as read

    monkeypatch.setattr("tfdfd.pipelines.datasets.read_pixels", counted)
    plain, cached = (train_pipeline(folder, SIDE, 50, split=None, cache=cache) for cache in (False, True))
    assert [seen(cached) for _ in range(3)] == [seen(plain) for _ in range(3)]
    assert set(opened.values()) == {4} and len(opened) == 320


def test_augmentation_is_called_on_batches_and_is_reproducible(folder):
    import keras

    build = partial(train_pipeline, folder, SIDE, 32, split=None)
    assert flat(build(augment=lambda images: images[:, ::-1] * 0 + 7 / 255))[:3] == [7 + 256 * 7 + 256 * 256 * 7] * 3
    images = [
        np.concatenate([image for image, _ in build(augment=keras.layers.RandomBrightness(0.5, (0, 1), seed=1))])
        for _ in range(2)
    ]
    assert (images[0] == images[1]).all()
    assert len({float(number) for number in images[0][:, 0, 0, 2]}) > 50  # each crop its own draw


def test_a_policy_alters_what_is_trained_on(tmp_path, astronaut):
    for kind in ("real", "fake"):
        (tmp_path / kind).mkdir()
        for number in range(4):
            cv2.imwrite(str(tmp_path / kind / f"{number}.png"), astronaut[64:128, 190 + 8 * number : 254 + 8 * number])
    build = partial(train_pipeline, tmp_path, 64, 4, split=None)
    plain, first, again = (
        np.concatenate([image for image, _ in build(augment=augment)])
        for augment in (None, Augmentation("s1", seed=1), Augmentation("s1", seed=1))
    )
    assert (first == again).all()
    assert (np.abs(first - plain).mean((1, 2, 3)) > 1e-3).sum() >= 4 and 0 <= first.min() <= first.max() <= 1


def test_a_network_trains_on_it(folder):
    import keras

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros")])
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    losses = model.fit(train_pipeline(folder, SIDE, 64, split=None), epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[0]
    assert model.optimizer.iterations == 15


@pytest.mark.parametrize(("batch", "sizes"), [(32, [32] * 10), (100, [100, 100, 100, 20]), (1000, [320])])
def test_evaluation_counts_every_crop_once_in_order(folder, batch, sizes):
    dataset = eval_pipeline(folder, SIDE, batch, split=None)
    for _ in range(2):
        batches = seen(dataset)
        assert [len(part) for part in batches] == sizes
        assert sum(batches, []) == [*range(320)] or sum(batches, []) == order_of(folder)
    assert len(dataset) == len(sizes)


def order_of(folder):
    return [int(row.file.split("/")[-1].split(".")[0]) for row in faces_of(folder).rows]


def test_evaluation_can_be_padded_without_counting_more(folder):
    dataset = eval_pipeline(folder, SIDE, 100, split=None, pad=True)
    images, labels, weights = (np.concatenate(parts) for parts in zip(*dataset, strict=True))
    assert len(images) == len(labels) == 400 and dataset.element_spec[0].shape == (100, SIDE, SIDE, 3)
    assert weights.tolist() == [1.0] * 320 + [0.0] * 80
    assert numbers(images[:320]) == order_of(folder)
    assert labels.sum() == 20


def test_evaluation_takes_its_split_in_the_order_of_the_table(paired):
    folder, rows = paired
    taken = flat(eval_pipeline(folder / "faces.csv", SIDE, split="train"))
    assert taken == [number for number, row in enumerate(rows) if row.split == "train"]
    assert [rows[number].split for number in flat(eval_pipeline(folder, SIDE, split="val"))] == ["val"]


def test_balanced_batches_are_half_real_and_methods_equal(folder):
    dataset = train_pipeline(folder, SIDE, 32, split=None, order=balanced)
    for _ in range(2):
        drawn = []
        for batch in seen(dataset):
            assert len(batch) == 32 and sum(number >= 300 for number in batch) == 16
            drawn += batch
        counts = Counter("real" if n < 300 else "A" if n < 305 else "B" for n in drawn)
        assert counts == {"real": 160, "A": 80, "B": 80}
        times = Counter(drawn)
        assert {times[number] for number in range(300, 305)} == {16}  # each of the five of A
        assert max(times[number] for number in range(300)) <= 2  # some again once the 300 have been through


def test_balanced_epochs_leave_no_crop_out(folder):
    rows = faces_of(folder).rows
    epoch_of = balanced(rows, 32, 0)
    # 160 real draws an epoch: after 15 epochs 2400, which is 300 times 8.
    times = Counter(itertools.chain.from_iterable(epoch_of(epoch).tolist() for epoch in range(15)))
    assert {number for number in times if number < 300} == set(range(300))
    assert max(times[n] for n in range(300)) - min(times[n] for n in range(300)) <= 3
    assert (epoch_of(1) == balanced(rows, 32, 0)(1)).all() and (epoch_of(1) != epoch_of(2)).any()


def test_a_crop_comes_again_only_when_its_stratum_has_come():
    rows = [face("r", frame, 0, ("r",)) for frame in range(7)] + [face("f", 0, 1, ("f",))]
    epoch_of = balanced(rows, 2, 5)
    real = [n for epoch in range(600) for n in epoch_of(epoch).tolist() if n < 7]
    assert len(real) == 600 * 4
    assert all(sorted(real[start : start + 7]) == list(range(7)) for start in range(0, 2394, 7))


def test_dual_batches_are_frames_of_a_fake_beside_those_of_its_original(paired):
    folder, rows = paired
    dataset = train_pipeline(folder, SIDE, 8, order=dual(total_epochs=4))
    for epoch in range(5):
        batches = seen(dataset)
        taken = [[rows[number] for number in batch] for batch in batches]
        for batch in taken:
            fakes, reals = batch[::2], batch[1::2]
            assert len({fake.video for fake in fakes}) == len({real.video for real in reals}) == 1
            assert fakes[0].label == 1 and reals[0].source_id == fakes[0].source_id[:1]
            # (20 - 4) / 4 = 4; the fifth epoch is as the first.
            start = epoch % 4
            assert [fake.frame for fake in fakes] == [real.frame for real in reals] == list(range(start, start + 16, 4))
        assert sorted(batch[0].video for batch in taken) == ["A/1_2", "A/2_1", "A/3_1", "B/1_2"]
    assert len(dataset) == 4


def test_various_batches_are_one_frame_of_each_pair(paired):
    folder, rows = paired
    dataset = train_pipeline(folder, SIDE, 6, order=various(total_epochs=10))
    for epoch in range(4):
        batches = seen(dataset)
        assert [len(batch) for batch in batches] == [6, 2]
        taken = [rows[number] for batch in batches for number in batch]
        assert sorted(fake.video for fake in taken[::2]) == ["A/1_2", "A/2_1", "A/3_1", "B/1_2"]
        assert all(r.source_id == f.source_id[:1] for f, r in zip(taken[::2], taken[1::2], strict=True))
        # 8 * epoch mod 10, and 1 more from the third epoch on: 16 / 20, 24 / 20.
        assert {row.frame for row in taken} == {[0, 8, 6, 5][epoch]}


def test_pairs_too_short_are_left_out_when_asked(paired):
    """As of somebody who passes by: three frames only of the second fake."""
    rows = [row for row in paired[1] if row.video != "B/1_2" or row.frame < 3]
    for order, length in ((dual, 3 * 8), (various, 3 * 2)):
        with pytest.raises(ValueError, match="1 of 4 pairs are too short. B/1_2 .* skip_short=True"):
            order(4)(rows, 8, 0)
        taken = order(4, skip_short=True)(rows, 8, 0)(0)
        assert len(taken) == length and "B/1_2" not in {rows[number].video for number in taken}
    with pytest.raises(ValueError, match="4 of 4 pairs are too short"):
        dual(40, skip_short=True)(rows, 8, 0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"order": dual(20)},
            "4 of 4 pairs are too short. A/1_2 and its original: a video of 20 frames",
        ),
        ({"order": various(20)}, "20 frames is too short for 20 epochs"),
        ({"order": dual(0)}, "total_epochs must be at least 1; received 0"),
        ({"order": various(0)}, "total_epochs must be at least 1; received 0"),
        ({"order": dual(4), "batch_size": 7}, "even size of at least 2; received 7"),
        ({"order": various(4), "batch_size": 7}, "even size of at least 2; received 7"),
        ({"split": "val", "order": various(4)}, "no fake has its original among these 1 crops"),
        ({"split": "val", "order": balanced}, "received 1 real and 0 fake"),
        ({"split": "test"}, r"no crop of split 'test' \(its crops: 140 train, 1 val, 1 without a split\)"),
        ({"batch_size": 0}, "batch_size must be at least 1; received 0"),
        ({"size": 0}, "size must be a number of pixels"),
    ],
)
def test_what_does_not_fit_is_told_at_once(paired, arguments, told):
    with pytest.raises(ValueError, match=told):
        train_pipeline(**{"faces": paired[0], "size": SIDE, "batch_size": 8} | arguments)


def test_a_folder_without_crops_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds no face crops; expected a faces.csv"):
        faces_of(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match="has no crops"):
        faces_of(tmp_path)


@pytest.mark.parametrize("build", [train_pipeline, eval_pipeline])
@pytest.mark.parametrize("harm", ["empty", "cut", "text", "missing"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_crop_that_cannot_be_read_is_named(tmp_path, build, harm, packed):
    import tensorflow as tf

    for number in range(6):
        paint(tmp_path / "crops", f"real/{number}.png", number, side=32)
    broken = tmp_path / "crops" / "real" / "3.png"
    faces = faces_of(tmp_path / "crops")
    whole = broken.read_bytes()
    broken.write_bytes({"empty": b"", "cut": whole[:-20], "text": b"no image", "missing": whole}[harm])
    if packed and harm in ("empty", "text"):
        with pytest.raises(ValueError, match=r"3\.png cannot be decoded"):
            list(write_shards(faces, plan_shards(faces, 2), tmp_path / "shards"))
        return
    if packed:
        for _ in write_shards(faces, plan_shards(faces, 2), tmp_path / "shards"):
            pass
        faces = tmp_path / "shards"
    if harm == "missing":
        broken.unlink()
    dataset = build(faces, SIDE, 2, split=None)
    if harm == "missing" and packed:
        assert sorted(flat(dataset)) == list(range(6))
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"real/3\.png.* cannot be"):
        list(dataset)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pixels_are_those_that_detect_sees(tmp_path, astronaut, ending):
    """The same decoding to the bit as OpenCV's, and its resizing but for rounding."""
    crop = np.ascontiguousarray(astronaut[60:190, 160:290])
    (tmp_path / "real").mkdir()
    file = tmp_path / "real" / f"face.{ending}"
    cv2.imwrite(str(file), crop[..., ::-1])
    decoded = cv2.imread(str(file))[..., ::-1]
    for size in (130, 256, 100, 64, 48):
        (image, _), *_ = eval_pipeline(tmp_path, size, split=None)
        wanted = resize_crop(np.ascontiguousarray(decoded), size)
        away = np.abs(image[0].numpy() * 255 - wanted).max()
        assert away <= (1e-3 if size == 130 else 1.01), f"{size}: {away}"
        assert image.numpy().min() >= 0 and image.numpy().max() <= 1


def test_grey_and_transparent_crops_become_rgb(tmp_path):
    (tmp_path / "real").mkdir()
    cv2.imwrite(str(tmp_path / "real" / "grey.png"), np.full((SIDE, SIDE), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "real" / "with_alpha.png"), np.full((SIDE, SIDE, 4), 9, np.uint8))
    assert flat(eval_pipeline(tmp_path, SIDE, split=None)) == [9 + 256 * 9 + 256 * 256 * 9] * 2


def test_odd_names_and_a_height_unlike_the_width(tmp_path):
    names = ["üñí 'x'.png", "a;b,c.PNG", b"\xff\xfe.png".decode("utf-8", "surrogateescape")]
    for number, name in enumerate(sorted(names)):
        (tmp_path / "fake").mkdir(exist_ok=True)
        image = np.full((6, 4, 3), (0, 0, number), np.uint8)
        (tmp_path / "fake" / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (batch,) = eval_pipeline(tmp_path, (6, 4), split=None, named=True)
    assert batch["image"].shape == (3, 6, 4, 3) and numbers(batch["image"]) == [0, 1, 2]
    told = [path.decode("utf-8", "surrogateescape") for path in batch["path"].numpy()]
    assert told == [f"fake/{name}" for name in sorted(names)]


def test_real_crops(data):
    folder = data / "crops" / "dfdc"
    images, labels = (np.concatenate(parts) for parts in zip(*eval_pipeline(folder, 64, 8, split=None), strict=True))
    assert images.shape == (22, 64, 64, 3) and labels.ravel().tolist() == [0.0] * 11 + [1.0] * 11
    trained = np.concatenate([image for image, _ in train_pipeline(folder, 64, 8, split=None)])
    assert sorted(trained.mean((1, 2, 3)).tolist()) == pytest.approx(sorted(images.mean((1, 2, 3)).tolist()))


@pytest.mark.parametrize("build", [train_pipeline, eval_pipeline])
def test_the_end_of_an_epoch_does_not_wait_for_tensorflows_tuning(folder, build):
    assert build(folder, SIDE, 32, split=None).options().autotune.enabled is False


def test_shuffled_is_the_order_unless_told(folder):
    rows = faces_of(folder).rows
    assert sorted(shuffled(rows, 32, 0)(0).tolist()) == list(range(320))


@pytest.mark.parametrize(("epoch", "batch"), [(0, 3), (2, 1), (1, 9)])
def test_a_stopped_training_goes_on_in_the_middle_of_an_epoch(folder, monkeypatch, epoch, batch):
    whole = train_pipeline(folder, SIDE, 32, split=None, seed=3)
    epochs = [seen(whole) for _ in range(epoch + 2)]
    opened = Counter()

    def counted(path):
        opened[path] += 1
        return read(path)

    from tfdfd.pipelines.datasets import read_pixels as read

    monkeypatch.setattr("tfdfd.pipelines.datasets.read_pixels", counted)
    later = train_pipeline(folder, SIDE, 32, split=None, seed=3, first_epoch=epoch, first_batch=batch)
    assert len(later) == 10 and later.cardinality() == 10
    assert seen(later) == epochs[epoch][batch:]
    assert sum(opened.values()) == 320 - 32 * batch  # what comes before is not read
    assert seen(later) == epochs[epoch + 1]


def test_shards_go_on_in_the_middle_of_an_epoch_too(folder, tmp_path):
    for _ in write_shards(faces_of(folder), plan_shards(faces_of(folder), 3), tmp_path):
        pass
    build = partial(train_pipeline, tmp_path, SIDE, 32, split=None, seed=3)
    whole, later = build(), build(first_epoch=1, first_batch=7)
    epochs = [seen(whole) for _ in range(3)]
    assert [seen(later), seen(later)] == [epochs[1][7:], epochs[2]]
    assert len(later) == 10


def test_keras_takes_the_rest_of_an_epoch_and_then_whole_ones(folder):
    import keras

    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    dataset = train_pipeline(folder, SIDE, 32, split=None, first_batch=8)
    model.fit(dataset, epochs=1, steps_per_epoch=2, verbose=0)
    assert model.optimizer.iterations == 2
    model.fit(dataset, initial_epoch=1, epochs=3, verbose=0)
    assert model.optimizer.iterations == 2 + 10 + 10


@pytest.mark.parametrize("place", [{"first_batch": 10}, {"first_batch": -1}, {"first_epoch": -1}])
def test_a_place_that_no_epoch_has_is_told(folder, place):
    with pytest.raises(ValueError, match="first_batch from 0 to 9, an epoch having 10 batches; received"):
        train_pipeline(folder, SIDE, 32, split=None, **place)


@pytest.fixture(scope="module")
def textured(tmp_path_factory, astronaut):
    """24 crops of a photograph, and shards of them."""
    folder = tmp_path_factory.mktemp("textured")
    for number in range(24):
        file = folder / "crops" / ("real", "fake")[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), astronaut[40 + 4 * number : 88 + 4 * number, 190:238])
    faces = faces_of(folder / "crops")
    for _ in write_shards(faces, plan_shards(faces, 2), folder / "shards"):
        pass
    return folder


def images_of(dataset):
    return np.concatenate([batch[0] for batch in dataset])


@pytest.mark.parametrize("kind", ["crops", "shards"])
@pytest.mark.parametrize("name", ["s1", "s2", "modern"])
def test_a_policy_by_name_is_a_function_of_seed_epoch_and_place(textured, kind, name):
    from tfdfd.data.augment import CropAugmenter

    build = partial(train_pipeline, textured / kind, 48, 8, split=None, seed=2)
    untouched, whole = build(), build(augment=name)
    plain, epochs = ([images_of(dataset) for _ in range(3)] for dataset in (untouched, whole))
    wanted = np.stack([CropAugmenter(name, 2)(image, 1, place) for place, image in enumerate(plain[1])])
    np.testing.assert_array_equal(epochs[1], wanted)
    assert (epochs[1] != plain[1]).any(axis=(1, 2, 3)).mean() > 0.5
    later = build(augment=name, first_epoch=1, first_batch=2)
    np.testing.assert_array_equal(images_of(later), epochs[1][16:])
    np.testing.assert_array_equal(images_of(later), epochs[2])


def test_a_policy_by_name_leaves_labels_and_names(textured):
    plain, augmented = (
        list(train_pipeline(textured / "crops", 48, 8, split=None, augment=augment, named=True))
        for augment in (None, "modern")
    )
    for one, other in zip(plain, augmented, strict=True):
        assert set(one) == set(other) == {"image", "label", "path", "method", "video"}
        for key in set(one) - {"image"}:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_policy_that_is_none_is_told(textured):
    with pytest.raises(ValueError, match="no augmentation policy 'strong'; expected one of s1, s2, flip, modern"):
        train_pipeline(textured / "crops", 48, 8, split=None, augment="strong")
