"""Publishing: a version is whole and in the manifest, or the hub is as it was."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import ROOT
from tests.publishers import EXPORTED, MODEL, PUBLISHED_MODEL, copy, publish_and_die, publish_as_told
from tfdfd.hub import Handle, HubError
from tfdfd.hub.manifest import Manifest, check_folder, version_in
from tfdfd.hub.presets import from_preset
from tfdfd.hub.publish import publish
from tfdfd.hub.uploads import prepare_kaggle, prepare_upload
from tfdfd.models import load
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.store import digest, locate

posix = pytest.mark.skipif(os.name != "posix", reason="kills")


def check_hub(root):
    """Raises unless all that the manifest names is whole; returns what it names."""
    manifest = Manifest.decode((root / "manifest.json").read_bytes(), "manifest")
    for model, versions in manifest.models.items():
        for number, version in versions.items():
            check_folder(root, root / model / str(number), version, model)
    return {model: sorted(versions) for model, versions in manifest.models.items()}


def test_a_version_is_added_and_the_others_stay(tmp_path):
    first = publish(PUBLISHED_MODEL, tmp_path / "hub", 1, export=copy)
    second = publish(PUBLISHED_MODEL, tmp_path / "hub", 3, export=copy)
    assert check_hub(tmp_path / "hub") == {MODEL: [1, 3]}
    assert str(second.handle) == f"{PUBLISHED_MODEL}/3" and first.manifest_sha256 != second.manifest_sha256
    assert not [entry for entry in os.listdir(tmp_path / "hub") if entry.startswith(".")]


def test_a_version_is_never_written_over(tmp_path):
    publish(PUBLISHED_MODEL, tmp_path, 2, export=copy)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(HubError, match="a version is never changed; the next free one is 3"):
        publish(PUBLISHED_MODEL, tmp_path, 2, export=copy)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_that_the_manifest_does_not_name_is_not_written_over(tmp_path):
    publish(PUBLISHED_MODEL, tmp_path, 1, export=copy)
    (tmp_path / MODEL / "2").mkdir()
    with pytest.raises(HubError, match="is there, but .* does not name it"):
        publish(PUBLISHED_MODEL, tmp_path, 2, export=copy)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.odt").write_text("")
    with pytest.raises(HubError, match="holds 'thesis.odt', but no hub"):
        publish(PUBLISHED_MODEL, tmp_path, 1, export=copy)
    assert os.listdir(tmp_path) == ["thesis.odt"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "hub").write_text("")
    with pytest.raises(HubError, match="is not a folder"):
        publish(PUBLISHED_MODEL, tmp_path / "hub", 1, export=copy)


@pytest.mark.parametrize("number", [0, -1, 10**9, 1.5, True, "1"])
def test_versions_are_numbers(tmp_path, number):
    with pytest.raises(HubError, match="whole numbers from 1 on"):
        publish(PUBLISHED_MODEL, tmp_path, number, export=copy)


@pytest.mark.parametrize("name", ["../x", "Meso", "a/b", "1x", "x" * 200, "meso4.", ".x", "manifest.json/x"])
def test_names_are_plain(tmp_path, name):
    with pytest.raises(HubError, match="is named like a network"):
        publish(PUBLISHED_MODEL, tmp_path, 1, name, export=copy)


def test_weights_that_are_unknown_are_an_error_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="no weights are known as"):
        publish("tfdfd/resnet152", tmp_path / "hub", 1)
    assert not (tmp_path / "hub").exists()


def test_an_export_that_fails_leaves_the_hub_as_it_was(tmp_path):
    publish(PUBLISHED_MODEL, tmp_path, 1, export=copy)

    def fails(model, folder):
        copy(model, folder)
        raise ValueError("not equal")

    with pytest.raises(ValueError, match="not equal"):
        publish(PUBLISHED_MODEL, tmp_path, 2, export=fails)
    assert check_hub(tmp_path) == {MODEL: [1]} and sorted(os.listdir(tmp_path)) == ["manifest.json", MODEL]


def test_a_link_in_what_was_exported_is_refused(tmp_path):
    def links(model, folder):
        copy(model, folder)
        (folder / "extra").symlink_to("/etc/passwd")

    with pytest.raises(HubError, match="is a link"):
        publish(PUBLISHED_MODEL, tmp_path, 1, export=links)
    assert check_hub(tmp_path) == {}


def test_an_altered_manifest_is_not_written_over(tmp_path):
    publish(PUBLISHED_MODEL, tmp_path, 1, export=copy)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(HubError, match="is not JSON"):
        publish(PUBLISHED_MODEL, tmp_path, 2, export=copy)
    assert (tmp_path / "manifest.json").read_text() == "{"


@posix
@pytest.mark.parametrize(
    ("where", "after"),
    [
        ("in the export", [1]),
        ("before the rename", [1]),
        ("after the rename", [1]),
        ("half of the manifest", [1]),
        ("after the manifest", [1, 2]),
    ],
)
def test_a_publisher_that_is_killed_leaves_a_hub(tmp_path, where, after):
    publish(PUBLISHED_MODEL, tmp_path, 1, export=copy)
    child = multiprocessing.get_context("spawn").Process(target=publish_and_die, args=(tmp_path, where))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert check_hub(tmp_path) == {MODEL: after}
    # TF Serving looks at numbers only, and finds whole versions under them.
    for folder in (tmp_path / MODEL).iterdir():
        assert folder.name.isdigit() and (folder / "saved_model.pb").is_file()
    publish(PUBLISHED_MODEL, tmp_path, 5, export=copy)
    assert check_hub(tmp_path) == {MODEL: [*after, 5]}
    assert not [entry for entry in os.listdir(tmp_path) if entry.startswith(".tfdfd-publish-")]


@posix
def test_the_first_publisher_that_is_killed_leaves_an_empty_hub(tmp_path):
    child = multiprocessing.get_context("spawn").Process(
        target=publish_and_die, args=(tmp_path / "hub", "in the export")
    )
    child.start()
    child.join(60)
    assert check_hub(tmp_path / "hub") == {}
    publish(PUBLISHED_MODEL, tmp_path / "hub", 2, export=copy)
    assert check_hub(tmp_path / "hub") == {MODEL: [2]}


# Names, and the weights beside the graph


def run_of(folder, handle, **changes):
    """The folder of a run with the carried weights, as 'tfdfd train' leaves it."""
    record, weights = locate(PUBLISHED_MODEL)
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    shutil.copy(weights, folder / "weights.safetensors")
    card = record.card | {"file": "weights.safetensors", "handle": handle}
    if changes.pop("other", None):
        # Other bytes are other weights: this array alone is another.
        arrays = read_safetensors(weights)
        save_file(
            arrays | {"fake_probability/bias": arrays["fake_probability/bias"] + 1}, folder / "weights.safetensors"
        )
        card |= {"sha256": digest(folder / "weights.safetensors")}
        card |= {"bytes": (folder / "weights.safetensors").stat().st_size}
    (folder / "weights.json").write_text(json.dumps(card))
    return folder


def test_a_run_is_published_under_its_own_name(tmp_path):
    run = run_of(tmp_path / "run", "tfdfd/meso_inception4.s1-meso", other=True)
    done = publish(run, tmp_path / "hub", 1, export=copy)
    assert str(done.handle) == "tfdfd/meso_inception4.s1-meso/1" and done.hides is None
    card = json.loads((done.folder / "model_card.json").read_text("utf-8"))
    assert card["handle"] == "tfdfd/meso_inception4.s1-meso"
    assert (
        card["weights"]["sha256"] == digest(done.folder / "weights.safetensors") == digest(run / "weights.safetensors")
    )


@pytest.mark.parametrize("handle", [PUBLISHED_MODEL, "tfdfd/Not A Name"])
def test_a_run_whose_name_is_taken_or_no_name_must_be_given_one(tmp_path, handle):
    run = run_of(tmp_path / "run", handle, other=True)
    with pytest.raises(HubError, match="--name MODEL"):
        publish(run, tmp_path / "hub", 1, export=copy)
    assert str(publish(run, tmp_path / "hub", 1, "mine", export=copy).handle) == "tfdfd/mine/1"


def test_a_name_of_carried_weights_is_told(run_tfdfd, tmp_path, exported):
    run = run_of(tmp_path / "run", "tfdfd/meso_inception4.mine", other=True)
    words = ("publish", run, "--to", tmp_path / "hub", "--version", 9, "--name", MODEL)
    code, _, err = run_tfdfd(*words)
    assert code == 0 and f"--model {PUBLISHED_MODEL}/9 means the published ones" in err


@pytest.fixture
def my_hub(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDFD_HUB_SHA256", raising=False)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "weights"))
    publish(run_of(tmp_path / "run", "tfdfd/x.y", other=True), tmp_path / "hub", 1, "my_name", export=copy)
    publish(run_of(tmp_path / "run2", "tfdfd/x.y"), tmp_path / "hub", 2, "my_name", export=copy)
    monkeypatch.setenv("TFDFD_HUB", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["my_name", "tfdfd/my_name", "tfdfd/my_name/1", "my_name/1"])
def test_weights_are_found_by_the_published_handle(my_hub, name):
    number = "1" if name.endswith("/1") else "2"
    record, path = locate(name)
    assert (record.handle, path) == ("tfdfd/my_name", my_hub / "my_name" / number / "weights.safetensors")
    assert record.threshold == locate(PUBLISHED_MODEL)[0].threshold


def test_detect_scores_with_published_weights(my_hub, run_tfdfd, tmp_path, astronaut):
    from PIL import Image

    Image.fromarray(astronaut[:256, 96:352]).save(tmp_path / "face.png")
    answers = {}
    for model in ("my_name/1", "tfdfd/my_name", PUBLISHED_MODEL):
        words = ("detect", tmp_path / "face.png", "--detector", "none", "--model", model, "--json", "-", "--quiet")
        code, out, _ = run_tfdfd(*words, "--runtime", "tensorflow")
        answers[model] = json.loads(out)
        assert code == 0
    scores = [answer["results"][0]["fake_probability"] for answer in answers.values()]
    assert scores[0] > scores[1] == scores[2]
    assert answers["tfdfd/my_name"]["model"]["handle"] == "tfdfd/my_name"


def test_a_published_model_is_shown(my_hub, run_tfdfd):
    code, out, _ = run_tfdfd("models", "show", "tfdfd/my_name")
    assert code == 0 and json.loads(out)["handle"] == "tfdfd/my_name" and json.loads(out)["licence"]


def test_published_names_are_near_matches_and_versions_are_listed(my_hub):
    with pytest.raises(ValueError, match="did you mean tfdfd/my_name"):
        locate("tfdfd/my_nam")
    with pytest.raises(ValueError, match="has no version 7; there is 1, 2"):
        locate("tfdfd/my_name/7")
    with pytest.raises(ValueError, match="answers with features"):
        locate("tfdfd/my_name/feature_vector")
    with pytest.raises(ValueError, match="there is no weights file 'zzz'"):
        locate("zzz")


def test_altered_weights_of_a_hub_are_refused(my_hub):
    file = my_hub / "my_name" / "2" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="was altered"):
        locate("tfdfd/my_name")


def test_a_pulled_model_is_found_without_its_hub(my_hub, run_tfdfd, monkeypatch):
    monkeypatch.delenv("TFDFD_HUB")
    with pytest.raises(ValueError, match="no weights are known"):
        locate("tfdfd/my_name")
    code, out, _ = run_tfdfd("models", "pull", "tfdfd/my_name", "--from", my_hub)
    assert code == 0 and out.startswith("tfdfd/my_name: ")
    shutil.rmtree(my_hub)
    assert locate("tfdfd/my_name")[0].handle == "tfdfd/my_name"


def test_weights_of_a_saved_model_without_their_file_are_read_from_it(my_hub):
    """As older hubs have it."""
    folder = my_hub / "old" / "1"
    shutil.copytree(EXPORTED, folder)
    manifest = Manifest.decode((my_hub / "manifest.json").read_bytes(), "manifest")
    (my_hub / "manifest.json").write_bytes(manifest.with_version("old", 1, version_in(folder, "old")).encoded())
    record, path = locate("tfdfd/old")
    assert (record.handle, record.polarity) == ("tfdfd/old", "fake=1")
    wanted = read_safetensors(locate(PUBLISHED_MODEL)[1])
    found = read_safetensors(path)
    assert wanted.keys() == found.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert locate("tfdfd/old")[1] == path


@posix
@pytest.mark.parametrize(
    ("numbers", "done"), [pytest.param([1, 2, 3, 4, 5, 6], 6, marks=pytest.mark.slow), ([7, 8, 7, 8], 2)]
)
def test_many_publish_at_once(tmp_path, numbers, done):
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    children = [context.Process(target=publish_as_told, args=(tmp_path, number, told)) for number in numbers]
    for child in children:
        child.start()
    answers = [told.get() for _ in children]
    for child in children:
        child.join(60)
    assert answers.count("done") == done and check_hub(tmp_path) == {MODEL: sorted(set(numbers))}
    assert all("never changed" in answer for answer in answers if answer != "done")


@pytest.mark.slow
def test_a_run_is_exported_published_and_loaded(run_tfdfd, tmp_path, monkeypatch):
    """Nothing in the place of anything: a run's folder, the export, the hub, the layer."""
    run = run_of(tmp_path / "run", "tfdfd/meso_inception4.s1-meso-inception4", other=True)
    code, out, _ = run_tfdfd("publish", run, "--to", tmp_path / "hub", "--version", 8)
    handle = f"{PUBLISHED_MODEL}.s1-meso-inception4"
    assert code == 0 and f"{handle}/8: " in out
    monkeypatch.delenv("TFDFD_HUB_SHA256", raising=False)
    monkeypatch.setenv("TFDFD_HUB", str(tmp_path / "hub"))
    assert run_tfdfd("models", "verify", tmp_path / "hub")[0] == 0

    import numpy as np

    import tfdfd
    from tfdfd.models import build

    images = np.random.default_rng(0).random((2, 256, 256, 3), np.float32)
    layer, network = tfdfd.HubLayer(handle), build("meso_inception4", weights=handle)
    assert layer.handle == f"{handle}/8"
    np.testing.assert_allclose(np.asarray(layer(images)), np.asarray(network(images, training=False)), atol=1e-6)


