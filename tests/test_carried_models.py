"""Networks that the package carries as weights: they answer under their handles, are made once, whole or not at all."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import tfdfd
from tests.seeded import fill
from tests.test_hub import Server
from tfdfd import weights
from tfdfd.hub import Handle, HubError
from tfdfd.hub import bundled as bundled_module
from tfdfd.hub.bundled import FOLDER, FromWeights, export_weights
from tfdfd.hub.publish import publish
from tfdfd.hub.resolve import bundled, find, look_up
from tfdfd.hub.stripped import SUFFIX, restore
from tfdfd.hub.weights import pull
from tfdfd.models import build, load
from tfdfd.runtime.networks import proof_crops
from tfdfd.weights import CARRIED, LARGE, MAX_CARRIED_BYTES, base_of, folder_for, is_large, list_records, store
from tfdfd.weights.saving import named_weights, save_weights
from tfdfd.weights.store import locate, where
from tools.strip_saved_models import can_be_stripped, strip

# The one whose SavedModel the repository carries.
PUBLISHED_MODEL = "tfdfd/meso_inception4"

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "saved_models" / "meso_inception4" / "1"
TOY = "tfdfd/meso4.toy"

posix = pytest.mark.skipif(os.name != "posix", reason="kills")


pytestmark = pytest.mark.usefixtures("carried_hub_only")


# What the package carries


HANDLES = [
    pytest.param(handle, marks=pytest.mark.slow if is_large(record.card) or base_of(record) else ())
    for handle, record in list_records().items()
    if record.carried or base_of(record)
]


@pytest.mark.parametrize("handle", HANDLES)
def test_a_carried_network_answers_as_its_card_says_and_is_tuned(handle):
    if not list_records()[handle].carried:
        pytest.skip(f"the base of {handle} is not on this machine: set TFDFD_CLIP to its wheel")
    layer = tfdfd.HubLayer(handle, trainable=True)
    size = layer.network.input_shape[1]
    model = keras.Sequential([keras.Input((size, size, 3)), layer])
    crops = proof_crops(size) / np.float32(255)
    told = list_records()[handle].card["proof_scores"]
    assert np.asarray(model(crops, training=False))[:, 0] == pytest.approx(told, abs=1e-4)

    before = [keras.ops.convert_to_numpy(weight) for weight in layer.trainable_weights]
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", run_eagerly=True)
    assert np.isfinite(model.train_on_batch(crops[:2], np.array([[0.0], [1.0]])))
    pairs = zip(before, layer.trainable_weights, strict=True)
    changed = sum(bool((old != keras.ops.convert_to_numpy(new)).any()) for old, new in pairs)
    assert changed >= 0.9 * len(before) > 0


def test_each_card_has_its_file_where_it_belongs():
    for path in CARRIED.glob("*.json"):
        card = json.loads(path.read_text("utf-8"))
        file = folder_for(card) / card["file"]
        assert file.is_file(), f"{path.name} is the card of {card['file']}, which belongs into {file.parent}"
        assert (file.stat().st_size, path.stem) == (card["bytes"], Path(card["file"]).stem)
    known = {record.file for record in list_records().values() if record.carried or base_of(record)}
    files = {file.name for folder in (CARRIED, LARGE) for file in folder.glob("*.safetensors")}
    heads = {f"{Path(name).stem}.mask_head.safetensors" for name in known if name}
    assert files <= known | heads, "weights without a card"


def test_what_is_published_is_of_the_carried_weights():
    """Whoever carries new weights publishes anew, or says a higher version in their card."""
    for model, versions in bundled().manifest().models.items():
        record = list_records()[f"tfdfd/{model}"]
        for number, version in versions.items():
            if not isinstance(version, FromWeights):
                card = json.loads((ROOT / "saved_models" / model / str(number) / "model_card.json").read_text("utf-8"))
                newest = number >= record.card.get("version", 1)
                assert card["weights"]["sha256"] == record.sha256 or not newest


def test_the_repository_stays_small():
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).is_file()}
    assert sum(sizes.values()) < 60e6, sorted(sizes.items(), key=lambda item: -item[1])[:10]
    in_wheel = [size for name, size in sizes.items() if name.startswith(("tfdfd/", "saved_models/"))]
    assert sum(in_wheel) < 15e6


# SavedModels without their numbers


def test_each_network_of_one_file_has_its_graph_and_is_restored_as_it_was_published(tmp_path, monkeypatch):
    """Without TensorFlow; `restore` compares every file with the digest in the card."""
    monkeypatch.setattr(bundled_module, "_in_a_process", lambda *_: pytest.fail("was exported"))
    records = {handle: record for handle, record in list_records().items() if can_be_stripped(record)}
    assert len(records) >= 4
    for handle, record in records.items():
        model = handle.removeprefix("tfdfd/")
        archive = ROOT / "saved_models" / f"{model}{SUFFIX}"
        if record.bytes > 10e6:  # may do without; not written here, which would take 150 MB
            if archive.is_file():
                with tarfile.open(archive) as opened:
                    facts = json.loads(opened.extractfile("facts.json").read())
                assert facts["weights"]["sha256"] == record.sha256
            continue
        assert archive.is_file(), f"run 'python -m tools.strip_saved_models {handle}'"
        folder = export_weights(model, 1, look_up(Handle.parse(handle))[2])
        card = json.loads((folder / "model_card.json").read_text("utf-8"))
        assert card["handle"] == handle and card["threshold"] == record.threshold and card["scores"]
        assert set(card["files"]) | {"model_card.json"} == {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }


def test_stripping_and_restoring_changes_no_byte(tmp_path):
    record, weights = locate(PUBLISHED_MODEL)
    archive = tmp_path / "x.tar.xz"
    archive.write_bytes(strip(PUBLISHED, record, weights))
    assert archive.stat().st_size < 0.4 * sum(path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file())
    assert restore(archive, record, weights, tmp_path / "restored")
    for path in json.loads((PUBLISHED / "model_card.json").read_text("utf-8"))["files"]:
        assert (tmp_path / "restored" / path).read_bytes() == (PUBLISHED / path).read_bytes(), path

    assert not restore(archive, replace(record, sha256="0" * 64), weights, tmp_path / "other")
    assert not restore(tmp_path / "absent.tar.xz", record, weights, tmp_path / "other")
    data = archive.read_bytes()
    for damaged in (data[: len(data) // 2], b"no archive", data[:-1000] + bytes(1000)):
        archive.write_bytes(damaged)
        with pytest.raises(HubError, match="is damaged.*install tfdfd again"):
            restore(archive, record, weights, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# A set of weights that the package carries for these tests only


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Folder with compact weights of a seeded network, and their card."""
    folder = tmp_path_factory.mktemp("toy")
    model = build("meso4", input_shape=(64, 64, 3))
    fill(named_weights(model).items())
    file = folder / "meso4.toy.safetensors"
    save_weights(model, file, "float16")
    data = file.read_bytes()
    card = {"handle": TOY, "model": "meso4", "file": file.name, "bytes": len(data), "input_shape": [64, 64, 3]}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
    card |= {"polarity": "fake=1", "threshold": 0.5}
    path = file.with_suffix(".json")
    path.write_text(json.dumps(card))
    scores = np.asarray(load(*locate(file))(proof_crops(64) / np.float32(255), training=False))[:, 0]
    path.write_text(json.dumps(card | {"proof_scores": [round(float(score), 6) for score in scores]}))
    return folder


