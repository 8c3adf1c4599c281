"""Self-blended images on a public-domain portrait (NASA's of Eileen Collins, carried by scikit-image)."""

import cv2
import numpy as np
import pytest

from tfdfd.data import self_blending
from tfdfd.data.crops import crop_alike, square_crop
from tfdfd.data.degrade import degrade_pair

# Left eye, right eye, nose, mouth corners of `skimage.data.astronaut()`, and the box of the face.
POINTS = np.array([[204, 100], [245, 102], [224, 126], [202, 139], [244, 140]], np.float32)
BOX = (182, 64, 83, 107)


@pytest.fixture(scope="module")
def portrait():
    return pytest.importorskip("skimage.data").astronaut()


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("region", [None, *self_blending.REGIONS])
def test_fake_equals_real_outside_the_mask_and_differs_inside(portrait, region):
    for seed in range(8):
        real, fake, mask = self_blending.self_blend(portrait, POINTS, rng(seed), region)
        assert real.shape == fake.shape == portrait.shape
        assert real.dtype == fake.dtype == np.uint8
        assert mask.shape == portrait.shape[:2]
        assert mask.dtype == np.float32
        assert 0.2 < mask.max() <= 1
        assert mask.min() == 0
        np.testing.assert_array_equal(fake[mask == 0], real[mask == 0])
        strong = mask > 0.9 * mask.max()
        assert (fake[strong] != real[strong]).any(axis=-1).mean() > 0.5


def test_mask_stays_within_the_face(portrait):
    allowed = np.zeros(portrait.shape[:2], np.uint8)
    corners = np.rint(self_blending.face_outline(POINTS, grow=1.15)).astype(np.int32)
    cv2.fillPoly(allowed, [corners], 255)
    x, y, width, height = BOX
    assert (allowed > 0).sum() < 1.5 * width * height
    for seed in range(40):
        mask = self_blending.blending_mask(portrait.shape[:2], POINTS, rng(seed))
        assert not (mask[allowed == 0] > 0).any()


def test_regions_lie_where_their_names_say():
    def middle_row(region):
        masks = [self_blending.blending_mask((512, 512), POINTS, rng(seed), region) for seed in range(10)]
        return np.average(np.arange(512), weights=sum(masks).sum(axis=1))

    eyes, nose, mouth = POINTS[:2, 1].mean(), POINTS[2, 1], POINTS[3:, 1].mean()
    assert abs(middle_row("eyes") - eyes) < abs(middle_row("eyes") - nose)
    assert abs(middle_row("mouth") - mouth) < abs(middle_row("mouth") - nose)
    assert middle_row("eyes") < middle_row("face") < middle_row("lower_face")


def test_outline_follows_a_tilted_and_shifted_face():
    turn = np.array([[0, 1], [-1, 0]], np.float32)  # a quarter turn
    expected = self_blending.face_outline(POINTS) @ turn + (30, 600)
    np.testing.assert_allclose(self_blending.face_outline(POINTS @ turn + (30, 600)), expected, atol=1e-3)


def test_same_seed_gives_the_same_pair_and_another_seed_another(portrait):
    def pair(seed):
        generator = rng(seed)
        real, fake, _ = self_blending.self_blend(portrait, POINTS, generator)
        real, fake = degrade_pair(real, fake, generator)
        return np.stack(crop_alike((real, fake), BOX, generator))

    np.testing.assert_array_equal(pair(3), pair(3))
    assert (pair(3) != pair(4)).mean() > 0.5


def test_input_is_left_untouched(portrait):
    before = portrait.copy()
    for seed in range(5):
        real, fake, _ = self_blending.self_blend(portrait, POINTS, rng(seed))
        degrade_pair(real, fake, rng(seed))
    np.testing.assert_array_equal(portrait, before)


def test_real_pictures_are_altered_as_often_as_their_fakes_source(portrait):
    altered = [not np.array_equal(self_blending.self_blend(portrait, POINTS, rng(s))[0], portrait) for s in range(60)]
    assert 0.3 < np.mean(altered) < 0.7


def test_degradation_is_the_same_for_both(portrait):
    for seed in range(20):
        real, fake = degrade_pair(portrait, portrait.copy(), rng(seed))
        np.testing.assert_array_equal(real, fake)
        assert real.shape == portrait.shape
        assert real.dtype == np.uint8


def test_degradation_takes_away_detail(portrait):
    changed = [degrade_pair(portrait, portrait, rng(seed))[0] for seed in range(20)]
    assert sum(not np.array_equal(image, portrait) for image in changed) >= 15


def test_square_crop_is_the_grown_square_around_the_box():
    image = np.zeros((300, 400, 3), np.uint8)
    image[100:200, 150:210] = 255  # the box
    crop = square_crop(image, (150, 100, 60, 100), margin=1.3, size=130)
    white = np.argwhere(crop[..., 0] == 255)
    np.testing.assert_array_equal(white.min(axis=0), (15, 35))
    np.testing.assert_array_equal(white.max(axis=0), (114, 94))


