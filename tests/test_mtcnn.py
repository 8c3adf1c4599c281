"""Our MTCNN (OpenCV) against the mtcnn package itself (TensorFlow), and the ONNX files that it reads."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from benchmarks.detectors import iou
from tfdfd.faces import detectors
from tfdfd.faces.detectors import CELL, NETWORKS, MtcnnDetector, pyramid
from tools.mtcnn_onnx import convert_networks


@pytest.fixture(scope="module")
def detector():
    return MtcnnDetector()


@pytest.fixture(scope="module")
def package():
    from mtcnn import MTCNN

    return MTCNN()


def assert_same(ours, theirs):
    """The networks answer the same; pixels are rounded otherwise on the way, so that among near-equal boxes of one
    face another may survive: hence a share of the face's size."""
    assert len(ours) == len(theirs)
    for face, other in zip(ours, sorted(theirs, key=lambda other: -other["confidence"]), strict=True):
        assert iou(face.box, other["box"]) > 0.9
        pixels = 0.06 * max(face.box[2:])
        assert face.score == pytest.approx(other["confidence"], abs=0.02)
        points = other["keypoints"]
        order = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
        np.testing.assert_allclose(face.landmarks, [points[name] for name in order], atol=pixels)


def test_same_faces_as_the_package(detector, package, astronaut):
    for image in (astronaut, astronaut[:, ::-1], cv2.resize(astronaut, (333, 333)), astronaut[30:230, 120:330]):
        image = np.ascontiguousarray(image)
        ours = detector.detect([image], [1.0])[0]
        assert ours
        assert_same(ours, package.detect_faces(image))


def test_same_faces_as_the_package_on_photographs(detector, package, data):
    for path in sorted((data / "detection" / "dlib_faces").glob("200*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        ours, theirs = detector.detect([image], [1.0])[0], package.detect_faces(image)
        assert len(ours) == len(theirs), path.name
        for other in theirs:
            assert max(iou(face.box, other["box"]) for face in ours) > 0.9, path.name


def test_a_batch_gives_what_single_frames_give(detector, astronaut):
    frames = [astronaut, astronaut[:300], np.zeros_like(astronaut), astronaut[:, ::-1].copy()]
    together = detector.detect(frames, [1.0] * 4)
    assert [len(found) for found in together] == [len(detector.detect([f], [1.0])[0]) for f in frames]
    for frame, found in zip(frames, together, strict=True):
        for face, alone in zip(found, detector.detect([frame], [1.0])[0], strict=True):
            np.testing.assert_allclose(face.box, alone.box, atol=0.01)
            assert face.score == pytest.approx(alone.score, abs=1e-4)


def test_two_faces_are_two(detector, astronaut):
    portrait = astronaut[:360, 60:420]
    boxes = [face.box for face in detector.detect([np.hstack([portrait, portrait])], [1.0])[0]]
    assert len(boxes) == 2
    assert abs(abs(boxes[0][0] - boxes[1][0]) - 360) < 4


@pytest.mark.parametrize("shape", [(1, 1, 3), (11, 400, 3), (12, 12, 3), (13, 700, 3), (40, 40, 3)])
def test_tiny_and_thin_frames_have_no_face(detector, shape):
    assert detector.detect([np.full(shape, 128, np.uint8)], [1.0]) == [[]]


def test_noise_is_bounded_and_no_face(detector):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    assert detector.detect([noise] * 2, [1.0] * 2) == [[], []]


def test_finds_nothing_in_the_dogs(detector, data):
    image = cv2.imread(str(data / "detection" / "dlib_faces" / "dogs.jpg"), cv2.IMREAD_COLOR_RGB)
    assert detector.detect([image], [1.0]) == [[]]


@pytest.mark.parametrize("size", [(640, 360), (100, 100), (13, 13), (5000, 30)])
def test_pyramid_covers_from_the_smallest_face_to_the_frame(size):
    scales = pyramid(*size, min_face_size=20)
    assert all(min(size) * scale >= CELL for scale in scales)
    assert len(scales) == 0 or scales[0] == CELL / 20
    assert np.all(np.diff(scales) < 0)


def test_networks_answer_as_the_packages_own(package):
    """Each of the three graphs alone, on random input: outputs and their order."""
    rng = np.random.default_rng(1)
    for name, stage, size in zip(("pnet", "rnet", "onet"), package.stages, (40, 24, 48), strict=True):
        net = detectors._read_network(name)
        pixels = rng.integers(0, 256, (3, size, size, 3)).astype(np.float32)
        net.setInput(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        ours = net.forward()
        theirs = [np.asarray(value) for value in stage._model((pixels - 127.5) / 128)]
        if ours.ndim == 4:
            ours = ours.transpose(0, 2, 3, 1)
        logits = np.exp(ours[..., -2:])
        np.testing.assert_allclose(logits / logits.sum(-1, keepdims=True), theirs[-1], atol=2e-4)
        np.testing.assert_allclose(ours[..., :-2], np.concatenate(theirs[:-1], axis=-1), atol=2e-3)


def test_the_files_are_what_the_tool_makes_of_the_package():
    import onnx

    for name, made in convert_networks().items():
        file = onnx.load(NETWORKS / f"{name}.onnx")
        assert file.graph.node == onnx.load_from_string(made).graph.node
        assert file.graph.initializer == onnx.load_from_string(made).graph.initializer


def test_needs_neither_tensorflow_nor_the_package_nor_pickle():
    code = """
import sys, tfdfd.faces.detectors as m
m.MtcnnDetector()
sys.exit(bool({"tensorflow", "mtcnn", "joblib", "lz4"} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def test_an_absent_network_is_an_error_with_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(detectors, "NETWORKS", tmp_path)
    with pytest.raises(ValueError, match=r"pnet\.onnx .*reinstall tfdfd"):
        MtcnnDetector()