@pytest.fixture
def package(toy, tmp_path, monkeypatch):
    """The folders of carried weights: `files`, which holds the toy's, and `large`."""
    shutil.copytree(toy, tmp_path / "files")
    monkeypatch.setattr(weights, "CARRIED", tmp_path / "files")
    for module in (weights, store):
        monkeypatch.setattr(module, "LARGE", tmp_path / "large_weights")
    return tmp_path


def change_card(package, **changes):
    path = package / "files" / "meso4.toy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def copy(_, folder):
    """In the place of the export, which takes seconds: the default model's, with the scores of the toy."""
    shutil.copytree(PUBLISHED, folder)
    card = json.loads((folder / "model_card.json").read_text("utf-8"))
    card["proof_scores"] = json.loads(os.environ["TOY_SCORES"])
    (folder / "model_card.json").write_text(json.dumps(card))


@pytest.fixture
def made(package, monkeypatch):
    """Exports that were made, each by copying."""
    made = []

    def make(handle, weights, hub):
        made.append(str(handle))
        publish(str(weights), hub, handle.version, handle.model, export=copy)

    monkeypatch.setattr(bundled_module, "_in_a_process", make)
    scores = json.loads((package / "files" / "meso4.toy.json").read_text())["proof_scores"]
    monkeypatch.setenv("TOY_SCORES", json.dumps(scores))
    return made


