"""Packed training: packs, donors, blending, the trainer's loss, resuming and the command line."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed: pip install 'tfdfd[test]'")

import jax
import jax.numpy as jnp
import keras

from tfdfd.models import build, load
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import locate
from tools.packed import blending, pixels
from tools.packed import pack as packing
from tools.packed.dataset import SIDE, Pack, Sampler
from tools.packed.finish import FAKE_BOUND, OPEN_BOUND, average, trained_run, worst_band
from tools.packed.mesh_points import POINTS, REGIONS
from tools.packed.settings import Settings
from tools.provenance import packed_commands

ROOT = Path(__file__).parent.parent
SETTINGS = {"size": 64, "pairs": 2, "blends": 2, "precision": "float32", "steps": 4}
# Three people train, two validate; the first of each has a fake that takes a second one's face.
PEOPLE = {"train": ("a", "b", "c"), "val": ("d", "e")}


def face(seed, height=90, width=80):
    """A smooth random picture, RGB uint8."""
    small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def mesh(crop):
    """Points of a face that fills a crop, on an ellipse and in it; a black crop has none."""
    if not crop.any():
        raise ValueError("no face")
    height, width = crop.shape[:2]
    rng = np.random.default_rng(crop.sum())
    angles = np.linspace(0, 2 * np.pi, 468, endpoint=False)
    reach = np.where(np.isin(np.arange(468), POINTS[:36]), 1.0, 0.6) + rng.normal(0, 0.02, 468)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    return np.float32((unit * 0.4 + 0.5) * (width, height)), 1.0


def write_set(folder, people=PEOPLE):
    """A face set of two crops per person, and of one fake per split."""
    lines = ["file,dataset,video,method,source_id,split,label"]
    for split, members in people.items():
        faces = [(f"{name}{i}", name, "none", name, 0) for name in members for i in range(2)]
        faces += [(f"{members[0]}-{members[1]}", f"{members[0]}_{members[1]}", "Swap", f"{members[0]};{members[1]}", 1)]
        for number, (file, video, method, sources, label) in enumerate(faces):
            cv2.imwrite(str(folder / f"{file}.jpg"), face(ord(file[0]) + number))
            lines.append(f"{file}.jpg,ffpp,{video},{method},{sources},{split},{label}")
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    return folder / "faces.csv"


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """The parts of a pack of 12 crops."""
    folder = tmp_path_factory.mktemp("packed")
    table = write_set(folder)
    most = sum(file.stat().st_size for file in folder.glob("*.jpg")) / 1.5
    packing.pack([table], folder / "pack.npz", mesh, most, 0.25)
    return sorted(folder.glob("pack*.npz"), reverse=True)


@pytest.fixture(scope="session")
def pack(packed):
    return Pack(packed)


def changed(packed, folder, parts=1, **columns):
    """Copies of the files of a pack, with functions applied to columns of the first `parts`."""
    files = []
    for number, file in enumerate(packed):
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if number < parts:
            arrays |= {name: change(arrays[name]) for name, change in columns.items()}
        files.append(folder / file.name)
        np.savez(files[-1], **arrays)
    return files


# Packs


def test_pack_holds_the_set(packed, pack):
    assert len(packed) == 2
    assert len(pack.label) == 12
    assert pack.label.sum() == 2
    assert pack.canvases.shape == (12, SIDE, SIDE, 3)
    assert set(map(tuple, pack.sizes)) == {(90.0, 80.0)}
    assert not pack.canvases[:, 90:].any()
    decoded = cv2.cvtColor(cv2.imread(str(packed[0].parent / "a0.jpg")), cv2.COLOR_BGR2RGB)
    assert np.abs(pack.canvases[0, :90, :80].astype(int) - decoded).max() <= 3
    assert pack.digest == Pack(packed[::-1]).digest


def test_large_pictures_are_made_smaller_and_crops_without_a_mesh_left_out(tmp_path, capsys):
    table = write_set(tmp_path)
    cv2.imwrite(str(tmp_path / "a0.jpg"), face(1, 600, 300))
    cv2.imwrite(str(tmp_path / "b0.jpg"), np.zeros((50, 50, 3), np.uint8))
    packing.pack([table], tmp_path / "pack.npz", mesh, 1e6, 0.25)
    assert "11 crops packed; 1 have no face mesh" in capsys.readouterr().err
    assert Pack([tmp_path / "pack.npz"]).sizes[0].tolist() == [256, 128]


def test_a_truncated_pack_is_refused(packed, tmp_path):
    file = tmp_path / "short.npz"
    file.write_bytes(packed[0].read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"short\.npz is not a whole pack"):
        Pack([file])


def test_a_foreign_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="it lacks count, crops, dataset"):
        Pack([tmp_path / "other.npz"])


@pytest.mark.parametrize("choose", [lambda parts: parts[:1], lambda parts: [*parts, parts[0]]])
def test_each_part_is_needed_once(packed, choose):
    with pytest.raises(ValueError, match="of 12 crops; give each part of one pack once"):
        Pack(choose(packed))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"crops": lambda crops: crops[:-7]}, "its crops are truncated"),
        ({"label": lambda label: label[:-1]}, "its columns differ in length"),
        ({"crops": np.zeros_like}, r"crop \d+ in .*pack.*\.npz cannot be decoded"),
        ({"split": lambda split: np.array(["val"] * (len(split) - 1) + ["train"])}, "'[de]'.*tfdfd split"),
    ],
)
def test_damaged_columns_are_refused(packed, tmp_path, columns, message):
    files = changed(packed, tmp_path, **columns)
    with pytest.raises(ValueError, match=message):
        Pack(files)


def test_donors_are_other_people_of_the_same_split(pack):
    genuine = np.flatnonzero(pack.label == 0)
    for row in genuine:
        donors = pack.donors[row][pack.donors[row] != row]
        assert len(donors)
        assert (pack.video[donors] != pack.video[row]).all()
        assert (pack.split[donors] == pack.split[row]).all()
        assert (pack.label[donors] == 0).all()


def test_nearest_of_one_person_is_the_crop_itself():
    points = np.random.default_rng(0).random((3, 5, 2)).astype(np.float32)
    result = packing.nearest(points, [0, 0, 0], ["set"] * 3, ["a", "a", "a"])
    np.testing.assert_array_equal(result, np.repeat([[0], [1], [2]], packing.DONORS, axis=1))


def test_nearest_is_the_most_similar_shape():
    shapes = np.random.default_rng(0).random((3, 5, 2)).astype(np.float32)
    points = np.stack([shapes[0], shapes[1], shapes[2], 3 * shapes[0] + 7])
    assert packing.nearest(points, [0] * 4, ["set"] * 4, list("abcd"))[0, 0] == 3


# Batches


def test_labeled_pairs_are_of_one_target(pack):
    sampler = Sampler(pack, Settings("meso4", pairs=6, blends=6, swapped=1.0))
    for step in range(5):
        reals, fakes, blended, donors, swapped = sampler(step)
        assert (pack.label[reals] == 0).all()
        assert (pack.label[fakes] == 1).all()
        assert (pack.label[blended] == 0).all()
        assert [source.split(";")[0] for source in pack.source_id[fakes]] == list(pack.source_id[reals])
        assert (pack.split[np.concatenate([reals, fakes, blended, donors])] == "train").all()
        assert (swapped == (donors != blended)).all()


def test_a_batch_depends_on_step_and_seed_alone(pack):
    one, again, other = (Sampler(pack, Settings("meso4", seed=seed)) for seed in (0, 0, 1))
    again(3)
    for first, second in zip(one(7), again(7), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (one(7)[2] != other(7)[2]).any()
    assert (one(7)[2] != one(8)[2]).any()


def test_a_pack_without_fakes_trains_on_blends_alone(packed, tmp_path):
    genuine = Pack(changed(packed, tmp_path, parts=2, label=lambda label: np.full(len(label), "0")))
    with pytest.raises(ValueError, match="no fakes to train on; set pairs=0"):
        Sampler(genuine, Settings("meso4"))
    assert len(Sampler(genuine, Settings("meso4", pairs=0))(0)[0]) == 0


def test_an_unknown_method_left_out_is_refused(pack):
    with pytest.raises(ValueError, match="without names Swop; methods of the pack: Swap"):
        Sampler(pack, Settings("meso4", without=("Swop",)))
    with pytest.raises(ValueError, match="no fakes"):
        Sampler(pack, Settings("meso4", without=("Swap",)))


# Pictures


@pytest.fixture(scope="module")
def blends(pack):
    """Blends of the pack's first crop: pictures and masks of eight draws, half of them with a donor's face."""
    crop = [jnp.asarray(pack.canvases[0], jnp.float32) / 255, pack.points[0], pack.sizes[0]]
    donor = [jnp.asarray(pack.canvases[2], jnp.float32) / 255, pack.points[2], pack.sizes[2]]
    draws = jax.random.uniform(jax.random.key(1), (8, blending.DRAWS // 2))
    swapped = jnp.arange(8) % 2 == 1
    made = jax.jit(jax.vmap(lambda swap, each: blending.blend(*crop, *donor, swap, each)))(swapped, draws)
    return [np.asarray(each) for each in made]


def test_pictures_are_equal_where_the_mask_is_zero_and_differ_where_it_is_not(blends):
    real, fake, mask = blends
    outside = np.broadcast_to(mask == 0, real.shape)
    assert outside.mean() > 0.5
    np.testing.assert_array_equal(real[outside], fake[outside])
    for each in range(len(mask)):
        inside = mask[each, ..., 0] > 0.4
        assert inside.any()
        assert np.abs(real[each] - fake[each])[inside].mean() > 0.005
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert min(real.min(), fake.min()) >= 0
    assert max(real.max(), fake.max()) <= 1


def test_a_band_of_low_frequencies_is_blended_apart():
    checks = np.indices((SIDE, SIDE)).sum(axis=0) % 2 - 0.5
    difference = jnp.asarray(np.repeat(0.2 + 0.1 * checks[..., None], 3, axis=-1), jnp.float32)
    mask = jnp.zeros((SIDE, SIDE, 1)).at[64:192, 64:192].set(1.0)
    draws = jax.random.uniform(jax.random.key(0), (16, 64))
    changes = np.asarray(jax.jit(jax.vmap(lambda each: blending.change_by_band(difference, mask, each)))(draws))
    wide = np.abs(changes[:, :63]).max(axis=(1, 2, 3)) > 1e-4
    assert 4 <= wide.sum() <= 12
    middle = changes[:, 112:144, 112:144]
    # The color changes as far as it is the source's over a wide seam, the texture in any case.
    np.testing.assert_allclose(middle[~wide].mean(axis=(1, 2, 3)), 0, atol=0.01)
    assert middle[wide].mean(axis=(1, 2, 3)).min() > 0.1
    np.testing.assert_allclose(np.diff(middle, axis=2).std(axis=(1, 2, 3)), 0.1, rtol=0.05)


def test_without_bands_a_batch_is_what_it_was(pack):
    on_device = [jnp.asarray(each) for each in (pack.canvases, pack.points, pack.sizes)]
    rows = [jnp.asarray(each) for each in Sampler(pack, Settings("meso4", pairs=1, blends=4))(0)]
    batches = [
        np.asarray(blending.batch_of_pairs(*on_device, *rows, key=jax.random.key(0), out=64, grid=2, banded=share)[0])
        for share in (0.0, 1.0)
    ]
    np.testing.assert_array_equal(batches[0][:6], batches[1][:6])
    assert (batches[0][6:] != batches[1][6:]).any(axis=(1, 2, 3)).all()


def test_masks_lie_on_the_face(pack, blends):
    low, high = pack.points[0].min(axis=0), pack.points[0].max(axis=0)
    rows, columns = np.nonzero(blends[2].max(axis=(0, 3)) > 0.5)
    slack = 0.2 * (high - low).max()
    assert low[0] - slack < columns.min() < columns.max() < high[0] + slack
    assert low[1] - slack < rows.min() < rows.max() < high[1] + slack
    assert REGIONS.any(axis=1).all()


def test_both_pictures_of_a_pair_are_degraded_alike():
    image = jnp.asarray(face(3, 64, 64), jnp.float32) / 255
    draws = jax.random.uniform(jax.random.key(0), (12, blending.DRAWS // 8))
    keys = jax.random.split(jax.random.key(1), 12)
    pairs = jax.jit(jax.vmap(lambda d, key: blending.degrade(jnp.stack([image, image]), d, key)))(draws, keys)
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
    assert (np.abs(pairs[:, 0] - image).max(axis=(1, 2, 3)) > 0.01).sum() > 6


def test_a_batch_is_the_same_on_a_cpu_and_on_an_accelerator(pack, monkeypatch):
    """On an accelerator, its pairs are made all at once."""
    on_device = [jnp.asarray(each) for each in (pack.canvases, pack.points, pack.sizes)]
    rows = [jnp.asarray(each) for each in Sampler(pack, Settings("meso4", pairs=4, blends=6))(0)]
    batches = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        blending.batch_of_pairs.clear_cache()
        batches.append(blending.batch_of_pairs(*on_device, *rows, key=jax.random.key(0), out=64, grid=2, banded=0.5))
    blending.batch_of_pairs.clear_cache()
    for ours, theirs in zip(*batches, strict=True):
        # Rounding of the JPEG's coefficients may differ in few pixels.
        assert np.abs(ours - theirs).mean() < 1e-5


def test_a_batch_is_reals_fakes_genuine_faces_and_blends(pack):
    on_device = [jnp.asarray(each) for each in (pack.canvases, pack.points, pack.sizes)]
    rows = Sampler(pack, Settings("meso4", pairs=2, blends=2))(0)
    pictures, masks, known = blending.batch_of_pairs(
        *on_device, *map(jnp.asarray, rows), key=jax.random.key(0), out=64, grid=2
    )
    assert pictures.shape == (8, 64, 64, 3)
    assert masks.shape == (8, 2, 2)
    np.testing.assert_array_equal(known, [1, 1, 0, 0, 1, 1, 1, 1])
    assert not masks[:6].any()
    assert masks[6:].max(axis=(1, 2)).min() > 0.05
    assert np.isfinite(pictures).all()
    assert pictures.min() >= -1e-6
    assert pictures.max() <= 1 + 1e-6


@pytest.mark.parametrize("quality", [25, 50, 75, 95])
def test_jpeg_is_close_to_a_real_one(astronaut, quality):
    """To libjpeg's, which interpolates chrominance where ours repeats it; without color they are closer."""
    photograph = astronaut[40:200, 140:300].astype(np.uint8)
    gray = np.repeat(cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    for image, least in ((photograph, 36), (gray, 48)):
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
        data = cv2.imencode(".jpg", image[..., ::-1], options)[1]
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        compressed = 255 * np.asarray(pixels.jpeg(jnp.asarray(image, jnp.float32) / 255, float(quality)))
        assert psnr(compressed, expected) > max(least, psnr(image, expected) + 3)


def psnr(first, second):
    return 10 * np.log10(255**2 / np.square(np.float64(first) - second).mean())


def test_the_grid_of_jpeg_moves():
    image = jnp.asarray(face(5, 64, 64), jnp.float32) / 255
    plain, moved, whole = (pixels.jpeg(image, 30.0, shift) for shift in ((0, 0), (3, 5), (16, 16)))
    assert np.abs(plain - moved).max() > 0.01
    np.testing.assert_allclose(plain, whole, atol=1e-3)


def test_resampling_at_the_samples_is_the_identity():
    matrix = pixels.resampling(jnp.arange(9.0), 9.0, 9)
    np.testing.assert_allclose(matrix, np.eye(9), atol=1e-6)
    np.testing.assert_allclose(pixels.shrinking(1.0, 16), np.eye(16), atol=1e-5)
    np.testing.assert_allclose(pixels.resampling(jnp.array([-1.0, 5.0]), 5.0, 9) @ jnp.arange(9.0), [1, 3], atol=1e-6)


def test_a_whole_crop_is_what_opencv_makes_of_it(pack):
    result = blending.whole_crops(jnp.asarray(pack.canvases), jnp.asarray(pack.sizes), jnp.array([0]), 160)[0]
    expected = cv2.resize(pack.canvases[0, :90, :80], (160, 160), interpolation=cv2.INTER_LINEAR) / 255
    assert np.abs(np.asarray(result) - expected).max() < 0.02


def test_alignment_finds_a_similarity(pack):
    points, angle = pack.points[0], 0.3
    turned = 1.7 * points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + (4, -9)
    matrix, offset = blending.align(jnp.asarray(points), jnp.asarray(turned))
    np.testing.assert_allclose(points @ matrix + offset, turned, atol=1e-2)


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="6 numbers are needed, but draws holds 5"):
        pixels.uniform(jnp.zeros(5), shape=(2, 3))


