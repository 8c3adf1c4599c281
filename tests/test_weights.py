"""Weights by handle and by file: digest, polarity, refusal of all that is not what it says."""

import dataclasses
import hashlib
import http.server
import json
import shutil
import threading

import cv2
import h5py
import keras
import numpy as np
import pytest

from tfdfd.faces.crop import resize_crop
from tfdfd.hub.weights import pull
from tfdfd.models import build
from tfdfd.weights import records, store
from tfdfd.weights.loading import load_weights
from tfdfd.weights.records import (
    CARRIED,
    EVALUATION_KEYS,
    WeightRecord,
    base_of,
    find_record,
    list_records,
    read_card,
    write_card,
)
from tfdfd.weights.saving import named_weights, save_weights

# P(fake) with the authors' weights, from the authors' own network in Keras 2 (their sigmoid is 1 minus this).
AUTHORS = {
    "Meso4_DF.h5": ("meso4", 0.9518, 0.9747, 0.0103, 0.0034),
    "MesoInception_DF.h5": ("meso_inception4", 0.9811, 0.9992, 0.0000, 0.0000),
}
TEST_IMAGES = ("df/df00204", "df/df01254", "real/real00240", "real/real00772")


@pytest.fixture
def mesonet(data):
    return data / "mesonet"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def toy_card(path, **changes):
    """A card beside a weights file."""
    data = path.read_bytes()
    card = {
        "handle": "tfdfd/meso4.toy",
        "model": "meso4",
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "licence": "none",
        "training_data": "none",
        "polarity": "fake=1",
        "threshold": 0.5,
    }
    path.with_name("toy.json").write_text(json.dumps(card | changes))
    return path


@pytest.fixture
def toy(tmp_path):
    keras.utils.set_random_seed(5)
    model = build("meso4")
    model.save_weights(tmp_path / "toy.weights.h5")
    return model, tmp_path / "toy.weights.h5"