def test_weights_become_a_saved_model_that_scores_serves_and_is_tuned(package, capfd, monkeypatch):
    """Nothing in the place of anything."""
    import tensorflow as tf

    # What the asking process computes in has no part in it.
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    found = find(f"{TOY}/feature_vector")
    assert "making a SavedModel of the weights of tfdfd/meso4.toy, once, in" in capfd.readouterr().err
    assert found.path == found.folder / "feature_vector" and found.handle == Handle("meso4.toy", 1, True)
    assert find(TOY).path == find(f"{TOY}/1").path == found.folder
    assert capfd.readouterr().err == ""

    record, weights = locate(TOY)
    crops = proof_crops(64) / np.float32(255)
    loaded = tf.saved_model.load(str(found.folder))
    assert loaded(crops).numpy()[:, 0] == pytest.approx(record.card["proof_scores"], abs=1e-4)
    card = json.loads((found.folder / "model_card.json").read_text("utf-8"))
    assert card["weights"]["sha256"] == record.sha256 and card["handle"] == TOY
    assert tf.saved_model.load(str(found.path))(crops).shape == (8, 16)

    direct = tfdfd.HubLayer(TOY)
    assert direct.handle == f"{TOY}/1"
    np.testing.assert_allclose(np.asarray(direct(crops)), loaded(crops).numpy(), atol=1e-5)

    assert np.isfinite(loaded(crops, training=True)).all()
    losses = []
    for _ in range(4):
        with tf.GradientTape() as tape:
            # Without dropout, which makes single losses incomparable.
            losses.append(tf.reduce_mean(loaded(crops, training=False)))
        for variable, gradient in zip(
            loaded.trainable_variables, tape.gradient(losses[-1], loaded.trainable_variables), strict=True
        ):
            variable.assign_sub(0.1 * gradient)
    assert len(loaded.trainable_variables) > 10 and losses[-1] < losses[0] - 1e-3


def test_our_layer_needs_no_saved_model_and_asks_for_the_same_version_again(package, made):
    layer = tfdfd.HubLayer(f"{TOY}/feature_vector")
    assert not made and layer.handle == f"{TOY}/1/feature_vector"
    assert layer.compute_output_shape((2, 64, 64, 3)) == (2, 16)
    assert tfdfd.HubLayer.from_config(layer.get_config()).handle == layer.handle


