"""Landmarks of crops: found once, kept through kills, found anew where bytes change; what has no face is told."""

import itertools
import shutil
from collections import Counter

import cv2
import numpy as np
import pytest

from tfdfd.data import landmarks
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.landmarks import FaceLandmarks, find_landmarks, landmarks_of
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.faces import Face

ODD = b"\xff,'\n\".png".decode("utf-8", "surrogateescape")
# By eye, on the crop of `portrait`: left eye, right eye, nose, mouth corners.
POINTS = np.array([[204, 100], [245, 102], [224, 126], [202, 139], [244, 140]], np.float32) - (152, 40)


class Counting:
    """A detector that finds a face in every picture that is not black, and counts what it is asked."""

    def __init__(self):
        self.asked = 0

    def detect(self, frames, scales):
        self.asked += len(frames)
        return [[face_in(frame)] if frame.any() else [] for frame in frames]


def face_in(frame):
    height, width = frame.shape[:2]
    points = np.float32([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.7], [0.65, 0.7]]) * (width, height)
    return Face((0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height), 0.9, points)


def paint(folder, name, value, shape=(40, 40)):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(".png", np.full((*shape, 3), value, np.uint8))[1].tobytes())


@pytest.fixture
def crops(tmp_path):
    """150 real crops and one fake."""
    for number in range(149):
        paint(tmp_path, f"real/{number:03d}.png", 50 + number)
    paint(tmp_path, f"real/{ODD}", 40)
    paint(tmp_path, "fake/a.png", 9)
    return tmp_path


@pytest.fixture
def portrait(astronaut):
    return astronaut[40:190, 152:302]


def test_found_once_and_read_again(crops):
    detector = Counting()
    found = landmarks_of(faces_of(crops), detector=detector)
    assert len(found) == detector.asked == 150 and "fake/a.png" not in found
    assert {entry.status for entry in found.values()} == {"ok"}
    entry = found["real/007.png"]
    assert entry.box == (4.0, 4.0, 32.0, 32.0) and entry.points[0] == (12.0, 12.0) and entry.score == 0.9
    written = (crops / "landmarks.csv").read_bytes()
    assert landmarks_of(faces_of(crops), detector=detector) == found
    assert detector.asked == 150 and (crops / "landmarks.csv").read_bytes() == written


def test_pixels_are_those_of_the_crop_whatever_its_shape(tmp_path):
    paint(tmp_path, "real/wide.png", 90, (30, 400))
    (entry,) = landmarks_of(faces_of(tmp_path), detector=Counting()).values()
    assert entry.points[1] == pytest.approx((280, 9), abs=0.5)


@pytest.mark.parametrize("cut", [1, 2, 30, 200, 2500])
def test_a_run_that_was_killed_goes_on(crops, cut):
    table = crops / "landmarks.csv"
    whole = landmarks_of(faces_of(crops), detector=Counting())
    written = table.read_bytes()
    table.write_bytes(written[:-cut])
    lost = 150 - (written[:-cut].count(b"\n") - 1)
    detector = Counting()
    assert landmarks_of(faces_of(crops), detector=detector) == whole
    assert detector.asked in (lost, lost + 1)  # one name has a line's end in it
    assert table.read_bytes() == written


def test_blocks_are_on_disk_before_they_are_told(crops):
    finding = find_landmarks(faces_of(crops), detector=Counting())
    assert len(list(itertools.islice(finding, 70))) == 70
    detector = Counting()
    landmarks_of(faces_of(crops), detector=detector)
    assert detector.asked == 150 - 128


def test_changed_bytes_are_looked_at_anew(crops):
    before = landmarks_of(faces_of(crops), detector=Counting())
    paint(crops, "real/003.png", 7, (80, 80))
    detector = Counting()
    after = landmarks_of(faces_of(crops), detector=detector)
    assert detector.asked == 1
    assert {file for file in before if before[file] != after[file]} == {"real/003.png"}
    assert after["real/003.png"].points[0] == (24.0, 24.0)
    assert landmarks_of(faces_of(crops), detector=None) == after


