"""Who may import whom. Data flows one way; the picture here is the one in the README: change both together."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfdfd"

# Each part may import those listed (and itself). Files at the top are parts of their own.
MAY_IMPORT = {
    "version": set(),
    "files": {"threads"},
    "html": set(),
    "log_lines": set(),
    "child_process": {"log_lines", "process"},
    "process": set(),
    "text": set(),
    "threads": set(),
    "media": set(),
    "faces": {"text"},
    "srm_kernels": set(),
    "data": {"extract", "faces", "files", "media", "srm_kernels", "text", "threads", "version"},
    "pipelines": {"data", "files", "process", "text"},
    "weights": {"files", "text"},
    "models": {"srm_kernels", "text", "weights"},
    "serve": {
        *(
            "child_process",
            "extract",
            "faces",
            "files",
            "hub",
            "log_lines",
            "media",
            "process",
            "publishing",
            "version",
        ),
    },
    "runtime": {"files", "models", "text", "version", "weights"},
    "metrics": {"data", "media", "text"},
    "evaluation": {
        "data",
        "faces",
        "files",
        "html",
        "metrics",
        "models",
        "pipelines",
        "text",
        "threads",
        "training",
        "version",
        "weights",
    },
    "training": {"data", "files", "metrics", "models", "pipelines", "text", "version", "weights"},
    "pruning": {
        "child_process",
        "data",
        "files",
        "metrics",
        "models",
        "publishing",
        "runtime",
        "srm_kernels",
        "text",
        "training",
        "weights",
    },
    "recipes": {"models", "text", "training"},
    "reproduce": {
        "cost",
        "data",
        "evaluation",
        "files",
        "html",
        "metrics",
        "models",
        "recipes",
        "text",
        "training",
        "version",
    },
    "tuning": {
        *("data", "files", "process", "metrics", "models", "recipes", "text", "training", "version", "weights"),
    },
    "cost": {"files", "log_lines", "models", "process", "runtime", "weights"},
    "extract": {"child_process", "faces", "media", "process", "threads"},
    "remote": {"runtime", "weights"},
    "detect": {
        "extract",
        "faces",
        "files",
        "media",
        "models",
        "remote",
        "runtime",
        "text",
        "version",
        "weights",
    },
    "report": {"detect", "faces", "files", "html", "media"},
    "explain": {
        *("data", "detect", "files", "html", "metrics", "models", "text", "report", "runtime", "weights"),
    },
    "app": {"child_process", "detect", "files", "media", "report", "serve", "text", "version"},
    "web": {
        *("detect", "extract", "faces", "files", "html", "hub", "media", "models", "publishing", "version"),
        "weights",
    },
    "publishing": {"data", "extract", "faces", "files", "media", "models", "runtime", "version", "weights"},
    "cli": {
        "app",
        "cost",
        "data",
        "detect",
        "evaluation",
        "explain",
        "extract",
        "faces",
        "files",
        "hub",
        "log_lines",
        "media",
        "models",
        "pipelines",
        "pruning",
        "publishing",
        "process",
        "recipes",
        "remote",
        "report",
        "reproduce",
        "runtime",
        "serve",
        "text",
        "training",
        "tuning",
        "version",
        "web",
        "weights",
    },
    "hub": {
        *("child_process", "files", "models", "publishing", "recipes", "runtime", "text", "threads", "version"),
        "weights",
    },
    # All but two for type checkers alone.
    "__init__": {"detect", "hub", "media", "models", "tuning", "version"},
    "__main__": {"cli"},
}
# Libraries that only some parts may name.
ONLY_IN = {
    "tensorflow": {"explain", "hub", "pipelines", "pruning", "publishing", "serve"},
    "tf_keras": {"pruning"},
    "tensorflow_model_optimization": {"pruning"},
    "torch": {"explain"},
    "openvino": {"runtime"},
    "keras": {
        "cost",
        "evaluation",
        "explain",
        "hub",
        "models",
        "pipelines",
        "pruning",
        "publishing",
        "reproduce",
        "runtime",
        "training",
        "tuning",
        "weights",
    },
    "keras_tuner": {"tuning"},
    "grpc": {"remote", "serve", "tuning"},
    "ray": {"extract"},
    "cv2": {"media", "faces", "data", "evaluation", "explain", "extract", "html", "remote", "report", "serve"},
    "sklearn": {"explain", "metrics", "training"},
    "argparse": {"cli"},
    "mtcnn": set(),
    "joblib": set(),
    "lz4": set(),
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_part_is_in_the_picture():
    assert {part_of(path) for path in modules()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_picture(path):
    part = part_of(path)
    for name in imported(path):
        root, *rest = name.split(".")
        if root == "tfdfd":
            assert rest[0] in MAY_IMPORT[part] | {part}, f"{part} imports {name}"
        assert root not in ONLY_IN or part in ONLY_IN[root], f"{part} imports {root}"


def test_networks_import_keras_and_numpy_only():
    for path in (PACKAGE / "models").glob("*.py"):
        if path.name != "__init__.py":
            libraries = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
            assert libraries <= {"keras", "numpy", "tfdfd"}, path


def test_nothing_of_the_package_imports_tools_or_tests():
    roots = {name.split(".")[0] for path in modules() for name in imported(path)}
    assert not roots & {"tools", "tests", "benchmarks", "tuning"}


def loaded_by(code):
    """Names of the loaded modules after `code` in a new process that imports as a user's does."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": ""}
    code += "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_own_processes_import_tensorflow_without_what_it_does_not_need():
    quickly = "from tfdfd.process import import_quickly; import_quickly(); import tensorflow, keras"
    loaded = loaded_by(quickly)
    assert "keras.src.wrappers.fixes" in loaded
    assert not loaded & {"sklearn", "matplotlib", "jax"}
    assert {"sklearn", "matplotlib.pyplot"} <= loaded_by(f"{quickly}, sklearn, matplotlib.pyplot")


def test_an_import_of_the_package_changes_no_import_of_others():
    assert "sklearn.base" in loaded_by("import tfdfd, keras")
