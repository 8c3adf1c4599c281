"""Counts from the graph against numbers worked out by hand and numbers that others published."""

import keras
import numpy as np
import pytest
from keras import layers

from tfdfd.cli.models import layer_lines
from tfdfd.models import build
from tfdfd.models.counting import layer_rows, learned, macs, thesis_macs, total, trainable

IMAGE = (10, 8, 6)


def one(layer, shape=IMAGE):
    image = keras.Input(shape)
    return keras.Model(image, layer(image))


BY_HAND = [
    (layers.Conv2D(12, 3, padding="same"), IMAGE, 10 * 8 * 12 * (3 * 3 * 6)),
    (layers.Conv2D(12, (1, 7), strides=2), IMAGE, 5 * 1 * 12 * (1 * 7 * 6)),
    (layers.Conv2D(12, 3, groups=3, padding="same"), IMAGE, 10 * 8 * 12 * (3 * 3 * 2)),
    (layers.Conv2D(12, 3, dilation_rate=2), IMAGE, 6 * 4 * 12 * (3 * 3 * 6)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same"), IMAGE, 5 * 4 * 12 * 3 * 3),
    (layers.SeparableConv2D(20, 3, depth_multiplier=2), IMAGE, 8 * 6 * (6 * 2 * 9 + 12 * 20)),
    (layers.Conv2DTranspose(5, 3, strides=2), IMAGE, 10 * 8 * 6 * (3 * 3 * 5)),
    (layers.Conv1D(4, 3, padding="same"), (10, 6), 10 * 4 * 3 * 6),
    (layers.Dense(7), (5,), 35),
    (layers.Dense(7), (9, 5), 9 * 35),
    (layers.LSTM(4), (9, 5), 9 * 4 * (5 * 4 + 4 * 4)),
    (layers.GRU(4, return_sequences=True), (9, 5), 9 * 3 * (5 * 4 + 4 * 4)),
    (layers.Bidirectional(layers.GRU(4)), (9, 5), 2 * 9 * 3 * (5 * 4 + 4 * 4)),
    (layers.TimeDistributed(layers.Conv2D(12, 3, padding="same")), (5, *IMAGE), 5 * 10 * 8 * 12 * (3 * 3 * 6)),
    (layers.BatchNormalization(), IMAGE, 0),
    (layers.MaxPooling2D(), IMAGE, 0),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), BY_HAND, ids=lambda value: getattr(value, "name", None))
def test_a_layer_counts_as_by_hand(layer, shape, expected):
    model = one(layer, shape)
    assert macs(model) == expected
    assert sum(row["macs"] for row in layer_rows(model)) == expected


PUBLISHED = [
    # Howard et al., arXiv:1704.04861, tables 6 and 7: million multiply-adds and parameters.
    ("MobileNet", {}, 569e6, 4.2e6),
    ("MobileNet", {"alpha": 0.5}, 149e6, 1.3e6),
    ("MobileNet", {"input_shape": (160, 160, 3)}, 290e6, 4.2e6),
    # Sandler et al., arXiv:1801.04381, table 4.
    ("MobileNetV2", {}, 300e6, 3.4e6),
    # torchvision's documentation: GFLOPS and parameters, there without batch statistics.
    ("MobileNetV2", {}, 0.30e9, 3_504_872),
    ("VGG16", {}, 15.47e9, 138_357_544),
    ("EfficientNetB0", {}, 0.39e9, 5_288_548),
    # He et al., arXiv:1512.03385, table 1.
    ("ResNet50", {}, 3.8e9, 25.6e6),
]


@pytest.mark.parametrize(("name", "arguments", "work", "parameters"), PUBLISHED)
def test_published_networks_count_as_published(name, arguments, work, parameters):
    model = getattr(keras.applications, name)(weights=None, **arguments)
    assert macs(model) == pytest.approx(work, rel=0.02)
    if isinstance(parameters, int):
        assert learned(model) == parameters
    else:
        assert learned(model) == pytest.approx(parameters, rel=0.04)


def test_the_thesis_counts_norms_too():
    """Table 7.1 has 5.73 G for Inception V3 with one output; its convolutions alone are 5.71 G."""
    model = keras.applications.InceptionV3(weights=None, classes=1)
    assert round(thesis_macs(model) / 1e9, 2) == 5.73
    assert round(macs(model) / 1e9, 2) == 5.71


def test_parameters_by_who_counts():
    image = keras.Input((4,))
    normalization = layers.Normalization()
    normalization.adapt(np.ones((3, 4), np.float32))
    frozen = layers.Dense(5, trainable=False)
    x = layers.Dropout(0.5, seed=1)(frozen(normalization(image)))
    model = keras.Model(image, layers.Dense(1)(layers.BatchNormalization()(x)))
    assert trainable(model) == (5 + 5) + (5 + 1)
    assert learned(model) == 25 + 10 + 6
    # The running mean and variance, and Normalization's mean, variance and count.
    assert total(model) == 25 + 20 + 6 + (4 + 4 + 1)
    model.trainable = False
    assert (trainable(model), learned(model)) == (0, 41)


def body(shape):
    return keras.Sequential(
        [keras.Input(shape), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization()], name="body"
    )


def test_a_model_in_a_model_counts_each_time_it_is_called():
    image = keras.Input(IMAGE)
    inner = body(IMAGE)
    left, right = inner(image), inner(layers.ReLU()(image))
    model = keras.Model(image, layers.Conv2D(2, 1, name="last")(layers.Add()([left, right])))
    grid = 8 * 6
    assert macs(model) == 2 * grid * 4 * (9 * 6) + grid * 2 * 4
    assert thesis_macs(model) == macs(model) + 2 * 2 * (grid * 4)
    assert learned(model) == (9 * 6 * 4 + 4) + 2 * 4 + (4 * 2 + 2)
    assert [row["name"] for row in layer_rows(model)] == ["body/conv", "body/conv", "last"]
    assert sum(row["learned"] for row in layer_rows(model)) == learned(model)