@pytest.mark.parametrize("file", AUTHORS)
def test_authors_weights_come_out_as_p_fake(mesonet, file):
    name, *expected = AUTHORS[file]
    model = build(name, weights=mesonet / "weights" / file)
    images = [cv2.imread(str(mesonet / "test_images" / f"{image}.jpg"), cv2.IMREAD_COLOR_RGB) for image in TEST_IMAGES]
    batch = np.stack([resize_crop(image, 256) for image in images]) / np.float32(255)
    np.testing.assert_allclose(np.asarray(model(batch, training=False))[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize("tag", ["meso4.df", "meso4.f2f", "meso_inception4.df", "meso_inception4.f2f"])
def test_authors_files_are_recognised_by_digest(mesonet, tmp_path, cache, tag):
    record = find_record(f"tfdfd/{tag}")
    renamed = shutil.copy(mesonet / "weights" / record.file, tmp_path / "anything.h5")
    assert store.locate(renamed)[0] == record
    cache.mkdir()
    shutil.copy(renamed, cache / record.file)
    assert store.locate(record.handle) == (record, cache / record.file)


def test_polarity_is_turned_once(toy, tmp_path):
    """The same file under `real=1` gives the complement, for any weights."""
    model, path = toy
    images = np.random.default_rng(0).random((3, 256, 256, 3), dtype=np.float32)
    expected = np.asarray(model(images, training=False))
    for polarity, wanted in (("fake=1", expected), ("real=1", 1 - expected)):
        loaded = build("meso4", weights=toy_card(path, polarity=polarity))
        np.testing.assert_allclose(loaded(images, training=False), wanted, atol=1e-6)


def test_authors_layout_fills_each_layer_from_its_own(tmp_path):
    """A file in the authors' layout whose arrays are all different comes back array by array, on both networks."""
    for name, convolutions in (("meso4", 4), ("meso_inception4", 16)):
        source = build(name)
        rng = np.random.default_rng(2)
        source.set_weights([rng.random(weight.shape) for weight in source.weights])
        path = tmp_path / f"{name}.h5"
        written = write_authors_layout(path, source)
        assert written["conv2d"] == convolutions
        target = build(name)
        load_weights(target, dataclasses.replace(find_record("tfdfd/meso4.df"), polarity="fake=1", model=name), path)
        for mine, theirs in zip(target.weights, source.weights, strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)


def write_authors_layout(path, model):
    """As the authors wrote: one group a layer, numbered by kind in order of creation, listed in another order."""
    blocks = [f"block{block}" for block in (1, 2, 3, 4)]
    if model.name == "meso4":
        order = [f"{block}_conv" for block in blocks]
    else:
        branches = ["branch0_conv"] + [f"branch{i}_{part}" for i in (1, 2, 3) for part in ("reduce", "conv")]
        order = [f"{block}_{branch}" for block in blocks[:2] for branch in branches] + ["block3_conv", "block4_conv"]
    kinds = {
        "conv2d": order,
        "batch_normalization": [f"{block}_bn" for block in blocks],
        "dense": ["hidden", "fake_probability"],
    }
    with h5py.File(path, "w") as file:
        names = []
        for kind, layers in kinds.items():
            for number, layer in enumerate(layers, start=7):  # their numbering starts anywhere
                name = f"{kind}_{number}"
                group = file.create_group(name)
                keys = []
                for i, value in enumerate(model.get_layer(layer).get_weights()):
                    keys.append(f"{name}/array{i}:0".encode())
                    group[keys[-1].decode()] = value
                group.attrs["weight_names"] = keys
                names.append(name.encode())
        file.attrs["layer_names"] = sorted(names, reverse=True)
    return {kind: len(layers) for kind, layers in kinds.items()}


def test_a_file_of_the_other_network_is_refused(mesonet):
    model = build("meso4")
    with pytest.raises(ValueError, match=r"16 layers conv2d; meso4 has 4"):
        load_weights(model, find_record("tfdfd/meso4.df"), mesonet / "weights" / "MesoInception_DF.h5")
    with pytest.raises(ValueError, match=r"weights of meso_inception4, not of meso4"):
        build("meso4", weights=mesonet / "weights" / "MesoInception_DF.h5")


def test_a_file_that_fills_only_a_part_is_refused(toy):
    """Keras itself loads such a file with a warning and leaves the rest random."""
    _, path = toy
    with h5py.File(path, "r+") as file:
        groups = []
        file.visit(lambda name: groups.append(name) if name.endswith("dense/vars") else None)
        del file[groups[0]]
    with pytest.raises(ValueError, match=r"does not fit the network meso4"):
        build("meso4", weights=toy_card(path))


def test_safetensors_come_back_bit_by_bit(toy):
    model, path = toy
    file = path.with_name("toy.safetensors")
    save_weights(model, file)
    loaded = build("meso4", weights=toy_card(file))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(loaded.weights, model.weights, strict=True))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda arrays: arrays.pop("hidden/bias"), r"lacks \['hidden/bias'\], and has \[\] besides"),
        (lambda arrays: arrays.update({"x/y": np.zeros(1)}), r"has \['x/y'\] besides"),
        (lambda arrays: arrays.update({"hidden/bias": np.zeros(9)}), r"shape \(9,\); meso4 needs \(16,\)"),
    ],
)
def test_safetensors_of_another_network_are_refused(toy, damage, message):
    from safetensors.numpy import save_file

    model, path = toy
    arrays = {name: np.asarray(weight) for name, weight in named_weights(model).items()}
    damage(arrays)
    file = path.with_name("toy.safetensors")
    save_file(arrays, file)
    with pytest.raises(ValueError, match=message):
        build("meso4", weights=toy_card(file))


def test_a_damaged_safetensors_file_is_refused(toy):
    file = toy[1].with_name("toy.safetensors")
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="is no safetensors file"):
        build("meso4", weights=toy_card(file))


def test_wrong_shape_names_file_and_both_shapes(toy, tmp_path):
    model, path = toy
    with pytest.raises(ValueError, match=r"toy.weights.h5 does not fit the network meso4"):
        build("meso4", weights=toy_card(path), input_shape=(128, 128, 3))


def test_altered_file_is_refused_with_both_digests(toy):
    _, path = toy
    toy_card(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        store.locate(path)


def test_altered_cache_is_refused(cache):
    cache.mkdir()
    (cache / "Meso4_DF.h5").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"is not the file of tfdfd/meso4.df.*expected 036ed30d"):
        store.locate("tfdfd/meso4.df")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.h5", "there is no weights file"),
        ("tfdfd/meso4.dff", r"did you mean tfdfd/meso4.df"),
        ("tfdfd/meso4.f2f", r"on this machine; run 'tfdfd models pull tfdfd/meso4.f2f'"),
    ],
)
def test_absent_weights_say_what_to_do(cache, name, message):
    with pytest.raises(ValueError, match=message):
        store.locate(name)