# Kaggle


def test_an_upload_to_kaggle_is_prepared_and_not_sent(tmp_path):
    done = publish(PUBLISHED_MODEL, tmp_path / "hub", 4, export=copy)
    call = prepare_kaggle(done.handle, done.folder, tmp_path / "upload")
    model = json.loads((tmp_path / "upload" / "model-metadata.json").read_text("utf-8"))
    variation = json.loads((tmp_path / "upload" / "default" / "model-instance-metadata.json").read_text("utf-8"))
    assert model["slug"] == variation["modelSlug"] == "tfdfd-meso-inception4" and model["isPrivate"] is True
    assert variation["framework"] == "tensorFlow2" and variation["instanceSlug"] == "default"
    # Kaggle has no name for the licence of these weights, so none is claimed.
    assert variation["licenseName"] == "INSERT_LICENSE_HERE" and "research use only" in model["description"]
    files = {path.relative_to(done.folder) for path in done.folder.rglob("*") if path.is_file()}
    target = tmp_path / "upload" / "default"
    uploaded = {path.relative_to(target) for path in target.rglob("*") if path.is_file()}
    assert uploaded - files == {Path("model-instance-metadata.json")} and not files - uploaded
    calls = []
    stand_in = type("kagglehub", (), {"model_upload": lambda *words, **names: calls.append((words, names))})
    exec(call.replace("import kagglehub\n", ""), {"kagglehub": stand_in})
    ((handle, folder), names) = calls[0]
    assert handle == "INSERT_OWNER_SLUG_HERE/tfdfd-meso-inception4/tensorFlow2/default" and folder == str(target)
    assert names["version_notes"] == f"{PUBLISHED_MODEL}/4"


