"""Shared fixtures: the real data if present, a photograph with a face, and generated media."""

import ctypes
import gc
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PLAIN = ROOT / "tests" / "plain"
# As a user has it: JAX, which some tests import, would set it to 1 for all child processes.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Programs run for moments here and take long to compile.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()


# The files that take longest, longest first: shorter ones then fill the time until all workers are done.
LONGEST = (
    "test_models",
    "test_documents",
    "test_recipes",
    "test_serve_lifecycle",
    "test_training",
    "test_tune",
    "test_packed",
    "test_procedures",
    "test_prune",
    "test_carried_models",
    "test_face_set",
    "test_ray_engine",
    "test_hub_layers",
    "test_distilling",
    "test_serve_hostile",
    "test_runtime",
    "test_explain",
    "test_saved_model",
    "test_export",
    "test_detect",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish():
    """Half a million objects of the imports stay to the end: no search for garbage needs to go through them.

    Nor are searches frequent: networks and graphs are many objects, and few of them garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Gives memory back after each file: a process of gigabytes takes long to fork, which many tests do."""
    if nextitem is None or nextitem.path == item.path:
        return
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory):
    """Caches of a test run, none of them the user's, and a quick start of TensorFlow in child processes."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(mode=0o700, exist_ok=True)
    path = [str(PLAIN), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDFD_CACHE", str(cache))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(base / "programs"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        yield


@pytest.fixture(scope="session")
def data():
    """The folder of real test data; a test that needs it skips where it is absent."""
    folder = Path(os.environ.get("TFDFD_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set TFDFD_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def astronaut():
    """A public-domain photograph (NASA) with one face near (224, 122), RGB uint8 (512, 512, 3)."""
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture
def carried_hub_only(tmp_path, monkeypatch):
    """No hub but the carried one, and a cache of its own."""
    for variable in ("TFDFD_HUB", "TFDFD_HUB_SHA256"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def make_video():
    """A function that writes frames to a video file with PyAV."""

    def write(path, frames, *, codec="libx264", container=None, rate=25, pixels="yuv420p", aspect=None):
        import av

        with av.open(str(path), "w", format=container) as file:
            stream = file.add_stream(codec, rate=rate)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            for picture in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def toy_weights(tmp_path_factory):
    """A weights file of an untrained meso4 with its model card beside it: scores that mean nothing, but are scores."""
    import keras

    from tfdfd.models import build

    keras.utils.set_random_seed(0)
    file = tmp_path_factory.mktemp("toy") / "toy.weights.h5"
    build("meso4").save_weights(file)
    data = file.read_bytes()
    card = {"handle": "tfdfd/meso4.toy", "model": "meso4", "file": file.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
    card |= {"polarity": "fake=1", "threshold": 0.5}
    file.with_name("toy.json").write_text(json.dumps(card), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of the default model as a SavedModel, as `tfdfd export` writes it. Not to be changed."""
    from tfdfd.publishing.exporting import export

    folder = tmp_path_factory.mktemp("exported") / "1"
    export("tfdfd/meso_inception4", folder)
    return folder


@pytest.fixture
def eagerly():
    """For networks whose training step takes longer to trace than to run a few times."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def run_tfdfd(capfd):
    """The command line in this process: `run_tfdfd(*words) -> (exit code, stdout, stderr)`."""
    from tfdfd.cli.main import main

    def run(*words):
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return (code, *capfd.readouterr())

    return run
