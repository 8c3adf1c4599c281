"""How single scores become a clip's score and verdict."""

import pytest

from tfdfd.detect.results import Detection, FaceTrack, FrameScore, printable_path
from tfdfd.detect.verdict import clip_score, counting_tracks, verdict_of

SAMPLED = list(range(0, 320, 10))


def track(number, indices, probability=0.5, confidence=0.999):
    frames = [FrameScore(i, i / 25, (0, 0, 90, 110), confidence, probability) for i in indices]
    return FaceTrack(number, probability, frames)


@pytest.mark.parametrize(
    ("probability", "threshold", "band", "verdict"),
    [
        (0.5, 0.5, None, "fake"),
        (0.499999, 0.5, None, "real"),
        (1.0, 1.0, None, "fake"),
        (0.0, 0.0, None, "fake"),
        (0.4, 0.5, (0.4, 0.6), "inconclusive"),
        (0.6, 0.5, (0.4, 0.6), "inconclusive"),
        (0.61, 0.5, (0.4, 0.6), "fake"),
        (0.39, 0.5, (0.4, 0.6), "real"),
    ],
)
def test_verdict(probability, threshold, band, verdict):
    assert verdict_of(probability, threshold, band) == verdict


def test_the_worst_of_two_people_decides():
    both = [track(0, SAMPLED, 0.1), track(1, SAMPLED, 0.9)]
    kept, note = counting_tracks(both, SAMPLED, "mtcnn")
    assert kept == both and note is None
    assert clip_score(kept) == 0.9


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        (track(1, SAMPLED[:10]), True),  # a person who leaves
        (track(1, SAMPLED[5:6]), False),  # seen once
        (track(1, SAMPLED, confidence=0.9), False),  # the detector itself doubts it
        (track(1, SAMPLED[::3]), False),  # comes and goes, as patterns in the background do
        (track(1, SAMPLED[::2]), True),
        (track(1, SAMPLED, confidence=None), True),  # a detector without confidences is believed
    ],
)
def test_which_second_faces_count(other, counts):
    kept, note = counting_tracks([track(0, SAMPLED), other], SAMPLED, "mtcnn")
    assert (other in kept) == counts
    assert (note is None) == counts


def test_the_longest_track_counts_however_doubtful():
    only = track(0, SAMPLED[3:4], confidence=0.81)
    assert counting_tracks([only], SAMPLED, "mtcnn") == ([only], None)


def test_in_an_image_the_surest_face_and_all_sure_ones_count():
    sure, less, doubtful = track(0, [0], confidence=0.97), track(1, [0], confidence=0.99), track(2, [0], confidence=0.9)
    kept, note = counting_tracks([sure, less, doubtful], [0], "mtcnn")
    assert kept == [sure, less] and "1 doubtful" in note


def test_no_status_but_ok_has_a_score():
    with pytest.raises(ValueError, match="for status 'ok' and for no other"):
        Detection("a.jpg", "image", "no_face", fake_probability=0.5)
    with pytest.raises(ValueError, match="for status 'ok' and for no other"):
        Detection("a.jpg", "image", "ok")
    with pytest.raises(ValueError, match="status must be one of"):
        Detection("a.jpg", "image", "maybe")


def test_any_file_name_becomes_text():
    import os

    assert printable_path(os.fsdecode(b"caf\xe9.mp4")) == r"caf\xe9.mp4"
    assert printable_path("日本.mp4") == "日本.mp4"
    assert printable_path("\ud800.mp4") == r"\ud800.mp4"
