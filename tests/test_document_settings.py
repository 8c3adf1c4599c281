"""Settings of documents S0, S1, S3 and S4, and of S2's face detector, against their numbers."""

import json

import cv2
import keras
import numpy as np
import pytest

from tests.made_faces import make_faces
from tfdfd.data import SrmOptions
from tfdfd.data.crops import faces_of
from tfdfd.data.splits import split_as
from tfdfd.data.srm_set import residuals, to_levels
from tfdfd.data.tables import FaceRow, read_table
from tfdfd.faces.detectors import SSD_INPUT_SIZE, HaarDetector, SsdDetector
from tfdfd.recipes import find_recipe
from tfdfd.srm_kernels import WHOLE
from tfdfd.training.optimizers import make_optimizer, schedule_of


def rate_at(recipe, steps, step):
    schedule = schedule_of(recipe.schedule, recipe.learning_rate, steps, recipe.planned_epochs or recipe.epochs)
    return float(np.asarray(schedule.rate(step)))


# S0


def test_s0_splits_a_tenth_of_the_training_data_off(tmp_path):
    rows = make_faces(tmp_path, videos=120, frames=1)
    done = split_as(rows, "s0")
    before, after = ([row.video for row in some if row.split == "test"] for some in (rows, done))
    assert before == after
    rest = [row for row in done if row.split != "test"]
    assert sum(row.split == "val" for row in rest) / len(rest) == pytest.approx(0.1, abs=0.01)


# S1


def test_s1_computed_decay_is_planned_over_thirty_epochs():
    recipe = find_recipe("s1-meso-inception4-computed-decay")
    assert (recipe.epochs, recipe.planned_epochs) == (10, 30)
    # The ten epochs that were run are over before the first decay; of thirty, each rate has ten.
    for epoch, rate in ((0, 1e-3), (9.99, 1e-3), (10, 1e-4), (20, 1e-5)):
        assert rate_at(recipe, 100, int(100 * epoch)) == pytest.approx(rate, rel=1e-5)


def test_s1_second_model_decays_every_five_epochs():
    recipe = find_recipe("s1-meso-inception4-5-epochs")
    assert (recipe.batch_size, recipe.epochs, recipe.planned_epochs) == (64, 10, 18)
    assert [rate_at(recipe, 20, 20 * epoch) for epoch in (0, 4, 5, 9, 10)] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-4, 1e-5], rel=1e-5
    )


def test_half_of_the_squared_error_leaves_adams_steps():
    """S1's loss is ½ (a - y)²; Keras's has no ½."""
    found = []
    for factor in (1.0, 0.5):
        optimizer, weight = make_optimizer("adam", 1e-3), keras.Variable(np.float32([0.3, -0.2]))
        optimizer.build([weight])
        for target in (1.0, 0.0, 1.0):
            gradient = factor * 2 * (np.asarray(weight) - target)
            optimizer.apply([gradient.astype("float32")], [weight])
        found.append(np.array(weight))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


# S2's detector


class Network:
    """In the place of a graph: keeps what it is given, and answers fixed rows."""

    def __init__(self, *rows):
        self.rows, self.blob = np.float32(rows).reshape(1, 1, -1, 7), None

    def setInput(self, blob):
        self.blob = blob

    def forward(self):
        return self.rows


def ssd(*rows, **settings):
    detector = SsdDetector.__new__(SsdDetector)
    reader = cv2.dnn.readNetFromTensorflow
    try:
        cv2.dnn.readNetFromTensorflow = lambda *_: Network(*rows)
        SsdDetector.__init__(detector, *ssd.files, **settings)
    finally:
        cv2.dnn.readNetFromTensorflow = reader
    return detector


@pytest.fixture(autouse=True)
def _files(tmp_path):
    for name in ("face.pb", "face.pbtxt"):
        (tmp_path / name).write_bytes(b"x")
    ssd.files = tmp_path / "face.pb", tmp_path / "face.pbtxt"


FRAME = np.random.default_rng(0).integers(0, 256, (*SSD_INPUT_SIZE, 3), np.uint8)
ROWS = ((0, 1, 0.3, 0.1, 0.1, 0.5, 0.5), (0, 1, 0.2, 0.5, 0.5, 0.9, 0.9))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda x: x[..., ::-1] - [104.0, 177.0, 123.0]),
        ({"preset": "tf"}, lambda x: x),
        ({"preset": "tf", "mean": 127.5, "scale": 1 / 127.5}, lambda x: (x - 127.5) / 127.5),
        ({"preset": "opencv", "mean": [1, 2, 3]}, lambda x: x[..., ::-1] - [1.0, 2.0, 3.0]),
    ],
)
def test_an_ssd_graph_gets_its_own_mean_scale_and_order(settings, expected):
    detector = ssd(*ROWS, **settings)
    detector.detect([FRAME], [1.0])
    np.testing.assert_allclose(
        detector._network.blob[0].transpose(1, 2, 0), expected(FRAME.astype(np.float64)), atol=1e-3
    )


