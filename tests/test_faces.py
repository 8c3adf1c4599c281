"""Detectors behind their one interface, the bounded copy, crops and tracks."""

import cv2
import numpy as np
import pytest

from tfdfd.faces import DETECTORS, Face, build_detector
from tfdfd.faces.crop import crop_face, link_faces, resize_crop, square_around
from tfdfd.faces.detectors import HaarDetector, detect_bounded, detect_still

FACE = (180, 60, 88, 108)  # of the astronaut, by eye


@pytest.fixture(scope="module")
def detectors(request):
    built = {"mtcnn": build_detector("mtcnn"), "haar": build_detector("haar")}
    try:
        folder = request.getfixturevalue("data") / "detection" / "opencv_ssd"
    except pytest.skip.Exception:
        return built
    return built | {"ssd": build_detector("ssd", graph=folder / "opencv_face_detector_uint8.pb")}


@pytest.mark.parametrize("name", DETECTORS)
def test_one_interface(detectors, astronaut, name):
    if name not in detectors:
        pytest.skip("the SSD network is in the test data only")
    frames = [astronaut, np.zeros((90, 160, 3), np.uint8), astronaut[:256, 100:400]]
    found = detectors[name].detect(frames, [1.0] * 3)
    assert [bool(faces) for faces in found] == [True, False, True]
    face = max(found[0], key=lambda face: face.box[2])
    assert abs(face.box[0] + face.box[2] / 2 - 224) < 15 and abs(face.box[1] + face.box[3] / 2 - 114) < 20
    assert (face.score is None) == (name == "haar")
    assert (face.landmarks is not None) == (name == "mtcnn")


@pytest.mark.parametrize(("name", "least"), [("mtcnn", 43), ("ssd", 42), ("haar", 37)])
def test_annotated_photographs(detectors, data, name, least):
    from benchmarks.detectors import evaluate, read_annotations

    photographs = read_annotations(data / "detection" / "dlib_faces")
    assert sum(len(boxes) for _, boxes in photographs) == 43
    found, wrong = evaluate(lambda image: [f.box for f in detectors[name].detect([image], [1.0])[0]], photographs)
    assert found >= least and wrong <= 1


def test_haar_minimum_is_in_pixels_of_the_original(astronaut):
    strict = HaarDetector(min_size=128)
    assert HaarDetector(min_size=60).detect([astronaut], [1.0])[0]
    assert not strict.detect([astronaut], [1.0])[0]
    # The same picture as the half-size copy of one twice as large: its face has twice the pixels there.
    assert strict.detect([astronaut], [0.5])[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mtcn", {}, "did you mean mtcnn"),
        ("yolo", {}, "expected one of mtcnn, haar, ssd"),
        ("ssd", {}, "--ssd GRAPH.pb"),
        ("ssd", {"graph": "absent.pb"}, "does not exist"),
        ("ssd", {"graph": "face.onnx"}, "ends in .pb or .caffemodel"),
    ],
)
def test_wrong_detectors_say_what_is_right(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_detector(name, **options)


def test_ssd_files_are_checked(tmp_path):
    graph = tmp_path / "face.pb"
    graph.write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"needs its \.pbtxt file.*found 0"):
        build_detector("ssd", graph=graph)
    (tmp_path / "face.pbtxt").write_text("no graph either")
    with pytest.raises(ValueError, match="not a graph that OpenCV reads"):
        build_detector("ssd", graph=graph)


def test_bounded_copy_gives_boxes_of_the_original(detectors, astronaut):
    large = cv2.resize(astronaut, (2048, 2048))
    (small,), (big,) = (detect_bounded(detectors["mtcnn"], [image], 512) for image in (astronaut, large))
    np.testing.assert_allclose(np.array(big[0].box) / 4, small[0].box, atol=6)
    np.testing.assert_allclose(big[0].landmarks / 4, small[0].landmarks, atol=6)


