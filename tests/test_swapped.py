"""Faces of other people swapped in: where the donor's face lands, who the donor is, and the set that is written."""

import sys
from collections import Counter, defaultdict

import cv2
import numpy as np
import pytest

from tfdfd.data.crops import Faces, faces_of, read_pixels
from tfdfd.data.face_swapping import KINDS, swap_face
from tfdfd.data.landmarks import FaceLandmarks, landmarks_of
from tfdfd.data.pair_sets import CRFS, SwappedPairs, write_swapped_set
from tfdfd.data.tables import FaceRow, write_table

pytest.importorskip("av")
pytest.importorskip("scipy")

# Left eye, right eye, nose, mouth corners of `skimage.data.astronaut()`.
POINTS = np.array([[204, 100], [245, 102], [224, 126], [202, 139], [244, 140]], np.float32)
LEFT, TOP, SIDE = 164, 40, 140
SIZE = 64


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def target(astronaut):
    return np.ascontiguousarray(astronaut[TOP : TOP + SIDE, LEFT : LEFT + SIDE])


@pytest.fixture(scope="module")
def donor(astronaut):
    """The same portrait larger, turned by ten degrees and bluer, and its landmarks: another photograph."""
    matrix = cv2.getRotationMatrix2D((224, 120), 10, 1.4)
    picture = cv2.warpAffine(astronaut, matrix, (448, 300)).astype(int) + (-50, 0, 50)
    return np.clip(picture, 0, 255).astype(np.uint8), POINTS @ matrix[:, :2].T + matrix[:, 2]


def points():
    return POINTS - (LEFT, TOP)


@pytest.mark.parametrize("kind", KINDS)
def test_the_donors_face_lands_on_the_targets(target, donor, kind):
    """A green spot on the donor's nose is on the fake's nose, and far from the face nothing changes."""
    picture, donor_points = donor
    spotted = cv2.circle(picture.copy(), tuple(np.rint(donor_points[2]).astype(int).tolist()), 7, (0, 255, 0), -1)
    for seed in range(6):
        plain, fake = (swap_face(target, points(), one, donor_points, rng(seed), kind) for one in (picture, spotted))
        assert (fake.dtype, fake.shape) == (np.uint8, target.shape)
        greener = np.clip((fake.astype(int) - plain) @ (-1, 2, -1), 0, None).astype(float)
        greener[greener < greener.max() / 2] = 0
        moments = cv2.moments(greener)
        assert np.hypot(moments["m10"] / moments["m00"] - points()[2, 0], moments["m01"] / moments["m00"] - 86) < 4
        left = np.abs(plain[:, :12].astype(int) - target[:, :12])
        # The Poisson solver rounds, and the coarsest level of a pyramid reaches far.
        assert left.mean() <= {"feathered": 0, "pyramid": 2}.get(kind, 0.1)
        face = np.s_[50:110, 40:80]
        assert np.abs(plain[face].astype(int) - target[face]).mean() > 1


def test_the_same_draws_give_the_same_fake(target, donor):
    fakes = [swap_face(target, points(), *donor, rng(seed)).tobytes() for seed in (1, 1, 2, 3)]
    assert fakes[0] == fakes[1] and len(set(fakes)) == 3


def test_most_faces_take_the_targets_colours(target, donor):
    """The donor is 50 levels bluer, in red as much less; without a transfer the middle of the face stays so."""
    middle = np.s_[60:100, 45:75]
    shifts = []
    for seed in range(24):
        fake = swap_face(target, points(), *donor, rng(seed), "feathered")
        shift = fake[middle].mean((0, 1)) - target[middle].mean((0, 1))
        shifts.append(shift[2] - shift[0])
    assert np.mean(np.abs(shifts) < 25) > 0.6
    assert max(shifts) > 60


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "gan"}, "kind is 'gan'; expected one of poisson, mixed"),
        ({"target": np.zeros((9, 9), np.uint8)}, r"the target is uint8 \(9, 9\)"),
        ({"donor": np.zeros((9, 9, 3), np.float32)}, r"the donor is float32 \(9, 9, 3\)"),
        ({"donor": np.zeros((30, 30, 3), np.uint8)}, "leave the image of 30x30"),
        ({"points": POINTS}, "leave the image of 140x140"),
        ({"points": np.full((5, 2), np.nan)}, "expected five finite"),
        ({"points": np.full((5, 2), 50)}, "span almost no area"),
    ],
)
def test_what_does_not_fit_is_told(target, donor, change, told):
    words = {"target": target, "points": points(), "donor": donor[0], "donor_points": donor[1], "rng": rng()}
    with pytest.raises(ValueError, match=told):
        swap_face(**words | change)


