"""`tfdfd evaluate`, from a network and crops to a report: what is scored, what is refused, and what is counted."""

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

from tfdfd.cli import evaluate as cli
from tfdfd.data.crops import faces_of
from tfdfd.data.face_set import StatusRow
from tfdfd.data.tables import FaceRow, IndexRow, write_table
from tfdfd.evaluation import report as report_module
from tfdfd.evaluation import scoring
from tfdfd.evaluation.evaluate import MODELS, Options, evaluate
from tfdfd.evaluation.scoring import EvaluationError, open_model, score_sets
from tfdfd.evaluation.sets import open_set
from tfdfd.metrics.intervals import compare
from tfdfd.metrics.scores import AGGREGATIONS, POLICIES, read_scores
from tfdfd.training.run_folder import FINGERPRINTS, read_fingerprints, write_fingerprints
from tfdfd.weights import list_records

SIZE = 32
SCHEMA = json.loads(Path(report_module.__file__).with_name("report.schema.json").read_text("utf-8"))
FORMS = ("report.json", "report.md", "report.html")
QUICK = {"resamples": 50, "plots": False}


def write_model(folder, name, change, seed=0):
    """A meso4 of 32 pixels that `change` has been at, as a weights file with its card."""
    import keras

    from tfdfd.models import build
    from tfdfd.weights.saving import save_weights

    keras.utils.set_random_seed(seed)
    model = build("meso4", input_shape=(SIZE, SIZE, 3))
    change(model)
    file = folder / f"{name}.safetensors"
    save_weights(model, file)
    data = file.read_bytes()
    card = {"handle": f"tfdfd/meso4.{name}", "model": "meso4", "file": file.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
    card |= {"polarity": "fake=1", "threshold": 0.5, "input_shape": [SIZE, SIZE, 3]}
    file.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return file


def constant(kernel, bias):
    def change(model):
        head = model.get_layer("fake_probability")
        head.set_weights([np.full_like(head.get_weights()[0], kernel), np.array([bias], np.float32)])

    return change


def spread(faces):
    """Makes an untrained network, which says the same to everything, tell these crops apart."""

    def change(model):
        head = model.get_layer("fake_probability")
        (images,) = open_set(faces, None, SIZE).batches(range(30), 30)
        scores = model.predict_on_batch(images).astype(np.float64)
        logits = np.log(scores / (1 - scores))
        kernel, bias = head.get_weights()
        head.set_weights([kernel / logits.std(), (bias - logits.mean()) / logits.std()])

    return change


@pytest.fixture(scope="module")
def models(tmp_path_factory, faces):
    folder = tmp_path_factory.mktemp("models")
    return {
        "fake": write_model(folder, "fake", constant(0, 8)),
        "nan": write_model(folder, "nan", constant(np.nan, 0)),
        "toy": write_model(folder, "toy", spread(faces)),
        "other": write_model(folder, "other", spread(faces), 1),
    }


def write_set(folder, real=4, fake=6, crops=3, split="test", dataset="ffpp"):
    """A face set of noise: `crops` of each of so many real and fake videos."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, rows = np.random.default_rng(real + 100 * fake), []
    for number in range(real + fake):
        label = int(number >= real)
        video, method = f"{'fr'[not label]}{number}.mp4", ("Deepfakes", "FaceSwap")[number % 2] if label else "original"
        for frame in range(crops):
            name = f"{video}-{frame}.png"
            pixels = draw.integers(0, 256, (SIZE // 4, SIZE // 4, 3), np.uint8)
            cv2.imwrite(str(folder / name), cv2.resize(pixels, (SIZE + 8, SIZE + 8), interpolation=cv2.INTER_NEAREST))
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            place = (name, dataset, video, frame, float(frame), 0, (0, 0, 9, 9), 1.0, label, method)
            rows.append(FaceRow(*place, (video,), (), "c23", split, digest))
    write_table(folder / "faces.csv", rows, FaceRow)
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("sets") / "faces")


def rewrite(folder, change):
    rows = list(faces_of(folder).rows)
    write_table(folder / "faces.csv", [change(number, row) for number, row in enumerate(rows)], FaceRow)


def test_a_model_that_calls_everything_fake_cannot_be_missed(models, tmp_path, run_tfdfd):
    data = write_set(tmp_path / "set", real=7, fake=43, crops=1)
    code, out, err = run_tfdfd("evaluate", models["fake"], "--data", data, "-o", tmp_path / "out", "--resamples", 50)
    assert code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA)
    for level in ("video", "frame"):
        found = report["judged"][level]
        assert (found["auc"]["value"], found["balanced_accuracy"]["value"]) == (0.5, 0.5)
        assert found["accuracy"]["value"] == found["majority"] == 0.86
        assert found["confusion"]["real_as_fake"] == 7
    codes = {warning["code"]: warning["message"] for warning in reversed(report["warnings"])}
    assert {"no_better_than_majority", "one_verdict"} <= codes.keys()
    for text in (err, *((tmp_path / "out" / form).read_text("utf-8") for form in FORMS)):
        assert codes["no_better_than_majority"] in text and codes["one_verdict"] in text
    assert "0.860     0.860" in out and str(tmp_path / "out" / "report.html") in err
    assert sorted(path.name for path in (tmp_path / "out" / "plots").iterdir()) == [
        "confusion.png", "precision_recall.png", "reliability.png", "roc.png", "scores.png"
    ]  # fmt: skip


def test_scores_are_those_of_the_network_crop_by_crop(models, faces, tmp_path):
    evaluate(models["toy"], [faces], tmp_path / "out", Options(**QUICK))
    rows, network = read_scores(tmp_path / "out" / "scores.csv"), open_model(models["toy"]).network
    assert [row.file for row in rows] == [row.file for row in faces_of(faces).rows]
    images = [open_set(faces, "test", SIZE).batches([number], 1) for number in range(len(rows))]
    expected = [float(network.predict_on_batch(next(image))[0, 0]) for image in images]
    assert [row.fake_probability for row in rows] == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.5


def test_scores_are_those_of_detect(faces, models):
    from tfdfd.detect.detector import Detector

    opened = open_model(models["toy"])
    one = open_set(faces, "test", SIZE)
    with Detector(models["toy"], "none", runtime="tensorflow") as detector:
        found = detector.detect_many([str(faces / row.file) for row in one.rows[:6]])
    scores = np.concatenate([opened.network.predict_on_batch(batch)[:, 0] for batch in one.batches(range(6), 4)])
    assert [each.fake_probability for each in found] == pytest.approx(scores.tolist(), abs=1e-5)


def test_another_spelling_of_a_set_goes_on_and_other_crops_are_refused(models, tmp_path, monkeypatch):
    source, plain = write_set(tmp_path / "source"), tmp_path / "plain"
    for row in faces_of(source).rows:
        (plain / ("fake" if row.label else "real")).mkdir(parents=True, exist_ok=True)
        shutil.copy(source / row.file, plain / ("fake" if row.label else "real"))
    (tmp_path / "link").symlink_to(plain)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scoring, "PART", 8)
    options, scored, part = Options(split=None, **QUICK), [], scoring._score_part
    monkeypatch.setattr(scoring, "_score_part", lambda *arguments: scored.append(1) or part(*arguments))

    def stop(done, total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(models["toy"], ["plain"], "out", options, progress=stop)
    for where in ("./link/", plain, "plain"):
        evaluate(os.path.relpath(models["toy"]), [where], tmp_path / "out", options)
    assert len(scored) == 4
    shutil.copy(plain / "real/r0.mp4-0.png", plain / "real/r0.mp4-1.png")
    with pytest.raises(ValueError, match=r"scores.csv holds scores of other sets: 0.rows_sha256 was '\w+', now"):
        evaluate(models["toy"], [plain], "out", options)


def test_a_stopped_scoring_goes_on_and_ends_the_same(models, faces, tmp_path, monkeypatch):
    whole = evaluate(models["toy"], [faces], tmp_path / "whole", Options(**QUICK))
    monkeypatch.setattr(scoring, "PART", 8)

    def stop(done, total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(models["toy"], [faces], tmp_path / "out", Options(**QUICK), progress=stop)
    assert not (tmp_path / "out" / "scores.csv").exists()
    scored, part = [], scoring._score_part
    monkeypatch.setattr(
        scoring, "_score_part", lambda model, one, numbers: scored.extend(numbers) or part(model, one, numbers)
    )
    again = evaluate(models["toy"], [faces], tmp_path / "out", Options(**QUICK))
    assert scored == list(range(16, 30))
    assert again["judged"] == whole["judged"]
    for name in ("scores.csv", "scores.json", *FORMS):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_finished_scores_are_not_made_again_and_others_are_refused(models, faces, tmp_path, monkeypatch, run_tfdfd):
    evaluate(models["toy"], [faces], tmp_path, Options(**QUICK))
    before = (tmp_path / "scores.csv").read_bytes()
    monkeypatch.setattr(scoring, "_score_parts", None)
    report = evaluate(models["toy"], [faces], tmp_path, Options(aggregation="median", **QUICK))
    assert report["judged"]["protocol"]["aggregation"] == "median"
    for words in (
        (models["fake"], "--data", faces),
        (models["toy"], "--data", faces, "--split", "none", "--blend"),
        (models["toy"], "--data", f"mine={faces}"),
    ):
        code, _, err = run_tfdfd("evaluate", *words, "-o", tmp_path, "--no-plots")
        assert code in (1, 2), err
    assert "holds scores of other sets" in err
    assert (tmp_path / "scores.csv").read_bytes() == before
    (tmp_path / "scores.json").unlink()
    with pytest.raises(ValueError, match="exists, but .*scores.json"):
        evaluate(models["toy"], [faces], tmp_path, Options(**QUICK))


def test_unreadable_crops_are_named_and_counted(models, tmp_path, run_tfdfd):
    data = write_set(tmp_path / "set")
    rows = faces_of(data).rows
    (data / rows[0].file).write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (data / rows[4].file).unlink()
    for row in rows[6:9]:
        (data / row.file).write_bytes(b"")
    code, out, err = run_tfdfd(
        "evaluate", models["toy"], "--data", data, "-o", tmp_path / "out", "--no-plots", "--resamples", 50
    )
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert Counter(row.status for row in read_scores(tmp_path / "out" / "scores.csv")) == {
        "ok": 25, "decode_error": 4, "not_found": 1
    }  # fmt: skip
    assert report["crops"]["broken"] == 5 and f"{rows[4].file}: not_found" in report["crops"]["unscored"]
    found = report["judged"]["coverage"]
    assert (found["expected"], found["scored"], found["broken"]) == (10, 9, 1)
    (low,) = [warning["message"] for warning in report["warnings"] if warning["code"] == "low_coverage"]
    assert low in err and low not in out
    as_fake = evaluate(models["toy"], [data], tmp_path / "out", Options(missing="as-fake", **QUICK))
    assert as_fake["judged"]["video"]["n"] == 10 and report["judged"]["video"]["n"] == 9


def test_videos_without_a_crop_count_where_the_index_knows_them(models, tmp_path):
    data = write_set(tmp_path / "set", real=3, fake=3)
    statuses = [StatusRow(video, "video", "ok", 3, 3, 0, "detected", None) for video in ("r0.mp4", "f3.mp4")]
    gone = {"gone.mp4": "no_face", "cut.mp4": "decode_error", "many.mp4": "multiple_faces", "train.mp4": "no_face"}
    statuses += [StatusRow(video, None, status, 0, 0, 0, None, "why") for video, status in gone.items()]
    write_table(data / "status.csv", statuses, StatusRow)
    report = evaluate(models["toy"], [data], tmp_path / "without", Options(**QUICK))
    assert report["judged"]["coverage"]["expected"] == 6
    (told,) = [warning["message"] for warning in report["warnings"] if warning["code"] == "unlabelled"]
    assert "4 videos without a crop are not counted" in told and "1 decode_error, 1 multiple_faces, 2 no_face" in told
    entries = [
        IndexRow(video, "ffpp", "video", 1, "Deepfakes", (video,), split="train" if video == "train.mp4" else "test")
        for video in gone
    ]
    write_table(tmp_path / "index.csv", entries, IndexRow)
    options = Options(index=tmp_path / "index.csv", missing="as-real", **QUICK)
    # The crops are scored; what the index tells is added.
    report = evaluate(models["toy"], [data], tmp_path / "without", options)
    assert len(read_scores(tmp_path / "without" / "scores.csv")) == 18 + 3
    found = report["judged"]["coverage"]
    assert (found["expected"], found["scored"], found["no_face"], found["left_out"], found["broken"]) == (9, 6, 1, 1, 1)
    assert report["judged"]["video"]["n_fake"] == 6 and report["videos_known"]
    assert not [warning for warning in report["warnings"] if warning["code"] == "unlabelled"]


def test_nan_is_an_error_that_names_the_crop(models, faces, tmp_path, run_tfdfd):
    with pytest.raises(EvaluationError, match="returns nan for r0.mp4-0.png .30 such"):
        evaluate(models["nan"], [faces], tmp_path, Options(**QUICK))
    assert not (tmp_path / "scores.csv").exists() and not (tmp_path / "report.json").exists()
    code, out, err = run_tfdfd("evaluate", models["nan"], "--data", faces, "-o", tmp_path, "--no-plots", "--quiet")
    assert code == 1 and not out and "its weights are damaged" in err


def test_a_set_of_one_class_has_reasons_where_figures_would_be(models, tmp_path, run_tfdfd):
    data = write_set(tmp_path / "set", real=3, fake=0)
    code, out, err = run_tfdfd("evaluate", models["toy"], "--data", data, "-o", tmp_path / "out", "--no-plots")
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA)
    assert code == 0 and report["judged"]["video"]["auc"]["value"] is None
    assert "real" in report["judged"]["video"]["auc"]["reason"] and "--blend makes fakes" in err


def test_a_leaking_set_is_refused(models, tmp_path, run_tfdfd):
    data = write_set(tmp_path / "set")
    rewrite(data, lambda number, row: replace(row, split="train" if number % 3 == 0 else "test"))
    words = ("evaluate", models["toy"], "--data", data, "-o", tmp_path / "out", "--no-plots", "--resamples", 20)
    code, _, err = run_tfdfd(*words)
    assert code == 2 and "in several splits" in err and not (tmp_path / "out" / "scores.csv").exists()
    assert run_tfdfd(*words, "--allow-leaks")[0] == 0


def write_run(folder, source, seen, root):
    """A finished run of the network in a weights file, whose training has seen `seen`."""
    from tfdfd.recipes import find_recipe
    from tfdfd.training.history import write_history
    from tfdfd.training.run_folder import RunFolder

    card = json.loads(source.with_suffix(".json").read_text("utf-8"))
    with RunFolder(folder, find_recipe("s1-meso4"), {"folder": str(root)}, "tensorflow") as run:
        (folder / "weights.safetensors").write_bytes(source.read_bytes())
        run.write_card(card)
        write_fingerprints(folder, seen, root)
        best = {"epoch": 0, "accuracy": 0.7, "val_accuracy": 0.6, "loss": 0.5, "seconds": 40.0}
        write_history(folder, [best, best | {"epoch": 1, "accuracy": 0.9, "seconds": 83.0}], "a run")
        run.finish({"best_epoch": 0})
    return folder


def test_a_run_is_not_judged_on_what_it_was_trained_on(models, faces, tmp_path, run_tfdfd):
    rows = faces_of(faces).rows
    apart = [replace(row, source_id=("else",), video="else", sha256=None) for row in rows]
    cases = {
        "source": ({"train": [replace(rows[0], video="x", sha256=None)]}, "crops share a source"),
        "file": ({"train": [replace(apart[0], sha256=rows[5].sha256)]}, "1 crops share a file"),
        "clean": ({"train": apart, "val": apart}, None),
        "other set": ({"train": [replace(row, dataset="dfdc", sha256=None) for row in rows]}, None),
    }
    for name, (seen, told) in cases.items():
        run = write_run(tmp_path / name, models["toy"], seen, faces)
        words = ("evaluate", run, "--data", faces, "-o", tmp_path / f"{name} out", "--no-plots", "--resamples", 20)
        code, _, err = run_tfdfd(*words)
        assert (code, "was trained on" in err) == ((2, True) if told else (0, False)), (name, err)
        assert told is None or told in err
    assert run_tfdfd(*words[:1], tmp_path / "source", *words[2:4], "-o", tmp_path / "allowed", "--allow-leaks")[0] == 0
    assert "THE MODEL WAS TRAINED ON PART OF THIS SET" in (tmp_path / "allowed" / "report.md").read_text("utf-8")


def test_validation_is_told_and_a_run_without_a_list_is_too(models, faces, tmp_path):
    run = write_run(tmp_path / "run", models["toy"], {"train": [], "val": faces_of(faces).rows}, faces)
    report = evaluate(run, [faces], tmp_path / "out", Options(table="s3", **QUICK))
    assert report["leaks"]["checked"] and report["leaks"]["shared"]["val"]["file"]["crops"] == 30
    assert "chosen_on" in {warning["code"] for warning in report["warnings"]}
    assert report["tables"][0]["rows"][0][1:3] == ["70.00 %", "60.00 %"]
    assert report["tables"][0]["rows"][0][4:6] == ["0.5000", "1:23"]
    (run / FINGERPRINTS).unlink()
    report = evaluate(run, [faces], tmp_path / "out", Options(**QUICK))
    assert "not_checked" in {warning["code"] for warning in report["warnings"]}
    (run / FINGERPRINTS).write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="does not say what a run has seen"):
        read_fingerprints(run)


def test_a_run_of_train_knows_its_training_data_again(tmp_path, run_tfdfd):
    data = write_set(tmp_path / "set", real=9, fake=9, crops=2)
    splits = ("train", "val", "test")
    rewrite(data, lambda number, row: replace(row, split=splits[number // 2 % 3]))
    run = tmp_path / "run"
    code, _, err = run_tfdfd("train", "s1-meso4", "--data", data, "-o", run, "--quick", "--set", "size=32")
    assert code == 0, err
    words = ("evaluate", "--data", data, "--no-plots", "--resamples", 20)
    for split, expected in zip(splits, (2, 0, 0), strict=True):
        code, _, err = run_tfdfd(*words, run, "-o", tmp_path / split, "--split", split)
        assert code == expected and ("was trained on" in err) == (split == "train"), err
        assert ("were chosen on part of this set (val)" in err) == (split == "val")
    assert run_tfdfd(*words, run / "weights.safetensors", "-o", tmp_path / "x", "--split", "train")[0] == 2


def test_what_a_run_began_with_is_seen_too(faces, tmp_path):
    rows = faces_of(faces).rows
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_fingerprints(tmp_path / "one", {"train": rows[:1], "val": rows[1:2]}, faces)
    write_fingerprints(
        tmp_path / "two", {"train": rows[6:7]}, faces, initial_models=[tmp_path / "one", "tfdfd/meso4.df"]
    )
    one, two = (read_fingerprints(tmp_path / name) for name in ("one", "two"))
    assert one["train"] < two["train"] and one["val"] == two["val"]
    assert {rows[0].sha256, rows[6].sha256} <= two["train"]
    assert "r0.mp4" not in (tmp_path / "two" / FINGERPRINTS).read_text("utf-8")


def test_names_of_a_plain_folder_say_nothing_of_another_folder(models, tmp_path):
    for name in ("one", "two"):
        for kind in ("real", "fake"):
            write_set(tmp_path / name / kind, *((2, 0) if name == "one" else (3, 0)), crops=2)
    seen = {"train": faces_of(tmp_path / "one").rows}
    run = write_run(tmp_path / "run", models["toy"], seen, tmp_path / "one")
    report = evaluate(run, [tmp_path / "two"], tmp_path / "out", Options(split=None, **QUICK))
    assert report["leaks"] == {"checked": True, "shared": {}}
    assert "no_videos" in {warning["code"] for warning in report["warnings"]}
    with pytest.raises(ValueError, match="the model was trained on part of this data"):
        evaluate(run, [tmp_path / "one"], tmp_path / "again", Options(split=None, **QUICK))


def test_shards_are_judged_as_the_files_they_were_packed_from(models, faces, tmp_path, run_tfdfd):
    assert run_tfdfd("pack", faces, "-o", tmp_path / "shards", "--quiet")[0] == 0
    packed = evaluate(models["toy"], [tmp_path / "shards"], tmp_path / "packed", Options(**QUICK))
    plain = evaluate(models["toy"], [faces], tmp_path / "plain", Options(**QUICK))
    for level in ("video", "frame"):
        for name in ("auc", "log_loss", "confusion"):
            one, other = (report["judged"][level][name] for report in (packed, plain))
            assert one == other if name == "confusion" else one["value"] == pytest.approx(other["value"], abs=1e-6)
    with pytest.raises(ValueError, match="do not store which crops show the same person"):
        evaluate(models["toy"], [tmp_path / "shards"], tmp_path / "x", Options(aggregation="max_of_track_means"))


def test_several_sets_have_tables_of_their_own(models, faces, tmp_path, run_tfdfd):
    other = write_set(tmp_path / "other", real=5, fake=3, crops=2)
    words = ("evaluate", models["toy"], "-o", tmp_path / "out", "--no-plots", "--resamples", 20, "--data", faces)
    code, _, err = run_tfdfd(*words, "--data", other)
    assert code == 2 and "both called 'ffpp'" in err and "--data NAME=" in err
    assert run_tfdfd(*words, "--data", f"second={other}")[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert [(part["dataset"], part["video"]["n"]) for part in report["judged"]["per_dataset"]] == [
        ("ffpp", 10), ("second", 8)
    ]  # fmt: skip
    assert {(part["dataset"], part["method"]): part["video"]["n_real"] for part in report["judged"]["per_method"]} == {
        ("ffpp", "Deepfakes"): 4, ("ffpp", "FaceSwap"): 4, ("second", "Deepfakes"): 5, ("second", "FaceSwap"): 5
    }  # fmt: skip


def test_two_models_and_scores_again(models, faces, tmp_path, run_tfdfd):
    out, words = tmp_path / "out", ("--no-plots", "--resamples", 50)
    code, text, _ = run_tfdfd(
        "evaluate", models["toy"], "--data", faces, "-o", out, "--against", models["other"], "--table", "s0", *words
    )
    report = json.loads((out / "report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA)
    tables = [read_scores(out / f"{name}.csv") for name in MODELS]
    assert report["comparison"] == json.loads(json.dumps(compare(*tables, resamples=50)))
    assert code == 0 and "Two models on the same videos" in text and text.count("S0, tables 1 and 2") == 2
    code, again, _ = run_tfdfd(
        "evaluate", "--from-scores", out / "scores.csv", "--against", out / "second.csv", "-o", tmp_path / "again",
        "--table", "s0", *words,
    )  # fmt: skip
    assert code == 0 and again.splitlines()[:5] == text.splitlines()[:5]
    stored = json.loads((tmp_path / "again" / "report.json").read_text("utf-8"))
    for key in ("judged", "comparison", "histogram", "tables", "crops", "sets"):
        assert stored[key] == report[key], key


def test_fakes_are_blended_of_real_crops(models, tmp_path, astronaut):
    data = tmp_path / "set"
    data.mkdir()
    rows = []
    for number in range(3):
        cv2.imwrite(str(data / f"{number}.png"), astronaut[50 + number : 170 + number, 150:290, ::-1])
        where = (f"{number}.png", "ffpp", f"v{number}", 0, 0.0, 0, (0, 0, 9, 9), 1.0, int(number == 2))
        rows.append(FaceRow(*where, "Deepfakes" if number == 2 else "original", (f"v{number}",), split="test"))
    cv2.imwrite(str(data / "flat.png"), np.full((90, 90, 3), 120, np.uint8))
    rows.append(replace(rows[0], file="flat.png", video="flat", source_id=("flat",)))
    write_table(data / "faces.csv", rows, FaceRow)
    report = evaluate(models["toy"], [data], tmp_path / "out", Options(blend=True, **QUICK))
    found = read_scores(tmp_path / "out" / "scores.csv")
    assert [(row.file, row.label, row.method, row.video, row.status) for row in found] == [
        ("0.png", 0, "original", "v0", "ok"), ("0.png", 1, "self-blended", "v0#self-blended", "ok"),
        ("1.png", 0, "original", "v1", "ok"), ("1.png", 1, "self-blended", "v1#self-blended", "ok"),
        ("flat.png", 0, "original", "flat", "no_face"),
    ]  # fmt: skip
    assert report["judged"]["coverage"]["no_face"] == 1 and report["sets"][0]["self_blended"]
    assert len(list((tmp_path / "out" / "hardest").iterdir())) == 4
    again = evaluate(models["toy"], [data], tmp_path / "again", Options(blend=True, **QUICK))
    assert again["judged"] == report["judged"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give a model and a set to evaluate it on"),
        (("MODEL",), "give a model and a set to evaluate it on"),
        (("MODEL", "--data", "FACES", "--aggregate", "meen"), "did you mean mean"),
        (("MODEL", "--data", "FACES", "--split", "val"), "no crop of split 'val'"),
        (("MODEL", "--data", "FACES", "--index", "x.csv"), "status.csv; there is no such file"),
        (("MODEL", "--data", "FACES", "--data", "FACES", "--index", "x.csv"), "--index belongs to one set"),
        (("MODEL", "--data", "/nowhere"), "holds no face crops"),
        (("tfdfd/meso5", "--data", "FACES"), "no weights are known as 'tfdfd/meso5'"),
        (("--from-scores", "/nowhere.csv"), "cannot be read as a table"),
        (("--from-scores", "/nowhere.csv", "--blend"), "omit --data, --blend, --frames and --index"),
    ],
)
def test_usage_errors(models, faces, tmp_path, run_tfdfd, words, told):
    known = {"MODEL": models["toy"], "FACES": faces}
    code, out, err = run_tfdfd("evaluate", *(known.get(word, word) for word in words), "-o", tmp_path / "out")
    assert (code, out) == (2, "") and told in err


def test_the_command_line_knows_what_the_numbers_know():
    assert tuple(AGGREGATIONS) == cli.AGGREGATIONS
    assert tuple(POLICIES) == cli.MISSING


def test_json_on_standard_output_is_all_there_is(models, faces, tmp_path, run_tfdfd):
    words = ("evaluate", models["toy"], "--data", faces, "-o", tmp_path, "--json", "-", "--no-plots", "--quiet")
    code, out, _ = run_tfdfd(*words, "--resamples", 20)
    assert code == 0 and json.loads(out) == json.loads((tmp_path / "report.json").read_text("utf-8"))


def test_scoring_alone_counts_every_crop_once(models, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PART", 7)
    told = []
    rows = score_sets(
        open_model(models["toy"]), [open_set(faces, "test", SIZE)], tmp_path, progress=lambda *each: told.append(each)
    )
    assert told == [(7, 30), (14, 30), (21, 30), (28, 30), (30, 30)]
    assert len({row.file for row in rows}) == 30


HANDLE = "tfdfd/mobilenet_v1"


def test_the_carried_model_on_real_crops(data, tmp_path, run_tfdfd):
    sets = [data / "crops" / name for name in ("dfdc", "ffpp")]
    words = [word for folder in sets for word in ("--data", folder)]
    code, out, err = run_tfdfd(
        "evaluate", HANDLE, *words, "--split", "none", "-o", tmp_path, "--no-plots", "--table", "s1"
    )
    assert code == 0, err
    print(out)
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    dfdc, ffpp = report["judged"]["per_dataset"]
    assert (dfdc["video"]["n_real"], dfdc["video"]["n_fake"]) == (11, 11)
    # What the model's card says of these crops; of the other set's there is one real only.
    told = {row["set"]: row["auc"] for row in list_records()[HANDLE].card["scores"] if row["weights"] == "these"}
    for name, found in (("crops/dfdc", dfdc), ("crops/ffpp", ffpp)):
        assert found["frame"]["auc"]["value"] == pytest.approx(told[name], abs=0.03)
    low, high = dfdc["video"]["auc"]["interval"]
    assert low < dfdc["video"]["auc"]["value"] < high and ffpp["video"]["auc"]["interval"] is None
    assert {"no_better_than_majority", "too_few", "no_videos"} <= {warning["code"] for warning in report["warnings"]}


def test_a_network_of_clips_is_judged_a_clip_a_video(faces, tmp_path):
    import keras

    from tfdfd.models import CLIPS, build
    from tfdfd.models.temporal import temporal
    from tfdfd.weights.saving import save_weights

    keras.utils.set_random_seed(0)
    model = temporal(build("meso4", input_shape=(SIZE, SIZE, 3)), frames=2, units=4)
    save_weights(model, tmp_path / "clips.safetensors")
    data = (tmp_path / "clips.safetensors").read_bytes()
    card = {"handle": "tfdfd/temporal.x", "model": CLIPS, "file": "clips.safetensors", "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
    card |= {"polarity": "fake=1", "threshold": 0.5, "input_shape": [SIZE, SIZE, 3]}
    card["arguments"] = {"frame_network": "meso4", "frame_arguments": {}, "frames": 2, "units": 4}
    (tmp_path / "clips.json").write_text(json.dumps(card), encoding="utf-8")
    data = write_set(tmp_path / "set", real=4, fake=4)
    single = [row for row in faces_of(data).rows if row.video != "r0.mp4" or row.frame == 0]
    write_table(data / "faces.csv", single, FaceRow)
    (data / "f4.mp4-2.png").unlink()
    report = evaluate(tmp_path / "clips.safetensors", [data], tmp_path / "out", Options(**QUICK))
    rows = read_scores(tmp_path / "out" / "scores.csv")
    assert [(row.video, row.status) for row in rows if row.status != "ok"] == [
        ("f4.mp4", "not_found"), ("r0.mp4", "unsupported")
    ]  # fmt: skip
    assert report["judged"]["coverage"]["scored"] == report["judged"]["frame"]["n"] == 6
    crops = [cv2.imread(str(data / f"r1.mp4-{frame}.png"))[:, :, ::-1] for frame in (0, 2)]
    images = np.stack([cv2.resize(crop / np.float32(255), (SIZE, SIZE)) for crop in crops])
    expected = float(model.predict_on_batch(images[None])[0, 0])
    assert next(row.fake_probability for row in rows if row.video == "r1.mp4") == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ValueError, match="made from files"):
        evaluate(tmp_path / "clips.safetensors", [data], tmp_path / "x", Options(blend=True, **QUICK))
