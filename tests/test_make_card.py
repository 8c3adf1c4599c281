"""From a run to a bundled model: what is evaluated and cached, what is refused, and that every card is complete."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

from tfdfd.data.crops import Faces
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.evaluation.scoring import cached_scores
from tfdfd.evaluation.sets import CONDITIONS, UNCHANGED, DegradedSet, EvalSet
from tfdfd.metrics.scores import ScoreRow
from tfdfd.recipes import find_recipe
from tfdfd.weights import CARRIED, list_records, read_card
from tools import make_card, models_table
from tools.make_card import card_rows, difference, mean_auc, video_of
from tools.provenance import ended_short, initial_weights, runs_behind, train_command, without_folders

SCHEMA = json.loads((CARRIED.parent / "card.schema.json").read_text("utf-8"))
SIZE = 64
DRAWN = 40  # resamples, in place of thousands


# Weights on CLIP, which tests do not have: validated, not judged yet, and their cards say so.
VALIDATED_ONLY = ("best_ensemble", "clip_vit_b16")
JUDGED = [path for path in sorted(CARRIED.glob("*.json")) if path.stem not in VALIDATED_ONLY]


@pytest.mark.parametrize("name", VALIDATED_ONLY)
def test_a_card_of_validated_weights_says_that_they_were_not_judged(name):
    card = read_card(CARRIED / f"{name}.json")
    assert "scores" not in card and "Not judged on any other set yet" in card["protocol"]
    for key in ("licence", "training_data", "limits", "commands", "inconclusive_rule", "proof_scores"):
        assert card[key]
    jsonschema.validate(card["domains"], SCHEMA["properties"]["domains"] | {"$defs": SCHEMA["$defs"]})
    low, high = card["inconclusive_band"]
    assert 0 < low <= card["threshold"] <= high < 1
    assert sum(row["auc"] is not None for row in card["domains"]) >= 2


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: path.stem)
def test_a_carried_card_says_everything(path):
    card = read_card(path)
    jsonschema.validate(card, SCHEMA)
    low, high = card.get("inconclusive_band", [card["threshold"]] * 2)
    assert low <= card["threshold"] <= high
    sets = {row["set"] for row in card["scores"]}
    for row in card["scores"]:
        assert "train" not in row["set"] and row["weights"] in {each["weights"] for each in card["mean_auc"]}
        if row["auc_ci95"]:
            assert row["auc_ci95"][0] <= row["auc"] <= row["auc_ci95"][1]
            assert min(row["n_real"], row["n_fake"]) > 1
    assert {"crops/dfdc", "crops/ffpp", "videos"} < sets and any("test split" in name for name in sets)


@pytest.fixture(scope="module")
def face(astronaut):
    return np.ascontiguousarray(astronaut[50:171, 160:281])


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_changes_the_picture_and_nothing_else(name, face):
    before = face.copy()
    one, again = (CONDITIONS[name](face, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(face, before)
    assert (one.dtype, one.shape) == (np.uint8, face.shape)
    apart = np.abs(one.astype(int) - face).mean()
    assert apart == 0 if name == UNCHANGED else 0 < apart < 25


@pytest.mark.parametrize("kind", ["JPEG", "blur", "resized", "noise", "H.264"])
def test_conditions_of_a_kind_stand_in_the_order_of_their_strength(kind, face):
    changed = [make(face, np.random.default_rng(3)) for name, make in CONDITIONS.items() if kind in name]
    apart = [np.abs(image.astype(int) - face).mean() for image in changed]
    assert len(apart) > 1 and apart == sorted(apart)


def rows_of(labels, scores, pairs=False):
    """Rows of images; with `pairs`, two after the other are of one photograph."""
    sources = [str(number // 2 if pairs else number) for number in range(len(labels))]
    return [
        ScoreRow(
            name, "set", name, 0, 0, int(label), ("original", "swap")[label], (source,), None, "test", float(score)
        )
        for source, label, score, name in zip(sources, labels, scores, map("{}.png".format, range(99)), strict=False)
    ]


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr("tools.make_card.RESAMPLES", DRAWN)


def test_figures_of_scores_that_are_known(few_draws):
    labels = [0, 1] * 20
    scores = np.where(labels, 0.6, 0.2) + np.linspace(0, 0.1, 40)
    scores[1], scores[2] = 0.1, 0.9  # a fake below all, a real one above all
    row, calibration, hardest = card_rows("a set", "these", rows_of(labels, scores, pairs=True), 0.5)
    assert (row["n_real"], row["n_fake"], row["threshold"], row["level"]) == (20, 20, 0.5, "image")
    assert row["auc"] == pytest.approx(1 - 39 / 400)
    assert row["auc_ci95"][0] < row["auc"] < row["auc_ci95"][1] <= 1
    assert (row["tpr_at_threshold"], row["fpr_at_threshold"], row["majority_baseline"]) == (0.95, 0.05, 0.5)
    assert row["balanced_accuracy"] == 0.95
    assert calibration["brier"] == pytest.approx(np.mean((scores - labels) ** 2), abs=1e-4)
    assert {hardest[0]["video"], hardest[1]["video"]} == {"1.png", "2.png"} and hardest[1]["wrong"]
    assert not hardest[2]["wrong"]


def test_one_real_example_has_no_interval_and_a_reason(few_draws):
    row, _, _ = card_rows("crops", "these", rows_of([0, 1, 1, 1], [0.1, 0.4, 0.6, 0.9]), 0.5, note="few")
    assert (row["auc"], row["auc_ci95"], row["majority_baseline"]) == (1, None, 0.75)
    assert row["note"].startswith("few; ") and "one video or source" in row["note"]


def test_crops_of_one_video_are_drawn_together(few_draws):
    labels, scores = [0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.2, 0.6, 0.3, 0.9]
    names = [f"real/v{label}-{number:03d}-00.png" for number, label in enumerate(labels)]
    rows = [replace(row, source_id=(video_of(name),)) for row, name in zip(rows_of(labels, scores), names, strict=True)]
    row, _, _ = card_rows("crops", "these", rows, 0.5)
    assert row["auc"] == pytest.approx(8 / 9, abs=1e-4) and row["auc_ci95"] is None
    assert "of one video or source" in row["note"]
    assert difference("crops", rows, rows, "another") is None
    rows = [replace(row, source_id=(f"{row.source_id[0]}-{number % 2}",)) for number, row in enumerate(rows)]
    assert card_rows("crops", "these", rows, 0.5)[0]["auc_ci95"] is not None
    assert difference("crops", rows, rows, "another")["p_delong"] is None
    assert video_of("FaceSwap__029_048__200.png") == "FaceSwap__029_048__200"


def test_the_better_of_two_is_the_better_one(few_draws):
    labels = [0, 1] * 15
    draw = np.random.default_rng(0)
    good = rows_of(labels, np.where(labels, 0.7, 0.3) + draw.normal(0, 0.1, 30))
    poor = rows_of(labels, draw.uniform(0, 1, 30))
    found = difference("a set", good, poor, "another")
    assert found["auc_difference"] > 0.2 and found["auc_difference_ci95"][0] > 0
    assert found["p"] < 0.06 and found["p_delong"] < 0.01 and found["against"] == "another"
    assert difference("a set", poor, good, "another")["auc_difference"] == -found["auc_difference"]
    assert difference("a set", good[1::2], poor[1::2], "another") is None  # fakes alone
    assert difference("a set", [good[0], *good[1::2]], [poor[0], *poor[1::2]], "another") is None  # one real one


def test_the_mean_is_over_sets_that_all_have_an_auc_of():
    known = {("a", "these"): 0.8, ("b", "these"): 0.6, ("a", "others"): 0.5, ("b", "others"): None}
    rows = [{"set": name, "weights": weights, "auc": auc} for (name, weights), auc in known.items()]
    assert mean_auc(rows) == [
        {"weights": "these", "mean_auc": 0.8, "sets": ["a"]},
        {"weights": "others", "mean_auc": 0.5, "sets": ["a"]},
    ]


class Crops(EvalSet):
    """Three crops, each uniformly as bright as its number, for a network of any size."""

    def __init__(self, size):
        rows = [
            FaceRow(f"{n}.png", "three", f"{n}.png", 0, 0.0, 0, (0, 0, 9, 9), 1.0, n % 2, ("original", "x")[n % 2], ())
            for n in range(3)
        ]
        super().__init__("three", Faces(Path("."), tuple(rows)), size)

    def picture(self, number):
        return np.full((40, 40, 3), number, np.uint8)

    def batches(self, numbers, batch_size):
        yield np.stack([np.full((self.size, self.size, 3), n / 255, np.float32) for n in numbers])


class Network:
    """P(fake) is the brightness; counts what it scored."""

    run, frames = None, None

    def __init__(self, name, size):
        self.size, self.scored, self.network, self.key = size, 0, self, name
        self.record = type("Record", (), {"sha256": name * 64, "handle": name})

    def info(self):
        return {"sha256": self.record.sha256, "size": self.size}

    def predict_on_batch(self, images):
        assert images.shape[1:] == (self.size, self.size, 3) and images.dtype == np.float32
        self.scored += len(images)
        return images.mean(axis=(1, 2, 3))


def scores_of(rows):
    return np.array([row.fake_probability for row in rows])


def test_what_was_scored_once_is_not_scored_again(tmp_path):
    one, other = Network("a", 32), Network("b", 40)
    first = scores_of(cached_scores(one, Crops(32), tmp_path))
    np.testing.assert_allclose(first, np.arange(3) / 255, rtol=1e-5)
    assert (scores_of(cached_scores(one, Crops(32), tmp_path)) == first).all()
    np.testing.assert_allclose(scores_of(cached_scores(other, Crops(40), tmp_path)), first, rtol=1e-5)
    assert (one.scored, other.scored) == (3, 3)
    cached_scores(one, Crops(32), tmp_path, ["other code"])
    assert one.scored == 6
    noise = "Gaussian noise, sigma 20 of 255"
    changed = [
        scores_of(cached_scores(each, DegradedSet(Crops(40), noise, each.size), tmp_path)) for each in (one, other)
    ]
    assert (one.scored, other.scored) == (9, 6)
    assert (changed[0] != first).all()  # a file of its own
    assert np.abs(changed[0] - changed[1]).max() < 0.002  # of the same picture


def test_the_command_of_a_run_is_that_of_its_recipe():
    recipe = find_recipe("sbi-mobilenet-v1")
    assert train_command(recipe.settings(), "split.csv") == "tfdfd train sbi-mobilenet-v1 --data split.csv -o RUN"
    file = "imagenet:/home/somebody/../data/mobilenet.weights.h5"
    other = replace(recipe, weights=file, epochs=7, arguments=recipe.arguments | {"alpha": 0.25})
    words = train_command(other.settings(), "split.csv").split(" --set ")
    assert words[1:] == ["arguments.alpha=0.25", "weights=imagenet:mobilenet.weights.h5", "epochs=7"]
    assert recipe.changed(words[1:]).settings() == without_folders(other.settings())


def test_a_run_is_told_with_those_that_it_is_built_on(tmp_path):
    plain = find_recipe("sbi-meso4").settings()

    def run(name, **settings):
        folder = tmp_path / name
        folder.mkdir()
        told = {"recipe": plain | settings, "data": {}, "result": {"epochs": 1}}
        (folder / "run.json").write_text(json.dumps(told))
        return str(folder)

    first = run("first")
    teacher = run("teacher", weights=f"{first}/weights.safetensors")
    whole = run("whole", teacher=teacher)
    slimmed = plain | {"teacher": teacher, "weights": f"slim:{whole}"}
    assert [folder.name for folder in runs_behind(slimmed)] == ["first", "teacher", "whole"]
    assert [folder.name for folder in runs_behind(slimmed | {"teacher": None})] == ["first", "teacher", "whole"]
    assert list(runs_behind(slimmed | {"teacher": None, "weights": "tfdfd/meso4"})) == []
    told = train_command(plain | {"weights": f"{first}/weights.safetensors"}, "split.csv", "teacher")
    assert told == "tfdfd train sbi-meso4 --data split.csv -o teacher --set weights=first/weights.safetensors"
    assert without_folders({"weights": f"slim:{whole}"}) == {"weights": "slim:whole"}


def test_a_run_whose_last_epoch_was_best_ended_short():
    assert ended_short({"epochs": 20, "best_epoch": 20})
    assert not ended_short({"epochs": 20, "best_epoch": 11})
    assert not ended_short({"steps": 5})


def test_terms_of_what_a_run_began_with(data):
    recipe = {"network": "mobilenet_v1", "weights": None}
    assert initial_weights(recipe) is None
    recipe["weights"] = "imagenet:/somewhere/mobilenet.weights.h5"
    with pytest.raises(ValueError, match="--initial-licence"):
        initial_weights(recipe)
    told = initial_weights(recipe, "Apache-2.0")
    assert (told["file"], told["licence"]) == ("mobilenet.weights.h5", "Apache-2.0") and "MobileNet" in told["what"]
    recipe["weights"] = str(data / "mesonet/weights/MesoInception_DF.h5")
    told = initial_weights(recipe)
    assert (told["what"], told["licence"]) == ("tfdfd/meso_inception4.df", "Apache-2.0")
    assert "Copyright 2018, Darius Afchar" in told["notice"]
    # Of what a network was slimmed of, and of what an ensemble is built on, the same holds.
    slimmed = recipe | {"weights": "slim:tfdfd/meso4"}
    ensemble = recipe | {"weights": None, "members": ["tfdfd/meso4", "tfdfd/mobilenet_v1"]}
    records = list_records()
    licence = "; ".join(dict.fromkeys(records[f"tfdfd/{name}"].licence for name in ("meso4", "mobilenet_v1")))
    assert initial_weights(slimmed) == initial_weights(recipe | {"weights": "tfdfd/meso4"})
    assert initial_weights(slimmed)["built_on"][-1]["what"] == "tfdfd/meso4.df"
    assert initial_weights(ensemble) == {"what": "tfdfd/meso4 and tfdfd/mobilenet_v1", "licence": licence}


@pytest.fixture(scope="module")
def world(tmp_path_factory, astronaut, make_video):
    """A small run with its faces, and a data folder with crops and clips: all of one portrait."""
    folder = tmp_path_factory.mktemp("world")
    faces = folder / "faces"
    faces.mkdir()
    rows = []
    for number in range(18):
        name, split = f"{number:02d}.png", ("train", "val", "test")[number % 3]
        crop = astronaut[50 + number % 5 : 170 + number % 5, 150 + number // 3 : 290 + number // 3, ::-1]
        cv2.imwrite(str(faces / name), crop)
        digest = hashlib.sha256((faces / name).read_bytes()).hexdigest()
        place = (name, "made", f"v{number}", 0, 0.0, 0, (0, 0, 9, 9), 1.0, 0, "original", (f"v{number}",))
        rows.append(FaceRow(*place, split=split, sha256=digest))
    write_table(faces / "faces.csv", rows, FaceRow)
    data = folder / "data"
    for name, files in (("dfdc", ("a-000-00", "a-001-00", "b-000-00")), ("ffpp", ("one", "two"))):
        for kind, change in (("real", 0), ("fake", 3)):
            (data / "crops" / name / kind).mkdir(parents=True)
            for number, stem in enumerate(files[: 1 if (name, kind) == ("ffpp", "real") else None]):
                crop = astronaut[60 - number : 170, 150 + change : 290, ::-1]
                cv2.imwrite(str(data / "crops" / name / kind / f"{stem}.png"), crop)
    swaps = folder / "swaps"
    swaps.mkdir()
    rows = []
    for number in range(6):
        name, label, source = f"{number}.png", number % 2, f"v{2 + 3 * (number // 2)}"
        cv2.imwrite(str(swaps / name), astronaut[46 + number : 166, 151 + label : 291, ::-1])
        place = (name, "swapped", name, 0, 0.0, 0, (0, 0, 9, 9), 1.0, label, ("original", "swapped-hard")[label])
        rows.append(FaceRow(*place, (source,), split="test"))
    write_table(swaps / "faces.csv", rows, FaceRow)
    clips = data / "videos"
    places = {
        "dfdc/dfdc_train_part_0/a.mp4": 0,
        "dfdc/dfdc_train_part_0/b.mp4": 8,
        "ffpp/original_sequences/youtube/c23/videos/004.mp4": 16,
    }
    for place, left in places.items():
        (clips / place).parent.mkdir(parents=True, exist_ok=True)
        make_video(clips / place, [astronaut[:240, 80 + left + n : 400 + left + n] for n in range(3)])
    listed = {"a.mp4": {"label": "FAKE", "original": "c.mp4"}, "b.mp4": {"label": "REAL", "original": None}}
    (clips / "dfdc/dfdc_train_part_0/metadata.json").write_text(json.dumps(listed), encoding="utf-8")
    run = make_run(folder / "run", faces / "faces.csv")
    return {"faces": faces / "faces.csv", "data": data, "swaps": swaps, "run": run}


def make_run(folder, faces):
    """What `tfdfd train` leaves of a network whose last layer was turned until its scores spread."""
    import keras

    from tfdfd.models import build
    from tfdfd.training.calibrate import finish
    from tfdfd.training.crop_set import CropSet, score
    from tfdfd.training.run_folder import RunFolder, write_fingerprints

    recipe = replace(find_recipe("sbi-meso4"), size=SIZE, epochs=3, batch_size=4)
    crops = CropSet(faces, recipe, SIZE)
    keras.utils.set_random_seed(1)
    model = build("meso4", input_shape=(SIZE, SIZE, 3))
    head = model.get_layer("fake_probability")
    kernel, bias = head.get_weights()
    _, scores = score(model, crops)
    logits = np.log(scores / (1 - scores))
    head.set_weights([kernel / logits.std(), (bias - logits.mean()) / logits.std()])
    with RunFolder(folder, recipe, crops.digests(), "tensorflow") as run:
        parts = {split: [row for row in read_rows(faces) if row.split == split] for split in ("train", "val")}
        write_fingerprints(folder, parts, faces.parent)
        finish(model, recipe, crops, run, {"epochs": 3, "best_epoch": 3})
    return folder


def read_rows(faces):
    from tfdfd.data.tables import read_table

    return read_table(faces, FaceRow)


@pytest.fixture(scope="module")
def arguments(world, tmp_path_factory, toy_weights):
    folder = tmp_path_factory.mktemp("carried")
    words = [world["run"], "--faces", world["faces"], "--data", world["data"], "--beside", toy_weights]
    words += [
        "--swaps",
        world["swaps"],
        "--handle",
        "tfdfd/meso4.tiny",
        "--out",
        folder / "out",
        "--cache",
        folder / "cache",
    ]
    return [str(word) for word in [*words, "--pictures", folder / "pictures"]]


@pytest.fixture(scope="module")
def carried(arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.make_card.RESAMPLES", DRAWN)
        make_card.main(arguments)
    out = Path(arguments[arguments.index("--out") + 1])
    return read_card(out / "meso4.tiny.json"), out


def test_the_card_of_a_run_satisfies_the_schema(carried, world):
    card, out = carried
    jsonschema.validate(card, SCHEMA)
    data = (out / card["file"]).read_bytes()
    assert (card["sha256"], card["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    run_card = json.loads((world["run"] / "weights.json").read_text("utf-8"))
    assert len(data) < 0.7 * run_card["bytes"]  # float16
    assert card["threshold"] == pytest.approx(run_card["threshold"], abs=1e-6)
    assert (card["pixels"], card["input_shape"]) == (SIZE, [SIZE, SIZE, 3])
    assert card["validation"]["largest_change"] <= 0.01 and card["validation"]["n_real"] == 6
    counts = {
        (row["set"].split(",")[-1].strip(), row["weights"]): (row["n_real"], row["n_fake"]) for row in card["scores"]
    }
    for weights in ("these", "tfdfd/meso4.toy"):
        assert counts["test split", weights] == (6, 6)
        assert (counts["crops/dfdc", weights], counts["crops/ffpp", weights]) == ((3, 3), (1, 2))
        assert counts["videos", weights] == (2, 1)
        assert counts["test", weights] == (3, 3)  # swaps
    assert any("2 real and 2 fake videos" in row.get("note", "") for row in card["scores"])
    assert [row["condition"] for row in card["robustness"]] == list(CONDITIONS)
    assert len(card["proof_scores"]) == 8 and len(set(card["proof_scores"])) > 1
    assert card["training"]["short_of_its_best"] and any("longer" in limit for limit in card["limits"])
    assert str(world["data"]) not in json.dumps(card)  # no path of this machine


def test_scores_are_those_of_tfdfd_evaluate(carried, world, tmp_path):
    from tfdfd.evaluation.evaluate import Options, evaluate

    card, out = carried
    options = Options(blend=True, resamples=0, plots=False)
    report = evaluate(out / card["file"], [world["faces"]], tmp_path / "report", options)
    row = next(row for row in card["scores"] if "test split" in row["set"] and row["weights"] == "these")
    assert row["auc"] == pytest.approx(report["judged"]["video"]["auc"]["value"], abs=1e-4)
    assert row["n_real"] == report["judged"]["video"]["n_real"]


def test_the_same_command_again_scores_nothing_and_says_the_same(carried, arguments, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("scored again")

    monkeypatch.setattr("tools.make_card.RESAMPLES", DRAWN)
    monkeypatch.setattr("tfdfd.evaluation.scoring._score_part", fail)
    monkeypatch.setattr("tfdfd.detect.detector.Detector", fail)
    monkeypatch.setattr("tools.make_card._validation_scores", fail)
    monkeypatch.setattr("tools.make_card._latency", fail)
    before, out = carried
    (out / "meso4.tiny.json").unlink()
    make_card.main(arguments)
    after = read_card(out / "meso4.tiny.json")
    assert after | {"date": ""} == before | {"date": ""}


def test_documents_are_made_of_cards(carried, tmp_path, capsys):
    card, out = carried
    models_table.main(["--cards", str(out)])
    table = capsys.readouterr().out
    row = next(row for row in card["scores"] if row["set"] == "crops/dfdc" and row["weights"] == "these")
    assert "`tfdfd/meso4.tiny`" in table and f"{row['auc']:.3f}" in table and "(3 / 3)" in table
    models_table.main(["--cards", str(out), "--write", "--page", str(tmp_path / "models.md")])
    page = (tmp_path / "models.md").read_text("utf-8")
    assert "[`tfdfd/meso4.tiny`](models/meso4.tiny.md)" in page and "Nothing here is forensic proof" in page
    page = (tmp_path / "models/meso4.tiny.md").read_text("utf-8")
    for text in ("# `tfdfd/meso4.tiny`", "JPEG quality 10", card["commands"][0], "crops/ffpp"):
        assert text in page
    assert len({line.count("|") for line in page.splitlines() if line.startswith("| 0")}) <= 1


def test_what_the_run_was_trained_on_is_not_judged(world, arguments, tmp_path):
    rows = [replace(row, split="test" if row.split == "train" else None) for row in read_rows(world["faces"])]
    write_table(world["faces"].with_name("wrong.csv"), rows, FaceRow)
    words = [*arguments, "--faces", str(world["faces"].with_name("wrong.csv"))]
    with pytest.raises(ValueError, match="was trained on part of this data"):
        make_card.main([*words, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_those_of_the_run_are_refused(world, arguments, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(world["run"], run)
    data = bytearray((run / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "weights.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="is not the file of the model card"):
        make_card.main([str(run), *arguments[1:], "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_judged_is_told_before_anything_is(world, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.make_card.validated", lambda *_: pytest.fail("began to judge"))
    words = [*arguments, "--out", str(tmp_path / "out"), "--data", str(tmp_path)]
    with pytest.raises(ValueError, match="crops/dfdc holds no face crops"):
        make_card.main(words)
    shutil.copytree(world["data"] / "crops", tmp_path / "crops")
    with pytest.raises(ValueError, match="videos/dfdc"):
        make_card.main(words)
    others = tmp_path / "validation.json"
    others.write_text('{"models": [{"sha256": "abc", "handle": "tfdfd/other", "parts": {}}]}')
    with pytest.raises(ValueError, match="the validation is of abc, not of weights"):
        make_card.main([*arguments, "--out", str(tmp_path / "out"), "--domains", str(others)])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "3"], "give another folder: --out"),
        (["--handle", "meso4"], "must begin with tfdfd/"),
    ],
)
def test_wrong_usage_is_told(more, message, capsys):
    with pytest.raises(SystemExit):
        make_card.parse(["run", "--faces", "faces", "--data", "data", *more])
    assert message in capsys.readouterr().err


def test_an_unfinished_run_is_refused(tmp_path):
    words = [str(tmp_path), "--faces", "faces", "--data", "data", "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="is not a run of 'tfdfd train'"):
        make_card.main(words)
