"""Weights by handle and by file: digest, polarity, refusal of all that is not what it says."""

import dataclasses
import hashlib
import http.server
import json
import os
import shutil
import struct
import zlib

import cv2
import h5py
import keras
import numpy as np
import pytest

from tests.local_server import LocalServer
from tfdfd import weights
from tfdfd.faces.crop import resize_crop
from tfdfd.hub.weights import pull
from tfdfd.models import build
from tfdfd.weights import (
    CARRIED,
    EVALUATION_KEYS,
    WeightRecord,
    base_of,
    find_record,
    list_records,
    read_card,
    store,
    write_card,
)
from tfdfd.weights.loading import load_safetensors, load_weights
from tfdfd.weights.reading import read_safetensors
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
    with pytest.raises(ValueError, match="is not a safetensors file"):
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
    with pytest.raises(ValueError, match=r"not a weights file: expected .h5 or .safetensors"):
        store.locate(path)


def test_unknown_file_needs_its_card(toy):
    _, path = toy
    with pytest.raises(ValueError, match=r"nothing is known of .*toy.weights.h5.*model card at .*toy.json"):
        store.locate(path)
    toy_card(path)
    assert store.locate(path)[0].handle == "tfdfd/meso4.toy"
    path.with_name("toy.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
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


class Server(LocalServer):
    """A local server that answers every request with the same bytes."""

    def __init__(self, body):
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {})
        handler.do_GET = lambda self: (self.send_response(200), self.end_headers(), self.wfile.write(body))
        handler.log_message = lambda *_: None
        super().__init__(handler)
        self.url = f"{self.address}weights.h5"


def one_record(monkeypatch, url, body):
    common = json.loads(weights.PUBLISHED.read_bytes())["common"]
    card = dict(common, handle="tfdfd/meso4.net", model="meso4", file="net.h5", training_data="none")
    card |= {"url": url, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
    monkeypatch.setattr(weights, "_published", lambda: [WeightRecord.from_card(card)])


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
    monkeypatch.setattr(weights, "_evaluation", lambda file: read.append(file) or {})
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


def spoil(path, kind):
    """Replaces the largest array of a Keras file; returns a part of the expected error."""
    with h5py.File(path, "r+") as file:
        arrays = []
        file.visititems(lambda name, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        array = max(arrays, key=lambda item: item.size)
        name, group, shape, dtype = array.name, array.parent, array.shape, array.dtype
        short = name.rsplit("/", 1)[1]
        values = array[()]
        del group[short]
        if kind in ("external link", "virtual", "external storage"):
            other = path.with_name("other.h5")
            with h5py.File(other, "w") as there:
                there["x"] = values
        if kind == "external link":
            group[short] = h5py.ExternalLink(other.name, "x")
        elif kind == "soft link":
            file["elsewhere"] = values
            group[short] = h5py.SoftLink("/elsewhere")
        elif kind == "hard link":
            group[short] = values
            group["again"] = group[short]
        elif kind == "loop":
            group[short] = values
            group["again"] = file["/"]
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(other, "x", shape)
            group.create_virtual_dataset(short, layout)
        elif kind == "external storage":
            raw = path.with_name("raw")
            raw.write_bytes(values.tobytes())
            group.create_dataset(short, shape, dtype, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])
        elif kind == "compressed":
            group.create_dataset(short, data=values, compression="lzf")
        elif kind == "bomb":
            array = group.create_dataset(short, shape, dtype, compression="gzip", chunks=shape)
            array.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(64 << 20), 9))
        elif kind == "damaged gzip":
            array = group.create_dataset(short, shape, dtype, compression="gzip", chunks=shape)
            array.id.write_direct_chunk((0,) * len(shape), b"no gzip")
        elif kind == "swollen":  # takes no room in the file: nothing was written
            group.create_dataset(short, (60_000, 60_000), dtype)
        elif kind == "large parts":
            group.create_dataset(short, shape, dtype, chunks=(1 << 20, 1 << 8), maxshape=(None, None))
        elif kind == "texts":
            group.create_dataset(short, shape, h5py.string_dtype())
        elif kind == "names":
            group[short] = values
            group.attrs["weight_names"] = np.array([b"a", b"./a"])
    return {
        "external link": "soft or external link", "soft link": "soft or external link", "hard link": "several names",
        "loop": "several names", "virtual": "virtual array", "external storage": "stored in another file",
        "compressed": "is compressed otherwise than with gzip", "bomb": "part that unpacks to another size",
        "damaged gzip": "is damaged", "swollen": r"shapes? .?\(60000, 60000\)",
        "large parts": "is stored in parts of", "texts": "which is not a number", "names": "or one that is not plain",
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["external link", "soft link", "hard link", "loop", "virtual", "external storage", "compressed", "bomb",
     "damaged gzip", "swollen", "large parts", "texts", "names"],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["keras", "authors"])
def test_hdf5_of_other_files_or_sizes_is_refused_before_it_is_read(toy, layout, kind, monkeypatch):
    model, path = toy
    if layout == "authors":
        write_authors_layout(path, model)
    reason = spoil(path, kind)
    reads = []
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: reads.append(1))
    monkeypatch.setattr(h5py.Dataset, "__array__", lambda *_, **__: reads.append(1))
    record = WeightRecord.from_card(json.loads(toy_card(path).with_name("toy.json").read_text()))
    with pytest.raises(ValueError, match=reason):
        load_weights(model, record if layout == "keras" else find_record("tfdfd/meso4.df"), path)
    assert not reads


