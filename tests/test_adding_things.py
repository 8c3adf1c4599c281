"""A network, a metric, a recipe and an export format are each added in one place; the tests pick them up by themselves.

docs/contributing.md shows these additions.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

NETWORK = '''\
"""Toy network: one convolution."""

from __future__ import annotations

import keras
from keras import layers

from tfdfd.models.blocks import fake_probability, symmetric


def toy(input_shape: tuple[int, int, int] = (64, 64, 3), name: str = "toy") -> keras.Model:
    """One convolution and a mean."""
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(symmetric(image))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, fake_probability(x), name=name)
'''
METRIC = '''

def toy_metric(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean absolute distance of P(fake) from the label."""
    fake, scores = checked(labels, scores)
    return float(np.mean(np.abs(scores - fake)))


METRICS["toy_metric"] = Metric(toy_metric, "toy")
'''
RECIPE = '''\
"""Recipe of the toy study."""

from tfdfd.training.recipe import Recipe

RECIPES = [Recipe(name="toy-study", source="nowhere", expected="nothing", network="toy", epochs=1)]
'''
FORMAT = '''

@export_format("toy")
def write_toy(model: keras.Model, folder: Path, expected: Expected) -> dict:
    """`model.keras`, the Keras archive."""
    import keras

    _refusing(model).save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    return _facts(model, _UNIT, "the Keras archive", expected, lambda crops: loaded(_unit(crops), training=False))
'''
# What newcomers write: files of their own, text at the end of a file, and one row behind a line of a table.
FILES = {"tfdfd/models/toy.py": NETWORK, "tfdfd/recipes/toy.py": RECIPE}
APPENDED = {"tfdfd/metrics/__init__.py": METRIC, "tfdfd/publishing/formats.py": FORMAT}
NETWORK_ROW = '    "toy": Network("toy:toy", (64, 64, 3), 32, "nowhere"),'
ROWS = [
    ("tfdfd/models/__init__.py", "MODELS: dict[str, Network] = {", NETWORK_ROW),
]
CHECKS = ("test_models", "test_recipes", "test_spaces", "test_training", "test_metric_records", "test_export")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the checkout with a toy of each kind."""
    root = tmp_path_factory.mktemp("adding") / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "files")
    for folder in ("tfdfd", "tests", "tools", "tuning"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for name in ("setup.cfg", "tfdfd/weights/files", "saved_models", "large_weights"):
        (root / name).symlink_to(ROOT / name)
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name, text in APPENDED.items():
        with (root / name).open("a") as file:
            file.write(text)
    for name, line, row in ROWS:
        text = (root / name).read_text()
        assert text.count(line + "\n") == 1, f"{name} has no table {line}"
        (root / name).write_text(text.replace(line, f"{line}\n{row}"))
    return root


def python(copy, *words):
    done = subprocess.run(
        [sys.executable, *words], cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True
    )
    return done.returncode, f"{done.stdout}\n{done.stderr}"


def test_a_toy_of_each_kind_passes_the_checks_that_exist(copy):
    code, text = python(copy, "-m", "tools.record", "--check", "toy_metric")
    assert code == 1 and "metrics.json: toy_metric is new" in text
    code, text = python(copy, "-m", "tools.record", "toy", "toy_metric")
    assert code == 0, text
    for line in ("counts.json: toy is new", "networks.json: toy is new", "metrics.json: toy_metric is new"):
        assert line in text
    assert (copy / "tuning/spaces/toy.json").exists()
    files = [f"tests/{name}.py" for name in CHECKS]
    words = ("-k", "toy or no_metric or recorded_ones or test_records", "-m", "not slow", "-p", "no:cacheprovider")
    code, text = python(copy, "-m", "pytest", "-q", "-rA", *words, *files)
    assert code == 0, text
    for name in (
        "test_numbers_are_the_stored_ones[toy]",
        "test_record_agrees_with_the_graph[toy]",
        "test_the_builder_takes_the_ends[toy]",
        "test_it_runs_from_beginning_to_end[toy-study]",
        "test_it_runs_from_beginning_to_end[sbi-toy]",
        "test_the_values_are_the_recorded_ones",
        "test_lists_every_file_with_its_digest[toy]",
    ):
        assert f"{name}\n" in text, f"{name} did not run"