def test_an_ssd_has_its_own_score_rule():
    assert ssd(*ROWS).detect([FRAME], [1.0]) == [[]]
    (faces,) = ssd(*ROWS, threshold=0.15).detect([FRAME], [1.0])
    assert [face.score for face in faces] == pytest.approx([0.3, 0.2])
    # S2: the best face of a frame always, others above 0.45.
    (best,) = ssd(*ROWS, threshold=0.45, keep_best=True).detect([FRAME], [1.0])
    assert [face.score for face in best] == pytest.approx([0.3])
    with pytest.raises(ValueError, match="one of opencv, tf; received 'caffe'"):
        ssd(*ROWS, preset="caffe")


def test_settings_of_an_ssd_are_options(run_tfdfd, tmp_path):
    words = ("extract", tmp_path / "index.csv", "--root", tmp_path, "-o", tmp_path / "faces")
    code, _, err = run_tfdfd(*words, "--ssd-preset", "tf")
    assert code == 2 and "are for --detector ssd" in err
    code, _, err = run_tfdfd(*words, "--detector", "ssd", "--min-face", 128)
    assert code == 2 and "an SSD searches one size" in err


# S4


def test_s4_takes_haar_faces_of_128_pixels(run_tfdfd, tmp_path, astronaut):
    """The astronaut's face has about 110 px: found by default, too small for the document."""
    data = tmp_path / "data/real"
    data.mkdir(parents=True)
    cv2.imwrite(str(data / "a.png"), astronaut[..., ::-1])
    cv2.imwrite(str(data / "b.png"), cv2.resize(astronaut, None, fx=2, fy=2)[..., ::-1])
    index = tmp_path / "index.csv"
    assert run_tfdfd("index", "folder", tmp_path / "data", "-o", index, "--all", "real")[0] == 0
    for least, count in ((60, 2), (128, 1)):
        out = tmp_path / f"faces{least}"
        words = ("extract", index, "--root", tmp_path / "data", "-o", out, "--detector", "haar", "--first")
        run_tfdfd(*words, "--max-faces", 1, "--min-face", least, "--quiet")
        assert len(read_table(out / "faces.csv", FaceRow)) == count, least
        asked = json.loads((out / "run.json").read_text())["arguments"]
        assert asked["detector_options"]["min_size"] == least
    assert HaarDetector(min_size=128).min_size == 128


@pytest.mark.parametrize("kernel", list(WHOLE))
def test_s4_noise_is_one_kernel_on_each_color(kernel, astronaut):
    """As its `cv2.filter2D` of a colored picture, before 8 bits cut the negative half off."""
    image = astronaut[:64, :64]
    expected = cv2.filter2D(image.astype(np.float64), cv2.CV_64F, np.array(WHOLE[kernel], np.float64))
    found = residuals(image, SrmOptions((kernel,)))
    ratio = expected[found != 0] / found[found != 0]
    np.testing.assert_allclose(ratio, ratio[0])
    assert to_levels(found, 127.0).shape == image.shape


def test_s4_reference_had_flips(tmp_path):
    make_faces(tmp_path, videos=12, frames=2)
    from tfdfd.pipelines.datasets import train_pipeline

    recipe = find_recipe("s4-vgg16-srm-flips")
    assert recipe.augment == "flip"
    plain, flipped = (
        np.concatenate([np.asarray(image) for image, _ in train_pipeline(tmp_path, 64, 4, augment=augment)])
        for augment in (None, recipe.augment)
    )
    mirrored = [np.array_equal(one[:, ::-1], other) for one, other in zip(plain, flipped, strict=True)]
    same = [np.array_equal(one, other) for one, other in zip(plain, flipped, strict=True)]
    assert all(a or b for a, b in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < len(plain)


# S3


@pytest.mark.parametrize(("preset", "shares"), [("s3", (0.7, 0.15, 0.15)), ("s3-75-25", (0.6, 0.15, 0.25))])
def test_s3_has_both_of_its_splits(preset, shares, tmp_path):
    rows = split_as(make_faces(tmp_path, videos=200, frames=1, side=8), preset)
    for name, share in zip(("train", "val", "test"), shares, strict=True):
        assert sum(row.split == name for row in rows) / len(rows) == pytest.approx(share, abs=0.01)
    assert len(faces_of(tmp_path).rows) == 200
