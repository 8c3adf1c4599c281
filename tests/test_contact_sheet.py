"""The contact sheet, the command that writes it, and the probe of what simple statistics give away."""

import itertools

import cv2
import numpy as np
import pytest

from benchmarks.self_blend import found_faces, photographs
from benchmarks.self_blend_probe import ALLOWED, probe_auc, statistics, statistics_of_pairs
from tfdfd.data.contact_sheet import PreviewPair, Refusal, contact_sheet, genuine_images, preview_pairs
from tfdfd.data.degrade import compress_jpeg
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.faces import build_detector


@pytest.fixture(scope="module")
def portrait(astronaut, tmp_path_factory):
    """A file with a face."""
    file = tmp_path_factory.mktemp("portrait") / "gesicht ü.png"
    file.write_bytes(cv2.imencode(".png", cv2.cvtColor(astronaut[:300, 80:380], cv2.COLOR_RGB2BGR))[1].tobytes())
    return str(file)


@pytest.fixture(scope="module")
def mtcnn():
    return build_detector("mtcnn")


def picture(value, size=8):
    return np.full((size, size, 3), value, np.uint8)


def test_pictures_of_a_pair_stand_in_a_row():
    pair = PreviewPair("a", picture(100), picture(110), np.full((8, 8), 0.2, np.float32))
    sheet = contact_sheet([pair, pair])
    assert sheet.shape[1] == 4 * 8 + 3 * 2
    body = sheet[-18:]
    for top, (column, value) in itertools.product((0, 10), enumerate((100, 110, 51, 40))):
        np.testing.assert_array_equal(body[top : top + 8, 10 * column : 10 * column + 8], picture(value))
    white = np.ones(body.shape[:2], bool)
    for top, left in itertools.product((0, 10), (0, 10, 20, 30)):
        white[top : top + 8, left : left + 8] = False
    assert (body[white] == 255).all()


def test_more_pairs_than_rows_stand_side_by_side():
    values = (10, 20, 30, 40, 50)
    made = [PreviewPair("a", picture(value), picture(value), np.zeros((8, 8), np.float32)) for value in values]
    two, three = contact_sheet(made[:2], rows=2), contact_sheet(made, rows=2)
    assert three.shape[0] == two.shape[0]
    np.testing.assert_array_equal(three[:, : two.shape[1]], two)
    assert all((three == value).all(axis=2).any() for value in values)


def test_large_differences_are_white_not_wrapped():
    sheet = contact_sheet([PreviewPair("a", picture(0), picture(200), np.zeros((8, 8), np.float32))])
    np.testing.assert_array_equal(sheet[-8:, -8:], picture(255))


def test_pairs_differ_within_the_mask_and_repeat_by_seed(portrait, mtcnn):
    first, second, again = (list(preview_pairs([portrait], 3, seed, 96, mtcnn)) for seed in (1, 2, 1))
    for pair, same, other in zip(first, again, second, strict=True):
        assert pair.real.shape == pair.fake.shape == (96, 96, 3)
        assert pair.mask.max() > 0.2
        difference = np.abs(pair.real.astype(int) - pair.fake).max(axis=2)
        assert difference[pair.mask > 0.2].mean() > 2 * difference[pair.mask == 0].mean()
        np.testing.assert_array_equal(pair.fake, same.fake)
        assert not np.array_equal(pair.fake, other.fake)


def test_what_has_no_face_is_passed_over_once(portrait, mtcnn, tmp_path):
    empty = str(tmp_path / "empty.png")
    cv2.imwrite(empty, picture(90, 64))
    broken = str(tmp_path / "broken.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    outcomes = list(preview_pairs([empty, portrait, broken], 4, 0, 64, mtcnn))
    refused = {outcome.path: outcome.message for outcome in outcomes if isinstance(outcome, Refusal)}
    assert set(refused) == {empty, broken}
    assert "no face" in refused[empty]
    assert len(outcomes) == 4 + 2
    assert len({outcome.fake.tobytes() for outcome in outcomes if isinstance(outcome, PreviewPair)}) == 4
    assert all(isinstance(outcome, Refusal) for outcome in preview_pairs([empty], 4, 0, 64, mtcnn))


def test_of_an_extracted_folder_the_real_crops_only(tmp_path):
    def row(file, label):
        return FaceRow(file, "folder", "v.mp4", 0, 0.0, 0, (0, 0, 9, 9), 0.9, label, "m", ("v",))

    write_table(tmp_path / "faces.csv", [row("a.jpg", 0), row("b.jpg", 1), row("c/d.jpg", 0)], FaceRow)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff")
    assert genuine_images([str(tmp_path)]) == [str(tmp_path / "a.jpg"), str(tmp_path / "c/d.jpg")]


def test_command_writes_the_sheet(portrait, run_tfdfd, tmp_path):
    sheets = [tmp_path / name for name in ("a.png", "b.png")]
    for sheet in sheets:
        code, out, _ = run_tfdfd("data", "preview", portrait, "-o", sheet, "--count", 2, "--size", 64)
        assert code == 0
        assert out == f"{sheet}: 2 pairs from 1 of 1 images\n"
    assert cv2.imread(str(sheets[0])).shape == (22 + 2 * 66 - 2, 4 * 66 - 2, 3)
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


def test_command_without_a_face_writes_nothing(run_tfdfd, tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), picture(90, 64))
    code, out, err = run_tfdfd("data", "preview", tmp_path, "-o", tmp_path / "sheet.png")
    assert (code, out) == (1, "")
    assert "grey.png: no face" in err
    assert "no face in any of the 1 images" in err
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--count", "0"), "--count must be from 1 to 400; received 0"),
        (("--size", "9999"), "--size must be from 1 to 1024"),
        (("--seed", "-1"), "--seed must be at least 0; received -1"),
        (("-o", "/nowhere/sheet.png"), "/nowhere does not exist"),
        ((), "no genuine image in"),
    ],
)
def test_wrong_usage_is_named(words, message, run_tfdfd, tmp_path):
    code, _, err = run_tfdfd("data", "preview", tmp_path, "-o", tmp_path / "sheet.png", *words)
    assert code == 2
    assert message in err


def test_simple_statistics_cannot_tell_blended_from_real(data):
    """A sample; `python -m benchmarks.self_blend_probe` has more photographs."""
    faces = found_faces(photographs(data, 120))
    assert len(faces) > 100
    assert probe_auc(*statistics_of_pairs(faces, 224, seed=0)) <= ALLOWED


def test_probe_finds_a_cue_where_there_is_one(data):
    crops = photographs(data, 60)
    real = np.array([statistics(compress_jpeg(crop, 95)) for crop in crops])
    compressed = np.array([statistics(compress_jpeg(crop, 20)) for crop in crops])
    brighter = np.array([statistics(np.minimum(crop, 175) + np.uint8(80)) for crop in crops])
    assert probe_auc(real, compressed) > 0.9
    assert probe_auc(real, brighter) > 0.9
