"""MediaPipe's face mesh, read from its wheel."""

import hashlib
import os
import zipfile

import cv2
import numpy as np
import pytest

from tfdfd.faces import mesh
from tfdfd.faces.mesh import FaceMesh

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'tfdfd[export]'")


@pytest.fixture(scope="module")
def wheel(request):
    """The mediapipe wheel: $TFDFD_MESH, or the one in the test data."""
    if "TFDFD_MESH" in os.environ:
        return os.environ["TFDFD_MESH"]
    found = sorted(request.getfixturevalue("data").glob("**/mediapipe-0.10.14-*.whl"))
    if not found:
        pytest.skip("no mediapipe 0.10.14 wheel in the test data: set TFDFD_MESH to its path")
    return found[0]


@pytest.fixture(scope="module")
def network(wheel):
    return FaceMesh(wheel)


@pytest.fixture
def portrait(astronaut):
    return np.ascontiguousarray(astronaut[50:190, 160:290])


# By eye, on `portrait`: outer corners of the eyes (on the left of the picture first), nose tip, corners of the mouth.
PLACES = {33: (37, 54), 263: (92, 53), 1: (64, 80), 61: (46, 92), 291: (84, 92)}


def test_points_lie_on_the_face(network, portrait):
    points, score = network(portrait)
    assert points.shape == (468, 2)
    assert points.dtype == np.float32
    assert 0.9 < score <= 1
    for index, place in PLACES.items():
        assert np.abs(points[index] - place).max() < 9, (index, points[index])


def test_points_follow_a_rotated_and_larger_picture(network, portrait):
    points, _ = network(portrait)
    larger, _ = network(cv2.resize(portrait, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    assert np.abs(larger / 2 - points).max() < 4
    matrix = cv2.getRotationMatrix2D((65, 70), 20, 1)
    rotated, _ = network(cv2.warpAffine(portrait, matrix, (130, 140), borderMode=cv2.BORDER_REPLICATE))
    assert np.abs(rotated - (points @ matrix[:, :2].T + matrix[:, 2])).mean() < 4


def test_a_picture_without_a_face_has_no_mesh(network):
    with pytest.raises(
        ValueError, match=r"no face mesh in the crop of 80x60 pixels.*confidence is 0\.\d\d, below 0\.5"
    ):
        network(np.full((60, 80, 3), 127, np.uint8))


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        "crop.jpg",
    ],
)
def test_what_is_not_an_image_is_refused(crop):
    with pytest.raises(ValueError, match="expected RGB uint8"):
        FaceMesh.__call__(object.__new__(FaceMesh), crop)


@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "another network", "another wheel", "truncated wheel"])
def test_other_files_are_refused(tmp_path, kind):
    file = tmp_path / "mesh"
    if kind == "folder":
        file.mkdir()
    elif kind in ("empty", "another network"):
        file.write_bytes(b"" if kind == "empty" else b"TFL3")
    elif kind != "absent":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("other.txt" if kind == "another wheel" else mesh.MEMBER, b"TFL3" * 99)
        if kind == "truncated wheel":
            file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(
        ValueError, match=r"cannot be read as the face mesh|is not the face mesh of mediapipe 0\.10\.14"
    ):
        FaceMesh(file)


def test_the_message_names_both_digests(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr(mesh.MEMBER, b"other")
    digest = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match=f"its SHA-256 is {digest}; expected {mesh.SHA256}"):
        FaceMesh(tmp_path / "other.whl")
