"""The whole path from files to verdicts, in Python, on the samples and on real media."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

import tfdfd
from tfdfd.detect import detector as module
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
        assert outcome.fake_probability == max(track.fake_probability for track in outcome.faces if track.decides)
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


def test_faces_of_a_group_are_judged_together_and_small_ones_only_shown(detector, astronaut, tmp_path):
    import cv2

    portrait = astronaut[:360, 60:420, ::-1]
    tiny = np.full((360, 120, 3), 128, np.uint8)
    tiny[100:190, 15:105] = cv2.resize(portrait, (90, 90), interpolation=cv2.INTER_AREA)
    low, high = detector.inconclusive_band
    found = {}
    for name, parts in {"one": [portrait], "group": [portrait, portrait[:, ::-1], tiny], "tiny": [tiny]}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.hstack(parts))
        found[name] = detector.detect(tmp_path / f"{name}.png")
    assert (found["one"].faces_judged, found["one"].threshold, found["one"].correction) == (1, high, "none")
    group = found["group"]
    assert [track.left_out for track in sorted(group.faces, key=lambda track: track.frames[0].box)] == [
        None,
        None,
        "small",
    ]
    assert (group.faces_judged, group.correction) == (2, "validation")
    assert group.threshold > high and group.inconclusive_band == (low, group.threshold)
    assert group.fake_probability == max(track.fake_probability for track in group.faces if track.decides)
    assert (
        f"the threshold is {group.threshold:.3f}" in group.message and "1 small face does not decide" in group.message
    )
    alone = found["tiny"]
    assert (alone.status, alone.verdict, alone.faces_judged) == ("ok", "inconclusive", 0)
    assert alone.fake_probability is not None and alone.message == "the face is too small to decide"
    document = validated(detector, found.values())
    assert document["results"][1]["inconclusive_band"] == [low, group.threshold]


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
        outcome = own.detect(SAMPLES / "genuine.mp4")
    assert (outcome.threshold, outcome.inconclusive_band, outcome.correction) == (0.7, None, "given")
    assert outcome.verdict == ("fake" if outcome.fake_probability >= 0.7 else "real")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"detector": "mtcn"}, "did you mean mtcnn"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"model": "tfdfd/meso_inception"}, "did you mean tfdfd/meso_inception4"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_wrong_arguments_fail_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Detector(**arguments)


def test_a_damaged_network_is_an_error_not_a_score():
    from tfdfd.models import build
    from tfdfd.runtime.networks import Scorer

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


def test_the_public_names_are_listed_and_nothing_heavy_is_imported_for_them():
    program = """
import sys, tfdfd
print(*dir(tfdfd), callable(tfdfd.detect), *(n for n in ("numpy", "cv2", "keras", "tensorflow") if n in sys.modules))
import tfdfd.detect.results
print(callable(tfdfd.detect), tfdfd.Detection is tfdfd.detect.results.Detection)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    names = "Detection Detector HubLayer Limits __version__ detect from_preset models tuning"
    assert done.stdout.splitlines() == [f"{names} True", "True True"], done.stderr
    assert set(tfdfd.__all__) == set(dir(tfdfd)) and all(getattr(tfdfd, name) for name in tfdfd.__all__)


@pytest.fixture(scope="module")
def forms(astronaut, tmp_path_factory):
    """One picture in all forms."""
    path = tmp_path_factory.mktemp("forms") / "face.png"
    image = Image.fromarray(astronaut[:257, 96:351])  # rows of a length that BMP pads
    image.save(path)
    opaque = image.convert("RGBA")
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "array": np.asarray(image),
        "view": np.asarray(image)[::-1][::-1],
        "Pillow": image,
        "opaque": opaque,
    }


def test_a_picture_has_one_score_in_whatever_form_it_is_given(detector, forms):
    found = {name: detector.detect(value) for name, value in forms.items()}
    assert all((one.status, one.kind) == ("ok", "image") for one in found.values()), found
    assert len({(one.fake_probability, one.faces[0].frames[0].box) for one in found.values()}) == 1
    assert detector.detect(forms["Pillow"].convert("L")).status == "ok"
    names = [one.path for one in found.values()]
    assert names == [*[str(forms["path"])] * 2, "<bytes>", "<array>", "<array>", "<image>", "<image>"]
    many = detector.detect_many([forms["array"], forms["path"]])
    assert [one.path for one in many] == ["<array>", str(forms["path"])]
    validated(detector, [*found.values(), *many])