def test_a_second_use_makes_nothing(made):
    folder = find(TOY).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert find(f"{TOY}/1").folder == folder and made == [f"{TOY}/1"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_weights_and_another_card_are_made_anew(package, made):
    first = find(TOY).folder
    change_card(package, threshold=0.6)
    second = find(TOY).folder
    file = package / "files" / "meso4.toy.safetensors"
    model = load(*locate(TOY))
    save_weights(model, file, "int8")
    data = file.read_bytes()
    change_card(package, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    third = find(TOY).folder
    assert len({first, second, third}) == len(made) == 3 and first.is_dir()


def test_the_cards_version_is_that_of_the_handle(package, made):
    change_card(package, version=3)
    assert find(TOY).handle.version == 3
    with pytest.raises(HubError, match="tfdfd/meso4.toy has no version 1; there is 3"):
        find(f"{TOY}/1")
    change_card(package, version="new")
    with pytest.raises(HubError, match="whole numbers from 1 on; received 'new'"):
        find(TOY)


def test_a_newer_set_of_weights_goes_before_an_older_saved_model(package, made):
    for file in (CARRIED / "meso_inception4.json", CARRIED / "meso_inception4.safetensors"):
        shutil.copy(file, package / "files")
    assert not isinstance(look_up(Handle.parse(PUBLISHED_MODEL))[2], FromWeights)
    card = package / "files" / "meso_inception4.json"
    card.write_text(json.dumps(json.loads(card.read_text("utf-8")) | {"version": 9}), encoding="utf-8")
    _, handle, version = look_up(Handle.parse(PUBLISHED_MODEL))
    assert handle.version == 9 and isinstance(version, FromWeights)
    assert find(f"{PUBLISHED_MODEL}/1").folder == PUBLISHED and not made


def test_a_hub_of_the_users_goes_first(package, made, tmp_path, monkeypatch):
    publish(TOY, tmp_path / "hub", 5, export=copy)
    monkeypatch.setenv("TFDFD_HUB", str(tmp_path / "hub"))
    assert find(TOY).folder == tmp_path / "hub" / "meso4.toy" / "5"
    assert find(f"{TOY}/1") and made == [f"{TOY}/1"]


def test_many_ask_at_once_and_it_is_made_once(made):
    folders, errors = [], []

    def ask():
        try:
            folders.append(find(TOY).folder)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(set(folders)) == 1 and made == [f"{TOY}/1"]


def make_and_die(files, where):
    weights.CARRIED = files
    rename = os.rename

    def dying(source, target):
        if where == "before the rename" and FOLDER in str(target) and "meso4.toy-" in Path(target).name:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    def make(handle, weights, hub):
        if where == "in the export":
            (hub / "meso4.toy" / "1").mkdir(parents=True)
            (hub / "meso4.toy" / "1" / "saved_model.pb").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        publish(str(weights), hub, handle.version, handle.model, export=copy)

    bundled_module._in_a_process, bundled_module.os.rename = make, dying
    find(TOY)


@posix
@pytest.mark.parametrize("where", ["in the export", "before the rename"])
def test_whoever_is_killed_leaves_nothing_half(package, made, tmp_path, where):
    child = multiprocessing.get_context("spawn").Process(target=make_and_die, args=(package / "files", where))
    child.start()
    child.join(120)
    place = tmp_path / "cache" / "tfdfd" / FOLDER
    assert child.exitcode == -signal.SIGKILL
    assert [entry.name.startswith(".tfdfd-export-") for entry in place.iterdir()] == [True]
    assert find(TOY).folder.parent.parent.parent == place and made == [f"{TOY}/1"]
    assert [entry.name.startswith("meso4.toy-") for entry in place.iterdir()] == [True]


def test_an_export_that_fails_says_why_and_leaves_nothing(package, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled_module, "_CODE", "print('noise', file=sys.stderr); sys.exit('needs tensorflow_x')")
    with pytest.raises(HubError, match="no SavedModel could be made of the weights of tfdfd/meso4.toy: needs tensorfl"):
        find(TOY)
    assert not list((tmp_path / "cache" / "tfdfd" / FOLDER).iterdir())
    monkeypatch.setattr(bundled_module, "_CODE", "import os; os._exit(7)")
    with pytest.raises(HubError, match="the process ended with 7"):
        find(TOY)


def test_weights_that_answer_otherwise_than_their_card_are_refused(package, made, tmp_path):
    scores = json.loads(os.environ["TOY_SCORES"])
    for wrong in ([scores[0] + 2e-4, *scores[1:]], scores[:-1], [float("nan"), *scores[1:]]):
        change_card(package, proof_scores=wrong)
        with pytest.raises(HubError, match="card and file do not belong together"):
            find(TOY)
    assert not list((tmp_path / "cache" / "tfdfd" / FOLDER).iterdir())


def test_altered_weights_are_refused_before_anything_is_made(package, made):
    file = package / "files" / "meso4.toy.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for ask in (find, tfdfd.HubLayer):
        with pytest.raises(ValueError, match="is not the file of tfdfd/meso4.toy: its sha256 is"):
            ask(TOY)
    assert not made


def test_an_altered_export_is_refused(made):
    path = find(TOY).folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(HubError, match="was altered.*delete .* and it is made again"):
        find(TOY)


def test_a_cache_that_cannot_be_written_is_an_error_that_says_so(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(HubError, match="bundled as weights.*could not be made in .*set .TFHUB_CACHE_DIR to a folder"):
        find(TOY)
    if os.name == "posix" and os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "closed"))
        with pytest.raises(HubError, match="could not be made in"):
            find(TOY)


@posix
def test_a_cache_that_everybody_may_write_is_refused(made, tmp_path):
    (tmp_path / "cache" / "tfdfd").mkdir(parents=True)
    (tmp_path / "cache" / "tfdfd").chmod(0o777)
    with pytest.raises(HubError, match="everybody may write there"):
        find(TOY)
    assert not made


# Weights too large for a wheel


def test_large_weights_are_found_in_the_checkout(package, made):
    (package / "large_weights").mkdir()
    file = package / "files" / "meso4.toy.safetensors"
    file.rename(package / "large_weights" / file.name)
    record = list_records()[TOY]
    assert record.carried and where(record) == "in the checkout (large_weights/)"
    assert find(TOY) and made


def test_large_weights_that_are_not_here_say_what_to_do(package, made, run_tfdfd):
    change_card(package, bytes=34_000_000)
    (package / "files" / "meso4.toy.safetensors").unlink()
    assert not list_records()[TOY].carried
    message = f"34.0 MB they are not in the wheel: run 'tfdfd models pull {TOY} --from FOLDER_OR_ADDRESS', which takes"
    for ask in (find, locate, tfdfd.HubLayer, pull):
        with pytest.raises(ValueError, match=message):
            ask(TOY)
    code, out, _ = run_tfdfd("models", "list")
    (line,) = [line for line in out.splitlines() if TOY in line]
    assert code == 0 and f"tfdfd models pull {TOY} --from FOLDER_OR_ADDRESS" in line


@pytest.fixture
def elsewhere(package):
    """A checkout whose `large_weights/` has the toy's file, which the package no longer has."""
    change_card(package, bytes=(package / "files" / "meso4.toy.safetensors").stat().st_size)
    target = package / "checkout" / "large_weights"
    target.mkdir(parents=True)
    (package / "files" / "meso4.toy.safetensors").rename(target / "meso4.toy.safetensors")
    return target.parent


def hub_of(elsewhere):
    """The toy as somebody has published it, under another name."""
    card = json.loads((elsewhere.parent / "files" / "meso4.toy.json").read_text())
    (elsewhere / "large_weights" / "meso4.toy.json").write_text(json.dumps(card))
    hub = elsewhere.parent / "hub"
    publish(elsewhere / "large_weights" / "meso4.toy.safetensors", hub, 3, "other", export=copy)
    return hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "weights"))
    return tmp_path / "weights"