# Settings


def test_settings_are_parsed():
    settings = Settings.parse(
        "mobilenet_v1", ["steps=7", "arguments.alpha=0.25", "without=A,B", "weights=a.h5", "ema=0.9"]
    )
    assert settings == Settings("mobilenet_v1", {"alpha": 0.25}, "a.h5", steps=7, ema=0.9, without=("A", "B"))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "KEY=VALUE; received 'steps'"),
        ("stepz=3", "no setting 'stepz'; did you mean steps"),
        ("steps=many", "steps is 'many'; expected a whole number of at least 1"),
        ("steps=true", "steps is True"),
        ("blends=0", "blends is 0; expected a whole number of at least 1"),
        ("norm_momentum=2", "norm_momentum is 2; expected a number from 0 to 1"),
        ("swapped=1.5", "swapped is 1.5; expected a number from 0 to 1"),
        ("learning_rate=NaN", "learning_rate is nan"),
        ("size=100", "size is 100; expected a multiple of 16"),
        ("engine=tensorflow", "engine is 'tensorflow'; expected jax or torch"),
    ],
)
def test_wrong_settings_are_refused(assignment, message):
    with pytest.raises(ValueError, match=message):
        Settings.parse("meso4", [assignment])


# Training, in child processes with Keras on JAX and without TensorFlow and OpenCV

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "cv2"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""

