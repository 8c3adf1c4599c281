"""tfdfd export: four formats from one set of weights, each proved, whole, and with a card that says what it is."""

import hashlib
import json
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.seeded import fill
from tests.test_saved_model import svm_arrays
from tfdfd.files import locked_folder
from tfdfd.models import build, load
from tfdfd.models.svm import with_svm
from tfdfd.publishing import formats
from tfdfd.publishing.exporting import export, proof_images
from tfdfd.runtime.equality import check_equal
from tfdfd.runtime.openvino import OpenvinoNetwork
from tfdfd.version import __version__
from tfdfd.weights.saving import named_weights, save_weights
from tfdfd.weights.store import locate

SIDE = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Small seeded networks as weights files with cards: a plain one, one with an SVM, one that knows no difference."""
    folder = tmp_path_factory.mktemp("weights")

    def keep(name, model, **known):
        file = folder / f"{name}.safetensors"
        save_weights(model, file)
        data = file.read_bytes()
        card = {"handle": f"tfdfd/meso4.{name}", "model": "meso4", "file": file.name, "bytes": len(data)}
        card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
        card |= {"polarity": "fake=1", "threshold": 0.25, "input_shape": [SIDE, SIDE, 3], "limits": ["of no use"]}
        file.with_suffix(".json").write_text(json.dumps(card | known), encoding="utf-8")
        return file

    plain = build("meso4", input_shape=(SIDE, SIDE, 3))
    fill(named_weights(plain).items())
    files = {"plain": keep("plain", plain), "turned": keep("turned", plain, polarity="real=1")}
    files["svm"] = keep("svm", with_svm(plain, svm_arrays(16)), arguments={"svm": 12})
    blind = keras.models.clone_model(plain)
    blind.set_weights(plain.get_weights())
    head = blind.get_layer("fake_probability")
    head.set_weights([np.zeros_like(values) for values in head.get_weights()])
    files["blind"] = keep("blind", blind)
    return files


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """Folder and card of the plain network in a format, exported once."""
    root, known = tmp_path_factory.mktemp("made"), {}

    def make(format, name="plain"):
        if (format, name) not in known:
            folder = root / f"{name}-{format}"
            known[format, name] = folder, export(weights[name], folder, format)
        return known[format, name]

    return make


def asked(folder, format):
    """The exported network as its own library runs it: float crops in [0, 1] -> P(fake)."""
    if format == "savedmodel":
        return tf.saved_model.load(str(folder))
    if format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(str(folder / "model.tflite")).get_signature_runner()
        return lambda images: run(image=images)["fake_probability"]
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        return lambda images: session.run(["fake_probability"], {"image": images})[0]
    if format == "openvino":
        network = OpenvinoNetwork("x", (folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes())
        return lambda images: network(np.round(images * 255).astype(np.uint8))[:, None]
    return None


@pytest.mark.parametrize("name", ["plain", "svm"])
@pytest.mark.parametrize("format", list(formats.FORMATS))
def test_answers_are_those_of_keras_on_other_crops_than_those_of_the_proof(weights, made, format, name):
    if (format, name) == ("savedmodel", "svm"):
        pytest.skip("in test_saved_model.py")
    folder, card = made(format, name)
    assert 0 <= max(card["max_difference"].values()) <= 1e-5
    noise = np.random.default_rng(9).random((5, SIDE, SIDE, 3)) * np.linspace(0.2, 1, 5)[:, None, None, None]
    images = (noise * 255).astype(np.uint8) / np.float32(255)
    wanted = load(*locate(weights[name]))(images).numpy()
    assert np.ptp(wanted) > 1e-3
    run = asked(folder, format)
    if run is None:
        pytest.skip(f"{format} is proved by its writer alone: add its library to `asked`")
    for count in (5, 1):
        np.testing.assert_allclose(run(images[:count]), wanted[:count], atol=1e-5)


@pytest.mark.parametrize("format", ["savedmodel", "litert", "onnx"])
def test_pixels_that_are_none_have_no_answer(made, format):
    images = np.full((3, SIDE, SIDE, 3), 0.5, np.float32)
    for value in (np.nan, np.inf, 255, -1):
        images[1, 5, 7, 2] = value
        found = np.asarray(asked(made(format)[0], format)(images))
        assert np.isnan(found[1, 0]) and np.isfinite(found[[0, 2]]).all()


class TestCard:
    @pytest.mark.parametrize("format", list(formats.FORMATS))
    def test_lists_every_file_with_its_digest(self, made, format):
        folder, card = made(format)
        assert json.loads((folder / "model_card.json").read_text("utf-8")) == card
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert there == {*card["files"], "model_card.json"}
        for name, known in card["files"].items():
            data = (folder / name).read_bytes()
            assert known == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def test_says_what_it_is(self, weights, made):
        _, card = made("savedmodel")
        known = json.loads(weights["plain"].with_suffix(".json").read_text("utf-8"))
        for name in ("handle", "model", "licence", "training_data", "threshold", "limits"):
            assert card[name] == known[name]
        assert card["weights"]["sha256"] == known["sha256"] and "sha256" not in card
        assert (card["format"], card["tfdfd"], card["tolerance"]) == ("savedmodel", __version__, 1e-5)
        assert card["inputs"]["image"]["shape"] == [None, None, None, 3]
        assert made("litert")[1]["inputs"]["image"]["shape"] == [None, SIDE, SIDE, 3]
        outputs = {"fake_probability", "serving_default", "image_bytes", "features", "feature_vector"}
        sizes = {"38 x 58 pixels", "83 x 109 pixels", "128 x 192 pixels"}
        assert set(card["max_difference"]) == outputs | sizes

    def test_says_that_openvino_takes_bytes(self, made):
        assert made("openvino")[1]["inputs"]["image"]["dtype"] == "uint8"
        assert made("onnx")[1]["inputs"]["image"]["dtype"] == "float32"

    def test_of_weights_of_the_other_polarity_says_what_the_files_answer(self, weights, made):
        """Such weights are turned as they are read; the exported network is never again."""
        folder, card = made("litert", "turned")
        assert (card["polarity"], card["weights"]["polarity"]) == ("fake=1", "real=1")
        images = np.random.default_rng(9).random((4, SIDE, SIDE, 3), np.float32)
        plain = asked(made("litert")[0], "litert")(images)
        np.testing.assert_allclose(asked(folder, "litert")(images), 1 - plain, atol=1e-5)


class TestWarmUp:
    def test_requests_are_answered_by_the_model(self, made):
        from tensorflow_serving.apis import prediction_log_pb2

        folder, _ = made("savedmodel")
        model, shapes = tf.saved_model.load(str(folder)), []
        for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
            request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            answer = model.signatures[request.model_spec.signature_name](**inputs)["fake_probability"]
            shapes.append((request.model_spec.signature_name, answer.shape[0]))
            assert answer.shape[1] == 1 and np.isfinite(answer).all()
        assert sorted(shapes) == [
            ("image_bytes", 1),
            ("image_bytes", 8),
            ("serving_default", 1),
            ("serving_default", 8),
        ]

    def test_without_the_messages_names_the_extra(self, weights, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
        with pytest.raises(ValueError, match=r"tfdfd\[export\]"):
            export(weights["plain"], tmp_path / "x")
        assert list(tmp_path.iterdir()) == []


class TestProof:
    def test_sees_noise_and_faces(self):
        crops = proof_images(SIDE)
        assert crops.shape == (16, SIDE, SIDE, 3) and crops.dtype == np.uint8
        assert len({crop.tobytes() for crop in crops}) == 16

    def test_sees_the_crops_of_a_user(self, weights, tmp_path, astronaut):
        for number, kind in enumerate(("real", "fake", "fake")):
            path = tmp_path / "set" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(astronaut[40 + number : 200, 140:300]).save(path)
        card = export(weights["plain"], tmp_path / "x", "litert", data=tmp_path / "set")
        assert card["proof_crops"] == 19
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ValueError, match="cannot be decoded"):
            export(weights["plain"], tmp_path / "y", "litert", data=tmp_path / "set")
        assert not (tmp_path / "y").exists()

    def test_of_a_network_that_knows_no_difference_is_none(self, weights, tmp_path):
        with pytest.raises(ValueError, match="all 16 crops get the same answer"):
            export(weights["blind"], tmp_path / "x", "litert")
        assert list(tmp_path.iterdir()) == []

    def test_finds_what_is_different(self):
        wanted = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
        assert check_equal("x", wanted + np.float32(5e-6), wanted, "export") == pytest.approx(5e-6, rel=0.1)
        for found in (wanted + 2e-5, 1 - wanted):
            with pytest.raises(ValueError, match="differs by .* on the same crops"):
                check_equal("x", found, wanted, "export")
        with pytest.raises(ValueError, match="1 values are not finite"):
            check_equal("x", np.where(wanted == 0, np.nan, wanted), wanted, "export")
        with pytest.raises(ValueError, match=r"has the shape \(8,\)"):
            check_equal("x", wanted[:, 0], wanted, "export")

    def test_of_features_is_relative_to_the_largest(self):
        wanted = np.linspace(0, 1e4, 8)[:, None]
        assert check_equal("x", wanted + 0.05, wanted, "export") == pytest.approx(5e-6)
        with pytest.raises(ValueError, match="differs by 2e-05"):
            check_equal("x", wanted + 0.2, wanted, "export")

    def test_of_a_wrong_conversion_leaves_nothing(self, weights, tmp_path, monkeypatch):
        write = formats.write_onnx

        def wrong(model, folder, expected):
            model.get_layer("fake_probability").set_weights(
                [values * 1.01 for values in model.get_layer("fake_probability").get_weights()]
            )
            return write(model, folder, expected)

        monkeypatch.setitem(formats.FORMATS, "onnx", wrong)
        with pytest.raises(ValueError, match="of the ONNX model differs by"):
            export(weights["plain"], tmp_path / "x", "onnx")
        assert list(tmp_path.iterdir()) == []


class TestFolder:
    def test_that_is_there_is_not_touched(self, weights, tmp_path):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "mine").write_text("mine")
        with pytest.raises(ValueError, match="is there already"):
            export(weights["plain"], tmp_path / "x", "litert")
        assert (tmp_path / "x" / "mine").read_text() == "mine"
        with pytest.raises(ValueError, match="is there already"):
            export(weights["plain"], tmp_path / "x" / "mine", "litert")

    def test_that_is_empty_is_filled(self, weights, tmp_path):
        (tmp_path / "x").mkdir()
        export(weights["plain"], tmp_path / "x", "litert")
        assert {path.name for path in (tmp_path / "x").iterdir()} == {"model.tflite", "model_card.json"}

    def test_of_a_run_that_was_killed_is_begun_anew(self, weights, tmp_path):
        partial = tmp_path / ".x.partial"
        (partial / "variables").mkdir(parents=True)
        (partial / "saved_model.pb").write_bytes(b"half of it")
        card = export(weights["plain"], tmp_path / "x", "litert")
        assert set(card["files"]) == {"model.tflite"}
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_of_another_run_at_work_is_left_alone(self, weights, tmp_path):
        partial = tmp_path / ".x.partial"
        lock = locked_folder(partial, "tfdfd export")
        (partial / "half").write_bytes(b"of it")
        try:
            with pytest.raises(ValueError, match="another 'tfdfd export' is at work"):
                export(weights["plain"], tmp_path / "x", "litert")
        finally:
            os.close(lock)
        assert (partial / "half").exists()

    def test_that_cannot_be_made_is_an_error_of_the_system(self, weights, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            export(weights["plain"], tmp_path / "file" / "x", "litert")


class TestCommand:
    def test_prints_the_answer_and_nothing_else(self, weights, tmp_path, run_tfdfd):
        code, answer, errors = run_tfdfd("export", weights["plain"], "-o", tmp_path / "x", "--format", "onnx")
        assert code == 0, errors
        lines = answer.splitlines()
        assert lines[0].startswith("fake_probability: ") and lines[0].endswith(" from Keras at most")
        assert lines[1] == "compared on 16 crops; 1e-05 are allowed"
        assert len(lines) == 4 and lines[3].endswith("model_card.json")
        assert errors == f"tfdfd export: writing and verifying {weights['plain']} as onnx\n"

    @pytest.mark.parametrize(
        "words, message",
        [
            (("tfdfd/meso5", "-o", "x"), "did you mean"),
            (("nothing.safetensors", "-o", "x"), "there is no weights file"),
            (("tfdfd/meso_inception4", "-o", "x", "--format", "onx"), "did you mean onnx"),
            (("tfdfd/meso_inception4",), "-o"),
        ],
    )
    def test_wrong_usage_is_said(self, run_tfdfd, tmp_path, monkeypatch, words, message):
        monkeypatch.chdir(tmp_path)
        code, answer, errors = run_tfdfd("export", *words)
        assert (code, answer) == (2, "") and message in errors
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("library, format", [("onnxruntime", "onnx"), ("ai_edge_litert.interpreter", "litert")])
    def test_a_missing_library_names_the_extra(self, weights, tmp_path, monkeypatch, run_tfdfd, library, format):
        monkeypatch.setitem(sys.modules, library, None)
        asked = {"litert": "TFLite"}.get(format, format)  # its earlier name
        code, _, errors = run_tfdfd("export", weights["plain"], "-o", tmp_path / "x", "--format", asked)
        assert code == 2 and "tfdfd[export]" in errors
        assert list(tmp_path.iterdir()) == []


def test_weights_of_the_mesonet_authors_come_out_as_fake_probability(data, tmp_path):
    file = data / "mesonet" / "weights" / "Meso4_DF.h5"
    card = export(file, tmp_path / "x", "litert")
    assert (card["handle"], card["polarity"]) == ("tfdfd/meso4.df", "fake=1")
    crops = proof_images(256)[-4:] / np.float32(255)
    np.testing.assert_allclose(asked(tmp_path / "x", "litert")(crops), load(*locate(file))(crops), atol=1e-5)
