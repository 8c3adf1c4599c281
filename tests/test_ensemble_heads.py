"""An ensemble is carried as what it learnt on top of its members, which are carried under their own handles."""

import hashlib
import json

import keras
import numpy as np
import pytest

from tests.seeded import fill
from tfdfd import weights
from tfdfd.models.blocks import copy_body
from tfdfd.weights import LARGE, folder_for, list_records, store
from tfdfd.weights.loading import load_weights
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.saving import named_weights, save_weights
from tfdfd.weights.store import how_to_get, locate, where
from tools.make_card import without_members

ENSEMBLE, MEMBERS = "tfdfd/reseption_ensemble.toy", ("reseption_v1", "reseption_v2")
SHAPE = (16, 16, 3)


def member_of(seed):
    """As small as a network may be that has a body and a head; which networks they are, heads do not ask."""
    image = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid", name="fake_probability")(x))
    fill((f"{seed}/{name}", weight) for name, weight in named_weights(model).items())
    return model


def ensemble_of(*members):
    image = keras.Input(SHAPE)
    parts = []
    for name, member in zip(MEMBERS, members, strict=True):
        body = copy_body(member, name)
        parts.append(keras.layers.Dense(3, name=f"{name}_features")(body(image)))
    x = keras.layers.Concatenate()(parts)
    return keras.Model(image, keras.layers.Dense(1, "sigmoid", name="fake_probability")(x))


def loaded(model, where):
    record, path = locate(where)
    load_weights(model, record, path)
    return model


def write(model, folder, handle, **more):
    file = folder / f"{handle.removeprefix('tfdfd/')}.safetensors"
    save_weights(model, file, "float16")
    return write_card(file, handle, more)


def write_card(file, handle, more):
    data = file.read_bytes()
    card = {"handle": handle, "model": file.name.split(".")[0], "file": file.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "input_shape": SHAPE, "licence": "none", "training_data": "-"}
    card |= {"polarity": "fake=1", "threshold": 0.5} | more
    file.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return card


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder with members, and the ensemble that was built on them, whole in memory."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("members")
    told, members = {}, []
    for name in MEMBERS:
        card = write(member_of(name), folder, f"tfdfd/{name}.toy")
        told[name] = {"handle": card["handle"], "sha256": card["sha256"]}
        members.append(loaded(member_of("other"), folder / card["file"]))
    ensemble = ensemble_of(*members)
    file = folder / "reseption_ensemble.toy.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        carry_from(patch, folder)
        arrays = {name: np.array(weight) for name, weight in named_weights(ensemble).items()}
        heads, members = without_members(arrays, told)
    save_file(heads, file)
    write_card(file, ENSEMBLE, {"members": members})
    return folder, ensemble, arrays, told


def carry_from(patch, folder):
    patch.setattr(weights, "CARRIED", folder)
    for module in (weights, store):
        patch.setattr(module, "LARGE", folder / "large_weights")


@pytest.fixture
def package(whole, tmp_path, monkeypatch):
    for file in whole[0].iterdir():
        (tmp_path / file.name).hardlink_to(file)
    carry_from(monkeypatch, tmp_path)
    return tmp_path


def change_card(package, name, **changes):
    path = package / f"{name}.toy.json"
    card = json.loads(path.read_text("utf-8")) | changes
    path.unlink()
    path.write_text(json.dumps(card), encoding="utf-8")


def test_heads_and_members_are_the_whole_ensemble(whole, package):
    _, ensemble, _, _ = whole
    heads = read_safetensors(package / "reseption_ensemble.toy.safetensors")
    assert {name.split("/")[0] for name in heads} == {
        "reseption_v1_features",
        "reseption_v2_features",
        "fake_probability",
    }
    images = np.random.default_rng(0).random((2, *SHAPE), np.float32)
    for model in (ENSEMBLE, package / "reseption_ensemble.toy.safetensors"):
        again = loaded(ensemble_of(member_of("a"), member_of("b")), model)
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(images)) for each in (again, ensemble)))
    assert list_records()[ENSEMBLE].carried


def test_other_members_than_it_was_built_on_are_refused(package):
    save_weights(member_of("new"), package / "new.safetensors")
    (package / "new.safetensors").rename(package / "reseption_v1.toy.safetensors")
    data = (package / "reseption_v1.toy.safetensors").read_bytes()
    change_card(package, "reseption_v1", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    with pytest.raises(ValueError, match="was built on weights of tfdfd/reseption_v1.toy with the sha256 .* here they"):
        loaded(ensemble_of(member_of("a"), member_of("b")), ENSEMBLE)


def test_without_its_members_it_is_not_carried_and_says_where_it_is(package):
    for file in package.glob("reseption_v2*.safetensors"):
        file.unlink()
    change_card(package, "reseption_v2", bytes=34_000_000)
    record = list_records()[ENSEMBLE]
    assert not record.carried and where(record) == f"tfdfd models pull {ENSEMBLE} --from FOLDER_OR_ADDRESS"
    assert "on top of its members they are not in the wheel" in how_to_get(record)
    assert folder_for(record.card) == weights.LARGE != LARGE


def test_a_card_names_its_members_by_handles_only(package, whole):
    digest = whole[3]["reseption_v1"]["sha256"]
    member = package / "reseption_v1.toy.safetensors"
    change_card(package, "reseption_ensemble", members={"reseption_v1": {"handle": str(member), "sha256": digest}})
    with pytest.raises(ValueError, match="no weights are known as"):
        loaded(ensemble_of(member_of("a"), member_of("b")), ENSEMBLE)
    for wrong in (["reseption_v1"], {"reseption_v1": "tfdfd/reseption_v1"}, {"reseption_v1": {"handle": "x"}}):
        change_card(package, "reseption_ensemble", members=wrong)
        with pytest.raises(ValueError, match="members must be handle and sha256 by name"):
            list_records()


def test_an_ensemble_that_changed_its_members_is_not_carried(package, whole):
    _, _, arrays, told = whole
    name = next(name for name in arrays if name.startswith("reseption_v2/"))
    with pytest.raises(ValueError, match=f"values of {name} differ from its member"):
        without_members(arrays | {name: arrays[name] + 1}, told)
    inside, none = without_members({"a/kernel": arrays[name]}, told)
    assert list(inside) == ["a/kernel"] and none == {}