CHILD = (
    BLOCK
    + """
import dataclasses, json, os, signal
from pathlib import Path
import jax, jax.numpy as jnp, keras, numpy as np
from tools.packed import trainer as training
from tools.packed.dataset import Pack
from tools.packed.settings import Settings
from tools.packed.trainer import Trainer

folder, settings, *packs = sys.argv[1:]
pack, settings = Pack(packs), Settings(**json.loads(settings))
trainer = Trainer(pack, settings)
figures = {"grid": trainer.grid, "labels": trainer.labels.tolist()}

# The loss, by Keras.
pictures, masks, known = trainer.batch(0)
targets = trainer.targets(pictures)

@jax.jit
def loss_of(trained):
    value_and_grad = jax.value_and_grad(trainer.loss, has_aux=True)
    result, gradients = value_and_grad(trained, trainer.other, pictures, masks, known, targets)
    return result, gradients, sum(jnp.square(gradient).sum() for gradient in gradients)

(loss, (_, label_loss, _)), gradients, norm = loss_of(trainer.trained)
fake, mask = trainer.both(pictures, training=True)
entropy = keras.losses.BinaryCrossentropy(reduction=None)
expected_labels = entropy(targets[:, None], fake).mean()
expected_masks = entropy(masks[..., None], mask).mean(axis=(1, 2))[np.asarray(known) == 1].mean()
figures["label_loss"] = [float(label_loss), float(expected_labels)]
figures["loss"] = [float(loss), float(expected_labels + settings.mask_weight * expected_masks)]
figures["targets"] = np.asarray(targets).tolist()

# A small step against the gradient lowers the loss by its squared norm.
moved = [value - 1e-3 / norm * gradient for value, gradient in zip(trainer.trained, gradients)]
figures["descent"] = [float(loss - loss_of(moved)[0][0]), 1e-3]

# Four steps; then a run that is killed after two saved steps and one that is not.
for name in ("straight", "killed"):
    Path(folder, name).mkdir()
    if name == "straight":
        assert trainer.run(Path(folder, name), report=lambda line: None)
        figures["teacher"] = np.asarray(trainer.score(pictures)).tolist()
        student = Trainer(pack, settings, training.load_teacher(Path(folder, name), pack))
        figures["imitated"] = np.asarray(student.targets(pictures)).tolist()
        try:
            student.resume(Path(folder, name))
        except ValueError as error:
            figures["refusal"] = str(error)
        few = Trainer(pack, dataclasses.replace(settings, pairs=3, blends=1))
        few.score = lambda pictures: np.arange(len(pictures))
        figures["places"] = [scores.tolist() for scores in few.score_blends(np.arange(5), False)]
        fast = Trainer(pack, dataclasses.replace(settings, norm_momentum=0.75))
        norms = [layer for layer in fast.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        figures["momenta"] = sorted({norm.momentum for norm in norms})
        trainer.write_weights(Path(folder, "straight"))
        continued = Trainer(pack, dataclasses.replace(settings, weights=f"packed:{Path(folder, 'straight')}"))
        figures["continued"] = all(map(np.array_equal, continued.trained, trainer.ema))
        Path(folder, "straight", "mask_head.npz").unlink()
        try:
            Trainer(pack, dataclasses.replace(settings, weights=f"packed:{Path(folder, 'straight')}"))
        except ValueError as error:
            figures["unfinished"] = str(error)
        figures["modules"] = [name for name in ("tensorflow", "cv2") if name in sys.modules]
        Path(folder, "figures.json").write_text(json.dumps(figures))
    else:
        trainer = Trainer(pack, settings)
        training.SAVE_SECONDS = -1
        advance = trainer.advance
        def until_killed():
            if trainer.step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            if trainer.step == 2:
                training.SAVE_SECONDS = 1e9
            return advance()
        trainer.advance = until_killed
        trainer.run(Path(folder, name))
"""
)


