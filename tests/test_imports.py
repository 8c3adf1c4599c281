"""Who may import whom. Data flows one way; the picture here is the one in the README: change both together."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfdfd"

# Each part may import those listed (and itself). Files at the top are parts of their own.
MAY_IMPORT = {
    "version": set(),
    "files": set(),
    "html": set(),
    "log_lines": set(),
    "child_process": {"log_lines"},
    "near_matches": set(),
    "safe_text": set(),
    "workdir": {"files"},
    "media": set(),
    "faces": {"near_matches"},
    "srm_kernels": set(),
    "data": {"extract", "faces", "files", "media", "near_matches", "safe_text", "workdir", "srm_kernels", "version"},
    "pipelines": {"data", "files", "safe_text"},
    "weights": {"files", "near_matches"},
    "models": {"near_matches", "srm_kernels", "weights"},
    "serve": {"child_process", "extract", "faces", "files", "hub", "log_lines", "media", "publishing", "version"},
    "runtime": {"files", "models", "near_matches", "version", "weights"},
    "metrics": {"data", "media", "near_matches"},
    "evaluation": {
        "data",
        "faces",
        "files",
        "html",
        "metrics",
        "models",
        "pipelines",
        "safe_text",
        "training",
        "version",
        "weights",
        "workdir",
    },
    "training": {"data", "files", "metrics", "models", "near_matches", "pipelines", "workdir", "version", "weights"},
    "pruning": {
        "child_process",
        "data",
        "files",
        "metrics",
        "models",
        "publishing",
        "runtime",
        "srm_kernels",
        "training",
        "weights",
    },
    "recipes": {"models", "near_matches", "training"},
    "reproduce": {
        "cost",
        "data",
        "evaluation",
        "files",
        "html",
        "metrics",
        "models",
        "near_matches",
        "recipes",
        "training",
        "version",
        "workdir",
    },
    "tuning": {
        "data",
        "files",
        "metrics",
        "models",
        "near_matches",
        "recipes",
        "workdir",
        "training",
        "version",
        "weights",
    },
    "cost": {"files", "log_lines", "models", "runtime", "weights"},
    "extract": {"media", "faces"},
    "remote": {"runtime", "weights"},
    "detect": {
        "extract",
        "faces",
        "files",
        "media",
        "models",
        "remote",
        "runtime",
        "safe_text",
        "version",
        "weights",
        "workdir",
    },
    "report": {"detect", "faces", "files", "html", "media"},
    "explain": {
        *("data", "detect", "files", "html", "metrics", "models", "near_matches", "report", "runtime", "weights"),
        "workdir",
    },
    "app": {"child_process", "detect", "files", "media", "report", "safe_text", "serve", "version"},
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
        "near_matches",
        "pipelines",
        "pruning",
        "publishing",
        "recipes",
        "remote",
        "report",
        "reproduce",
        "runtime",
        "safe_text",
        "serve",
        "training",
        "tuning",
        "version",
        "weights",
    },
    "hub": {
        "child_process",
        "files",
        "models",
        "near_matches",
        "publishing",
        "recipes",
        "runtime",
        "version",
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
