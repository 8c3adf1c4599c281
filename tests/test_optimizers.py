"""Each optimizer with what goes around it: the same under both backends, and the same when stopped and gone on with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.few_steps import CASES, small_model, train, values, whole_and_in_parts
from tfdfd.training.optimizers import make_optimizer


@pytest.fixture(scope="module")
def found():
    return {case: whole_and_in_parts(case) for case in CASES}


@pytest.fixture(scope="module")
def found_by_jax():
    pytest.importorskip("jax", reason="jax is not installed: pip install 'tfdfd[test]'")
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "tests.few_steps"]
    reply = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert reply.returncode == 0, reply.stderr
    return json.loads(reply.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_gone_on_with_is_the_same_to_the_bit(found, case):
    whole, parts = found[case]
    before = values(small_model(case))
    assert any(not np.array_equal(one, other) for one, other in zip(whole, before, strict=True))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_under_jax_too(found_by_jax, case):
    whole, parts = found_by_jax[case]
    assert whole == parts


@pytest.mark.parametrize("case", [case for case, (_, is_random, _) in CASES.items() if not is_random])
def test_both_backends_give_the_same_numbers(found, found_by_jax, case):
    for one, other in zip(found[case][0], found_by_jax[case][0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_wrappers_change_no_step(found):
    """The record only looks, and scaling by a power of two is undone exactly."""
    weights = len(small_model("radam").variables)
    plain, wrapped = found["radam"][0][:weights], found["radam, scaled and recorded"][0][:weights]
    for one, other in zip(plain, wrapped, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fit_leaves_the_weights_and_their_average_apart():
    model = small_model("everything")
    train(model, 0, 2)
    kept = [np.copy(value) for value in model.get_weights()]
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    assert np.abs(model.get_weights()[0] - kept[0]).max() > 1e-3
    swap.on_test_end()
    for value, before in zip(model.get_weights(), kept, strict=True):
        # Keras swaps by adding and subtracting.
        np.testing.assert_allclose(value, before, atol=1e-6)


def test_average_is_the_one_of_its_definition():
    weight = keras.Variable([1.0])
    optimizer = make_optimizer("sgdm", 0.5, momentum=0.0, ema=0.75)
    optimizer.build([weight])
    average, steps = None, [2.0, -1.0, 4.0]
    for gradient in steps:
        optimizer.apply([keras.ops.convert_to_tensor([gradient])])
        value = float(weight.numpy()[0])
        average = value if average is None else 0.75 * average + 0.25 * value
    assert float(np.asarray(optimizer._model_variables_moving_average[0])[0]) == pytest.approx(average)
    optimizer.finalize_variable_values([weight])
    assert float(weight.numpy()[0]) == pytest.approx(1.0 - 0.5 * sum(steps))


@pytest.mark.parametrize("case", CASES)
def test_round_trip_through_its_configuration(case):
    optimizer = small_model(case).optimizer
    written = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    assert keras.optimizers.serialize(keras.optimizers.deserialize(written)) == keras.optimizers.serialize(optimizer)


def test_rate_and_iterations_are_the_inner_ones():
    optimizer = make_optimizer("radam", 0.25, loss_scale=True, gradient_noise=0.01, gradient_flow=True, ema=0.9)
    optimizer.learning_rate = 0.125
    innermost = optimizer
    while hasattr(innermost, "inner_optimizer"):
        innermost = innermost.inner_optimizer
    assert type(innermost).__name__ == "RAdam"
    assert float(np.asarray(innermost.learning_rate)) == float(np.asarray(optimizer.learning_rate)) == 0.125
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    optimizer.apply([keras.ops.ones((1,))])
    assert int(np.asarray(optimizer.iterations)) == 1


def test_momentum_is_given_to_sgd():
    assert make_optimizer("sgdm", 0.1, momentum=0.7).momentum == 0.7


def test_unknown_names_and_values():
    with pytest.raises(ValueError, match="no optimizer is known as 'radma'; did you mean radam"):
        make_optimizer("radma", 1e-3)
    with pytest.raises(ValueError, match="'lion'; there are adam, sgdm, radam"):
        make_optimizer("lion", 1e-3)
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\); received 1.5"):
        make_optimizer("adam", 1e-3, ema=1.5)


def test_a_gradient_for_each_weight_is_needed():
    optimizer = make_optimizer("adam", 1e-3, gradient_noise=0.1)
    optimizer.build([keras.Variable([1.0]), keras.Variable([2.0])])
    with pytest.raises(ValueError, match="one gradient .or None. for each of the 2 weights.*received 1 gradients"):
        optimizer.apply([keras.ops.ones((1,))])