def child(*arguments):
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="session")
def runs(packed, tmp_path_factory):
    """The folder of two trainings, one of them killed, and the figures of their process."""
    folder = tmp_path_factory.mktemp("runs")
    reply = child("-c", CHILD, folder, json.dumps(SETTINGS | {"network": "meso4"}), *packed)
    assert reply.returncode == -signal.SIGKILL, reply.stderr
    return folder, json.loads((folder / "figures.json").read_text())


def test_training_needs_neither_tensorflow_nor_opencv(runs):
    assert runs[1]["modules"] == []


def test_loss_is_that_of_keras(runs):
    for name in ("loss", "label_loss"):
        result, expected = runs[1][name]
        assert result == pytest.approx(expected, abs=1e-5)


def test_fakes_are_the_positive_class(runs):
    assert runs[1]["labels"] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert runs[1]["targets"] == pytest.approx([0.05, 0.05, 0.95, 0.95] * 2)


def test_a_small_step_lowers_the_loss_by_the_gradient(runs):
    change, expected = runs[1]["descent"]
    assert change == pytest.approx(expected, rel=0.2)


def test_a_teacher_has_its_share_of_the_targets(runs):
    figures = runs[1]
    expected = 0.5 * np.array(figures["teacher"]) + 0.5 * np.array(figures["targets"])
    np.testing.assert_allclose(figures["imitated"], expected, atol=1e-6)
    assert "started with other settings (teacher)" in figures["refusal"]


