"""Wheel and sdist: what they carry, and that the wheel works where nothing of the checkout is."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import release

ROOT = Path(__file__).parent.parent
EPOCH = "1700000000"
CARRIED = [
    "tfdfd/app/page.css",
    "tfdfd/app/page.html",
    "tfdfd/app/page.js",
    "tfdfd/app/words.js",
    "tfdfd/web/site/index.html.j2",
    "tfdfd/web/site/worker.js",
    "tfdfd/explain/explanation.html.j2",
    "tfdfd/explain/measured.json",
    "tfdfd/models/counts.json",
    "tfdfd/report/style.css.j2",
    "tfdfd/samples/genuine.mp4",
    "tfdfd/samples/blended.mp4",
    "tfdfd/weights/files/meso_inception4.safetensors",
    "tfdfd/weights/files/meso_inception4.json",
    "tfdfd/weights/files/evaluations/meso_inception4.json",
    "tfdfd/detect/detect.schema.json",
    "tfdfd/faces/networks/onet.onnx",
    "tfdfd/report/page.html.j2",
    "tfdfd/report/script.js",
    "tfdfd/py.typed",
]
# Beside the package in a checkout, and in it where it is installed: published models, search spaces, best settings.
PUBLISHED = [
    "saved_models/manifest.json",
    "saved_models/meso_inception4/1/saved_model.pb",
    "saved_models/meso_inception4/1/model_card.json",
    "saved_models/meso_inception4/1/variables/variables.index",
    "saved_models/meso_inception4/1/feature_vector/saved_model.pb",
    "tuning/spaces/meso4.json",
    "tuning/best/mobilenet_v1.json",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of a copy of the checkout, built with the tools of this environment: no network."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    release.build(source, folder, EPOCH)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_wheel_carries_sample_model_schema_and_template(built):
    names = zipfile.ZipFile(built[0]).namelist()
    assert not {*CARRIED, *(f"tfdfd/{name}" for name in PUBLISHED)} - set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"tfdfd"}
    assert any(name.endswith("LICENSE") for name in names) and any(name.endswith("NOTICE") for name in names)


def test_sdist_carries_the_same(built):
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert not {*CARRIED, *PUBLISHED} - names
    assert {"setup.cfg", "setup.py", "README.md", "LICENSE"} <= names


def test_wheel_is_small(built):
    assert built[0].stat().st_size < 15e6


def test_two_builds_at_other_times_in_other_folders_are_equal(built, tmp_path):
    source = tmp_path / "another" / "place"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    for path in [source, *source.rglob("*")]:
        os.utime(path, (1e9, 1e9))
        path.chmod(path.stat().st_mode & 0o700)
    before = os.umask(0o077)
    try:
        release.build(source, tmp_path / "out", EPOCH)
    finally:
        os.umask(before)
    for file in built:
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_wheel_runs_away_from_the_checkout(built, tmp_path):
    """Unpacked alone: the command finds its sample, model, schema and template."""
    zipfile.ZipFile(built[0]).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import tfdfd, pathlib; "
        "from tfdfd.cli.main import main; root = pathlib.Path(tfdfd.__file__).parent; "
        "assert 'site' in str(root), root; "
        "raise SystemExit(main(['detect', str(root / 'samples'), '--report', 'page.html', '--frames', '4']))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2 and (tmp_path / "page.html").stat().st_size > 10_000


def test_wheel_finds_its_published_models_away_from_the_checkout(built, tmp_path):
    zipfile.ZipFile(built[0]).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from tfdfd.cli.main import main; from tfdfd.hub.resolve "
        "import bundled; print(bundled().folder_of('meso_inception4', 1, bundled().manifest().models"
        "['meso_inception4'][1])); raise SystemExit(main(['models', 'verify']))"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TFDFD_HUB_SHA256")}
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site" / "tfdfd" / "saved_models"))
    assert "ok     tfdfd/meso_inception4/1" in done.stdout


AWAY = """
import re, shlex, sys
sys.path.insert(0, sys.argv[1])
from tfdfd.cli.main import main
from tfdfd.hub.resolve import look_up
from tfdfd.hub import Handle
from tfdfd.recipes import find_recipe
from tfdfd.training.recipe import read_config
from tfdfd.tuning.search_space import read_space
from tfdfd.weights.store import locate

assert read_space("meso4").search and read_config("mobilenet_v1", find_recipe("sbi-mobilenet-v1"))
commands = set()
for ask in (locate, lambda handle: look_up(Handle.parse(handle))):
    for handle in ("tfdfd/reseption_v1", "tfdfd/reseption_ensemble"):
        try:
            raise SystemExit(f"{handle} is here: {ask(handle)}")
        except ValueError as error:
            commands |= set(re.findall("run '(tfdfd models pull [^']*)'", str(error)))
assert len(commands) == 2, commands
for command in sorted(commands):
    words = shlex.split(command.replace("FOLDER_OR_ADDRESS", sys.argv[2]))
    assert main(words[1:]) == 0
for handle in ("tfdfd/reseption_v1", "tfdfd/reseption_v2", "tfdfd/reseption_ensemble"):
    print(look_up(Handle.parse(handle))[1], locate(handle)[1])
"""


def test_wheel_has_spaces_and_best_settings_and_pulls_large_weights(built, tmp_path):
    zipfile.ZipFile(built[0]).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    unset = ("PYTHONPATH", "TFDFD_HUB", "TFDFD_HUB_SHA256")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {"TFDFD_CACHE": str(tmp_path / "weights"), "TFHUB_CACHE_DIR": str(tmp_path / "hubs")}
    command = [sys.executable, "-c", AWAY, str(tmp_path / "site"), str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        f"tfdfd/reseption_ensemble/1 {tmp_path / 'weights' / 'reseption_ensemble.safetensors'}"
    )


@pytest.mark.slow
def test_wheel_installs_into_an_empty_environment(built, tmp_path, monkeypatch):
    """As a user does: a new virtual environment, the wheel and its dependencies from the registry, one command; then
    the carried model through TensorFlow Hub."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # else pip finds this checkout, and installs nothing
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", built[0]], check=True)
    code = "import tfdfd, pathlib; print(pathlib.Path(tfdfd.__file__).parent / 'samples')"
    samples = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    command = [tmp_path / "venv" / "bin" / "tfdfd", "detect", samples.strip()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 2, done.stderr
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{built[0]}[hub]"], check=True)
    code = (
        "import tensorflow_hub as hub, tfdfd, numpy as np; image = np.random.rand(2, 256, 256, 3).astype('float32'); "
        "print(np.abs(hub.KerasLayer('tfdfd/meso_inception4')(image) - tfdfd.HubLayer('tfdfd/meso_inception4')(image))"
        ".max() < 1e-5)"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "True\n", done.stderr
