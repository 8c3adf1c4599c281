"""The rate at step n, and after epoch n, of each schedule: those that the documents name."""

import json

import keras
import numpy as np
import pytest

from tfdfd.training import TrainingError
from tfdfd.training.optimizers import (
    SCHEDULES,
    DividedEvery,
    EpochDecay,
    Plateau,
    computed_decay,
    make_optimizer,
    schedule_of,
)


def rate_at(schedule, step):
    return float(np.asarray(schedule.rate(step)))


def rate_of(optimizer):
    return float(np.asarray(optimizer.learning_rate))


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 1e-3), (999, 1e-3), (1000, 1e-4), (1999, 1e-4), (2000, 1e-5), (3000, 1e-6), (3999, 1e-6), (10**6, 1e-6)],
)
def test_s1_divides_by_ten_every_thousand_steps_down_to_a_millionth(step, rate):
    assert rate_at(schedule_of("divided", 1e-3, 77, 10), step) == pytest.approx(rate, rel=1e-6)


def test_an_optimizer_takes_the_rate_of_its_step():
    optimizer = make_optimizer("sgdm", DividedEvery(1.0, 10, every=3, lowest=0.05), momentum=0.0, loss_scale=True)
    weight = keras.Variable([0.0])
    optimizer.build([weight])
    steps = []
    for _ in range(8):
        before = float(weight.numpy()[0])
        optimizer.apply([keras.ops.convert_to_tensor([2.0**15])])  # the first loss scale
        steps.append(before - float(weight.numpy()[0]))
    assert steps == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.05] * 2, rel=1e-5)
    assert rate_of(optimizer) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("epochs", "rates"),
    [
        # The document's own: 30 epochs, three decays.
        (30, {0: 1e-3, 9: 1e-3, 10: 1e-4, 19: 1e-4, 20: 1e-5, 29: 1e-5}),
        (10, {0: 1e-3, 2: 1e-3, 3: 1e-4, 6: 1e-5, 9: 1e-6}),
        (2, {0: 1e-3, 1: 1e-4}),
    ],
)
def test_s1_computed_decay_fits_all_decays_into_the_epochs(epochs, rates):
    schedule = schedule_of("computed", 1e-3, 50, epochs)
    for epoch, rate in rates.items():
        for step in (50 * epoch, 50 * epoch + 49):
            assert rate_at(schedule, step) == pytest.approx(rate, rel=1e-5)


def test_computed_decay_goes_by_its_limit():
    assert computed_decay(1e-2, 10, 12, rate=0.1, lowest=1e-6).decay_steps == 30
    assert computed_decay(1.0, 10, 12, rate=0.5, lowest=0.1).decay_steps == 40  # 0.1 is passed by the fourth halving
    assert computed_decay(1e-2, 10, 12, rate=0.94, lowest=1e-2 * 0.94).decay_steps == 120  # one, not 0.9999 of one
    with pytest.raises(ValueError, match="expected a learning rate of 1e-05 at least; received 2e-06"):
        computed_decay(2e-6, 10, 12)


def test_s1_second_model_every_five_epochs():
    schedule = schedule_of("divided-5-epochs", 1e-3, 40, 18)
    found = [rate_at(schedule, step) for step in (0, 199, 200, 399, 400, 600)]
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6], rel=1e-5)


def test_cosine_and_constant():
    schedule = schedule_of("cosine", 0.2, 10, 4)
    assert [rate_at(schedule, step) for step in (0, 20, 40)] == pytest.approx([0.2, 0.1, 0.0], abs=1e-7)
    constant = schedule_of("constant", 0.2, 10, 4)
    assert constant.rate == 0.2 and constant.get_state() == {}


