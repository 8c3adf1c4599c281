"""Self-blended fakes that are altered further, and pairs degraded as frames of videos."""

import numpy as np
import pytest

from tests.test_blended_pairs import SIZE, folder  # noqa: F401
from tests.test_self_blended import POINTS, rng
from tfdfd.data import self_blending
from tfdfd.data.degrade import add_noise, degrade_pair
from tfdfd.data.pair_sets import BlendedPairs
from tfdfd.data.self_blending import vary

EYES_APART = 41.0


def test_a_copy_is_altered_with_the_same_draws_alike(astronaut):
    target = np.clip(astronaut.astype(int) + 20, 0, 255).astype(np.uint8)
    changed = [vary(astronaut, target, EYES_APART, rng(seed)) for seed in range(40)]
    assert {(each.shape, each.dtype) for each in changed} == {(astronaut.shape, np.dtype(np.uint8))}
    # Each of five changes has a probability of its own: most copies have some, some have none.
    share = np.mean([not np.array_equal(each, astronaut) for each in changed])
    assert 0.6 < share < 1
    np.testing.assert_array_equal(vary(astronaut, target, EYES_APART, rng(3)), changed[3])


@pytest.mark.parametrize("seed", range(4))
def test_each_change_leaves_the_picture_recognisable(astronaut, seed):
    target = np.roll(astronaut, 40, axis=2)
    for change in (
        lambda draw: self_blending._displace(astronaut, EYES_APART, draw),
        lambda draw: self_blending._render(astronaut, draw),
        lambda draw: self_blending._match_colors(astronaut, target, draw),
        lambda draw: add_noise(astronaut, draw.uniform(1, 5), draw),
    ):
        changed = change(rng(seed))
        assert changed.dtype == np.uint8 and changed.shape == astronaut.shape
        assert not np.array_equal(changed, astronaut)
        assert np.corrcoef(changed.ravel(), astronaut.ravel())[0, 1] > 0.8


def test_colours_come_towards_the_targets(astronaut):
    target = np.clip(astronaut.astype(int) // 2 + 120, 0, 255).astype(np.uint8)
    apart = np.abs(astronaut.mean((0, 1)) - target.mean((0, 1))).mean()
    for seed in range(4):
        matched = self_blending._match_colors(astronaut, target, rng(seed))
        assert np.abs(matched.mean((0, 1)) - target.mean((0, 1))).mean() < apart / 2


def test_only_the_copy_is_varied(astronaut):
    """Outside the mask, and in the real picture, nothing shows of it."""
    calls = []

    def watched(source, target, eyes_apart, draw):
        calls.append(eyes_apart)
        return vary(source, target, eyes_apart, draw)

    for seed in range(6):
        real, fake, mask = self_blending.self_blend(astronaut, POINTS, rng(seed), vary=watched)
        np.testing.assert_array_equal(fake[mask == 0], real[mask == 0])
        plain_real = self_blending.self_blend(astronaut, POINTS, rng(seed))[0]
        np.testing.assert_array_equal(real, plain_real)
    assert calls == [pytest.approx(float(np.linalg.norm(POINTS[1] - POINTS[0])))] * 6


@pytest.mark.parametrize("medium", ["photo", "video"])
@pytest.mark.parametrize("fakes", ["plain", "varied"])
def test_pairs_are_a_function_of_seed_epoch_and_crop(folder, fakes, medium):  # noqa: F811
    if medium == "video":
        pytest.importorskip("av", reason="pip install 'tfdfd[train]'")
    one, same = (BlendedPairs(folder, SIZE, seed=3, fakes=fakes, medium=medium) for _ in range(2))
    for number in (0, 5):
        np.testing.assert_array_equal(one.pair(number, 1), same.pair(number, 1))
        assert not np.array_equal(one.pair(number, 1), one.pair(number, 2))
        real, fake = one.pair(number, None)
        assert real.shape == fake.shape == (SIZE, SIZE, 3) and not np.array_equal(real, fake)


def test_a_video_frame_says_nothing_of_the_label(astronaut):
    """The same picture on both sides comes out the same, whatever it went through."""
    pytest.importorskip("av", reason="pip install 'tfdfd[train]'")
    changed = 0
    for seed in range(8):
        real, fake = degrade_pair(astronaut, astronaut.copy(), rng(seed), video=True)
        np.testing.assert_array_equal(real, fake)
        changed += not np.array_equal(real, degrade_pair(astronaut, astronaut.copy(), rng(seed))[0])
    assert changed >= 4


@pytest.mark.parametrize(("name", "value"), [("fakes", "wild"), ("medium", "film")])
def test_unknown_kinds_are_refused(folder, name, value):  # noqa: F811
    with pytest.raises(ValueError, match=f"{name} must be .* or .*received '{value}'"):
        BlendedPairs(folder, SIZE, **{name: value})