def test_an_upload_is_not_written_over(tmp_path):
    (tmp_path / "upload").mkdir()
    with pytest.raises(HubError, match="is there already"):
        prepare_kaggle(publish(PUBLISHED_MODEL, tmp_path / "hub", 1, export=copy).handle, EXPORTED, tmp_path / "upload")


# Hugging Face, and what was prepared for either read back

PLACES = ("hf://alice/deep.faces", "kaggle://alice/deep-faces", "kaggle://alice/deep-faces/tensorFlow2/small")


def ran(code, **library):
    """Calls that the printed code makes, with a stand-in for the library."""
    calls = []

    def record(name):
        return lambda *words, **options: calls.append((name, words, options))

    stand_in = type("library", (), {name: staticmethod(record(name)) for name in library["functions"]})
    imported, _, rest = code.partition("\n")
    exec(rest, {imported.removeprefix("import "): stand_in})
    return calls


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """`(code, folder)` of what is prepared for each place."""
    root = tmp_path_factory.mktemp("uploads")
    done = publish(PUBLISHED_MODEL, root / "hub", 4, export=copy)
    folders = [root / str(number) for number in range(len(PLACES))]
    return {
        place: (prepare_upload(place, done.handle, done.folder, folder), folder)
        for place, folder in zip(PLACES, folders, strict=True)
    }