def test_bounded_copy_is_bounded():
    class Spy:
        def detect(self, frames, scales):
            assert all(max(frame.shape[:2]) <= 320 for frame in frames)
            return [[Face((0.0, 0.0, 32.0, 32.0))] for _ in frames]

    frames = [np.zeros(shape, np.uint8) for shape in ((240, 320, 3), (1080, 1920, 3), (3000, 10, 3))]
    boxes = [faces[0].box for faces in detect_bounded(Spy(), frames, 320)]
    assert boxes[0] == (0, 0, 32, 32) and boxes[1][2] == pytest.approx(192)


def test_square_has_the_margin_and_the_centre():
    x, y, side = square_around((100, 50, 60, 80))
    assert side == 104 and x + side / 2 == 130 and y + side / 2 == 90


def test_crop_inside_is_a_plain_cut():
    frame = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_face(frame, (50, 60, 100, 100), 130), frame[45:175, 35:165])


@pytest.mark.parametrize("box", [(-40, -30, 90, 90), (180, 170, 60, 60), (-500, 80, 40, 40), (90, 900, 30, 60)])
def test_crop_over_the_border_repeats_it(box):
    frame = np.zeros((200, 240, 3), np.uint8)
    frame[:, :, 0] = np.arange(240, dtype=np.uint8)
    crop = crop_face(frame, box, 64)
    assert crop.shape == (64, 64, 3)
    x, _, side = square_around(box)
    expected = np.clip(x + (np.arange(64) + 0.5) * side / 64 - 0.5, 0, 239)
    np.testing.assert_allclose(crop[32, :, 0], expected, atol=2.5)


def test_huge_box_costs_no_memory():
    assert crop_face(np.full((40, 40, 3), 7, np.uint8), (-1e5, -1e5, 2e5, 2e5), 32).max() == 7


@pytest.mark.parametrize("size", [16, 256])
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (256, 256), (1000, 700)])
def test_resize_keeps_a_constant(shape, size):
    assert np.all(resize_crop(np.full((*shape, 3), 93, np.uint8), size) == 93)


def picture(seed):
    """A smooth random pattern: the looks of one person."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(small, (96, 96), interpolation=cv2.INTER_CUBIC)


def shaded(crop, seed):
    noise = np.random.default_rng(seed).normal(0, 8, crop.shape)
    return np.clip(crop * 0.85 + 15 + noise, 0, 255).astype(np.uint8)


def test_two_people_side_by_side_are_two_tracks_whatever_their_order():
    ann, bob = picture(1), picture(2)
    frames = []
    for i in range(12):
        faces = [((100 + 5 * i, 80, 90, 110), shaded(ann, i)), ((400 - 5 * i, 90, 85, 105), shaded(bob, i + 50))]
        frames.append(faces if i % 2 else faces[::-1])
    numbers = link_faces(frames)
    assert numbers == [[0, 1] if i % 2 == 0 else [1, 0] for i in range(12)]


def test_people_who_cross_keep_their_tracks():
    ann, bob = picture(1), picture(2)
    frames = [
        [((40 * i, 80, 90, 110), shaded(ann, i)), ((400 - 40 * i, 80, 90, 110), shaded(bob, i + 50))] for i in range(11)
    ]
    assert all(pair == [0, 1] for pair in link_faces(frames))


def test_one_person_is_one_track_through_a_jump_and_an_absence():
    ann = picture(1)
    frames = [[((50, 50, 90, 110), shaded(ann, i))] for i in range(4)]
    frames += [[], []] + [[((500, 200, 70, 90), shaded(ann, i))] for i in range(4)]
    assert link_faces(frames) == [[0]] * 4 + [[], []] + [[0]] * 4


def test_another_person_elsewhere_is_another_track():
    ann, bob = picture(1), picture(2)
    frames = [[((50, 50, 90, 110), ann)], [((600, 50, 90, 110), bob)], [((52, 50, 90, 110), ann)]]
    assert link_faces(frames) == [[0], [1], [0]]


def test_faces_of_one_frame_never_share_a_track():
    ann = picture(1)
    twins = [((50, 50, 90, 110), ann), ((55, 52, 90, 110), ann)]
    assert all(sorted(numbers) == [0, 1] for numbers in link_faces([twins] * 5))
    assert link_faces([]) == [] and link_faces([[], []]) == [[], []]


def test_a_colourless_crop_links_by_place():
    grey = np.full((96, 96, 3), 120, np.uint8)
    assert link_faces([[((50, 50, 90, 110), grey)]] * 3) == [[0]] * 3


def scene(shape, places, astronaut):
    """A canvas with the astronaut's head at each `(x, y, side)`."""
    canvas = np.full((*shape, 3), 100, np.uint8)
    for x, y, side in places:
        canvas[y : y + side, x : x + side] = cv2.resize(astronaut[10:190, 135:315], (side, side))
    return canvas


