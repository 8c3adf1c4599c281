"""RAdam against the paper's equations in float64, and against an implementation by others."""

from fractions import Fraction

import keras
import numpy as np
import pytest

from tfdfd.training.optimizers import RAdam

BETA_1, BETA_2 = 0.9, 0.999


def by_the_paper(gradients, start, rate, beta_2=BETA_2, epsilon=0.0, threshold=4.0):
    """Algorithm 2 of arXiv:1908.03265, line by line, in float64: the weight after each step."""
    weight, first, second = np.array(start, np.float64), 0.0, 0.0
    longest = 2 / (1 - beta_2) - 1
    path = []
    for step, gradient in enumerate(np.asarray(gradients, np.float64), 1):
        second = beta_2 * second + (1 - beta_2) * gradient**2
        first = BETA_1 * first + (1 - BETA_1) * gradient
        corrected = first / (1 - BETA_1**step)
        length = longest - 2 * step * beta_2**step / (1 - beta_2**step)
        if length > threshold:
            adaptive = np.sqrt(1 - beta_2**step) / (np.sqrt(second) + epsilon)
            rectification = np.sqrt(
                (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length),
            )
            weight = weight - rate * rectification * corrected * adaptive
        else:
            weight = weight - rate * corrected
        path.append(weight)
    return np.array(path)


def by_ours(optimizer, gradients, start):
    weight = keras.Variable(np.asarray(start, np.float32))
    optimizer.build([weight])
    path = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
        path.append(np.copy(weight.numpy()))
    return np.array(path)


@pytest.fixture(scope="module")
def gradients():
    """Of different sizes, and one that is 0 at first."""
    draws = np.random.default_rng(0).normal(size=(40, 5)) * [1e-4, 1e-2, 1.0, 30.0, 1.0]
    draws[:7, 4] = 0
    return draws.astype(np.float32)


@pytest.mark.parametrize("beta_2", [0.7, 0.99, 0.999])
def test_each_step_is_the_papers(gradients, beta_2):
    start = np.zeros(5)
    ours = by_ours(RAdam(0.01, beta_2=beta_2), gradients, start)
    paper = by_the_paper(gradients, start, 0.01, beta_2, epsilon=1e-8)
    np.testing.assert_allclose(np.diff(ours, axis=0), np.diff(paper, axis=0), rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(ours, paper, rtol=2e-5, atol=1e-7)


def test_it_adapts_from_the_fifth_step_on_and_with_pytorchs_threshold_from_the_sixth():
    """Until then a gradient that is ten times as large makes a step ten times as large."""
    gradients = np.full((7, 2), [1.0, 10.0], np.float32)
    for threshold, first in ((4.0, 5), (5.0, 6)):
        steps = np.diff(by_ours(RAdam(0.01, threshold=threshold), gradients, [0, 0]), axis=0, prepend=0)
        ratios = steps[:, 1] / steps[:, 0]
        np.testing.assert_allclose(ratios, [10.0] * (first - 1) + [1.0] * (8 - first), rtol=1e-3)


@pytest.mark.parametrize("threshold", [4.0, 5.0])
def test_the_same_as_optax(gradients, threshold):
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install 'tfdfd[test]'")
    experimental = pytest.importorskip("jax.experimental")
    optax = pytest.importorskip("optax", reason="optax is not installed: pip install 'tfdfd[test]'")
    # In float32 it loses what it computes ρ with; without epsilon, as they put it elsewhere.
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else experimental.enable_x64
    with enable_x64(True):
        theirs = optax.radam(0.01, BETA_1, BETA_2, eps=0.0, threshold=threshold)
        weight = jax.numpy.zeros(4, "float64")
        state, path = theirs.init(weight), []
        for gradient in gradients[:, :4].astype(np.float64):
            update, state = theirs.update(gradient, state, weight)
            weight = optax.apply_updates(weight, update)
            path.append(np.asarray(weight))
    ours = by_ours(RAdam(0.01, epsilon=0.0, threshold=threshold), gradients[:, :4], np.zeros(4))
    np.testing.assert_allclose(ours, path, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("beta_2", ["0.7", "0.99", "0.999", "0.9999"])
def test_rectification_is_exact_at_every_step(beta_2):
    """ρ of exact fractions: float32 keeps a few percent of it when computed as it is written."""
    optimizer, exact = RAdam(beta_2=float(beta_2)), Fraction(beta_2)
    for step in (1, 2, 3, 4, 5, 6, 10, 100, 999, 1001, 3000):
        power = exact**step
        length = float(2 / (1 - exact) - 1 - 2 * step * power / (1 - power))
        assert float(optimizer._length(np.float32(step))) == pytest.approx(length, rel=1e-6)
    limit = 2 / (1 - float(beta_2)) - 1
    assert float(optimizer._length(np.float32(1e7))) == pytest.approx(limit, rel=1e-6)


def test_after_many_steps_it_is_adam():
    weights = [keras.Variable(np.float32([1.0, -2.0])) for _ in range(2)]
    optimizers = RAdam(0.01), keras.optimizers.Adam(0.01, epsilon=1e-8)
    steps = []
    for weight, optimizer in zip(weights, optimizers, strict=True):
        optimizer.build([weight])
        optimizer._iterations.assign(200_000)
        before = weight.numpy()
        optimizer.apply([keras.ops.convert_to_tensor(np.float32([0.3, 4.0]))])
        steps.append(weight.numpy() - before)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-3)


def test_what_every_keras_optimizer_takes():
    gradient = [np.float32([3.0, 4.0])]
    clipped = by_ours(RAdam(0.1, clipnorm=1.0), gradient, [0, 0])
    np.testing.assert_allclose(clipped, [[-0.06, -0.08]], rtol=1e-5)
    decayed = by_ours(RAdam(0.1, weight_decay=0.5), [np.zeros(2, np.float32)], [2.0, -4.0])
    np.testing.assert_allclose(decayed, [[1.9, -3.8]], rtol=1e-5)


def test_first_moment_can_be_left_out():
    # Twenty steps from 0 along a gradient that stays the same: all of one sign.
    path = by_ours(RAdam(0.1, beta_1=0.0), np.full((20, 1), 2.0, np.float32), [0.0])
    assert np.isfinite(path).all() and (np.diff(path[:, 0]) < 0).all()


def test_configuration_holds_what_it_was_made_with():
    made = RAdam(0.5, beta_1=0.8, beta_2=0.95, epsilon=1e-6, threshold=5.0, weight_decay=0.1, clipnorm=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert type(again) is RAdam
    for name, value in {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6, "threshold": 5.0, "clipnorm": 2.0}.items():
        assert getattr(again, name) == value
    assert again.weight_decay == 0.1 and float(again.learning_rate.numpy()) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta_1": 1.0}, r"beta_1 must be in \[0, 1\); received 1.0"),
        ({"beta_2": 0.6}, "beta_2 must be above 0.6.*received 0.6"),
        ({"epsilon": -1e-8}, "epsilon must be at least 0; received -1e-08"),
        ({"threshold": 3.0}, "threshold must be at least 4.*received 3.0"),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        RAdam(**arguments)