@pytest.mark.parametrize("suffix", [".pkl", ".keras", ".joblib", ".pt"])
def test_only_data_formats(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"no weights file: expected .h5 or .safetensors"):
        store.locate(path)


def test_unknown_file_needs_its_card(toy):
    _, path = toy
    with pytest.raises(ValueError, match=r"nothing is known of .*toy.weights.h5.*model card at .*toy.json"):
        store.locate(path)
    toy_card(path)
    assert store.locate(path)[0].handle == "tfdfd/meso4.toy"
    path.with_name("toy.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        store.locate(path)
    path.with_name("toy.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks handle, model"):
        store.locate(path)


@pytest.mark.parametrize(
    "change", [{"polarity": "fake"}, {"threshold": "high"}, {"threshold": 2}, {"inconclusive_band": [0.9, 0.1]}]
)
def test_cards_are_checked(toy, change):
    _, path = toy
    with pytest.raises(ValueError, match=next(iter(change))):
        store.locate(toy_card(path, **change))


def test_records_are_complete():
    for handle, record in list_records().items():
        assert handle == record.handle and handle.startswith(f"tfdfd/{record.model}")
        assert len(record.sha256) == 64 and record.licence and record.training_data
        assert (
            record.carried
            or base_of(record)
            or record.url.startswith("https://raw.githubusercontent.com/DariusAF/MesoNet/b0d9a5e")
        )


class Server:
    """A local server that answers every request with the same bytes."""

    def __init__(self, body):
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {})
        handler.do_GET = lambda self: (self.send_response(200), self.end_headers(), self.wfile.write(body))
        handler.log_message = lambda *_: None
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/weights.h5"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


def one_record(monkeypatch, url, body):
    common = json.loads(records.PUBLISHED.read_bytes())["common"]
    card = dict(common, handle="tfdfd/meso4.net", model="meso4", file="net.h5", training_data="none")
    card |= {"url": url, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
    monkeypatch.setattr(records, "_published", lambda: [WeightRecord.from_card(card)])


def test_pull_fetches_checks_and_stores_once(cache, monkeypatch):
    body = b"some weights"
    with Server(body) as server:
        one_record(monkeypatch, server.url, body)
        path = pull("tfdfd/meso4.net")
    assert path.read_bytes() == body and list(cache.iterdir()) == [path]
    assert pull("tfdfd/meso4.net") == path  # the server is gone


def test_pull_refuses_other_bytes_and_stores_nothing(cache, monkeypatch):
    with Server(b"replaced on the way") as server:
        one_record(monkeypatch, server.url, b"some weights, just as long as those")
        with pytest.raises(
            ValueError, match=r"not the expected file.* [0-9a-f]{64}, expected 35 bytes with .*; nothing was stored"
        ):
            pull("tfdfd/meso4.net")
    assert not cache.exists()


def test_pull_without_network_says_where_to_put_the_file(cache, monkeypatch):
    one_record(monkeypatch, "http://127.0.0.1:9/weights.h5", b"x")
    with pytest.raises(ValueError, match=r"could not be fetched.*run 'tfdfd models pull tfdfd/meso4.net --from FILE'"):
        pull("tfdfd/meso4.net")


def test_records_are_small_and_evaluations_are_read_on_demand(monkeypatch):
    files = sorted(CARRIED.glob("*.json"))
    for file in files:
        assert file.stat().st_size < 10_000
        assert not set(json.loads(file.read_text("utf-8"))) & set(EVALUATION_KEYS)
        assert (file.parent / "evaluations" / file.name).is_file()
    read = []
    monkeypatch.setattr(records, "_evaluation", lambda file: read.append(file) or {})
    known = list_records()
    assert len(known) > len(files) and not read
    assert known["tfdfd/meso4"].card["handle"] == "tfdfd/meso4"
    assert [file.name for file in read] == ["meso4.json"]


def test_a_card_is_split_and_read_whole(tmp_path):
    card = read_card(CARRIED / "meso4.json")
    assert {"scores", "robustness", "protocol", "limits", "sha256"} <= set(card)
    write_card(tmp_path / "meso4.json", card)
    assert read_card(tmp_path / "meso4.json") == card
    # A file with everything in it, as earlier versions had it, is a card, too.
    (tmp_path / "whole.json").write_text(json.dumps(card), encoding="utf-8")
    assert read_card(tmp_path / "whole.json") == card