def test_a_model_in_a_model_counts_at_the_size_it_is_called_with():
    expected = 8 * 6 * 4 * (9 * 6)
    image = keras.Input(IMAGE)
    assert macs(keras.Model(image, body((None, None, 6))(image))) == expected
    clip = keras.Input((5, *IMAGE))
    frames = keras.Model(clip, layers.TimeDistributed(body((None, None, 6)))(clip))
    assert macs(frames) == 5 * expected
    assert thesis_macs(frames) == 5 * (expected + 2 * 8 * 6 * 4)


def test_a_shared_layer_counts_each_time_but_is_learned_once():
    image = keras.Input(IMAGE)
    shared = layers.Conv2D(6, 3, padding="same")
    model = keras.Model(image, shared(shared(image)))
    assert macs(model) == 2 * 10 * 8 * 6 * 54
    assert [row["learned"] for row in layer_rows(model)] == [54 * 6 + 6, 0]


def test_a_part_of_a_network_counts_alone():
    model = build("meso4")
    part = keras.Model(model.get_layer("block1_pool").output, model.get_layer("block2_conv").output)
    assert macs(part) == 128 * 128 * 8 * (5 * 5 * 8)


class Unknown(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        return x @ self.kernel


class Known(Unknown):
    def macs(self, input_shape):
        return int(np.prod(input_shape[1:])) * 3


def test_an_unknown_layer_is_no_zero():
    with pytest.raises(ValueError, match=r"no rule counts .* odd \(Unknown\); give its class a method macs"):
        macs(one(Unknown(name="odd"), (5,)))
    with pytest.raises(ValueError, match=r"layer_x \(Attention\)"):
        x = keras.Input((5, 4))
        macs(keras.Model(x, layers.Attention(name="layer_x")([x, x])))
    x = keras.Input((5, 4))
    with pytest.raises(ValueError, match="Matmul"):
        macs(keras.Model(x, keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1)))))
    assert macs(one(Known(), (9, 5))) == 9 * 5 * 3


def test_open_sizes_are_refused():
    with pytest.raises(
        ValueError, match=r"conv takes \(None, None, None, 3\).*build the model with a full input_shape"
    ):
        macs(one(layers.Conv2D(4, 3, name="conv"), (None, None, 3)))


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"\(Subclassed\) has no graph.*expected a built functional"):
        macs(Subclassed())


def test_the_layer_table_says_what_was_built():
    image = keras.Input((11, 9, 3))
    x = layers.ZeroPadding2D(((0, 1), (1, 2)))(image)
    x = layers.Conv2D(4, (3, 5), strides=2, use_bias=False, name="first")(x)
    x = layers.LeakyReLU()(x)
    x = layers.BatchNormalization(name="first_bn")(x)
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", name="deep")(x)
    z = layers.Conv2D(8, 3, dilation_rate=2, groups=2, padding="same", name="wide")(x)
    z = layers.MaxPooling2D(3, 2, padding="same", name="pool")(z)
    joined = layers.BatchNormalization(name="joined_bn")(layers.Concatenate()([y, z]))
    model = keras.Model(image, layers.Dense(1, name="head")(layers.GlobalAveragePooling2D(name="mean")(joined)))
    rows = {row.pop("name"): row for row in layer_rows(model)}
    assert list(rows) == ["first", "deep", "wide", "pool", "joined_bn", "mean", "head"]
    assert rows["first"] == {
        "type": "Conv2D",
        "kernel": [3, 5],
        "stride": [2, 2],
        "padding": [0, 1, 1, 2],
        "dilation": [1, 1],
        "groups": 1,
        "filters": 4,
        "grid": [5, 4],
        "norm": "first_bn",
        "learned": 3 * 5 * 3 * 4 + 2 * 4,
        "macs": 5 * 4 * 4 * (3 * 5 * 3),
    }
    assert (rows["deep"]["padding"], rows["deep"]["groups"], rows["deep"]["grid"]) == ([1, 1, 0, 1], 4, [3, 2])
    assert (rows["wide"]["padding"], rows["wide"]["groups"], rows["wide"]["dilation"]) == ([2, 2, 2, 2], 2, [2, 2])
    assert (rows["pool"]["kernel"], rows["pool"]["stride"], rows["pool"]["macs"]) == ([3, 3], [2, 2], 0)
    assert rows["joined_bn"]["learned"] == 2 * 12
    assert (rows["mean"]["grid"], rows["mean"]["kernel"], rows["head"]["filters"]) == ([], None, 1)
    assert sum(row["learned"] for row in rows.values()) == learned(model)


def test_padding_gives_the_grid():
    """The grid follows from input, kernel, stride and padding by the textbook's formula, in every row of a network."""
    rows = {row["name"]: row for row in layer_rows(keras.applications.MobileNet((224, 224, 3), weights=None))}
    size = 224
    for row in list(rows.values())[:-2]:
        if row["kernel"]:
            size = (size + sum(row["padding"][:2]) - row["kernel"][0]) // row["stride"][0] + 1
            assert row["grid"] == [size, size], row


def test_lines_are_aligned_and_end_in_sums():
    lines = layer_lines(layer_rows(build("meso4")))
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["layer", "type", "kernel"]
    assert lines[-1].split()[-2:] == ["27,977", "60,047,376"]
