"""Pretrained networks as the documents fine-tune them: what is frozen, what the arguments choose, noise in front."""

import keras
import numpy as np
import pytest

from tfdfd.models import build
from tfdfd.models.counting import learned, trainable
from tfdfd.models.max_pooled import STREAMS
from tfdfd.models.mobilenet_v3 import ROWS, slimmed

# S2, table 5.2: the first layers that train, and the last that do not, as its parts are called in these networks.
TABLE_5_2 = {
    "xception": ("block4_shortcut_bn", "block5_sepconv1"),
    "inception_v3": ("front_conv5_bn", "mixed0_branch1_conv1"),
    "efficientnet_b5": ("block3a_project_bn", "block3b_expand_conv"),
    "resnet152": ("conv3_block8_3_bn", "conv4_block1_1_conv"),
    "resnext101_32x8d": ("conv3_block4_3_bn", "conv4_block1_1_conv"),
}
# Convolutions outside squeeze-and-excitation in the frozen part: the stem's, then the frozen blocks'.
FROZEN_CONVOLUTIONS = {
    "xception": 2 + 3 * 3,
    "inception_v3": 5,
    "efficientnet_b5": 1 + 3 * 2 + 6 * 3,
    "resnet152": 1 + 11 * 3 + 2,
    "resnext101_32x8d": 1 + 7 * 3 + 2,
}


@pytest.fixture(scope="module", params=list(TABLE_5_2))
def fine_tuned(request):
    return request.param, build(request.param, input_shape=(96, 96, 3))


def is_convolution(layer):
    return isinstance(layer, keras.layers.Conv2D | keras.layers.SeparableConv2D | keras.layers.DepthwiseConv2D)


def test_thesis_freezes_exactly_the_parts_of_its_table(fine_tuned):
    name, model = fine_tuned
    last, first = TABLE_5_2[name]
    assert not model.get_layer(last).trainable and model.get_layer(first).trainable
    frozen = [layer for layer in model.layers if layer.weights and not layer.trainable]
    assert sum(is_convolution(layer) and "_se_" not in layer.name for layer in frozen) == FROZEN_CONVOLUTIONS[name]
    # Nothing that trains lies before what is frozen, and no frozen layer has weights that train.
    assert not [layer.name for layer in frozen if layer.trainable_weights]
    below = {layer.name for layer in keras.Model(model.input, model.get_layer(first).input).layers if layer.weights}
    assert below <= {layer.name for layer in frozen} | {first}
    assert model.get_layer("fake_probability").trainable


def test_a_frozen_norm_keeps_its_statistics(fine_tuned):
    _, model = fine_tuned
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = {norm.name: np.asarray(norm.moving_mean) for norm in norms}
    model(np.random.default_rng(0).random((2, 96, 96, 3), dtype=np.float32), training=True)
    for norm in norms:
        assert np.array_equal(norm.moving_mean, before[norm.name]) == (not norm.trainable), norm.name


@pytest.mark.parametrize("name", ["inception_v3", "mobilenet_v2", "srm_vgg16", "mobilenet_v1"])
def test_freezing_none_all_or_up_to_a_layer(name):
    shape = (96, 96, 3)
    everything = build(name, input_shape=shape, freeze="none")
    assert trainable(everything) == learned(everything)
    head = build(name, input_shape=shape, freeze="all")
    assert {weight.path for weight in head.trainable_weights} == {"fake_probability/kernel", "fake_probability/bias"}
    layers = [layer.name for layer in head.layers if layer.weights]
    part = build(name, input_shape=shape, freeze=layers[2])
    assert not part.get_layer(layers[2]).trainable
    assert trainable(head) < trainable(part) < learned(part)


def test_freezing_survives_saving(tmp_path):
    model = build("mobilenet_v1")
    model.save(tmp_path / "x.keras")
    assert trainable(keras.models.load_model(tmp_path / "x.keras")) == trainable(model) == 513