@pytest.mark.parametrize("shuffle", [False, True])
def test_gzip_is_read(toy, shuffle):
    """As in files that others made smaller."""
    model, path = toy
    with h5py.File(path, "r+") as file:
        arrays = []
        file.visititems(lambda name, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        for array in [each for each in arrays if each.shape]:
            name, values = array.name, array[()]
            del file[name]
            file.create_dataset(name, data=values, compression="gzip", shuffle=shuffle)
    expected = model.get_weights()
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    load_weights(model, WeightRecord.from_card(json.loads(toy_card(path).with_name("toy.json").read_text())), path)
    for result, value in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize(
    ("network", "file", "arguments"),
    [
        ("mobilenet_v1", "mobilenet_v1_1.0_no_top.weights.h5", {"alpha": 1.0}),
        ("mobilenet_v2", "mobilenet_v2_no_top.weights.h5", {}),
        ("mobilenet_v3", "mobilenet_v3_small.weights.h5", {}),
        ("efficientnet_lite0", "efficientnet_lite0_no_top.safetensors", {}),
    ],
)
def test_imagenet_files_of_others_are_loaded(data, network, file, arguments):
    path = data / "imagenet_more" / file
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    weights = [build(network, f"imagenet:{path}", **arguments).get_weights() for _ in range(2)]
    equal = [np.array_equal(*each) for each in zip(*weights, strict=True)]
    assert sum(equal) >= len(equal) - 2, "random weights differ, and those of the last layer are random"


def test_sizes_of_safetensors_are_compared_before_they_are_read(toy, monkeypatch):
    from safetensors.numpy import save

    from tfdfd.weights import loading

    model, path = toy
    file = path.with_name("toy.safetensors")
    arrays = {name: weight.numpy() for name, weight in named_weights(model).items()}
    file.write_bytes(save(arrays | {"hidden/kernel": np.zeros((1024, 17), np.float32)}))
    monkeypatch.setattr(loading, "read_safetensors", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"hidden/kernel has the shape \(1024, 17\)"):
        load_safetensors(model, file)


def typed_safetensors(path, arrays, kind, width):
    """A file whose arrays all have one type, with the given bytes a number."""
    header, data = {}, b""
    for name, content in arrays.items():
        raw = content if isinstance(content, bytes) else b"\0" * (content * width)
        header[name] = {"dtype": kind, "shape": [len(raw) // width], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_bfloat16_is_read_and_other_types_are_named(tmp_path):
    values = np.array([1.5, -2, 0.15625, 3e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    read = read_safetensors(typed_safetensors(tmp_path / "a", {"x": upper.tobytes()}, "BF16", 2))
    np.testing.assert_array_equal(read["x"], (upper.astype(np.uint32) << 16).view(np.float32))
    assert read["x"].dtype == np.float32 and read["x"][:3].tolist() == [1.5, -2, 0.15625]
    for kind, width in (("F8_E4M3", 1), ("F8_E5M2", 1)):
        with pytest.raises(ValueError, match=f"x has the type {kind}; expected one of F64, F32.*convert"):
            read_safetensors(typed_safetensors(tmp_path / "a", {"x": 4}, kind, width))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": [60_000, 60_000, 3]}, "up to 2048 pixels a side"),
        ({"input_shape": [256, 256, 4]}, "input_shape"),
        ({"input_shape": [-1, 256, 3]}, "input_shape"),
        ({"input_shape": [True, 256, 3]}, "input_shape"),
        ({"arguments": {"dropout": 10**9}}, "'dropout' is out of bounds"),
        ({"arguments": {"dropout": float("nan")}}, "'dropout' is out of bounds"),
        ({"arguments": {"rows": [[1] * 60] * 60}}, "'rows' is out of bounds"),
        ({"arguments": {"name": "x" * 10**6}}, "'name' is out of bounds"),
        ({"arguments": {"name": {"a": 1}}}, "'name' is out of bounds"),
        ({"arguments": {"frame_arguments": {"dropout": 10**9}}}, "'dropout' is out of bounds"),
        ({"arguments": {"frame_arguments": {"name": {"a": 1}}}}, "'name' is out of bounds"),
        ({"arguments": {"svm": 60_000}}, "svm is 60,000, more than a file of"),
        ({"model": "x" * 10**6}, "model must be text of at most 200"),
        ({"sha256": 5}, "sha256 must be text"),
        ({"file": "../../x.h5"}, "file must be a name without a folder"),
        ({"bytes": "many"}, "bytes must be a whole number"),
    ],
)
def test_cards_are_bounded_before_anything_is_built(toy, change, message):
    _, path = toy
    with pytest.raises(ValueError, match=message) as refused:
        store.locate(toy_card(path, **change))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("kind", ["pipe", "large", "nested"])
def test_a_card_is_a_regular_file_of_some_size(toy, kind):
    card = toy[1].with_name("toy.json")
    if kind == "pipe":
        os.mkfifo(card)
    else:
        card.write_text("[" * 200_000 if kind == "nested" else " " * ((16 << 20) + 1))
    with pytest.raises(ValueError, match=r"toy.json (cannot be read|is not JSON)|nothing is known"):
        store.locate(toy[1])
    with pytest.raises(ValueError, match=r"toy.json (cannot be read|is not JSON)"):
        store.read_card_file(card)