def test_what_has_no_landmarks_has_a_status(tmp_path):
    for name in ("good", "cut", "no_face", "gone"):
        paint(tmp_path, f"real/{name}.png", 90)
    paint(tmp_path, "real/no_face.png", 0)
    paint(tmp_path, "real/tiny.png", 90, (5, 5))
    photo = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))[1].tobytes()
    (tmp_path / "real" / "cut.png").write_bytes(b"")
    (tmp_path / "real" / "half.jpg").write_bytes(photo[: len(photo) // 2])
    faces = faces_of(tmp_path)
    (tmp_path / "real" / "gone.png").unlink()
    expected = {"good": "ok", "cut": "decode_error", "half": "decode_error", "no_face": "no_face", "tiny": "partial"}
    expected |= {"gone": "not_found"}
    for _ in range(2):
        found = landmarks_of(faces, detector=Counting())
        assert {file.split("/")[1].split(".")[0]: entry.status for file, entry in found.items()} == expected
    paint(tmp_path, "real/gone.png", 90)
    assert landmarks_of(faces, detector=Counting())["real/gone.png"].status == "ok"


def test_the_largest_of_several_faces_counts(tmp_path):
    class Two(Counting):
        def detect(self, frames, scales):
            small = Face((0, 0, 9, 9), 0.99, np.float32([[1, 1], [8, 1], [4, 4], [2, 7], [7, 7]]))
            return [[small, face_in(frame)] for frame in frames]

    paint(tmp_path, "real/a.png", 90)
    (entry,) = landmarks_of(faces_of(tmp_path), detector=Two()).values()
    assert entry.score == 0.9


def table_of(folder, *rows):
    made = [
        FaceRow(file, "folder", file, 0, 0.0, 0, (0, 0, 9, 9), None, label, "m", (), split="train", sha256=sha256)
        for file, label, sha256 in rows
    ]
    write_table(folder / "faces.csv", made, FaceRow)


def test_a_crop_that_is_not_its_tables_is_refused(tmp_path):
    paint(tmp_path, "a.png", 90)
    table_of(tmp_path, ("a.png", 0, "0" * 64))
    with pytest.raises(ValueError, match="a.png has other bytes than its table says"):
        landmarks_of(faces_of(tmp_path), detector=Counting())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,label\n", "not a table of landmarks: its columns are"),
        ("", "not a table of landmarks"),
        ("file,sha256,status,score,box,points\na,,well,,,\nb,,no_face,,,\n", "row 2: status 'well'"),
        ("file,sha256,status,score,box,points\na,0,ok,1,1 2 3 4,1 2\nb,,no_face,,,\n", "2 of points"),
    ],
)
def test_a_table_of_another_form_is_refused(crops, text, told):
    (crops / "landmarks.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        landmarks_of(faces_of(crops), detector=Counting())
    assert (crops / "landmarks.csv").read_text() == text


def test_a_portrait_at_several_sizes(portrait, tmp_path):
    """MTCNN itself: where a person sees eyes, nose and mouth."""
    for size in (64, 150, 400):
        scaled = cv2.resize(portrait[..., ::-1], (size, size), interpolation=cv2.INTER_AREA)
        (tmp_path / "real").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "real" / f"{size}.png"), scaled)
    for file, entry in landmarks_of(faces_of(tmp_path)).items():
        factor = int(file.split("/")[1].split(".")[0]) / 150
        assert entry.status == "ok"
        np.testing.assert_allclose(np.array(entry.points) / factor, POINTS, atol=5)


def test_the_verb(portrait, run_tfdfd, tmp_path):
    (tmp_path / "real").mkdir()
    cv2.imwrite(str(tmp_path / "real" / "face.png"), portrait[..., ::-1])
    table = tmp_path / "landmarks.csv"
    code, out, _ = run_tfdfd("data", "landmarks", tmp_path)
    assert (code, out) == (0, f"{table}: 1 real crops: 1 ok\n")
    paint(tmp_path, "real/black.png", 0)
    code, out, err = run_tfdfd("data", "landmarks", tmp_path)
    assert (code, out) == (3, f"{table}: 2 real crops: 1 no_face, 1 ok\n")
    assert "real/black.png: no_face" in err
    elsewhere = tmp_path / "elsewhere.csv"
    assert run_tfdfd("data", "landmarks", tmp_path, "-o", elsewhere, "--quiet")[::2] == (3, "")
    assert elsewhere.read_bytes().count(b"\n") == 3


def test_the_verb_without_a_real_crop(run_tfdfd, tmp_path):
    paint(tmp_path, "fake/a.png", 0)
    code, _, err = run_tfdfd("data", "landmarks", tmp_path)
    assert code == 2 and "no real crop among 1" in err


def test_real_crops_have_landmarks(data, tmp_path):
    """DFDC's and UTKFace's, and the points lie in the order in which faces have them."""
    photographs = sorted((data / "faces" / "utkface_adults").glob("*.jpg"))[::900]
    (tmp_path / "real").mkdir()
    for file in [*photographs, *sorted((data / "crops" / "dfdc" / "real").glob("*.png"))[:4]]:
        shutil.copy(file, tmp_path / "real")
    found = landmarks_of(faces_of(tmp_path))
    counts = Counter(entry.status for entry in found.values())
    assert counts["ok"] >= 0.9 * len(found), counts
    for entry in found.values():
        if entry.status == "ok":
            left_eye, right_eye, nose, left_mouth, right_mouth = np.array(entry.points)
            assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
            assert left_eye[1] + right_eye[1] < 2 * nose[1] < left_mouth[1] + right_mouth[1]


def test_the_detector_is_not_built_when_nothing_is_to_be_found(crops, monkeypatch):
    faces = faces_of(crops)
    landmarks_of(faces, detector=Counting())
    monkeypatch.setattr(landmarks, "_mtcnn", lambda: pytest.fail("built"))
    landmarks_of(Faces(faces.root, faces.rows))
    assert isinstance(landmarks_of(faces)["real/000.png"], FaceLandmarks)