def test_freezing_what_is_not_there_lists_the_near_names():
    with pytest.raises(
        ValueError, match=r"frozen as none, all, thesis, or up to a layer.*'block4_ad'; did you mean block4_add"
    ):
        build("xception", freeze="block4_ad")
    with pytest.raises(
        ValueError, match=r"vgg16 can be frozen as none, all, or up to a layer by name; received 'thesis'"
    ):
        build("vgg16", freeze="thesis")


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("resolution", [128, 160, 192, 224])
def test_mobilenet_v1_has_sixteen_sizes(alpha, resolution):
    model = build("mobilenet_v1", alpha=alpha, resolution=resolution)
    assert model.input_shape == (None, resolution, resolution, 3)
    assert model.get_layer("bottleneck").output.shape == (None, int(1024 * alpha))


def test_mobilenet_v1_refuses_other_sizes():
    with pytest.raises(
        ValueError, match=r"alpha must be one of 0.25, 0.5, 0.75, 1.0; received 0.3; did you mean 0.25\?"
    ):
        build("mobilenet_v1", alpha=0.3)
    with pytest.raises(
        ValueError, match=r"resolution must be one of 128, 160, 192, 224; received 129; did you mean 128"
    ):
        build("mobilenet_v1", resolution=129)
    with pytest.raises(
        ValueError, match=r"bottleneck must be one of pooled, classes; received 'pool'; did you mean pooled"
    ):
        build("mobilenet_v1", bottleneck="pool")
    with pytest.raises(ValueError, match=r"resolution=224 and input_shape=\(128, 128, 3\) contradict each other"):
        build("mobilenet_v1", resolution=224, input_shape=(128, 128, 3))


def test_bottleneck_is_all_that_the_head_needs():
    """S3 keeps bottlenecks in files and trains on those: the head on a kept one gives the network's own score."""
    model = build("mobilenet_v1")
    images = np.random.default_rng(0).random((3, 128, 128, 3), dtype=np.float32)
    kept = np.asarray(keras.Model(model.input, model.get_layer("bottleneck").output)(images, training=False))
    kernel, bias = model.get_layer("fake_probability").get_weights()
    np.testing.assert_allclose(1 / (1 + np.exp(-(kept @ kernel + bias))), model(images, training=False), atol=1e-6)


def test_slimming_removes_rows_that_leave_the_shapes():
    assert [[row.number for row in ROWS if row not in slimmed(count)] for count in range(4)] == [
        [],
        [10],
        [9, 10],
        [7, 9, 10],
    ]
    for count in range(7):
        model = build("mobilenet_v3", rows=slimmed(count), input_shape=(64, 64, 3))
        assert model.get_layer("features").output.shape == (None, 1024)
    with pytest.raises(ValueError, match=r"between 0 and 6 inverted residuals can be removed; received 7"):
        slimmed(7)


def test_noise_networks_see_noise_only():
    """A body gets the same from a flat image and a brighter one: no noise, mid-grey."""
    flat = np.stack([np.full((128, 128, 3), value, np.float32) for value in (0.2, 0.9)])
    model = build("srm_vgg16")
    noise = keras.Model(model.input, model.get_layer("noise").output)(flat, training=False)
    np.testing.assert_allclose(noise, 0.5, atol=1e-5)
    # The body hangs on the noise and on nothing else.
    assert "srm" in {layer.name for layer in keras.Model(model.input, model.get_layer("scaling").input).layers}
    assert model.get_layer("scaling").input is model.get_layer("noise").output


def test_noise_can_stand_beside_the_image_or_be_truncated():
    both = build("srm_resnet50v2", receives="rgb+noise", truncate=2 / 255)
    assert both.get_layer("features").output.shape == (None, 2 * 2048)
    assert trainable(both) == 2 * 2048 + 1
    image = np.random.default_rng(0).random((1, 128, 128, 3), dtype=np.float32)
    noise = keras.Model(both.input, both.get_layer("noise").output)(image, training=False)
    assert np.abs(np.asarray(noise) - 0.5).max() == pytest.approx(2 / 255)
    with pytest.raises(ValueError, match=r"receives must be one of noise, rgb\+noise; received 'rgb'"):
        build("srm_resnet50v2", receives="rgb")
    assert STREAMS[0] == "noise"


@pytest.mark.parametrize("name", ["srm_mobilenet_v2", "srm_vgg16"])
def test_noise_networks_are_saved_whole(name, tmp_path):
    model = build(name, receives="rgb+noise")
    image = np.random.default_rng(0).random((1, 128, 128, 3), dtype=np.float32)
    expected = model(image, training=False)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(again(image, training=False), expected)