LOSSES = [1.0, 0.9, 0.95, 0.93, 0.92, 0.8, 0.8, 0.8, 0.7]
# Of the epoch that follows: the factors of 0.94 come after every second one, a half after 3 and after 7.
FOLLOWING = [0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 0, 0, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("around", [{}, {"loss_scale": True, "gradient_noise": 0.1, "gradient_flow": True}])
def test_s2_decay_and_plateau_together(around):
    schedule = schedule_of("decay-plateau", 1e-3, 50, 50)
    optimizer = make_optimizer("radam", schedule.rate, **around)
    found = []
    for epoch, loss in enumerate(LOSSES):
        schedule.after_epoch(optimizer, epoch, {"val_loss": loss})
        found.append(rate_of(optimizer))
    expected = [1e-3 * 0.94**decays * 0.5**halvings for decays, halvings in zip(*FOLLOWING, strict=True)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_s2_plateau_alone():
    schedule = schedule_of("plateau", 1e-3, 50, 30)
    optimizer = make_optimizer("sgdm", schedule.rate)
    found = []
    for epoch, loss in enumerate(LOSSES):
        schedule.after_epoch(optimizer, epoch, {"val_loss": loss})
        found.append(rate_of(optimizer))
    assert found == pytest.approx([1e-3 * 0.5**halvings for halvings in FOLLOWING[1]], rel=1e-6)


def test_the_same_as_keras_callback_in_fit():
    """Within `fit`, on a validation loss that cannot get better."""
    rates = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, trainable=False)])
    model.compile(make_optimizer("sgdm", 0.5), loss="mse")
    data = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    history = model.fit(
        *data,
        validation_data=data,
        epochs=7,
        verbose=0,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, 2),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(rate_of(model.optimizer))),
        ],
    ).history
    ours, optimizer, found = Plateau(), make_optimizer("sgdm", 0.5), []
    for epoch, loss in enumerate(history["val_loss"]):
        ours.after_epoch(optimizer, epoch, {"val_loss": loss})
        found.append(rate_of(optimizer))
    assert found == rates and rates[-1] < 0.5


@pytest.mark.parametrize("stop", range(1, len(LOSSES)))
def test_stopped_after_any_epoch_and_gone_on_with(stop):
    whole, first, second = (schedule_of("decay-plateau", 1e-3, 50, 50) for _ in range(3))
    one, other = (make_optimizer("radam", whole.rate) for _ in range(2))
    for epoch, loss in enumerate(LOSSES):
        whole.after_epoch(one, epoch, {"val_loss": loss})
        if epoch == stop:
            second.set_state(json.loads(json.dumps(first.get_state())))
        (first if epoch < stop else second).after_epoch(other, epoch, {"val_loss": np.float32(loss).item()})
        assert rate_of(one) == rate_of(other)


def test_a_figure_that_is_missing_or_no_number():
    optimizer = make_optimizer("adam", 1e-3)
    with pytest.raises(TrainingError, match="follows val_loss.*received None in epoch 3, which has loss, val_auc"):
        Plateau().after_epoch(optimizer, 2, {"loss": 1.0, "val_auc": 0.5})
    with pytest.raises(TrainingError, match="received nan"):
        Plateau().after_epoch(optimizer, 2, {"val_loss": float("nan")})


def test_unknown_names_and_values():
    with pytest.raises(ValueError, match="no schedule is known as 'dividde'; did you mean divided"):
        schedule_of("dividde", 1e-3, 10, 10)
    with pytest.raises(ValueError, match="'xyz'; there are constant, divided"):
        schedule_of("xyz", 1e-3, 10, 10)
    with pytest.raises(ValueError, match="received steps_per_epoch=0, epochs=10"):
        schedule_of("divided", 1e-3, 0, 10)
    with pytest.raises(ValueError, match=r"0 <= lowest <= initial; received initial=1e-07.*lowest=1e-06"):
        DividedEvery(1e-7)
    with pytest.raises(ValueError, match="received rate=1.5, every=2"):
        EpochDecay(1.5)
    with pytest.raises(ValueError, match="received factor=0.5, patience=0"):
        Plateau(patience=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_survives_the_optimizers_configuration(name):
    schedule = schedule_of(name, 1e-3, 50, 10)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(make_optimizer("adam", schedule.rate)))
    optimizer.build([keras.Variable([0.0])])
    optimizer.iterations.assign(150)
    expected = schedule.rate if isinstance(schedule.rate, float) else rate_at(schedule, 150)
    assert rate_of(optimizer) == pytest.approx(expected)