def assert_found(faces, places):
    """One face in each place and no other."""
    centers = [(face.box[0] + face.box[2] / 2, face.box[1] + face.box[3] / 2) for face in faces]
    assert len(centers) == len(places)
    for x, y, side in places:
        assert any(x < a < x + side and y < b < y + side for a, b in centers), (x, y)
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


@pytest.mark.parametrize("tall", [True, False])
def test_faces_of_an_elongated_picture_are_found_once_each(detectors, astronaut, tall):
    # One of them wholly over the border of two parts, one as wide as the picture.
    places = [(40, 100, 180), (300, 1150, 180), (0, 2100, 600), (420, 11_800, 150)]
    shape = (12_000, 600)
    if not tall:
        places, shape = [(y, x, side) for x, y, side in places], shape[::-1]
    canvas = scene(shape, places, astronaut)
    assert len(detect_bounded(detectors["mtcnn"], [canvas], 1280)[0]) < len(places)
    faces, scale = detect_still(detectors["mtcnn"], canvas, 1280)
    assert_found(faces, places)
    assert scale == 1
    for face in faces:
        x, y, width, height = face.box
        low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
        assert x < low[0] < high[0] < x + width and y < low[1] < high[1] < y + height


def test_a_face_too_small_in_a_copy_of_a_large_photograph_is_found(detectors, astronaut):
    places = [(300, 400, 230), (6100, 3600, 260)]
    canvas = scene((4200, 6500), places, astronaut)
    faces, scale = detect_still(detectors["mtcnn"], canvas, 1280)
    assert_found(faces, places)
    assert scale == 0.5


@pytest.mark.parametrize("shape", [(512, 512), (1500, 2000), (400, 1190), (3000, 4000)])
def test_a_picture_of_usual_size_and_proportions_is_looked_at_once(astronaut, shape):
    class Spy:
        shapes = []

        def detect(self, frames, scales):
            self.shapes += [frame.shape[:2] for frame in frames]
            return [[] for _ in frames]

    faces, scale = detect_still(Spy(), np.zeros((*shape, 3), np.uint8), 1280)
    assert faces == [] and scale == min(1, 1280 / max(shape)) and len(Spy.shapes) == 1


@pytest.mark.parametrize("shape", [(50_000, 1000), (300, 60_000), (7000, 7100), (1, 60_000), (40_000, 12)])
def test_the_parts_of_a_picture_cover_it_within_bounds(shape):
    seen = np.zeros(shape, bool)

    class Spy:
        pixels = 0

        def detect(self, frames, scales):
            (frame,), (scale,) = frames, scales
            assert max(frame.shape[:2]) <= 1281 and frame.base is None or scale == 1
            Spy.pixels += frame.shape[0] * frame.shape[1]
            return [[Face((0.0, 0.0, float(frame.shape[1]), float(frame.shape[0])))]]

    faces, _ = detect_still(Spy(), np.zeros((*shape, 3), np.uint8), 1280)
    for face in faces:
        x, y, width, height = (round(value) for value in face.box)
        seen[y : y + height, x : x + width] = True
    assert seen.mean() > 0.9 and Spy.pixels < 50_000_000
