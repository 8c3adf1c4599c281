"""Every network of `list_models()` against its record: counts, range, gradients, round trips."""

import keras
import numpy as np
import pytest

from tfdfd.models import MODELS, build, list_models, spec


@pytest.fixture(scope="module", params=list_models())
def named(request):
    keras.utils.set_random_seed(1)
    return request.param, build(request.param)


def images(model, count=2):
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), dtype=np.float32)


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def macs_of(model):
    """Multiply-accumulates of the convolutions and dense layers, from the graph's own shapes."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            total += int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:3]))
        elif isinstance(layer, keras.layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


def test_published_counts():
    """Afchar et al.: 27,977 and 28,615 trainable parameters; a shared batch norm, as elsewhere, would miss them."""
    assert (MODELS["meso4"].params, MODELS["meso4"].trainable) == (28_073, 27_977)
    assert (MODELS["meso_inception4"].params, MODELS["meso_inception4"].trainable) == (28_725, 28_615)


def test_record_agrees_with_the_graph(named):
    name, model = named
    known = spec(name)
    assert model.name == name
    assert model.input_shape[1:] == known.input_shape
    assert count(model.weights) == known.params
    assert count(model.trainable_weights) == known.trainable
    assert macs_of(model) == known.macs
    assert known.source


def test_output_is_one_probability(named):
    _, model = named
    scores = np.asarray(model(images(model), training=False))
    assert scores.shape == (2, 1) and scores.dtype == np.float32
    assert np.all((scores >= 0) & (scores <= 1))


def test_has_features_and_the_named_head(named):
    _, model = named
    assert model.get_layer("fake_probability").output is model.output
    features = keras.Model(model.input, model.get_layer("features").output)
    assert np.asarray(features(images(model), training=False)).ndim == 2


def test_every_weighted_layer_is_named_by_us(named):
    _, model = named
    assert not [layer.name for layer in model.layers if layer.weights and layer.name.startswith(("conv2d", "dense"))]


def test_training_reaches_every_weight(named):
    name, _ = named
    keras.utils.set_random_seed(3)
    model = build(name)
    before = [np.asarray(weight) for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy")
    model.fit(images(model, 8), np.array([0, 1] * 4)[:, None], epochs=2, verbose=0)
    still = [w.path for w, old in zip(model.trainable_weights, before, strict=True) if np.array_equal(w, old)]
    assert not still


def test_weights_and_whole_model_survive_a_round_trip(named, tmp_path):
    name, model = named
    expected = np.asarray(model(images(model), training=False))
    model.save_weights(tmp_path / "x.weights.h5")
    again = build(name)
    assert not np.allclose(again(images(model), training=False), expected)
    again.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(again(images(model), training=False), expected)
    model.save(tmp_path / "x.keras")
    whole = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(whole(images(model), training=False), expected)


def test_mixed_precision_keeps_a_float32_probability(named):
    name, _ = named
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(name)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32"
    assert model.get_layer("features").compute_dtype == "bfloat16"


def test_other_input_shapes(named):
    name, _ = named
    assert build(name, input_shape=(128, 96, 3)).input_shape == (None, 128, 96, 3)


def test_unknown_name_lists_the_near_ones():
    with pytest.raises(ValueError, match=r"meso5.*did you mean meso4"):
        build("meso5")
    with pytest.raises(ValueError, match=r"no network is known as 'resnet'.*meso_inception4"):
        spec("resnet")
