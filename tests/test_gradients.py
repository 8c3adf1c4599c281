"""Noise on gradients has the variance it should have; the record of gradients is what a tape says."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.few_steps import small_model, train
from tfdfd.training.history import GradientFlow, draw_gradient_flow, read_gradient_flow, write_history
from tfdfd.training.optimizers import GradientNoise, GradientRecord, make_optimizer

DRAWS = 200_000


def noise_of_a_step(optimizer, weights, gradient=0.0):
    """What the weights lose in a step, less the gradient: with plain SGD at a rate of 1, the noise."""
    before = [weight.numpy() for weight in weights]
    optimizer.apply([tf.fill(weight.shape, gradient) for weight in weights])
    return [start - weight.numpy() for start, weight in zip(before, weights, strict=True)]


def noisy(eta, weights, seed=0, **around):
    optimizer = make_optimizer("sgdm", 1.0, momentum=0.0, gradient_noise=eta, seed=seed, **around)
    optimizer.build(weights)
    return optimizer


def innermost(optimizer):
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


@pytest.mark.parametrize(("step", "variance"), [(0, 0.3), (1, 0.3 / 2**0.55), (1000, 0.3 / 1001**0.55)])
def test_variance_at_a_step(step, variance):
    weights = [keras.Variable(np.zeros(DRAWS, "float32")), keras.Variable(np.zeros((DRAWS // 4, 4), "float32"))]
    optimizer = noisy(0.3, weights)
    innermost(optimizer).iterations.assign(step)
    one, other = (noise.ravel() / np.sqrt(variance) for noise in noise_of_a_step(optimizer, weights))
    for draws in (one, other):
        # The standard errors of 200,000 draws are 0.0022 of the mean, 0.0032 of the variance, 0.0005 of the share.
        assert abs(draws.mean()) < 0.01
        assert draws.var() == pytest.approx(1, abs=0.015)
        assert np.mean(np.abs(draws) > 2) == pytest.approx(0.0455, abs=0.0025)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.01


def test_each_step_and_each_seed_has_other_noise():
    weights = [keras.Variable(np.zeros(1000, "float32"))]
    first = noisy(0.3, weights)
    draws = [noise_of_a_step(first, weights)[0] for _ in range(2)]
    draws.append(noise_of_a_step(noisy(0.3, weights, seed=1), weights)[0])
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert abs(np.corrcoef(draws[one], draws[other])[0, 1]) < 0.15
    again = [keras.Variable(np.zeros(1000, "float32"))]
    np.testing.assert_array_equal(noise_of_a_step(noisy(0.3, again), again)[0], draws[0])


def test_noise_is_added_to_gradients_in_their_own_units():
    """A gradient of 3 comes as 3 times the loss scale; what is lost is 3 and noise of the variance η."""
    weights = [keras.Variable(np.zeros(DRAWS, "float32"))]
    optimizer = noisy(0.04, weights, loss_scale=True)
    (lost,) = noise_of_a_step(optimizer, weights, gradient=3.0 * 2**15)
    assert lost.mean() == pytest.approx(3, abs=0.01)
    assert lost.std() == pytest.approx(0.2, rel=0.02)


def test_a_step_that_loss_scaling_leaves_out_draws_and_records_nothing():
    weights = [keras.Variable(np.zeros(10, "float32"))]
    optimizer = noisy(0.3, weights, loss_scale=True, gradient_flow=True)
    before = [np.copy(variable) for variable in optimizer.inner_optimizer.variables]
    (lost,) = noise_of_a_step(optimizer, weights, gradient=np.inf)
    assert not lost.any()
    for variable, value in zip(optimizer.inner_optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)


def test_noise_out_of_range_or_inside_of_loss_scaling():
    with pytest.raises(ValueError, match="expected eta above 0.*received eta=0, gamma=0.55"):
        GradientNoise(keras.optimizers.SGD(), 0)
    with pytest.raises(ValueError, match="received eta=1, gamma=-1"):
        GradientNoise(keras.optimizers.SGD(), 1, gamma=-1)
    for inner in (
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        keras.optimizers.SGD(loss_scale_factor=8),
    ):
        with pytest.raises(ValueError, match="put LossScaleOptimizer around it"):
            GradientNoise(inner, 0.1)


def test_the_record_is_what_a_tape_says():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh", name="first"), keras.layers.Dense(1, name="last")]
    )
    # The rate is too small to change any weight.
    model.compile(make_optimizer("sgdm", 1e-30, loss_scale=True, gradient_noise=0.5, gradient_flow=True), loss="mse")
    draw = np.random.default_rng(0)
    inputs, labels = draw.normal(size=(12, 3)).astype("float32"), draw.normal(size=(12, 1)).astype("float32")
    model.fit(inputs, labels, batch_size=4, shuffle=False, verbose=0)
    by_batch = []
    for start in range(0, 12, 4):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs[start : start + 4]) - labels[start : start + 4]) ** 2)
        by_batch.append([np.abs(slope) for slope in tape.gradient(loss, [w.value for w in model.trainable_variables])])
    largest, mean = model.optimizer.inner_optimizer.magnitudes()
    np.testing.assert_allclose(largest, [max(np.max(s) for s in one) for one in zip(*by_batch, strict=True)], rtol=1e-4)
    np.testing.assert_allclose(
        mean, [np.mean([np.mean(s) for s in one]) for one in zip(*by_batch, strict=True)], rtol=1e-4
    )


def test_the_table_has_each_weight_and_epoch_once(tmp_path):
    file = tmp_path / "gradient_flow.csv"
    model = small_model("everything")
    flow = GradientFlow(model)
    written = []
    for epoch in (1, 2, 3, 2):  # the last as after a training that was stopped and goes on from epoch 2
        train(model, epoch - 1, epoch)
        written.append(model.optimizer.inner_optimizer.magnitudes())
        flow.write(file, epoch)
    with open(file, newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["epoch"], row["layer"], row["weight"], row["size"]) for row in rows] == [
        (epoch, *weight)
        for epoch in "12"
        for weight in [
            ("first", "kernel", "30"),
            ("norm", "gamma", "5"),
            ("norm", "beta", "5"),
            ("last", "kernel", "5"),
            ("last", "bias", "1"),
        ]
    ]
    for epoch, (largest, mean) in ((1, written[0]), (2, written[3])):
        np.testing.assert_allclose(
            [float(row["max"]) for row in rows if row["epoch"] == str(epoch)], largest, rtol=1e-6
        )
        np.testing.assert_allclose([float(row["mean"]) for row in rows if row["epoch"] == str(epoch)], mean, rtol=1e-6)
    # Begun anew with each epoch: the gradients of the first are not among those of the second.
    assert not np.array_equal(written[0][0], written[3][0])


def test_by_layer_for_a_picture(tmp_path):
    # A table of an earlier version, whose epochs are from 0.
    file = tmp_path / "flow.csv"
    file.write_text(
        "epoch,layer,weight,size,max,mean\n"
        "0,one,kernel,3,0.5,0.2\n0,one,bias,1,0.75,0.6\n0,two,kernel,2,0.25,0.125\n"
        "4,one,kernel,3,0.05,0.02\n4,one,bias,1,0.01,0.01\n4,two,kernel,2,nan,nan\n"
    )
    found = read_gradient_flow(file)
    assert found.layers == ("one", "two") and found.epochs.tolist() == [1, 5]
    np.testing.assert_allclose(found.largest, [[0.75, 0.25], [0.05, np.nan]])
    np.testing.assert_allclose(found.mean, [[0.3, 0.125], [0.0175, np.nan]])


def test_the_picture_is_of_the_first_and_the_last_epoch(tmp_path, monkeypatch):
    """S2, figure 7.1: the largest and the mean of each layer, early and late."""
    file = tmp_path / "flow.csv"
    file.write_text(
        "epoch,layer,weight,size,max,mean\n1,one,kernel,3,0.5,0.2\n1,two,kernel,2,0.25,0.125\n"
        "2,one,kernel,3,9,9\n2,two,kernel,2,9,9\n3,one,kernel,3,0.05,0.02\n3,two,kernel,2,0.04,0.01\n"
    )
    drawn = []
    monkeypatch.setattr("tfdfd.training.history.save_figure", lambda path, figure: drawn.append(figure))
    draw_gradient_flow(tmp_path / "flow.png", file)
    early, late = drawn[0].axes
    for axis, title, bars in ((early, "early: epoch 1", [[0.5, 0.25], [0.2, 0.125]]),
                              (late, "late: epoch 3", [[0.05, 0.04], [0.02, 0.01]])):  # fmt: skip
        assert axis.get_title() == title and axis.get_yscale() == "log"
        heights = [[bar.get_height() for bar in group] for group in axis.containers]
        np.testing.assert_allclose(heights, bars)
    assert [label.get_text() for label in late.get_xticklabels()] == ["one", "two"]


def test_the_curves_have_the_balanced_accuracy_of_videos(tmp_path, monkeypatch):
    """S2, figures 5.8, 7.4 and 7.6."""
    drawn = []
    monkeypatch.setattr("tfdfd.training.history.save_figure", lambda path, figure: drawn.append(figure))
    values = [0.5, 0.75, 0.625]
    row = {"loss": 1.0, "val_loss": 1.0, "learning_rate": 1e-3}
    history = [row | {"epoch": i + 1, "val_video_balanced_accuracy": value} for i, value in enumerate(values)]
    write_history(tmp_path, history, "a run")
    lines = {line.get_label(): line for line in drawn[0].axes[1].get_lines()}
    line = lines["validation balanced accuracy, videos"]
    assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == values


def test_an_epoch_without_a_step_has_no_numbers():
    record = GradientRecord(keras.optimizers.SGD())
    record.build([keras.Variable([1.0]), keras.Variable([2.0])])
    assert np.isnan(record.magnitudes()).all()
    record.apply([None, tf.constant([-4.0])])  # warned of by Keras, and recorded as 0
    np.testing.assert_array_equal(record.magnitudes(), [[0, 4], [0, 4]])
    record.clear()
    assert np.isnan(record.magnitudes()).all()


def test_what_is_no_record_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(make_optimizer("adam", 1e-3, gradient_noise=0.1), loss="mse")
    with pytest.raises(ValueError, match="not recorded: compile it with .*gradient_flow=True"):
        GradientFlow(model)
    file = tmp_path / "other.csv"
    file.write_text("epoch,loss\n0,1\n")
    with pytest.raises(ValueError, match="not a gradient flow table: expected the columns epoch, layer.*epoch, loss"):
        read_gradient_flow(file)
    file.write_text("")
    with pytest.raises(ValueError, match="received none"):
        read_gradient_flow(file)
    file.write_text("epoch,layer,weight,size,max,mean\n")
    with pytest.raises(ValueError, match="contains no epoch yet"):
        read_gradient_flow(file)