def test_an_upload_to_hugging_face_has_its_card_and_is_not_sent(uploads):
    import yaml

    code, folder = uploads[PLACES[0]]
    (_, (repository,), created), (_, _, uploaded) = ran(code, functions=("create_repo", "upload_folder"))
    assert repository == uploaded["repo_id"] == "alice/deep.faces" and created["private"]
    assert uploaded["folder_path"] == str(folder) and uploaded["commit_message"] == f"{PUBLISHED_MODEL}/4"
    _, header, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    # Hugging Face has no name for these terms; they lie beside the card.
    assert (card["license"], card["license_link"]) == ("other", "LICENSE.txt") and card["license_name"].islower()
    assert "research use only" in (folder / "LICENSE.txt").read_text("utf-8")
    assert (card["library_name"], card["pipeline_tag"]) == ("tfdfd", "image-classification")
    assert "deepfake-detection" in card["tags"] and "roc_auc" in card["metrics"]
    (index,) = card["model-index"]
    rows = [row for row in locate(PUBLISHED_MODEL)[0].card["scores"] if row["weights"] == "these"]
    aucs = [one for result in index["results"] for one in result["metrics"] if one["type"] == "roc_auc"]
    assert [one["value"] for one in aucs] == [row["auc"] for row in rows if "auc" in row]
    assert all(" real and " in one["name"] and " level" in one["name"] for one in aucs)
    assert any("95 % interval" in one["name"] for one in aucs)
    assert locate(PUBLISHED_MODEL)[0].card["protocol"] in text and f'from_preset("{PLACES[0]}")' in text