def test_the_bytes_of_a_video_are_one(detector, outcomes):
    found = detector.detect((SAMPLES / "genuine.mp4").read_bytes())
    assert (found.path, found.kind) == ("<bytes>", "video")
    assert found.fake_probability == outcomes["genuine"].fake_probability


def test_a_pillow_image_is_looked_at_upright(detector, forms):
    lying = forms["Pillow"].transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[0x0112] = 6  # to be turned to the right
    assert detector.detect(lying).fake_probability == detector.detect(forms["array"]).fake_probability


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (b"", "decode_error", "0 bytes"),
        (b"no picture", "unsupported", "no image or video format"),
        (np.zeros((64, 64, 3), np.uint8), "no_face", "no face"),
        (np.zeros((2000, 2000, 3), np.uint8), "too_large", "4,000,000 pixels; at most 3,000,000"),
        (Image.new("L", (2000, 2000)), "too_large", "pixels"),
        (bytes(2_000_000), "too_large", "2,000,000 bytes; at most 1,000,000"),
    ],
    ids=["nothing", "text", "black", "many pixels", "large image", "many bytes"],
)
def test_what_is_in_memory_has_the_limits_and_outcomes_of_files(toy_weights, value, status, words):
    limits = tfdfd.Limits(max_pixels=3_000_000, max_bytes=1_000_000)
    with Detector(toy_weights, "haar", limits=limits) as small:
        found = small.detect(value)
    assert (found.status, found.fake_probability) == (status, None) and words in found.message


RGB = np.zeros((8, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (RGB[..., 0], ValueError, "a gray one of shape .8, 9.: repeat it"),
        (RGB[..., :1], ValueError, "a gray one"),
        (np.zeros((8, 9, 4), np.uint8), ValueError, r"alpha channel.*array\[..., :3\]"),
        (RGB / 255, ValueError, r"received float64: of values in \[0, 1\] make it one with"),
        (RGB.astype(np.int32), ValueError, "received int32"),
        (RGB[None], ValueError, "a batch of shape .* list of its images"),
        (RGB.transpose(2, 0, 1), ValueError, "channels first"),
        (RGB[:0], ValueError, "is empty"),
        (np.zeros(3, np.uint8), ValueError, "received the shape"),
        (3, TypeError, "received int"),
        (None, TypeError, "received NoneType"),
        (io.BytesIO(b"x"), TypeError, "received BytesIO"),
    ],
)
def test_what_is_no_image_is_told_with_what_is_wanted(detector, value, error, words):
    with pytest.raises(error, match=words):
        detector.detect(value)
    with pytest.raises(error, match=words):
        detector.detect_many([value])


@pytest.mark.parametrize("value", [RGB, "a.png", Path("a.png"), b"x"], ids=["array", "text", "path", "bytes"])
def test_one_input_is_no_list_of_them(detector, value):
    with pytest.raises(TypeError, match="takes a list of inputs"):
        detector.detect_many(value)


def test_one_line_detects_and_keeps_few_detectors(forms, toy_weights, monkeypatch):
    monkeypatch.setattr(module, "_loaded", type(module._loaded)())
    options = {"model": toy_weights, "detector": "none"}
    assert tfdfd.detect(forms["path"], **options).path == str(forms["path"])
    (first,) = module._loaded.values()
    both = tfdfd.detect([forms["array"], forms["path"]], **options)
    assert [one.status for one in both] == ["ok", "ok"] and list(module._loaded.values()) == [first]
    for threshold in (0.1, 0.2):
        assert tfdfd.detect(forms["array"], threshold=threshold, **options).verdict in ("real", "fake")
    assert len(module._loaded) == 2 and first not in module._loaded.values()
    toy_weights.touch()  # other weights, perhaps
    tfdfd.detect(forms["array"], threshold=0.2, **options)
    assert len(module._loaded) == 2
    with pytest.raises(TypeError, match="treshold"):
        tfdfd.detect(forms["array"], treshold=0.2)
    for kept in module._loaded.values():
        kept.close()
