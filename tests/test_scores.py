"""The table of scores, the ways from crops to a video, and what counts for videos without a score."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdfd.data.face_set import MULTIPLE
from tfdfd.metrics import CoverageError, LabelError, LengthError, ScoreError
from tfdfd.metrics.scores import (
    AGGREGATIONS,
    LEFT_OUT,
    ScoreRow,
    aggregate_videos,
    coverage,
    filled,
    read_scores,
    write_scores,
)


def crop(video, frame=0, track=0, score=0.5, label=1, **other):
    given = {"method": "original" if label == 0 else "Deepfakes", "source_id": (video,), "split": "test"} | other
    return ScoreRow(
        f"{video}/{frame}_{track}.png", "ffpp", video, frame, track, label,
        given["method"], given["source_id"], given.get("compression"), given["split"], score,
    )  # fmt: skip


def without(video, status, label=1):
    method = "original" if label == 0 else "Deepfakes"
    return ScoreRow(None, "ffpp", video, None, None, label, method, (), None, "test", None, status)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_scores_come_back_to_the_last_bit(tmp_path_factory, scores):
    file = tmp_path_factory.mktemp("scores") / "scores.csv"
    rows = [crop(f"v{n},\n.mp4", n, score=score, source_id=("a", "b")) for n, score in enumerate(scores)]
    rows += [without("w.mp4", "no_face"), without("x.mp4", "timeout", 0), without("y.mp4", LEFT_OUT)]
    write_scores(file, rows)
    assert read_scores(file) == rows


def test_the_columns_are_the_fields(tmp_path):
    write_scores(tmp_path / "scores.csv", [without("w.mp4", "no_face")])
    assert (tmp_path / "scores.csv").read_text() == (
        "file,dataset,video,frame,track,label,method,source_id,compression,split,fake_probability,status\n"
        ",ffpp,w.mp4,,,1,Deepfakes,,,test,,no_face\n"
    )
    assert LEFT_OUT == MULTIPLE


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (",0.25,ok", ",,ok", "line 2: a.mp4: a row has a score if and only if its status is 'ok'"),
        (",0.25,ok", ",0.25,no_face", "line 2: a.mp4: a row has a score if and only if its status is 'ok'"),
        (",0.25,ok", ",nan,ok", r"line 2: .*must be a Python float in \[0, 1\]; received nan"),
        (",0.25,ok", ",1.25,ok", r"received 1.25"),
        (",0.25,ok", ",0.25,fine", "status must be one of ok, no_face, .*received 'fine'"),
        ("a.mp4/0_0.png,", ",", "a score belongs to a crop"),
        (",1,Deepfakes", ",2,Deepfakes", "label must be 0"),
        ("fake_probability", "score", r"lacks \['fake_probability'\]"),
    ],
)
def test_a_wrong_table_says_where(tmp_path, old, new, told):
    file = tmp_path / "scores.csv"
    write_scores(file, [crop("a.mp4", score=0.25)])
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=told):
        read_scores(file)


def test_float32_is_refused_as_it_would_not_come_back():
    with pytest.raises(ValueError, match="must be a Python float"):
        crop("a.mp4", score=np.float32(0.1))


#        frame 0       frame 1       frame 2
SCORES = [0.1, 0.9, 0.2, 0.6, 0.3, 0.7]
FRAMES = [0, 0, 1, 1, 2, 2]
TRACKS = [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", 2.8 / 6),
        ("median", 0.45),
        ("trimmed", 2.8 / 6),
        ("max_over_faces_mean_over_frames", 2.2 / 3),
        ("max_of_track_means", 2.2 / 3),
        ("confident", 2.8 / 6),
    ],
)
def test_aggregations_by_hand(name, expected):
    assert AGGREGATIONS[name](SCORES, FRAMES, TRACKS) == pytest.approx(expected, abs=1e-12)


def test_faces_and_people_are_not_the_same():
    # The same person is not the worst in every frame.
    scores, frames, tracks = [0.9, 0.1, 0.1, 0.8], [0, 0, 1, 1], [0, 1, 0, 1]
    assert AGGREGATIONS["max_over_faces_mean_over_frames"](scores, frames, tracks) == pytest.approx(0.85)
    assert AGGREGATIONS["max_of_track_means"](scores, frames, tracks) == pytest.approx(0.5)


def test_confident_and_trimmed_at_their_limits():
    confident, trimmed = AGGREGATIONS["confident"], AGGREGATIONS["trimmed"]

    def of(function, *parts):
        scores = [score for score, count in parts for _ in range(count)]
        return function(scores, range(len(scores)), [0] * len(scores))

    assert of(confident, (0.9, 12), (0.1, 17)) == pytest.approx(0.9)  # 12 > 11 and 12 > 0.4 * 29
    assert of(confident, (0.9, 12), (0.1, 18)) == pytest.approx((0.9 * 12 + 0.1 * 18) / 30)
    assert of(confident, (0.9, 11), (0.1, 1)) == pytest.approx((0.9 * 11 + 0.1) / 12)
    assert of(confident, (0.1, 19), (0.6, 1)) == pytest.approx(0.1)
    assert of(confident, (0.1, 18), (0.6, 2)) == pytest.approx((1.8 + 1.2) / 20)
    assert of(trimmed, (0.0, 1), (0.5, 18), (1.0, 1)) == 0.5
    assert of(trimmed, (0.0, 2), (0.5, 5), (1.0, 2)) == 0.5
    assert of(trimmed, (0.0, 3), (0.5, 6), (0.6, 1)) == pytest.approx(5 * 0.5 / 8 + 0.5 / 8)


crops = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=30)


@given(crops, st.sampled_from(list(AGGREGATIONS)), st.randoms(use_true_random=False))
def test_aggregations_stay_within_their_crops_in_any_order(rows, name, random):
    found = AGGREGATIONS[name](*zip(*rows, strict=True))
    scores = [score for score, _, _ in rows]
    assert min(scores) - 1e-12 <= found <= max(scores) + 1e-12
    mixed = list(rows)
    random.shuffle(mixed)
    assert AGGREGATIONS[name](*zip(*mixed, strict=True)) == pytest.approx(found, abs=1e-12)
    one = scores[0]
    assert AGGREGATIONS[name]([one] * len(rows), *list(zip(*rows, strict=True))[1:]) == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_no_crops_and_no_scores_are_errors(name):
    with pytest.raises(LengthError):
        AGGREGATIONS[name]([], [], [])
    with pytest.raises(ScoreError, match="nan"):
        AGGREGATIONS[name]([0.5, math.nan], [0, 1], [0, 0])


def test_videos_are_put_together_in_any_order():
    rows = [crop("b", 0, score=0.2, label=0), crop("a", 1, score=0.8), crop("a", 0, score=0.4), without("c", "no_face")]
    rows.append(ScoreRow("b/9.png", "ffpp", "b", 9, 0, 0, "original", ("b",), None, "test", None, "decode_error"))
    videos = aggregate_videos(rows)
    assert videos == aggregate_videos(rows[::-1])
    assert [(v.video, v.label, v.status) for v in videos] == [("a", 1, "ok"), ("b", 0, "ok"), ("c", 1, "no_face")]
    assert [v.fake_probability for v in videos] == [pytest.approx(0.6), 0.2, None]
    assert [row.frame for row in videos[0].crops] == [0, 1] and videos[2].crops == ()


def test_a_video_of_two_labels_and_an_unknown_aggregation():
    with pytest.raises(LabelError, match="a of ffpp has rows that differ in label"):
        aggregate_videos([crop("a", 0, label=0), crop("a", 1, label=1)])
    with pytest.raises(ValueError, match="did you mean mean or median"):
        aggregate_videos([crop("a")], "meann")


def test_coverage_and_what_the_missing_count_as():
    rows = [crop("a"), crop("b", label=0), without("c", "no_face"), without("d", "decode_error", 0)]
    videos = aggregate_videos([*rows, without("e", "not_found"), without("f", LEFT_OUT)])
    found = coverage(videos)
    assert found.counts() == {
        "expected": 6, "scored": 2, "no_face": 1, "left_out": 1, "broken": 2, "share": pytest.approx(1 / 3)
    }  # fmt: skip
    assert [v.video for v in filled(videos)] == ["a", "b"]
    for policy, score in (("as-real", 0), ("as-fake", 1), ("as-chance", 0.5)):
        assert [v.fake_probability for v in filled(videos, policy)] == [0.5, 0.5] + [score] * 4
        assert [v.status for v in filled(videos, policy)][2:] == ["no_face", "decode_error", "not_found", LEFT_OUT]
    with pytest.raises(ValueError, match="exclude, as-real, as-fake, as-chance; received 'drop'"):
        filled(videos, "drop")
    with pytest.raises(CoverageError, match="no videos"):
        coverage([])