def test_hugging_face_reads_the_card(uploads):
    library = pytest.importorskip("huggingface_hub", reason="pip install 'tfdfd[presets]'")
    card = library.ModelCard.load(uploads[PLACES[0]][1] / "README.md")
    assert card.data.license == "other" and card.data.library_name == "tfdfd"
    assert card.data.model_name == f"{PUBLISHED_MODEL}/4"
    assert {result.metric_type for result in card.data.eval_results} >= {"roc_auc", "balanced_accuracy"}


def test_a_base_and_a_license_are_named_as_hugging_face_has_them(tmp_path):
    folder = shutil.copytree(EXPORTED, tmp_path / "version")
    card = json.loads((folder / "model_card.json").read_text("utf-8"))
    base = {"base": {"what": "the image tower of CLIP ViT-B/16 in int8"}, "licence": "MIT", "scores": []}
    (folder / "model_card.json").write_text(json.dumps(card | base), encoding="utf-8")
    prepare_upload(PLACES[0], Handle("x", 1), folder, tmp_path / "upload")
    text = (tmp_path / "upload" / "README.md").read_text("utf-8")
    assert '\nlicense: "mit"\n' in text and '\nbase_model: "openai/clip-vit-base-patch16"\n' in text
    assert "license_name" not in text and "model-index" not in text


def test_kaggle_takes_the_handle(uploads):
    for place, variation in zip(PLACES[1:], ("default", "small"), strict=True):
        code, folder = uploads[place]
        ((_, (handle, uploaded), _),) = ran(code, functions=("model_upload",))
        assert handle == f"alice/deep-faces/tensorFlow2/{variation}" and uploaded == str(folder / variation)
        model = json.loads((folder / "model-metadata.json").read_text("utf-8"))
        instance = json.loads((folder / variation / "model-instance-metadata.json").read_text("utf-8"))
        assert (model["ownerSlug"], model["slug"]) == (instance["ownerSlug"], instance["modelSlug"])
        assert (model["ownerSlug"], instance["instanceSlug"]) == ("alice", variation)
    parse = pytest.importorskip("kagglehub.handle", reason="pip install 'tfdfd[presets]'").parse_model_handle
    assert parse(handle).owner == "alice" and not parse(handle).is_versioned()