def test_blends_are_scored_in_full_batches(runs):
    """A training batch of six labeled faces and two blended ones has places for four genuine faces and their blends."""
    assert runs[1]["places"] == [[0, 1, 2, 3, 0], [4, 5, 6, 7, 4]]


def test_norm_momentum_is_a_setting(runs):
    assert runs[1]["momenta"] == [0.75]


def test_a_run_begins_with_the_averaged_weights_of_another(runs):
    assert runs[1]["continued"]
    assert "straight lacks mask_head.npz; give the folder of a finished run" in runs[1]["unfinished"]


def state(folder):
    with np.load(folder / "state.npz") as archive:
        return {name: archive[name] for name in archive.files if name != "log"}


COMMAND = BLOCK + "import runpy\nrunpy.run_module('tools.train_packed', run_name='__main__', alter_sys=True)"


def train(packed, folder, *more):
    settings = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return child("-c", COMMAND, *packed, "meso4", "-o", folder, *settings, *more)


def test_a_killed_run_resumes_to_the_bit(runs, packed):
    folder = runs[0] / "killed"
    assert int(state(folder)["step"]) == 2
    reply = train(packed, folder)
    assert reply.returncode == 0, reply.stderr
    assert "step 4/4" in reply.stderr
    assert "left" in reply.stderr
    expected, result = state(runs[0] / "straight"), state(folder)
    assert expected.keys() == result.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, result[name], err_msg=name)
    assert {file.name for file in folder.iterdir()} == {"log.json", "mask_head.npz", "state.npz", "weights.safetensors"}
    with np.load(folder / "mask_head.npz") as head:
        assert set(head.files) == {"mask_head/kernel", "mask_head/bias"}
    log = json.loads((folder / "log.json").read_text())
    assert log["settings"]["network"] == "meso4"
    assert [entry["step"] for entry in log["log"]] == [4]
    assert {"crops all", "videos Swap", "blended ffpp", "swapped ffpp"} <= log["validation"].keys()