def test_a_donor_cut_off_at_its_features_is_told(target, astronaut):
    """Eyes and mouth at the border of the photograph: there is no face around them to take."""
    cut = astronaut[100:141, 202:246]
    with pytest.raises(ValueError, match="photographs that show the whole face"):
        swap_face(target[::4, ::4], points() / 4, cut, POINTS - (202, 100), rng())


def test_without_scipy_the_extra_is_named(target, donor, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(ValueError, match=r"SciPy, which is not installed: run pip install 'tfdfd\[train\]'"):
        swap_face(target, points(), *donor, rng())


def test_a_set_is_not_begun_without_what_it_needs(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs av and scipy, not installed here: run pip install 'tfdfd\[train\]'"):
        next(write_swapped_set(pairs, tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def tinted(picture, person):
    """A picture in the colours of someone else."""
    shift = np.random.default_rng(person).integers(-60, 60, 3)
    return np.clip(picture.astype(int) + shift, 0, 255).astype(np.uint8)


PEOPLE = {"val": range(6), "test": range(6, 10), "train": range(10, 12)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, target):
    """Crops of twelve people, a second one of the first person's video, one fake; landmarks beside them."""
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for split, people in PEOPLE.items():
        for person in people:
            for frame in range(2 if person == 0 else 1):
                name = f"{person:02d}-{frame}.png"
                cv2.imwrite(str(folder / name), np.roll(tinted(target, person), 2 * frame, 1)[..., ::-1])
                where, who = (0, 0, SIDE, SIDE), (f"s{person}",)
                rows.append(
                    FaceRow(name, "made", f"v{person}", frame, 0.0, 0, where, 1.0, 0, "original", who, who, split=split)
                )
    cv2.imwrite(str(folder / "fake.png"), target)
    rows.append(FaceRow("fake.png", "made", "f", 0, 0.0, 0, where, 1.0, 1, "Deepfakes", ("s0",), split="val"))
    write_table(folder / "faces.csv", rows, FaceRow)
    assert {entry.status for entry in landmarks_of(faces_of(folder)).values()} == {"ok"}
    return folder


@pytest.fixture(scope="module")
def pairs(folder):
    return SwappedPairs(folder, SIZE, seed=1)


def test_donors_are_other_people_of_the_same_split(pairs):
    assert len(pairs) == 11 and pairs.left_out == {}
    for real, fake in pairs.rows:
        assert (real.label, fake.label, real.split) == (0, 1, fake.split)
        own, other = fake.source_id
        assert (own,) == real.source_id and other != own and fake.identity == fake.source_id
        assert int(other[1:]) in PEOPLE[real.split]
        assert fake.method.removeprefix("swapped-") in KINDS and fake.video == f"{real.video}#{fake.method}"
        assert real.compression == fake.compression in {f"c{crf}" for crf in CRFS}


def test_crops_of_one_video_share_what_a_video_has_once(pairs):
    kinds = defaultdict(set)
    for two in pairs.rows:
        for row in two:
            kinds[row.video].add((row.label, row.method, row.source_id, row.compression))
    assert all(len(kind) == 1 for kind in kinds.values()) and len(kinds) == 20


def test_a_pair_follows_from_seed_and_video_alone(pairs, folder):
    again = SwappedPairs(folder, SIZE, splits=["test"], seed=1)
    for number in (0, 3):
        assert again.rows[number] == pairs.rows[7 + number]
        np.testing.assert_array_equal(again.pair(number), pairs.pair(7 + number))
    other = SwappedPairs(folder, SIZE, seed=2)
    assert [two[1].method for two in other.rows] != [two[1].method for two in pairs.rows]
    assert not np.array_equal(other.pair(0), pairs.pair(0))


def test_pairs_differ_in_the_face_and_share_the_rest(pairs):
    for number in range(len(pairs)):
        real, fake = pairs.pair(number)
        assert (real.dtype, real.shape) == (np.uint8, (SIZE, SIZE, 3))
        apart = np.abs(real.astype(int) - fake).mean(-1)
        assert apart[24:44, 20:44].mean() > 3 * np.median(np.concatenate([apart[0], apart[-1]]))


def test_copies_of_one_photograph_are_no_donors(folder, tmp_path, target):
    faces = faces_of(folder, "val")
    rows = faces.rows[:1] + faces.rows[2:4]
    root = tmp_path
    for row, quality in zip(rows, (100, 70, 40), strict=True):
        file = cv2.imencode(".jpg", target[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        (root / row.file).write_bytes(file.tobytes())
    where = FaceLandmarks("", None, "ok", 1.0, (8, 14, 90, 110), tuple(map(tuple, points().tolist())))
    known = {row.file: where for row in rows}
    with pytest.raises(ValueError, match="no face of split 'val' can be swapped into 00-0.png"):
        SwappedPairs(Faces(root, rows), SIZE, splits=["val"], landmarks=known)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"size": 0}, "received 0"),
        ({"seed": -1}, "seed must be an integer"),
        ({"splits": []}, "no split was given"),
        ({"splits": ["val", "holdout"]}, "no crop of split 'holdout'"),
        ({"landmarks": {}}, r"none of the 11 real crops .* \{'missing': 11\}"),
    ],
)
def test_wrong_settings_are_told(folder, words, told):
    with pytest.raises(ValueError, match=told):
        SwappedPairs(folder, **{"size": SIZE} | words)


def test_a_set_of_fakes_only_is_told(folder):
    faces = faces_of(folder, "val")
    fakes = Faces(faces.root, tuple(row for row in faces.rows if row.label))
    with pytest.raises(ValueError, match="no real crop of split 'val'"):
        SwappedPairs(fakes, SIZE, splits=["val"])


def test_the_command_writes_a_set(folder, pairs, tmp_path, run_tfdfd):
    words = ["data", "swap", folder, "--size", SIZE, "--seed", 1, "--quiet", "-o", tmp_path / "set"]
    code, out, err = run_tfdfd(*words)
    assert code == 0, err
    assert "11 real crops and as many fakes; left out: none" in out
    faces = faces_of(tmp_path / "set")
    assert Counter((row.split, row.label) for row in faces.rows) == {
        (s, i): n for s, n in (("val", 7), ("test", 4)) for i in (0, 1)
    }
    for number in (0, 10):
        written = np.stack([read_pixels(faces.path(2 * number + one)) for one in (0, 1)])
        np.testing.assert_array_equal(written, pairs.pair(number))
    assert run_tfdfd(*words, "--seed", 5)[0] == 2
    code, _, err = run_tfdfd(*words[:-1], folder)
    assert code == 2 and "holds no such set" in err
    for splits in ("val,val", "dev", ""):
        code, _, err = run_tfdfd(*words, "--splits", splits)
        assert code == 2 and "--splits must be some of train,val,test" in err


def test_a_set_goes_on_where_it_was_stopped(pairs, tmp_path):
    list(write_swapped_set(pairs, tmp_path / "whole"))
    partly = write_swapped_set(pairs, tmp_path / "partly")
    next(partly)
    partly.close()
    assert not (tmp_path / "partly/faces.csv").exists()
    (tmp_path / "partly/fake/000004.png").unlink(missing_ok=True)
    list(write_swapped_set(pairs, tmp_path / "partly"))
    whole, partly = (
        {file.relative_to(base): file.read_bytes() for file in base.rglob("*") if file.is_file()}
        for base in (tmp_path / "whole", tmp_path / "partly")
    )
    assert whole == partly and len(whole) >= 2 * len(pairs) + 2


def test_the_probe_finds_a_tell_where_there_is_one(pairs, tmp_path, capsys):
    """Told apart are a set with fakes that are darker throughout, and one whose fakes are its real crops again."""
    from benchmarks.swap_probe import main

    list(write_swapped_set(pairs, tmp_path))
    faces = faces_of(tmp_path)
    for change, code in ((lambda picture: picture, 0), (lambda picture: picture // 4, 1)):
        for number in range(0, len(faces.rows), 2):
            picture = cv2.imread(faces.path(number))
            cv2.imwrite(faces.path(number + 1), change(picture))
        assert main([str(tmp_path)]) == code
    assert "11 pairs: AUC" in capsys.readouterr().out
    (tmp_path / "faces.csv").write_text((tmp_path / "faces.csv").read_text().rsplit("\n", 2)[0])
    with pytest.raises(ValueError, match="11 and 10 crops; expected at least 10 pairs"):
        main([str(tmp_path)])


def test_photographs_of_people(data, tmp_path):
    """UTKFace: each face is swapped for another person's, and both go through the same video."""
    files = sorted((data / "faces" / "utkface_adults").glob("*.jpg"))[::450]
    rows = []
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
        rows.append(
            FaceRow(file.name, "utk", file.name, 0, 0.0, 0, (0, 0, 200, 200), None, 0, "original", (), split="val")
        )
    write_table(tmp_path / "faces.csv", rows, FaceRow)
    pairs = SwappedPairs(tmp_path, 128, splits=["val"])
    assert len(pairs) >= 8
    for number in range(len(pairs)):
        real, fake = pairs.pair(number).astype(int)
        assert np.abs(real - fake)[40:100, 40:88].mean() > 4
        assert abs(real.mean() - fake.mean()) < 30