def test_square_crop_mirrors_what_lies_beyond_the_picture():
    image = np.arange(100, dtype=np.uint8).repeat(100).reshape(100, 100)[..., None].repeat(3, axis=2)
    crop = square_crop(image, (0, 0, 40, 40), margin=1.5, size=60)
    np.testing.assert_array_equal(crop[:11, 0, 0], np.arange(10, -1, -1))
    np.testing.assert_array_equal(crop[10:, 0, 0], np.arange(50))


def test_crop_alike_cuts_a_mask_where_it_cuts_the_picture(portrait):
    red = (portrait[..., 0] / np.float32(255)).astype(np.float32)
    for seed in range(10):
        picture, mask = crop_alike((portrait, red), BOX, rng(seed))
        assert (picture.shape, picture.dtype) == ((256, 256, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((256, 256), np.float32)
        np.testing.assert_allclose(mask * 255, picture[..., 0], atol=1)


@pytest.mark.parametrize(
    ("image", "points", "message"),
    [
        (np.zeros((64, 64), np.uint8), POINTS / 8, r"RGB uint8 \(height, width, 3\)"),
        (np.zeros((64, 64, 3), np.float32), POINTS / 8, "float32"),
        (np.zeros((512, 512, 3), np.uint8), POINTS[:3], r"\(3, 2\).*\(5, 2\)"),
        (np.zeros((512, 512, 3), np.uint8), POINTS * np.nan, "finite"),
        (np.zeros((64, 64, 3), np.uint8), POINTS, "64x64"),
        (np.zeros((512, 512, 3), np.uint8), np.full((5, 2), 30.0), "no area"),
    ],
)
def test_bad_input_is_named(image, points, message):
    with pytest.raises(ValueError, match=message):
        self_blending.self_blend(image, points, rng())


@pytest.mark.parametrize("strength", [0, -1, 1.5])
def test_strength_is_a_share(portrait, strength):
    with pytest.raises(ValueError, match=f"strength is {strength}"):
        self_blending.self_blend(portrait, POINTS, rng(), strength=strength)


def test_strength_is_what_the_mask_reaches_in_its_middle(portrait):
    for seed in range(5):
        mask = self_blending.self_blend(portrait, POINTS, rng(seed), region="face", strength=0.5)[2]
        assert mask.max() == pytest.approx(0.5, abs=0.01)


def test_unknown_region_lists_the_known_ones():
    with pytest.raises(ValueError, match="nose.*face, lower_face, mouth, eyes"):
        self_blending.face_outline(POINTS, "nose")


def test_pair_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        degrade_pair(np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8), rng())


@pytest.mark.parametrize("box", [(600, 0, 10, 10), (0, -300, 10, 10), (0, 0, 0, 10)])
def test_box_without_face_or_picture_is_refused(portrait, box):
    with pytest.raises(ValueError, match="box"):
        square_crop(portrait, box)


def mesh_of(points):
    """A mesh whose hulls are about the outlines that follow from five landmarks."""
    mesh, placed = np.zeros((self_blending.MESH_POINTS, 2), np.float32), set()
    for region, indices in self_blending._MESH_REGIONS.items():
        # The outline of the face begins at the left brow, its mesh points at the jaw.
        indices = [*indices[17:], *indices[:17]] if region == "face" else [n for n in indices if n not in placed]
        outline = self_blending.face_outline(points, region)
        corners = np.concatenate([outline, outline[:1]])
        at = np.linspace(0, len(outline), len(indices), endpoint=False)
        mesh[indices] = np.stack([np.interp(at, np.arange(len(corners)), axis) for axis in corners.T], axis=1)
        placed.update(indices)
    return mesh


@pytest.mark.parametrize("region", self_blending.REGIONS)
def test_masks_of_a_mesh_lie_in_the_hull_of_its_region(portrait, region):
    mesh = mesh_of(POINTS)
    face = cv2.convexHull(self_blending.face_outline(POINTS, "face", 1.15, mesh))
    for seed in range(10):
        real, fake, mask = self_blending.self_blend(portrait, POINTS, rng(seed), region, mesh=mesh)
        assert mask.max() > 0.2
        rows, columns = np.nonzero(mask)
        inside = [
            cv2.pointPolygonTest(face, (float(x), float(y)), True) > -1.5 for x, y in zip(columns, rows, strict=True)
        ]
        assert all(inside)
        np.testing.assert_array_equal(real[mask == 0], fake[mask == 0])
        again = self_blending.self_blend(portrait, POINTS, rng(seed), region, mesh=mesh)
        np.testing.assert_array_equal(again[1], fake)


def test_the_hull_of_a_mesh_replaces_the_outline_of_landmarks(portrait):
    mesh, shift = mesh_of(POINTS), np.float32([40, 0])
    outline = self_blending.face_outline(POINTS, "mouth", mesh=mesh)
    moved = self_blending.face_outline(POINTS, "mouth", mesh=mesh + shift)
    np.testing.assert_allclose(moved, outline + shift, atol=1e-3)
    for wrong in (mesh[:5], np.full_like(mesh, np.nan)):
        with pytest.raises(ValueError, match=r"expected 468 finite xy points, \(468, 2\)"):
            self_blending.self_blend(portrait, POINTS, rng(0), mesh=wrong)
