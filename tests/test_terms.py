"""Terms that weights pass on: through runs that begin with them, are taught by them or are built on them."""

import hashlib
import json

import keras
import pytest

from tests.made_faces import make_faces
from tests.test_training import quick, run
from tfdfd.models import build
from tfdfd.weights import find_record
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import BEGUN_WITH, MEMBER, TAUGHT_BY, built_on, inherit, inherited_terms

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("terms")


def weights_of(folder, name, **terms):
    """A file of random weights whose card has these terms."""
    file = folder / f"{name}.safetensors"
    keras.utils.set_random_seed(len(name))
    save_weights(build("meso4", input_shape=(SIZE, SIZE, 3)), file)
    data = file.read_bytes()
    card = {"handle": f"tfdfd/meso4.{name}", "model": "meso4", "file": file.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "polarity": "fake=1", "threshold": 0.5}
    card |= {"input_shape": [SIZE, SIZE, 3]} | terms
    file.with_suffix(".json").write_text(json.dumps(card))
    return file


@pytest.fixture(scope="module")
def runs(folder):
    """A run that begins with one file, and one that begins with that run and is taught by another file."""
    faces = folder / "faces"
    make_faces(faces)
    start = weights_of(
        folder,
        "start",
        licence="research use only",
        training_data="set A",
        notice="Copyright A",
        restrictions="no resale",
    )
    teacher = weights_of(folder, "teacher", licence="GPL-3.0", training_data="set B", notice="Copyright B")
    run(quick("epochs=1", f"weights={start}"), faces, folder / "first")
    run(quick("epochs=1", f"weights={folder / 'first'}", f"teacher={teacher}"), faces, folder / "second")
    return folder


def card_of(run):
    return json.loads((run / "weights.json").read_text("utf-8"))


def test_a_run_inherits_the_terms_of_what_it_began_with(runs):
    card = card_of(runs / "first")
    assert card["licence"] == "research use only; not stated: that of the training data"
    assert "begun with tfdfd/meso4.start (trained on set A)" in card["training_data"]
    (row,) = card["built_on"]
    assert (row["role"], row["what"], row["restrictions"]) == (BEGUN_WITH, "tfdfd/meso4.start", "no resale")
    assert card["notices"] == ["Copyright A"]


def test_terms_pass_through_a_chain_and_from_a_teacher(runs, run_tfdfd):
    code, out, _ = run_tfdfd("models", "show", runs / "second")
    card = json.loads(out)
    assert code == 0 and card.items() >= card_of(runs / "second").items()
    assert [(row["role"], row["what"]) for row in card["built_on"]] == [
        (BEGUN_WITH, "tfdfd/meso4.s1-meso4"),
        (BEGUN_WITH, "tfdfd/meso4.start"),
        (TAUGHT_BY, "tfdfd/meso4.teacher"),
    ]
    assert card["licence"].startswith("research use only; GPL-3.0; not stated: that of tfdfd/meso4.s1-meso4")
    assert "set A" in card["training_data"] and "set B" in card["training_data"]
    assert card["notices"] == ["Copyright A", "Copyright B"]


def test_an_export_and_a_published_model_have_them(runs, tmp_path, monkeypatch):
    from tfdfd.hub.publish import publish
    from tfdfd.weights.store import locate

    done = publish(runs / "second", tmp_path / "hub", 1, "mine")
    told = json.loads((done.folder / "model_card.json").read_text("utf-8"))
    known = card_of(runs / "second")
    assert all(told[key] == known[key] for key in ("licence", "training_data", "built_on", "notices"))
    monkeypatch.delenv("TFDFD_HUB_SHA256", raising=False)
    monkeypatch.setenv("TFDFD_HUB", str(tmp_path / "hub"))
    rows = inherit(MEMBER, locate("tfdfd/mine")[0])
    assert [row["what"] for row in rows] == ["tfdfd/mine", *(row["what"] for row in known["built_on"])]


def test_carried_weights_pass_on_the_authors_notice():
    rows = built_on("tfdfd/meso4")
    # The present weights began with those that the handle had before, and these with the authors'.
    assert [row["what"] for row in rows] == ["tfdfd/meso4", "tfdfd/meso4", "tfdfd/meso4.df"]
    assert rows[0]["sha256"] != rows[1]["sha256"]
    terms = inherited_terms("mine", "my data", rows)
    assert terms["licence"] == (
        "research use only, non-commercial (terms of FaceForensics++, FFHQ, VoxCeleb2 and UTKFace); "
        "research use only, non-commercial (UTKFace terms); Apache-2.0; mine"
    )
    assert "UTKFace" in terms["training_data"] and "Darius Afchar" in terms["notices"][0]


def test_members_and_bases_are_passed_on():
    told = {row["what"] for row in inherit(MEMBER, find_record("tfdfd/reseption_ensemble"))}
    assert told == {"tfdfd/reseption_ensemble", "tfdfd/reseption_v1", "tfdfd/reseption_v2"}
    told = {row["what"]: row["licence"] for row in inherit(BEGUN_WITH, find_record("tfdfd/best_ensemble"))}
    assert told["the image tower of CLIP ViT-B/16 in int8"] == "MIT"
    assert told["ImageNet features for keras.applications.efficientnet_lite0"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("weights", "licence"),
    [
        ("imagenet", "not stated: that of ImageNet features and their training data; mine"),
        ("imagenet:some/file.h5", "not stated: that of ImageNet features (file.h5) and their training data; mine"),
        ("clip:some/wheel.whl", "MIT; mine"),
        (None, "mine"),
    ],
)
def test_weights_without_a_card(weights, licence):
    assert inherited_terms("mine", "my data", built_on(weights))["licence"] == licence


def test_a_run_of_an_older_version_passes_on_what_its_recipe_names(folder):
    recipe = {"weights": "tfdfd/meso4.df", "teacher": "/runs/teacher", "members": []}
    file = weights_of(folder, "older", licence="not stated", training_data="set C", recipe=recipe)
    assert [row["what"] for row in built_on(str(file))] == ["tfdfd/meso4.older", "tfdfd/meso4.df"]
