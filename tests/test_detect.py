"""The whole path from files to verdicts, in Python, on the samples and on real media."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import tfdfd
from tfdfd.detect.detector import Detector
from tfdfd.media.inputs import list_inputs

SCHEMA = json.loads(Path(tfdfd.__file__).with_name("detect").joinpath("detect.schema.json").read_text())
SAMPLES = Path(tfdfd.__file__).parent / "samples"


@pytest.fixture(scope="module")
def detector():
    with Detector() as detector:
        yield detector


@pytest.fixture(scope="module")
def outcomes(detector):
    return {Path(outcome.path).stem: outcome for outcome in detector.iter_detect(list_inputs([SAMPLES]))}


def validated(detector, outcomes):
    document = json.loads(json.dumps(detector.to_json(outcomes)))
    jsonschema.validate(document, SCHEMA)
    return document


def test_samples_are_scored_and_told_apart(outcomes):
    assert set(outcomes) == {"genuine", "blended"}
    assert outcomes["blended"].verdict == "fake"
    # Not called fake; whether the default network is sure that it is real is a matter of its band.
    assert outcomes["genuine"].verdict in ("real", "inconclusive")
    assert outcomes["blended"].fake_probability - outcomes["genuine"].fake_probability > 0.5
    for outcome in outcomes.values():
        assert (outcome.status, outcome.kind) == ("ok", "video")
        assert outcome.frames_scored == outcome.frames_requested == 32
        assert outcome.duration_s == pytest.approx(4.0)


def test_json_is_valid_and_repeatable(detector, outcomes):
    first = validated(detector, outcomes.values())
    again = validated(detector, detector.detect_many([SAMPLES]))
    for result in (*first["results"], *again["results"]):
        del result["elapsed_s"]
    order = sorted(first["results"], key=lambda result: result["path"])
    assert order == again["results"]


def test_scores_add_up(detector, outcomes):
    for outcome in outcomes.values():
        assert outcome.fake_probability == max(track.fake_probability for track in outcome.faces)
        for track in outcome.faces:
            mean = np.mean([frame.fake_probability for frame in track.frames])
            assert track.fake_probability == pytest.approx(mean, abs=1e-6)
            times = [frame.time_s for frame in track.frames]
            assert times == sorted(times) and times[-1] < outcome.duration_s
            assert all(
                frame.crop.shape == (detector._request.size, detector._request.size, 3) for frame in track.frames
            )


def test_boxes_are_where_the_face_is(outcomes):
    """The sample is a known pan over a known picture."""
    from benchmarks.detectors import iou
    from tools.make_sample import face_box_of

    for outcome in outcomes.values():
        track = max(outcome.faces, key=lambda track: len(track.frames))
        for frame in track.frames:
            assert iou(frame.box, face_box_of(frame.index)) > 0.6


def test_an_image_is_scored_face_by_face(detector, astronaut, tmp_path):
    import cv2

    portrait = astronaut[:360, 60:420, ::-1]
    cv2.imwrite(str(tmp_path / "two.png"), np.hstack([portrait, portrait[:, ::-1]]))
    outcome = detector.detect(tmp_path / "two.png")
    assert (outcome.status, outcome.kind, len(outcome.faces)) == ("ok", "image", 2)
    assert (outcome.frames_requested, outcome.frames_scored, outcome.duration_s) == (1, 1, None)
    validated(detector, [outcome])


def test_two_people_in_a_clip_are_two_tracks(detector, astronaut, make_video, tmp_path):
    portrait = astronaut[:360, 60:420]
    other = (portrait[:, ::-1] * 0.6).astype(np.uint8)
    frames = []
    for i in range(40):
        frame = np.full((360, 960, 3), 90, np.uint8)
        frame[:, 2 * i : 2 * i + 360] = portrait
        frame[:, 600 - i : 960 - i] = other
        frames.append(frame)
    outcome = detector.detect(make_video(tmp_path / "two.mp4", frames))
    assert len(outcome.faces) == 2
    assert [len(track.frames) for track in outcome.faces] == [32, 32]
    assert outcome.fake_probability == max(track.fake_probability for track in outcome.faces)


def test_damaged_frames_do_not_decide(detector, outcomes, tmp_path):
    from tests.test_video import remuxed

    sample = (SAMPLES / "genuine.mp4").read_bytes()
    some = detector.detect(remuxed(tmp_path / "some.mp4", sample, lambda number: number not in (70, 71)))
    assert (some.status, some.frames_scored) == ("ok", 32 - some.frames_damaged)
    assert f"{some.frames_damaged} of the 32 frames looked at are damaged" in some.message
    assert max(frame.index for track in some.faces for frame in track.frames) < 72
    validated(detector, [some])
    most = detector.detect(remuxed(tmp_path / "most.mp4", sample, lambda number: number not in (10, 11)))
    assert (most.status, most.fake_probability) == ("decode_error", None)
    assert {outcome.frames_damaged for outcome in outcomes.values()} == {0}


def test_many_outcomes_hold_no_pictures(detector):
    (outcome,) = detector.detect_many([SAMPLES / "genuine.mp4"])
    assert all(frame.crop is None for track in outcome.faces for frame in track.frames)


def test_a_folder_is_for_detect_many(detector):
    with pytest.raises(ValueError, match="use detect_many"):
        detector.detect(SAMPLES)


def test_a_threshold_of_ones_own_leaves_nothing_open(toy_weights):
    with Detector(toy_weights, threshold=0.7) as own:
        assert own.threshold == 0.7 and own.inconclusive_band is None
        assert own.model_info()["threshold"] == 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"detector": "mtcn"}, "Did you mean 'mtcnn'"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"model": "tfdfd/meso_inception"}, "did you mean tfdfd/meso_inception4"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_wrong_arguments_fail_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Detector(**arguments)


def test_a_damaged_network_is_an_error_not_a_score():
    from tfdfd.detect.scorer import Scorer
    from tfdfd.models import build

    model = build("meso4")
    model.get_layer("fake_probability").set_weights([np.full((16, 1), np.nan), np.zeros(1)])
    with pytest.raises(ValueError, match="outside"):
        Scorer(model)(np.zeros((2, 256, 256, 3), np.uint8))


def test_scores_do_not_depend_on_the_batch(detector):
    crops = np.random.default_rng(0).integers(
        0, 256, (13, detector._request.size, detector._request.size, 3), dtype=np.uint8
    )
    together = detector._scorer(crops)
    alone = np.concatenate([detector._scorer(crop[None]) for crop in crops])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_deepfake_of_faceforensics_with_the_authors_weights(data):
    folder = data / "videos" / "ffpp" / "manipulated_sequences" / "Deepfakes"
    with Detector(data / "mesonet" / "weights" / "MesoInception_DF.h5") as authors:
        outcome = authors.detect(next(folder.rglob("519_515.mp4")))
        assert outcome.fake_probability > 0.9 and outcome.verdict == "fake"
        validated(authors, [outcome])


def test_the_authors_test_images_as_crops(data):
    model = data / "mesonet" / "weights" / "Meso4_DF.h5"
    with Detector(model, "none") as detector:
        scores = {Path(o.path).stem: o.fake_probability for o in detector.detect_many([data / "mesonet/test_images"])}
    expected = {"df00204": 0.9518, "df01254": 0.9747, "real00240": 0.0103, "real00772": 0.0034}
    assert scores == pytest.approx(expected, abs=1e-3)
