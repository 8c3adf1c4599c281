"""The default model: its weights are those of its card, and they see blending."""

import hashlib

import numpy as np
import pytest

from tfdfd.models import build, load
from tfdfd.weights import DEFAULT_MODEL
from tfdfd.weights.store import locate


@pytest.fixture(scope="module")
def located():
    return locate(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def model(located):
    return load(*located)


def test_card_names_the_file_it_describes(located):
    record, path = located
    data = path.read_bytes()
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert record.bytes == len(data) < 4_000_000  # so that the wheel carries it
    assert (record.handle, record.polarity) == (DEFAULT_MODEL, "fake=1")


def test_weights_load_and_are_not_the_random_ones(located, model):
    record, _ = located
    before = build(record.model, input_shape=record.input_shape, **record.arguments).get_weights()
    changed = [not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(changed)
    assert all(np.isfinite(value).all() for value in model.get_weights())


def test_thresholds_are_in_order(located):
    record, _ = located
    low, high = record.inconclusive_band
    assert 0 < low <= record.threshold <= high < 1


def test_the_card_has_the_tails_of_genuine_faces(located):
    record, _ = located
    assert {tail["n"] >= 20 for tail in record.genuine_tails} == {True} and len(record.genuine_tails) >= 2
    assert max(tail["highest"][0] for tail in record.genuine_tails) > record.inconclusive_band[1]


def test_it_tells_a_self_blended_face_from_the_real_one(model):
    """Over many draws on a photograph it never saw, fakes score higher than the real pictures they are made of."""
    from tfdfd.data.crops import square_crop
    from tfdfd.data.self_blending import self_blend

    portrait = pytest.importorskip("skimage.data").astronaut()
    points = np.array([[204, 100], [245, 102], [224, 126], [202, 139], [244, 140]], np.float32)
    size, pairs = model.input_shape[1], []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        real, fake, _ = self_blend(portrait, points, rng, "face")
        pairs.append([square_crop(image, (182, 64, 83, 107), size=size) for image in (real, fake)])
    scores = model.predict(np.concatenate(pairs).astype(np.float32) / 255, verbose=0)[:, 0]
    assert (scores[1::2] > scores[::2]).mean() >= 0.7
