"""The weights that the package carries, their card, and the parts of the tool that made both."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tfdfd.models import build
from tfdfd.models.meso import meso_inception4

REPOSITORY = Path(__file__).resolve().parents[1]
CARD = REPOSITORY / "tfdfd/weights/files/meso_inception4.json"
KEYS = {
    "handle", "model", "file", "sha256", "bytes", "licence", "training_data", "polarity", "threshold",
    "inconclusive_band", "operating_points", "protocol", "scores", "limits", "seed", "command", "date", "versions",
}  # fmt: skip


@pytest.fixture(scope="module")
def card():
    return json.loads(CARD.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tool():
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("tool", REPOSITORY / "tools/train_default_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_card_names_the_file_it_describes(card):
    assert set(card) >= KEYS
    data = (CARD.parent / card["file"]).read_bytes()
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    assert card["bytes"] == len(data) < 200_000
    assert (card["handle"], card["model"], card["polarity"]) == ("tfdfd/meso_inception4", "meso_inception4", "fake=1")


def test_weights_load_and_are_not_the_random_ones(card):
    before = meso_inception4().get_weights()
    model = build(card["model"], weights=card["handle"])
    changed = [not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(changed)
    assert all(np.isfinite(value).all() for value in model.get_weights())


def test_thresholds_are_in_order(card):
    low, high = card["inconclusive_band"]
    assert 0 < low <= card["threshold"] <= high < 1
    points = card["operating_points"]
    assert set(points) == {"fpr_0.01", "fpr_0.05", "eer"}
    assert points["fpr_0.01"]["threshold"] >= points["fpr_0.05"]["threshold"]
    assert points["fpr_0.01"]["fpr"] <= 0.01
    assert points["fpr_0.05"]["fpr"] <= 0.05


def test_scores_are_of_images_kept_from_training(card):
    assert any("test split" in score["set"] for score in card["scores"])
    assert not any("train" in score["set"] for score in card["scores"])
    for score in card["scores"]:
        assert score["level"] == "image"
        assert score["n_real"] > 0 and score["n_fake"] > 0
        if min(score["n_real"], score["n_fake"]) < 10:
            assert score["auc_ci95"] is None
        else:
            low, high = score["auc_ci95"]
            assert 0 <= low <= score["auc"] <= high <= 1
            assert low < high
    assert any("not forensic proof" in sentence for sentence in card["limits"])


def test_it_tells_a_self_blended_face_from_the_real_one(card):
    """Over many draws on a photograph it never saw, fakes score higher than the real pictures they are made of."""
    from tfdfd.data import self_blended

    portrait = pytest.importorskip("skimage.data").astronaut()
    points = np.array([[204, 100], [245, 102], [224, 126], [202, 139], [244, 140]], np.float32)
    pairs = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        real, fake, _ = self_blended.self_blend(portrait, points, rng, "face")
        pairs.append([self_blended.square_crop(image, (182, 64, 83, 107)) for image in (real, fake)])
    model = build(card["model"], weights=card["handle"])
    scores = model.predict(np.concatenate(pairs).astype(np.float32) / 255, verbose=0)[:, 0]
    assert (scores[1::2] > scores[::2]).mean() >= 0.7


def test_near_duplicates_share_a_group_and_others_do_not(tool):
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    first, second, third = (cv2.resize(image, (200, 200), interpolation=cv2.INTER_CUBIC) for image in coarse)
    recompressed = tool.self_blended.recompress(cv2.convertScaleAbs(first, alpha=0.9, beta=5), 50)
    mirrored = np.ascontiguousarray(second[:, ::-1])
    groups = tool.near_duplicates([first, second, recompressed, third, mirrored])
    assert groups[0] == groups[2]
    assert groups[1] == groups[4]
    assert len(set(groups)) == 3


def test_split_keeps_groups_together_and_its_shares(tool):
    names = [f"{number}.jpg" for number in range(4000)]
    groups = np.arange(4000) // 2
    parts = tool.parts_of(names, groups)
    np.testing.assert_array_equal(parts[::2], parts[1::2])
    assert (parts == "train").mean() == pytest.approx(0.8, abs=0.03)
    assert (parts == "validation").mean() == pytest.approx(0.1, abs=0.02)
    shuffled = np.random.default_rng(0).permutation(4000)
    np.testing.assert_array_equal(tool.parts_of(np.array(names)[shuffled], groups[shuffled]), parts[shuffled])


def test_thresholds_chosen_on_known_scores(tool):
    labels = np.repeat([0, 1], 100)
    scores = np.r_[np.linspace(0.0, 0.5, 100), np.linspace(0.4, 0.9, 100)]
    chosen = tool.choose_thresholds(labels, scores)
    assert 0.39 < chosen["threshold"] < 0.51
    low, high = chosen["inconclusive_band"]
    # Fewer than 20 % of either side lie beyond the threshold: there is nothing to abstain from.
    assert low <= chosen["threshold"] <= high
    at_zero = tool.metrics(labels, scores, 0.0)
    assert (at_zero["tpr_at_threshold"], at_zero["fpr_at_threshold"], at_zero["balanced_accuracy"]) == (1, 1, 0.5)


def test_measure_of_perfect_and_of_useless_scores(tool, monkeypatch):
    monkeypatch.setattr(tool, "BOOTSTRAPS", 50)
    labels = np.tile([0, 1], 40)
    groups = np.repeat(np.arange(40), 2)
    perfect = tool.measure(labels, labels.astype(float), 0.5, groups)
    assert (perfect["auc"], perfect["eer"], perfect["balanced_accuracy"], perfect["tpr_at_fpr_0.05"]) == (1, 0, 1, 1)
    constant = tool.measure(labels, np.full(80, 0.3), 0.5)
    assert (constant["auc"], constant["eer"], constant["balanced_accuracy"]) == (0.5, 0.5, 0.5)
    assert constant["majority_baseline"] == 0.5
    # One real image cannot vary: a resampled interval would be a point and read as certainty.
    few = tool.measure(np.array([0, 1, 1, 1]), np.array([0.1, 0.5, 0.6, 0.7]), 0.5)
    assert (few["auc"], few["auc_ci95"], few["majority_baseline"]) == (1, None, 0.75)


def test_traces_are_the_mask_and_its_border(tool):
    mask = np.zeros((256, 256), np.float32)
    mask[:, 128:] = 0.5  # half strength: the trace says where, not how strong
    mask[:, 120:128] = 0.25
    traces = tool.traces_of(mask)
    np.testing.assert_allclose(traces[:, :15], 0)
    np.testing.assert_allclose(traces[:, 15], [[0.5, 1.0]] * 32)
    np.testing.assert_allclose(traces[:, 16:], np.tile(np.float32([1, 0]), (32, 16, 1)))


def test_training_batches_are_a_function_of_the_step(tool):
    points = np.array([[60, 80], [140, 80], [100, 120], [70, 150], [130, 150]], np.float32)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (200, 200, 3), dtype=np.uint8) for _ in range(16)]
    faces = {"images": images, "points": [points] * 16, "boxes": [(20, 0, 160, 195)] * 16, "part": ["train"] * 16}
    faces["part"] = np.array(faces["part"])
    run = tool.training_batches(faces, 1, 0)
    batches = [next(run) for _ in range(4)]
    later, targets = next(tool.training_batches(faces, 1, 3))
    np.testing.assert_array_equal(later, batches[3][0])
    assert later.shape == (16, 256, 256, 3)
    assert later.min() >= 0 and later.max() <= 1
    np.testing.assert_array_equal(targets["fake_probability"][:, 0], [0, 1] * 8)
    assert targets["traces"].shape == (16, 32, 32, 2)
    assert (targets["traces"][::2] == 0).all()
    assert (targets["traces"][1::2].max(axis=(1, 2, 3)) > 0.5).all()
    assert (batches[0][0] != batches[2][0]).mean() > 0.5  # the next epoch draws new fakes
