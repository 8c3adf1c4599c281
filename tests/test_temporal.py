"""The recurrent detector over clips."""

import keras
import numpy as np
import pytest

from tfdfd.models import build
from tfdfd.models.counting import macs
from tfdfd.models.temporal import temporal, training_stages

SIZE = (64, 64, 3)


@pytest.fixture(scope="module")
def frame_network():
    keras.utils.set_random_seed(2)
    return build("meso4", input_shape=SIZE)


def clips(count, frames=4):
    return np.random.default_rng(0).random((count, frames, *SIZE), dtype=np.float32)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_clip_has_one_score_that_depends_on_the_order_of_its_frames(frame_network, cell):
    model = temporal(frame_network, frames=4, cell=cell, units=8)
    video = clips(2)
    scores = np.asarray(model(video, training=False))
    assert scores.shape == (2, 1) and np.all((scores >= 0) & (scores <= 1))
    assert not np.allclose(model(video[:, ::-1], training=False), scores, atol=1e-6)


def test_frames_are_seen_by_the_frame_network_as_they_are(frame_network):
    """The sequence the cell gets is, frame by frame, what the frame network makes of the frame; clips do not mix."""
    model = temporal(frame_network, frames=4, units=8)
    video = clips(3)
    sequence = keras.Model(model.input, model.get_layer("features").input)(video, training=False)
    features = keras.Model(frame_network.input, frame_network.get_layer("features").output)
    for i in range(3):
        np.testing.assert_allclose(sequence[i], features(video[i], training=False), rtol=1e-5, atol=1e-6)


def test_training_changes_the_head_alone_and_then_everything(frame_network):
    before = [np.asarray(weight) for weight in frame_network.weights]
    model = temporal(frame_network, frames=4, units=8)
    video, labels = clips(8), np.array([0, 1] * 4)[:, None]
    changed = {}
    for stage, rate in training_stages(model):
        start = {weight.path: np.asarray(weight) for weight in model.weights}
        model.compile(keras.optimizers.Adam(20 * rate), "binary_crossentropy")
        losses = model.fit(video, labels, epochs=12, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        changed[stage] = {weight.path for weight in model.weights if not np.array_equal(weight, start[weight.path])}
    parts = {path.split("/")[0] for path in changed["head"]}
    assert parts == {"features", "fake_probability"}
    assert changed["everything"] == {weight.path for weight in model.weights}
    for weight, value in zip(frame_network.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_it_is_saved_whole_and_counted(frame_network, tmp_path):
    model = temporal(frame_network, frames=4, units=8)
    video = clips(1)
    expected = model(video, training=False)
    model.save(tmp_path / "clip.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "clip.keras")(video, training=False), expected)
    # Four frames, the cell's 4 gates over 16 features and 8 units at each, and the head.
    body = macs(frame_network) - 16
    assert macs(model) == 4 * body + 4 * 4 * (16 * 8 + 8 * 8) + 8


def test_it_takes_any_frame_network():
    model = temporal(build("reseption_v2", input_shape=(96, 96, 3)), frames=2, cell="gru")
    assert model.input_shape == (None, 2, 96, 96, 3) and model.output_shape == (None, 1)


def test_bad_arguments_say_what_is_expected(frame_network):
    with pytest.raises(ValueError, match=r"cell must be one of lstm, gru; received 'rnn'"):
        temporal(frame_network, cell="rnn")
    with pytest.raises(ValueError, match=r"at least 2 frames; received frames=1"):
        temporal(frame_network, frames=1)
    with pytest.raises(ValueError, match=r"flat, given as frame_network, has no layer 'features'"):
        temporal(keras.Sequential([keras.Input(SIZE), keras.layers.Flatten()], name="flat"))
