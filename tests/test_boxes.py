"""Stored boxes, and which faces, frames and videos the documents' rules keep."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdfd.data import has_multiple_faces, kept_faces
from tfdfd.data.cut_faces import FaceBox, read_boxes, write_boxes

EDGES = st.integers(-5000, 5000)
SIDES = st.integers(0, 5000)
FACE = st.tuples(st.tuples(EDGES, EDGES, SIDES, SIDES), st.none() | st.floats(0, 1))
FRAMES = st.dictionaries(st.integers(0, 10**6), st.lists(FACE, max_size=4), max_size=5)


@given(FRAMES)
def test_boxes_come_back(tmp_path_factory, frames):
    file = tmp_path_factory.mktemp("boxes") / "a.json"
    boxes = {n: [FaceBox(box, score, track) for track, (box, score) in enumerate(f)] for n, f in frames.items()}
    write_boxes(file, boxes)
    assert read_boxes(file) == boxes


def test_the_file_is_what_the_document_describes(tmp_path):
    write_boxes(tmp_path / "a.json", {12: [], 3: [FaceBox((10, 20, 30, 40), 0.5, 0)]})
    told = json.loads((tmp_path / "a.json").read_text())
    assert told == {"3": [{"top": 20, "bottom": 60, "left": 10, "right": 40, "score": 0.5, "track": 0}], "12": []}


GOOD = {"top": 1, "bottom": 9, "left": 2, "right": 8, "score": 0.9, "track": 0}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "JSONDecodeError"),
        ("[]", "no attribute"),
        ('{"a": []}', "invalid literal"),
        ('{"-1": []}', "at least 0; received -1"),
        ('{"0": [3]}', "TypeError"),
        (json.dumps({"0": [{"top": 1}]}), "'bottom'"),
        (json.dumps({"0": [GOOD | {"left": 1.5}]}), "whole numbers"),
        (json.dumps({"0": [GOOD | {"right": 2**40}]}), "whole numbers"),
        (json.dumps({"0": [GOOD | {"bottom": 0}]}), "must not be less"),
        (json.dumps({"0": [GOOD | {"score": float("nan")}]}), "received nan"),
        (json.dumps({"0": [GOOD | {"track": True}]}), "received True"),
        (json.dumps({"0": [GOOD, GOOD]}), "same track"),
    ],
)
def test_what_is_no_boxes_is_named_with_its_file(tmp_path, content, told):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match="bad.json") as caught:
        read_boxes(tmp_path / "bad.json")
    assert told in str(caught.value)


def test_boxes_that_are_not_there_are_an_error_with_their_name(tmp_path):
    with pytest.raises(ValueError, match="absent.json cannot be read"):
        read_boxes(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("scores", "options", "kept"),
    [
        ([], {}, []),
        ([0.1], {}, [0]),
        ([0.1, 0.05], {}, [0]),
        ([0.9, 0.46, 0.45], {}, [0, 1]),
        ([None, None], {}, [0, 1]),
        ([0.9, 0.8, 0.7], {"max_faces": 2}, [0, 1]),
        ([0.9, 0.8, 0.7], {"drop_above": 2}, []),
        ([0.9, 0.8, 0.1], {"drop_above": 2}, [0, 1]),
        ([0.9, 0.8, 0.7], {"drop_above": 2, "max_faces": 1}, []),
        ([0.9, 0.3, 0.2], {"min_score": 0.25}, [0, 1]),
    ],
)
def test_the_best_face_is_kept_and_others_by_score(scores, options, kept):
    assert kept_faces(scores, **options) == kept


@pytest.mark.parametrize(
    ("counts", "multiple"),
    [([], False), ([1] * 10, False), ([2] + [1] * 9, False), ([2, 2] + [1] * 8, True), ([3], True), ([0], False)],
)
def test_a_video_has_multiple_faces_when_more_than_a_tenth_of_its_frames_do(counts, multiple):
    assert has_multiple_faces(counts) is multiple