def test_the_weights_are_the_averaged_ones(runs, packed):
    """They load by name into the plain network, on TensorFlow."""
    from safetensors.numpy import load

    from tfdfd.models import build
    from tfdfd.weights.saving import named_weights

    folder = runs[0] / "killed"
    if not (folder / "weights.safetensors").exists():
        train(packed, folder)
    arrays = load((folder / "weights.safetensors").read_bytes())
    assert arrays.keys() == named_weights(build("meso4", input_shape=(64, 64, 3))).keys()
    averaged = [value for name, value in state(folder).items() if name.startswith("ema")]
    assert all(any(np.array_equal(array, value) for value in averaged) for array in arrays.values())


# The engine `torch`: the same networks and the same steps.

NETWORKS = "mobilenet_v3", "efficientnet_lite0", "meso_inception4"

# One process computes each network by Keras on JAX and by PyTorch.
COMPARISON = """
import json, sys
import jax, jax.numpy as jnp, keras, numpy as np, torch
from tfdfd.models import build
from tfdfd.weights.loading import with_mask_head
from tools.packed.torch_network import TorchNetwork

def compare(name):
    keras.utils.set_random_seed(0)
    network, _ = with_mask_head(build(name, input_shape=(64, 64, 3)))
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0.1 * np.arange(layer.moving_mean.shape[0]) / layer.moving_mean.shape[0])
    variables = network.trainable_variables, network.non_trainable_variables
    trained, other = ([each.value for each in part] for part in variables)
    pictures = jnp.asarray(np.random.default_rng(0).random((8, 64, 64, 3), np.float32))

    def loss(trained):
        (fake, mask), after = network.stateless_call(trained, other, pictures, training=True)
        return jnp.log(fake).mean() + jnp.square(mask).mean(), (fake, mask, after)

    (_, (fake, mask, after)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained)
    ours = TorchNetwork(network, torch.float32)
    leaves = [torch.from_numpy(np.array(value)).requires_grad_() for value in trained]
    others = [torch.from_numpy(np.array(value)) for value in other]
    (our_fake, our_mask), our_after = ours(leaves, others, torch.from_dlpack(pictures), True)
    (our_fake.log().mean() + our_mask.square().mean()).backward()
    resting = ours(leaves, others, torch.from_dlpack(pictures), False)[0][0]
    expected = network.stateless_call(trained, other, pictures, training=False)[0][0]
    norms = [float(jnp.linalg.norm(each)) for each in gradients]
    counts = [
        float(np.vdot(g, leaf.grad.numpy()) / (np.linalg.norm(g) * np.linalg.norm(leaf.grad.numpy())))
        for g, leaf, norm in zip(gradients, leaves, norms) if norm > 1e-3 * max(norms)
    ]
    apart = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b.detach())).max())
    return {
        "outputs": max(apart(fake, our_fake), apart(mask, our_mask), apart(expected, resting)),
        "statistics": max(apart(a, b) for a, b in zip(after, our_after) if a.dtype == np.float32),
        "moved": max(apart(a, b) for a, b in zip(other, our_after) if a.dtype == np.float32),
        "least_cosine": min(counts), "compared": len(counts), "variables": len(leaves),
    }

print(json.dumps({name: compare(name) for name in sys.argv[1:]}))
"""


