"""S2's augmentation against Pillow, which torchvision's color operations are, and against the document's words."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tfdfd.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    GRAY,
    HUE,
    POLICIES,
    SATURATION,
    CropAugmenter,
    erase_gray,
    jitter_colors,
    rotate_nearest,
)

STEPS = POLICIES["s2"]


@pytest.fixture(scope="module")
def crop(astronaut):
    return astronaut[20:260, 80:320].astype(np.float32) / 255


def jittered(image, operation, factor):
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[operation] = factor
    return jitter_colors(image, (operation,), tuple(factors))


@pytest.mark.parametrize("factor", [0.7, 1.3])
@pytest.mark.parametrize(
    ("operation", "enhance"),
    [(BRIGHTNESS, ImageEnhance.Brightness), (CONTRAST, ImageEnhance.Contrast), (SATURATION, ImageEnhance.Color)],
)
def test_color_operations_are_those_of_torchvision(operation, enhance, factor, crop):
    expected = np.asarray(enhance(Image.fromarray(np.uint8(np.rint(crop * 255)))).enhance(factor)) / 255
    assert np.abs(jittered(crop, operation, factor) - expected).max() < 2.5 / 255


@pytest.mark.parametrize("turn", [-0.1, 0.07])
def test_hue_turns_the_color_circle(turn, crop):
    levels = np.array(Image.fromarray(np.uint8(np.rint(crop * 255))).convert("HSV"))
    levels[..., 0] = (levels[..., 0].astype(int) + round(turn * 255)) % 256
    expected = np.asarray(Image.fromarray(levels, "HSV").convert("RGB")) / 255
    assert np.abs(jittered(crop, HUE, turn) - expected).mean() < 2 / 255


def test_the_order_matters_and_is_drawn(crop):
    factors = (1.3, 0.7, 1.3, 0.1)
    one, other = (jitter_colors(crop, order, factors) for order in ((0, 1, 2, 3), (3, 2, 1, 0)))
    assert np.abs(one - other).max() > 0.02
    draws = [STEPS[2].draw(np.random.default_rng(seed)) for seed in range(400)]
    assert len({order for order, _ in draws}) == 24
    values = np.array([factors for _, factors in draws])
    assert values[:, :3].min() > 0.7 and values[:, :3].max() < 1.3
    assert np.abs(values[:, 3]).max() <= 0.1
    np.testing.assert_allclose(values.mean(axis=0), [1, 1, 1, 0], atol=0.03)


@pytest.mark.parametrize("angle", [-40, 13.7, 40])
def test_rotation_does_not_resample(angle, crop):
    turned = rotate_nearest(crop, angle)
    known = {tuple(pixel) for pixel in crop.reshape(-1, 3).tolist()} | {(0.0, 0.0, 0.0)}
    assert {tuple(pixel) for pixel in turned.reshape(-1, 3).tolist()} <= known
    assert (turned[0, 0] == 0).all()


def test_the_rectangle_is_gray(crop):
    erased = erase_gray(crop, 0.5, 0.25, [(0.1, 1.0)])
    changed = (erased != crop).any(axis=2)
    assert (erased[changed] == GRAY).all()
    assert changed.mean() == pytest.approx(0.1, abs=0.003)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert len(rows) == pytest.approx(len(columns), abs=2)
    np.testing.assert_array_equal(erase_gray(crop, 0, 0, [(0.9, 3.3)]), crop)  # it does not fit


def test_how_often_and_how_large(crop):
    drawn = [STEPS[3].draw(np.random.default_rng(seed)) for seed in range(2000)]
    chosen = [one for one in drawn if one]
    assert len(chosen) / len(drawn) == pytest.approx(0.5, abs=0.04)
    areas, aspects = np.array([one[2][0] for one in chosen]).T
    assert areas.min() >= 0.02 and areas.max() <= 0.33
    assert aspects.min() >= 0.3 and aspects.max() <= 3.3
    assert np.median(np.log(aspects)) == pytest.approx(np.log(0.3 * 3.3) / 2, abs=0.1)


def test_a_crop_is_a_function_of_seed_epoch_and_position(crop):
    made = {
        key: CropAugmenter("s2", key[0])(crop, *key[1:]).tobytes()
        for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    }
    assert len(set(made.values())) == 4
    image = CropAugmenter("s2", 0)(crop, 0, 0)
    assert image.tobytes() == made[0, 0, 0]
    assert image.dtype == np.float32 and image.shape == crop.shape and 0 <= image.min() <= image.max() <= 1