@pytest.mark.parametrize("place", PLACES)
def test_what_was_prepared_loads_back_to_the_same_scores(uploads, place, monkeypatch):
    """From the folder, and from the address, whose library finds it."""
    folder = uploads[place][1]
    images = np.random.default_rng(0).random((2, 256, 256, 3), np.float32)
    wanted = np.asarray(load(*locate(PUBLISHED_MODEL))(images, training=False))
    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(folder if place.startswith("hf") else folder / name.split("/")[3])

    for name, function in (("huggingface_hub", "snapshot_download"), ("kagglehub", "model_download")):
        monkeypatch.setitem(sys.modules, name, type(name, (), {function: staticmethod(fetch)}))
    versioned = {PLACES[0]: "@v2", PLACES[2]: "/3"}.get(place, "")
    for preset in (folder, str(folder), place + versioned):
        np.testing.assert_array_equal(np.asarray(from_preset(preset)(images, training=False)), wanted)
    if place.startswith("hf"):
        assert asked == [("alice/deep.faces", {"revision": "v2", "allow_patterns": ["model_card.json", "weights.*"]})]
    else:
        assert asked == [(f"alice/deep-faces/tensorFlow2/{'small/3' if versioned else 'default'}", {})]


def test_presets_that_are_none_say_what_is_expected(uploads, tmp_path, monkeypatch):
    for address in ("hf://alice", "hf://alice/../x", "kaggle://alice/x/keras/y", "kaggle://Alice/x", "hf://a/b/c"):
        with pytest.raises(HubError, match="is not a place for a model: expected hf://OWNER/NAME"):
            from_preset(address)
    for name, address in (("huggingface_hub", "hf://alice/x"), ("kagglehub", "kaggle://alice/x1")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(HubError, match=rf"need {name}, which is not installed: run pip install 'tfdfd\[presets\]'"):
            from_preset(address)
    library = type("library", (), {"snapshot_download": staticmethod(lambda *_, **__: os.listdir(tmp_path / "absent"))})
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    with pytest.raises(HubError, match="hf://alice/x could not be fetched"):
        from_preset("hf://alice/x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no weights file"):
        from_preset(tmp_path / "empty")
    altered = shutil.copytree(uploads[PLACES[0]][1], tmp_path / "altered")
    data = bytearray((altered / "weights.safetensors").read_bytes())
    (altered / "weights.safetensors").write_bytes(data[:-1] + b"x")
    with pytest.raises(ValueError, match="its sha256 is .*, expected"):
        from_preset(altered)
    (altered / "weights.safetensors").unlink()
    with pytest.raises(HubError, match="has no weights file 'weights.safetensors'"):
        from_preset(altered)


def test_mlflow_keeps_what_was_prepared(uploads, tmp_path):
    """The example of the document."""
    python = os.environ.get("TFDFD_MLFLOW", sys.executable)
    if subprocess.run([python, "-c", "import mlflow.pyfunc, pandas"], capture_output=True).returncode:
        pytest.skip("no MLflow with pandas: install it, or name a Python that has it in $TFDFD_MLFLOW")
    section = (ROOT / "docs/hub.md").read_text("utf-8").split("## MLflow")[1].split("\n## ")[0]
    code, program = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "faces.py").write_text(code)
    shutil.copytree(uploads[PLACES[0]][1], tmp_path / "upload")
    lines = program.strip().splitlines()
    program = "\n".join([*lines[:-1], f"print({lines[-1]}.tolist())"])
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    black = np.asarray(load(*locate(PUBLISHED_MODEL))(np.zeros((2, 256, 256, 3), np.float32), training=False))
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), black, atol=1e-6)


# The command line


@pytest.fixture
def exported(monkeypatch):
    monkeypatch.setattr("tfdfd.publishing.exporting.export", copy)


