"""`tfdfd finetune`: from two folders to an evaluated model, and the same again when it is resumed."""

import json

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of noise, a little smoother where it is fake, as face crops."""
    root, draw = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for label, name in enumerate(("real", "fake")):
        (root / name).mkdir()
        for number in range(24):
            noise = draw.integers(0, 256, (64, 64, 3), np.uint8)
            smooth = cv2.GaussianBlur(noise, (0, 0), 0.9 + 0.5 * label + draw.uniform(0, 0.2))
            cv2.imwrite(str(root / name / f"{name}{number:02}.png"), smooth)
    return root / "real", root / "fake"


def test_two_folders_become_an_evaluated_model(folders, tmp_path, run_tfdfd):
    words = [
        "finetune",
        *folders,
        "-o",
        tmp_path / "run",
        "--model",
        "fast",
        "--detector",
        "none",
        "--quick",
        "--quiet",
    ]
    code, stdout, stderr = run_tfdfd(*words)
    assert code == 0, stderr
    assert "48 crops" in stdout and "tfdfd extract" in stderr and "tfdfd evaluate" in stderr
    card = json.loads((tmp_path / "run/model/weights.json").read_text("utf-8"))
    recipe = json.loads((tmp_path / "run/model/run.json").read_text("utf-8"))["recipe"]
    assert card["model"] == recipe["network"] == "mobilenet_v1" and recipe["weights"] == "tfdfd/mobilenet_v1"
    report = json.loads((tmp_path / "run/report/report.json").read_text("utf-8"))
    weights = (tmp_path / "run/model/weights.safetensors").read_bytes()
    code, again, _ = run_tfdfd(*words)
    assert (code, again) == (0, stdout)
    assert (tmp_path / "run/model/weights.safetensors").read_bytes() == weights
    assert json.loads((tmp_path / "run/report/report.json").read_text("utf-8")) == report
    code, _, stderr = run_tfdfd(*words, "--set", "seed=1")
    assert code == 2 and "recipe.seed was 0, now 1" in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["real", "absent"], "absent is not a folder"),
        (["real", "real"], "are the same folder"),
        (["real", "empty"], "empty contains no image or video"),
        (["real", "fake", "--model", "tfdfd/reseption_ensemble"], "cannot be fine-tuned as a whole"),
        (["real", "fake", "--model", "tfdfd/mobilenet_v11"], "did you mean"),
        (["real", "fake", "--set", "epoch=1"], "did you mean epochs"),
        (["real", "fake", "--detector", "mtcn"], "did you mean mtcnn"),
    ],
)
def test_wrong_usage(folders, tmp_path, run_tfdfd, monkeypatch, words, message):
    monkeypatch.chdir(folders[0].parent)
    (folders[0].parent / "empty").mkdir(exist_ok=True)
    code, stdout, stderr = run_tfdfd("finetune", *words, "-o", tmp_path / "run")
    assert (code, stdout) == (2, "") and message in stderr
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
