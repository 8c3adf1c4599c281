"""Every network of `list_models()` against its counts and records, which `python -m tools.record` makes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.seeded import SHAPE, agrees, numbers, recorded, seeded
from tfdfd.models import COUNTS, build, default_arguments, list_models, spec
from tfdfd.models.counting import learned, macs, total, trainable
from tfdfd.weights.saving import named_weights

CONTRACT = """
meso4 meso_inception4 mobilenet_v1 mobilenet_v2 mobilenet_v3 mobilenet_v3_r1 mobilenet_v3_r2 mobilenet_v3_r3 vgg16
srm_vgg16 resnet50v2 srm_resnet50v2 srm_mobilenet_v2 xception inception_v3 efficientnet_b5 resnet152 resnext101_32x8d
efficientnet_lite0 reseption_v1 reseption_v2 reseption_ensemble clip_vit_b16 best_ensemble
"""
# Their steps, files and scores are tested where time does not matter; their counts and layers here, too.
LARGEST = {"resnet152", "resnext101_32x8d", "efficientnet_b5", "reseption_ensemble", "best_ensemble"}
AUTOMATIC = re.compile(r"(conv2d|depthwise_conv2d|separable_conv2d|batch_normalization|dense|functional)(_\d+)?")


@pytest.fixture(scope="module", params=list_models())
def named(request):
    keras.utils.set_random_seed(1)
    return request.param, build(request.param)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in LARGEST else ()) for name in list_models()],
)
def small(request):
    """The network at its smallest size, all of it trainable where it has that choice, without dropout."""
    keras.utils.set_random_seed(3)
    model = build_small(request.param, **unfrozen(request.param))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return request.param, model


def build_small(name, **arguments):
    return build(name, input_shape=(spec(name).min_size, spec(name).min_size, 3), **arguments)


def unfrozen(name):
    return {"freeze": "none"} if "freeze" in default_arguments(name) else {}


def images(model, count=2):
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), dtype=np.float32)


def score(model):
    return keras.ops.convert_to_numpy(model(images(model), training=False))


def test_all_names_of_the_contract_are_there():
    assert set(CONTRACT.split()) <= set(list_models())


def test_records_are_of_the_networks_there_are():
    assert list(recorded()) == list(recorded(COUNTS)) == list_models()


def test_published_counts():
    """Afchar et al.: 27,977 and 28,615 trainable parameters; a shared batch norm, as elsewhere, would miss them."""
    assert (spec("meso4").params, spec("meso4").learned) == (28_073, 27_977)
    assert (spec("meso_inception4").params, spec("meso_inception4").learned) == (28_725, 28_615)
    # Thesis, table 7.1: 86.74 M with one output.
    assert f"{spec('resnext101_32x8d').learned / 1e6:.2f}" == "86.74"
    # https://github.com/d-li14/efficientnet-lite.pytorch: 4.652 M and 0.385 G, with 1,000 classes instead of one.
    lite = spec("efficientnet_lite0")
    assert f"{(lite.learned + 999 * 1281) / 1e6:.3f}" == "4.652"
    assert f"{(lite.macs + 999 * 1280) / 1e9:.3f}" == "0.385"


def test_record_agrees_with_the_graph(named):
    name, model = named
    known = spec(name)
    assert model.name == name
    assert model.input_shape[1:] == known.input_shape
    assert (total(model), learned(model), trainable(model)) == (known.params, known.learned, known.trainable)
    assert macs(model) == known.macs
    assert known.source


def test_output_is_one_probability(named):
    _, model = named
    scores = score(model)
    assert scores.shape == (2, 1) and scores.dtype == np.float32
    assert np.all((scores >= 0) & (scores <= 1))


def test_has_features_and_the_named_head(named):
    _, model = named
    assert model.get_layer("fake_probability").output is model.output
    assert len(model.get_layer("features").output.shape) == 2


def test_every_weighted_layer_is_named_by_us(named):
    _, model = named
    parts = {part for path in named_weights(model) for part in path.split("/")[:-1]}
    assert not [part for part in parts if AUTOMATIC.fullmatch(part)]


def test_one_step_down_the_gradient_reaches_every_weight_and_lowers_the_loss(small):
    import tensorflow as tf

    name, model = small
    inputs, labels = images(model, 4), np.array([0, 1, 1, 0], np.float32)[:, None]

    def loss_of():
        return keras.losses.BinaryCrossentropy()(labels, model(inputs, training=True))

    with tf.GradientTape() as tape:
        before = loss_of()
    gradients = tape.gradient(before, [weight.value for weight in model.trainable_weights])
    paths = [weight.path for weight in model.trainable_weights]
    assert not [path for path, slope in zip(paths, gradients, strict=True) if slope is None]
    assert not [path for path, slope in zip(paths, gradients, strict=True) if not np.isfinite(slope).all()]
    assert not [path for path, slope in zip(paths, gradients, strict=True) if not np.any(slope)]
    # From a step that would lower the loss by a hundredth if it were a plane, down to a thousandth of that.
    rate = 0.01 * float(before) / sum(float(tf.reduce_sum(slope**2)) for slope in gradients)
    start = [weight.numpy() for weight in model.trainable_weights]
    for _ in range(10):
        for weight, slope, value in zip(model.trainable_weights, gradients, start, strict=True):
            weight.assign(value - rate * slope)
        if float(loss_of()) < float(before):
            return
        rate /= 2
    raise AssertionError(f"no step along the gradient lowers the loss of {name}, {float(before)}")


def test_weights_and_whole_model_survive_a_round_trip(small, tmp_path):
    _, model = small
    expected = score(model)
    weights, whole = tmp_path / "x.weights.h5", tmp_path / "x.keras"
    model.save_weights(weights)
    before = model.get_weights()
    for weight in model.weights:
        weight.assign(weight.numpy() * 0 + 1)
    model.load_weights(weights)
    weights.unlink()
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    np.testing.assert_array_equal(score(model), expected)
    model.save(whole)
    loaded = keras.models.load_model(whole)
    whole.unlink()
    np.testing.assert_array_equal(score(loaded), expected)
    assert trainable(loaded) == trainable(model)


def _mixed():
    """One policy of the two for most networks, as the layers do not ask which it is; the largest are much as others."""
    for name in list_models():
        for policy, slow in (("mixed_float16", name != "meso4"), ("mixed_bfloat16", name in LARGEST)):
            yield pytest.param(name, policy, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(("name", "policy"), _mixed())
def test_mixed_precision_keeps_a_float32_probability(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = build_small(name)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32"
    assert model.get_layer("features").compute_dtype == policy.removeprefix("mixed_")
    scores = score(model)
    assert scores.dtype == np.float32 and np.all((scores >= 0) & (scores <= 1))


def test_smallest_size_is_stated_and_enforced(small):
    name, model = small
    assert np.isfinite(score(model)).all()
    side = spec(name).min_size - 1
    with pytest.raises(ValueError, match=rf"at least {side + 1} x {side + 1}.*received input_shape=\({side}, 300, 3\)"):
        build(name, input_shape=(side, 300, 3))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGEST else ()) for name in list_models()]
)
def test_numbers_are_the_stored_ones(name):
    """Seeded weights, seeded images: a change in any layer shows here."""
    compare(numbers(seeded(name)), recorded()[name]["outputs"])


@pytest.mark.parametrize(
    "name",
    [name if name == "meso_inception4" else pytest.param(name, marks=pytest.mark.slow) for name in list_models()],
)
def test_numbers_are_the_same_under_jax(name):
    pytest.importorskip("jax", reason="jax is not installed: pip install 'tfdfd[test]'")
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parent.parent
    reply = subprocess.run(
        [sys.executable, "-m", "tests.seeded", name], env=environment, cwd=root, capture_output=True, text=True
    )
    assert reply.returncode == 0, reply.stderr
    compare(json.loads(reply.stdout.splitlines()[-1])[name], recorded()[name]["outputs"])


def compare(measured, stored):
    assert agrees(measured, stored), f"measured {measured}, recorded {stored}"
    # The bounds themselves: an error just beyond each is seen.
    for key, off in (("mean", 1.1e-3 * stored["mean"]), ("deviation", 1.1e-3 * stored["deviation"])):
        assert not agrees(stored | {key: stored[key] + off}, stored)
    for key, off in (("features", 2.1e-3), ("scores", 1.1e-3)):
        assert not agrees(stored | {key: [stored[key][0] + off, *stored[key][1:]]}, stored)


def test_networks_take_images_that_are_not_square():
    assert build("meso4", input_shape=SHAPE).input_shape == (None, *SHAPE)


def test_unknown_name_lists_the_near_ones():
    with pytest.raises(ValueError, match=r"meso5.*did you mean meso4"):
        build("meso5")
    with pytest.raises(ValueError, match=r"no network is known as 'resnet'.*resnet152"):
        spec("resnet")


@pytest.mark.parametrize("shape", [(256, 256), (256, 256, 1), (None, None, 3), (64.0, 64, 3), 256])
def test_shapes_that_are_no_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"input_shape must be \(height, width, 3\); received"):
        build("meso4", input_shape=shape)


def test_unknown_argument_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"mobilenet_v1 takes the arguments .*alpha.*received 'alpah'; did you mean alpha"
    ):
        build("mobilenet_v1", alpah=0.5)