SOURCES = {
    "checkout": lambda root: root,
    "large_weights": lambda root: root / "large_weights",
    "file": lambda root: root / "large_weights" / "meso4.toy.safetensors",
    "hub": hub_of,
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("how", ["folder", "address", "variable"])
def test_large_weights_are_pulled_and_found_by_all(elsewhere, made, cache, kind, how, monkeypatch, run_tfdfd):
    source = SOURCES[kind](elsewhere)
    with Server(elsewhere.parent) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        if how == "address":
            source = f"{server.address}/{source.relative_to(elsewhere.parent).as_posix()}"
        if how == "variable":
            monkeypatch.setenv("TFDFD_HUB", str(source))
        code, out, _ = run_tfdfd("models", "pull", TOY, *([] if how == "variable" else ["--from", source]))
        server.shutdown()
    assert (code, out) == (0, f"{TOY}: {cache / 'meso4.toy.safetensors'}\n")
    assert [entry.name for entry in cache.iterdir()] == ["meso4.toy.safetensors"]
    monkeypatch.delenv("TFDFD_HUB", raising=False)
    record, path = locate(TOY)
    assert where(record) == "in the cache" and path.parent == cache and load(record, path)
    assert find(TOY).handle == Handle("meso4.toy", 1) and made == [f"{TOY}/1"]
    assert tfdfd.HubLayer(TOY).handle == f"{TOY}/1"


def test_what_the_hub_lacks_comes_from_the_known_address(elsewhere, cache, monkeypatch):
    with Server(elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        change_card(elsewhere.parent, url=f"{server.address}/large_weights/meso4.toy.safetensors")
        (elsewhere.parent / "empty").mkdir()
        monkeypatch.setenv("TFDFD_HUB", str(elsewhere.parent / "empty"))
        assert pull(TOY).parent == cache
        server.shutdown()


@pytest.mark.parametrize("how", ["folder", "address"])
def test_other_bytes_are_not_pulled(elsewhere, cache, how):
    file = elsewhere / "large_weights" / "meso4.toy.safetensors"
    data = file.read_bytes()
    with Server(elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for other in (data[:-1] + b"x", data + b"x", data[:100]):
            file.write_bytes(other)
            with pytest.raises(ValueError, match="is not the expected file.*nothing was stored"):
                pull(TOY, elsewhere if how == "folder" else server.address)
            assert not cache.exists()
        file.unlink()
        with pytest.raises(ValueError, match=f"does not have the weights.*'tfdfd models pull {TOY} --from FOLDER_OR_A"):
            pull(TOY, elsewhere if how == "folder" else server.address)
        server.shutdown()
    with pytest.raises(ValueError, match="there is no '/nowhere'"):
        pull(TOY, "/nowhere")
    assert not cache.exists()


def test_a_damaged_file_in_the_cache_is_pulled_again(elsewhere, cache):
    pull(TOY, elsewhere).write_bytes(b"x")
    with pytest.raises(ValueError, match="is not the file of"):
        locate(TOY)
    pull(TOY, elsewhere)
    assert locate(TOY)


def test_folders_by_size():
    assert folder_for({"bytes": MAX_CARRIED_BYTES}) == CARRIED
    assert folder_for({"bytes": MAX_CARRIED_BYTES + 1}) == LARGE
    assert folder_for({"bytes": 1, "in_wheel": False}) == LARGE
    for member, folder in (("reseption_v1", LARGE), ("efficientnet_lite0", CARRIED)):
        assert folder_for({"bytes": 1, "members": {member: {"handle": f"tfdfd/{member}"}}}) == folder


# The command line, and the server


def test_carried_weights_are_verified_without_being_made(package, made, run_tfdfd):
    code, out, _ = run_tfdfd("models", "verify")
    assert code == 0 and f"ok     {TOY}/1  2 files, " in out and "in the package, as weights" in out and not made
    file = package / "files" / "meso4.toy.safetensors"
    file.write_bytes(b"x")
    code, out, _ = run_tfdfd("models", "verify")
    assert code == 3 and f"broken {TOY}/1" in out and f"ok     {PUBLISHED_MODEL}/1" in out


def test_one_that_is_verified_by_its_handle_is_made(made, run_tfdfd):
    code, out, _ = run_tfdfd("models", "verify", TOY)
    assert code == 0 and f"ok     {TOY}/1" in out and made == [f"{TOY}/1"]


def test_the_server_takes_the_handle_and_sees_one_version_before_and_after(made):
    from tfdfd.serve.model_configs import config_of

    config = config_of(TOY)
    before = config.source.versions()
    assert list(before) == [1] and not made
    assert config.source.folder(1) == find(TOY).folder
    assert config.source.versions() == before and made == [f"{TOY}/1"]
