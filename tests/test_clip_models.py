"""Clip models (frames of one face -> one score): detect, hub, export and serve agree with the Keras model."""

import hashlib
import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.served import Server as Serving
from tests.served import refused, request
from tfdfd.detect.detector import Detector, spans_of
from tfdfd.faces.crop import equal_parts
from tfdfd.models import CLIPS, build, clip_frames, load
from tfdfd.models.temporal import temporal
from tfdfd.publishing.exporting import export, proof_images
from tfdfd.remote import Server
from tfdfd.runtime.equality import proof_crops
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import locate, read_card_file

SAMPLE = files("tfdfd") / "samples/genuine.mp4"
SCHEMA = json.loads((files("tfdfd") / "detect/detect.schema.json").read_text("utf-8"))
FRAMES, SIZE = 4, 64


def write_card(weights, **changes):
    """The model card beside a weights file."""
    data = weights.read_bytes()
    card = {"handle": "tfdfd/temporal.toy", "model": CLIPS, "file": weights.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
    card |= {"polarity": "fake=1", "threshold": 0.5, "input_shape": [SIZE, SIZE, 3]}
    card["arguments"] = {"frame_network": "meso4", "frame_arguments": {}, "frames": FRAMES, "units": 8}
    weights.with_suffix(".json").write_text(json.dumps(card | changes), encoding="utf-8")
    return weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a random clip network whose scores differ between clips."""
    keras.utils.set_random_seed(3)
    model = temporal(build("meso4", input_shape=(SIZE, SIZE, 3)), frames=FRAMES, units=8)
    head = model.get_layer("fake_probability")
    head.kernel.assign(20 * head.kernel)
    file = tmp_path_factory.mktemp("clips") / "toy.safetensors"
    save_weights(model, file)
    return write_card(file)


@pytest.fixture(scope="module")
def model(weights):
    return load(*locate(weights))


@pytest.fixture(scope="module")
def hub(weights, tmp_path_factory):
    """A hub with the model as version 1."""
    from tfdfd.hub.publish import publish

    root = tmp_path_factory.mktemp("hub") / "hub"
    publish(weights, root, 1)
    return root


def without_time(detection):
    return {name: value for name, value in detection.to_dict().items() if name != "elapsed_s"}


def unit(clips):
    return clips.astype(np.float32) / 255


@pytest.fixture(scope="module")
def local(weights):
    """The outcome of a video here, with the crops: 64 frames, hence two spans."""
    with Detector(weights, "haar", frames=64, runtime="tensorflow") as detector:
        return detector.detect(SAMPLE)


def test_spans_have_the_default_number_of_frames_or_those_of_the_clip():
    assert [len(spans_of(range(count), 16)) for count in (1, 2, 16, 32, 63, 64, 200)] == [0, 1, 1, 1, 1, 2, 6]
    assert [[*span] for span in spans_of(range(90), 40)] == [[*range(45)], [*range(45, 90)]]
    # The middle frame of each of equal parts; a short face is repeated, in order.
    assert equal_parts(32, 4).tolist() == [4, 12, 20, 28]
    assert equal_parts(3, 4).tolist() == [0, 1, 1, 2]


def test_each_span_of_a_face_has_the_score_of_its_clip(local, model):
    about = {"handle": "tfdfd/x", "sha256": "0" * 64, "threshold": 0.5}
    jsonschema.validate({"schema": 1, "model": about, "results": [local.to_dict()]}, SCHEMA)
    (track,) = local.faces
    crops = np.stack([frame.crop for frame in track.frames])
    half = len(crops) // 2
    expected = []
    for span in (crops[:half], crops[half:]):
        clip = np.stack([span[int((place + 0.5) * len(span) / FRAMES)] for place in range(FRAMES)])
        expected += [float(model(unit(clip[None]), training=False)[0, 0])] * len(span)
    assert abs(expected[0] - expected[-1]) > 1e-4
    np.testing.assert_allclose([frame.fake_probability for frame in track.frames], expected, atol=1e-5)
    assert local.fake_probability == pytest.approx(np.mean(expected), abs=1e-5)
    assert local.frames_scored == len(crops) > 60 and local.message is None


def test_a_file_whose_output_means_real_is_turned(weights, local, tmp_path):
    other = tmp_path / "real.safetensors"
    other.write_bytes(weights.read_bytes())
    write_card(other, polarity="real=1")
    with Detector(other, "haar", frames=64, runtime="tensorflow") as detector:
        assert detector.detect(SAMPLE).fake_probability == pytest.approx(1 - local.fake_probability, abs=1e-5)


@pytest.mark.slow  # test_runtime has the networks of single crops
def test_the_runtimes_agree(weights, local):
    pytest.importorskip("openvino", reason="pip install 'tfdfd[edge]'")
    with Detector(weights, "haar", frames=64, runtime="openvino") as detector:
        assert detector.detect(SAMPLE).fake_probability == pytest.approx(local.fake_probability, abs=1e-4)


def test_stills_and_faces_in_one_frame_have_no_score(weights, astronaut, make_video, tmp_path):
    from tests.served import picture

    black = np.zeros((256, 256, 3), np.uint8)
    face = np.ascontiguousarray(astronaut[:256, 96:352])
    (tmp_path / "still.mp4").write_bytes(picture(kind="PNG"))  # judged by content
    make_video(tmp_path / "once.mp4", [face, *[black] * 7])
    make_video(tmp_path / "short.mp4", [face] * 3)
    with Detector(weights, "haar", runtime="tensorflow") as detector:
        inputs = [tmp_path / "still.mp4", astronaut, picture(kind="PNG"), tmp_path / "once.mp4", tmp_path / "short.mp4"]
        *stills, once, short = detector.detect_many([*inputs[:3], *map(str, inputs[3:])])
        assert detector.first_score(tmp_path / "short.mp4") is None
    for still in stills:
        assert (still.status, still.kind, still.fake_probability) == ("unsupported", "image", None)
        assert "scores clips of 4 frames, and this is a still image" in still.message
    assert (once.status, once.verdict) == ("unsupported", None)
    assert "too few frames: no face was found in two of the 8 frames looked at" in once.message
    assert short.status == "ok" and short.frames_scored == 3
    assert "a clip of 4 frames repeats some, as its face was found in 3" in short.message


def test_several_faces_have_a_score_each(weights, model, astronaut, make_video, tmp_path):
    face = astronaut[:256, 96:352]
    both = np.concatenate([face, np.zeros((256, 128, 3), np.uint8), face[:, ::-1]], axis=1)
    make_video(tmp_path / "two.mp4", [both] * 5 + [np.concatenate([face, np.zeros((256, 384, 3), np.uint8)], axis=1)])
    with Detector(weights, "haar", runtime="tensorflow") as detector:
        outcome = detector.detect(tmp_path / "two.mp4")
    assert sorted(len(track.frames) for track in outcome.faces) == [5, 6]
    for track in outcome.faces:
        crops = np.stack([track.frames[place].crop for place in equal_parts(len(track.frames), FRAMES)])
        assert track.fake_probability == pytest.approx(float(model(unit(crops[None]))[0, 0]), abs=1e-5)
    assert outcome.fake_probability == max(track.fake_probability for track in outcome.faces)


def test_what_needs_single_faces_is_refused_before_work(weights, run_tfdfd, tmp_path):
    code, out, err = run_tfdfd("detect", SAMPLE, "--model", weights, "--frames", 1)
    assert (code, out) == (2, "") and "frames must be at least 2; received 1" in err
    code, out, err = run_tfdfd("explain", SAMPLE, "--model", weights, "-o", tmp_path / "page.html")
    assert (code, out) == (2, "") and "scores clips of 4 frames; an explanation takes a network of single faces" in err
    record, _ = locate(weights)
    with pytest.raises(ValueError, match="at most 256 frames; received frames=100000"):
        clip_frames(replace(record, arguments=record.arguments | {"frames": 100_000}))
    with pytest.raises(ValueError, match=r"temporal takes the arguments frames, .*; received 'size'"):
        build(CLIPS, None, (SIZE, SIZE, 3), frame_network="meso4", size=3)
    with pytest.raises(ValueError, match="give its name as frame_network"):
        build(CLIPS)
    code, out, err = run_tfdfd("models", "show", weights)
    assert code == 0 and json.loads(out)["input"] == [SIZE, SIZE, 3], err


def test_the_published_model_is_explicit_about_its_clips_and_answers_like_keras(hub, model, monkeypatch):
    folder = hub / "temporal.toy" / "1"
    inputs = read_card_file(folder / "model_card.json")["inputs"]
    assert inputs["image"]["shape"] == [None, FRAMES, None, None, 3] and inputs["image_bytes"]["shape"] == [
        None,
        FRAMES,
    ]
    assert "clips of 4 crops of one face in order of time" in inputs["image"]["is"]
    loaded = tf.saved_model.load(str(folder))
    shapes = {
        name: function.structured_input_signature[1] for name, function in loaded.signatures.items()
    }  # fmt: skip
    assert shapes["serving_default"]["image"].shape.as_list() == [None, FRAMES, None, None, 3]
    assert shapes["image_bytes"]["image_bytes"].shape.as_list() == [None, FRAMES]
    clips = proof_images(SIZE, frames=FRAMES)
    expected = model(unit(clips), training=False).numpy()
    assert np.ptp(expected) > 1e-3
    bad = unit(clips)
    bad[1, 2, 5, 5, 0] = np.nan
    bad[2] *= 255
    answers = loaded(tf.constant(bad)).numpy()
    assert np.isnan(answers[[1, 2]]).all()
    np.testing.assert_allclose(answers[[0, *range(3, len(clips))]], expected[[0, *range(3, len(clips))]], atol=1e-5)
    monkeypatch.setenv("TFDFD_HUB", str(hub))
    tf_hub = pytest.importorskip("tensorflow_hub", reason="pip install 'tfdfd[hub]'")
    np.testing.assert_allclose(tf_hub.load("tfdfd/temporal.toy")(tf.constant(unit(clips))), expected, atol=1e-5)
    layer = tf_hub.KerasLayer("tfdfd/temporal.toy/1", trainable=True)
    np.testing.assert_allclose(layer(tf.constant(unit(clips))), expected, atol=1e-5)
    assert len(layer.trainable_variables) == len(loaded.trainable_variables) > 0
    from tfdfd import HubLayer

    ours = HubLayer("tfdfd/temporal.toy", trainable=True)
    whole = keras.Sequential([keras.Input((FRAMES, None, None, 3)), ours])
    np.testing.assert_allclose(whole(unit(clips)), expected, atol=1e-5)
    np.testing.assert_allclose(whole(unit(np.repeat(clips, 2, 2).repeat(2, 3))), expected, atol=1e-5)
    assert whole.output_shape == (None, 1)


@pytest.mark.slow  # a published model of clips and the servers have tests of their own
def test_a_hub_and_a_server_give_the_json_of_the_weights_file(hub, local, model, monkeypatch):
    monkeypatch.setenv("TFDFD_HUB", str(hub))
    expected = without_time(local)
    with Detector("tfdfd/temporal.toy/1", "haar", frames=64, runtime="tensorflow") as detector:
        assert without_time(detector.detect(SAMPLE)) == expected
    clips = proof_crops(SIZE, 2, FRAMES)
    scores = model(unit(clips), training=False).numpy()[:, 0]
    encoded = [tf.io.encode_png(crop).numpy() for crop in clips.reshape(-1, SIZE, SIZE, 3)]
    with Serving("--models", hub / "temporal.toy") as server:
        with Detector("temporal.toy", "haar", frames=64, server=Server(server.address)) as detector:
            remote = without_time(detector.detect(SAMPLE))
            assert detector.runtime_note is None  # proved by the scores in the card
        ours, theirs = ([frame.pop("fake_probability") for track in result["faces"] for frame in track["frames"]]
                        for result in (expected, remote))  # fmt: skip
        np.testing.assert_allclose(theirs, ours, atol=2e-6)
        for result in (expected, remote):
            result["faces"][0]["fake_probability"] = result["fake_probability"] = round(result["fake_probability"], 5)
        assert remote == expected
        asked = {"model": "temporal.toy", "shape": [2, FRAMES]}
        np.testing.assert_allclose(server.scores(encoded, **asked), scores, atol=1e-5)
        flat = unit(clips).ravel()
        floats = {"name": "image", "signature": "serving_default", "model": "temporal.toy"}
        found = server.scores(flat, shape=clips.shape, **floats)
        np.testing.assert_allclose(found, scores, atol=1e-5)
        status, text = refused(server.predict, request(flat, shape=[2 * FRAMES, SIZE, SIZE, 3], **floats))
        assert status == "INVALID_ARGUMENT" and "expects the shape [any, 4, any, any, 3]" in text
        status, text = refused(server.predict, request(encoded, model="temporal.toy"))
        assert status == "INVALID_ARGUMENT" and "expects the shape [any, 4]" in text
        flat[-1] = 7
        status, text = refused(server.predict, request(flat, shape=clips.shape, **floats))
        assert status == "INVALID_ARGUMENT" and "clip 1 of 2 (from 0) has pixels from" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "library"), [("onnx", "onnxruntime"), ("litert", "ai_edge_litert"), ("openvino", "openvino")]
)
def test_other_formats_take_clips(weights, tmp_path, kind, library):
    pytest.importorskip(library, reason="pip install 'tfdfd[export]'")
    card = export(weights, tmp_path / "out", kind)
    assert card["inputs"]["image"]["shape"] == [None, FRAMES, SIZE, SIZE, 3]
    assert card["max_difference"]["fake_probability"] < 1e-5 and len(card["proof_scores"]) == 4