def needs_torch():
    pytest.importorskip("torch", reason="torch is not installed: pip install 'tfdfd[bench]'")


def succeeded(reply):
    assert reply.returncode == 0, reply.stderr
    return reply


@pytest.fixture(scope="module")
def comparison():
    needs_torch()
    return json.loads(succeeded(child("-c", COMPARISON, *NETWORKS)).stdout)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_computes_what_keras_does(comparison, name):
    result = comparison[name]
    assert result["outputs"] < 1e-4
    assert result["statistics"] < 1e-4
    assert result["moved"] > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_keras(comparison, name):
    result = comparison[name]
    assert result["least_cosine"] > 0.999
    assert result["compared"] > result["variables"] / 3


def run(packed, folder, *more):
    succeeded(train(packed, folder, *more))
    return state(folder)


STEPS = """
import json, sys
import keras, numpy as np
from tools.packed.dataset import Pack
from tools.packed.settings import Settings
from tools.packed.trainer import Trainer

settings, *packs = sys.argv[1:]
trainers = [Trainer(Pack(packs), Settings(**json.loads(settings), engine=engine)) for engine in ("jax", "torch")]
for trainer in trainers:
    for layer in trainer.both._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    for _ in range(3):
        trainer.advance()
on_jax, on_torch = (trainer._state() for trainer in trainers)
print(json.dumps({
    name: max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(values, on_torch[name], strict=True))
    for name, values in on_jax.items()
}))
"""


def test_steps_are_those_of_jax(packed):
    """Without dropout, for which the engines draw other numbers."""
    needs_torch()
    reply = succeeded(child("-c", STEPS, json.dumps(SETTINGS | {"network": "meso4"}), *packed))
    apart = json.loads(reply.stdout)
    assert apart.keys() >= {"trained", "other", "first", "second", "ema", "ema_others"}
    assert max(apart.values()) < 1e-4


def test_a_stopped_training_ends_with_the_same_weights(packed, tmp_path):
    needs_torch()
    straight = run(packed, tmp_path / "straight", "--set", "engine=torch")
    stopped = run(packed, tmp_path / "stopped", "--set", "engine=torch", "--seconds", "0")
    assert stopped["step"] == 1
    resumed = run(packed, tmp_path / "stopped", "--set", "engine=torch")
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)


def refused(reply, message):
    assert reply.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in reply.stderr
    assert message in reply.stderr.splitlines()[-1]


def test_a_run_resumes_with_its_own_settings_alone(runs, packed):
    reply = train(packed, runs[0] / "straight", "--set", "learning_rate=0.1")
    refused(reply, "started with other settings (learning_rate); give the same, or another folder.")


def test_errors_of_the_command_are_one_line(packed, tmp_path):
    refused(train(packed[:1], tmp_path / "run"), "of 12 crops; give each part of one pack once")


def test_usage_errors_name_the_argument(packed, tmp_path, monkeypatch):
    """Without a child: nothing is trained."""
    from tools import train_packed

    for more, message in (
        (["--set", "stepz=3"], "there is no setting 'stepz'; did you mean steps?"),
        ([], "packed training needs KERAS_BACKEND=jax"),
    ):
        with pytest.raises(SystemExit, match=message.replace("?", r"\?")):
            train_packed.main([*map(str, packed), "meso4", "-o", str(tmp_path / "run"), *more])
    with pytest.raises(SystemExit, match="pack: .*is not the face mesh"):
        packing.main([str(tmp_path), "-o", str(tmp_path / "p.npz"), "--mesh", str(packed[0].parent / "faces.csv")])


def test_a_table_without_splits_is_refused(tmp_path):
    (tmp_path / "faces.csv").write_text("file,label\na.jpg,0\n")
    with pytest.raises(ValueError, match="lacks dataset, method, source_id, split, video"):
        packing.pack([tmp_path / "faces.csv"], tmp_path / "pack.npz", mesh, 1e6, 0.25)


def test_an_image_that_cannot_be_decoded_is_not_packed(tmp_path):
    table = write_set(tmp_path)
    (tmp_path / "a1.jpg").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"a1\.jpg cannot be decoded"):
        packing.pack([table], tmp_path / "pack.npz", mesh, 1e6, 0.25)


def test_sets_without_validation_rows_hold_videos_out():
    rows = [{"dataset": "grid", "video": f"v{n % 40}", "split": "train"} for n in range(80)]
    rows += [{"dataset": "ffpp", "video": "v1", "split": split} for split in ("train", "val")]
    held = packing.hold_out(rows, 0.25)
    assert [row["split"] for row in held[80:]] == ["train", "val"]
    videos = {split: {row["video"] for row in held[:80] if row["split"] == split} for split in ("train", "val")}
    assert not videos["train"] & videos["val"]
    assert 4 <= len(videos["val"]) <= 16