def test_the_command_says_what_to_set(run_tfdfd, exported, tmp_path):
    code, out, _ = run_tfdfd("publish", PUBLISHED_MODEL, "--to", tmp_path / "hub", "--version", 1, "--name", "mine.v-1")
    assert code == 0 and "tfdfd/mine.v-1/1: " in out and f"TFDFD_HUB={tmp_path / 'hub'}" in out
    assert run_tfdfd("publish", PUBLISHED_MODEL, "--to", tmp_path / "hub", "--version", 1, "--name", "mine.v-1")[0] == 2


def test_the_command_prepares_for_kaggle(run_tfdfd, exported, tmp_path):
    words = ("publish", PUBLISHED_MODEL, "--to", tmp_path / "hub", "--kaggle", tmp_path / "upload", "--version")
    code, out, _ = run_tfdfd(*words, 1)
    assert code == 0 and "kagglehub.model_upload(" in out and (tmp_path / "upload" / "model-metadata.json").is_file()
    assert run_tfdfd(*words, 2)[0] == 2
    assert check_hub(tmp_path / "hub") == {MODEL: [1]}


def test_the_command_prepares_for_hugging_face(run_tfdfd, exported, tmp_path):
    words = ("publish", PUBLISHED_MODEL, "--to", "hf://alice/faces", "-o", tmp_path / "upload")
    code, out, _ = run_tfdfd(*words)
    assert code == 0 and f"{PUBLISHED_MODEL}/1 for hf://alice/faces: {tmp_path / 'upload'}" in out
    assert "huggingface_hub.upload_folder(" in out and (tmp_path / "upload" / "README.md").is_file()
    for more, message in (
        ((), "is there already"),
        (("-o", tmp_path / "x", "--sign", "key.pem"), "--sign go with a hub"),
        (("-o", tmp_path / "x", "--to", "hf://alice"), "is not a place for a model"),
        (("--to", tmp_path / "hub", "--version", 1), "-o is the folder of an upload"),
        (("--to", tmp_path / "hub"), "give --version N"),
    ):
        code, _, err = run_tfdfd(*words, *more)
        assert code == 2 and message in err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["upload"]


def test_verify_tells_all_some_none(run_tfdfd, tmp_path, monkeypatch):
    monkeypatch.delenv("TFDFD_HUB_SHA256", raising=False)
    monkeypatch.delenv("TFDFD_HUB", raising=False)
    for number in (1, 2):
        publish(PUBLISHED_MODEL, tmp_path / "hub", number, export=copy)
    verify = ("models", "verify", tmp_path / "hub")
    code, out, _ = run_tfdfd(*verify)
    assert code == 0 and out.count("ok ") == 2
    (tmp_path / "hub" / MODEL / "1" / "model_card.json").write_text("{}")
    code, out, _ = run_tfdfd(*verify)
    assert code == 3 and f"broken {PUBLISHED_MODEL}/1" in out and f"ok     {PUBLISHED_MODEL}/2" in out
    monkeypatch.setenv("TFDFD_HUB", str(tmp_path / "hub"))
    assert run_tfdfd("models", "verify", f"{PUBLISHED_MODEL}/2")[0] == 0
    assert run_tfdfd("models", "verify", f"{PUBLISHED_MODEL}/1")[0] == 1
    shutil.rmtree(tmp_path / "hub" / MODEL / "2")
    assert run_tfdfd(*verify)[0] == 1
    assert run_tfdfd("models", "verify", tmp_path / "absent")[0] == 2
    (tmp_path / "hub" / "manifest.json").write_text("{")
    assert run_tfdfd(*verify)[0] == 2


def test_verify_wants_a_card(run_tfdfd, tmp_path, monkeypatch):
    def without(model, folder):
        copy(model, folder)
        (folder / "model_card.json").write_text(json.dumps({"model": "meso4"}))

    monkeypatch.delenv("TFDFD_HUB_SHA256", raising=False)
    publish(PUBLISHED_MODEL, tmp_path, 1, export=without)
    code, out, _ = run_tfdfd("models", "verify", tmp_path)
    assert code == 1 and "model_card.json is not a model card" in out


def test_the_carried_models_are_verified(run_tfdfd):
    code, out, _ = run_tfdfd("models", "verify")
    assert code == 0 and f"ok     {PUBLISHED_MODEL}/1" in out