def test_auc_and_videos():
    from sklearn.metrics import roc_auc_score

    from tools.packed.trainer import auc, by_video

    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 50), rng.integers(0, 9, 50) / 9
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(auc([1, 1], [0.2, 0.3]))
    result = by_video(np.array(["b", "a", "b"]), np.array([1, 0, 1]), np.array([0.2, 0.5, 0.4]))
    np.testing.assert_allclose(result, [[0, 1], [0.5, 0.3]])


@pytest.fixture(scope="module")
def meso_runs(tmp_path_factory):
    """Weights files with their cards of two networks that differ."""
    files = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        file = tmp_path_factory.mktemp("meso") / "weights.safetensors"
        save_weights(build("meso4", input_shape=(64, 64, 3)), file)
        data = file.read_bytes()
        card = {"handle": "tfdfd/meso4.x", "model": "meso4", "file": file.name, "bytes": len(data)}
        card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
        card |= {"polarity": "fake=1", "threshold": 0.5, "input_shape": [64, 64, 3]}
        file.with_suffix(".json").write_text(json.dumps(card))
        files.append(file)
    return files


def test_a_run_is_told_with_the_runs_that_it_began_with(tmp_path):
    first, second = tmp_path / "blends", tmp_path / "labels"
    for folder, settings in (
        (first, ["weights=imagenet:a.h5", "pairs=0", "size=64"]),
        (second, [f"weights=packed:{first}", "size=128", "without=FaceSwap,Deepfakes"]),
    ):
        folder.mkdir()
        log = {"settings": Settings.parse("efficientnet_lite0", settings).plain()}
        (folder / "log.json").write_text(json.dumps(log))
    recipe, _, how = trained_run(second, None)
    assert (recipe.weights, recipe.size) == ("imagenet:a.h5", 128)
    command = "python -m tools.train_packed PACK.npz efficientnet_lite0 -o"
    assert packed_commands(how, "faces.csv")[1:] == [
        f"{command} blends --set weights=imagenet:a.h5 --set size=64 --set pairs=0",
        f"{command} TRAINED_RUN --set weights=packed:blends --set size=128 --set without=FaceSwap,Deepfakes",
    ]


def test_averaged_weights_lie_between_both(meso_runs):
    model = load(*locate(meso_runs[0]))
    own = model.get_weights()
    info = average(model, str(meso_runs[1]), 0.75, {})
    theirs = load(*locate(meso_runs[1])).get_weights()
    for mean, a, b in zip(model.get_weights(), own, theirs, strict=True):
        np.testing.assert_allclose(mean, 0.75 * a + 0.25 * b, rtol=1e-6, atol=1e-7)
    assert info == {"model": "tfdfd/meso4.x", "sha256": locate(meso_runs[1])[0].sha256, "share": 0.75}


@pytest.mark.parametrize(
    ("share", "arguments", "message"),
    [(1.5, {}, "SHARE is 1.5; expected a number from 0 to 1"), (0.5, {"alpha": 1}, "expected meso4 with")],
)
def test_what_cannot_be_averaged_is_refused(meso_runs, share, arguments, message):
    with pytest.raises(ValueError, match=message):
        average(load(*locate(meso_runs[0])), str(meso_runs[1]), share, arguments)


@pytest.mark.parametrize("seed", range(4))
def test_the_band_holds_in_every_domain_for_scores_of_another_runtime(seed):
    rng = np.random.default_rng(seed)
    genuine = {str(count): np.sort(rng.beta(1, 2 + part, count)) for part, count in enumerate((20, 143, 1118))}
    low, high = worst_band(genuine)
    gap = min(np.diff(scores).min() for scores in genuine.values())
    for change in (0, -gap / 3, gap / 3):
        called_fake = {name: (scores + change > high).mean() for name, scores in genuine.items()}
        left_open = {
            name: ((scores + change >= low) & (scores + change <= high)).mean() for name, scores in genuine.items()
        }
        assert max(called_fake.values()) <= FAKE_BOUND and max(left_open.values()) <= OPEN_BOUND
    # A narrower band would break the bound of fakes in one of the domains.
    narrower = [scores[scores <= high].max() for scores in genuine.values()]
    assert any(
        (scores > below - gap / 2).mean() > FAKE_BOUND for scores, below in zip(genuine.values(), narrower, strict=True)
    )


def test_domains_of_few_videos_set_no_band():
    with pytest.raises(ValueError, match=r"need 20 genuine videos each; \{'few': 19\}"):
        worst_band({"few": np.linspace(0, 1, 19), "many": np.linspace(0, 1, 40)})
