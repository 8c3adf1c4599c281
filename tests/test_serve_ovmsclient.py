"""A client that others wrote against TensorFlow Serving, `ovmsclient` of PyPI, in an environment of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.served import SIZE, Server, write_model

CLIENT = """
import json, sys
import numpy as np
from ovmsclient import make_grpc_client, make_http_client

grpc_address, rest_address, pictures = sys.argv[1:4]
images = np.load(pictures)
told = {}
for way, client in ("grpc", make_grpc_client(grpc_address)), ("http", make_http_client(rest_address)):
    metadata = client.get_model_metadata("tiny")
    refusals = []
    for wrong in ({"other": images}, {"image": images[:, :4]}):
        try:
            client.predict(wrong, "tiny")
        except Exception as error:
            refusals.append(type(error).__name__)
    try:
        client.get_model_status("nobody")
    except Exception as error:
        refusals.append(type(error).__name__)
    told[way] = {
        "status": client.get_model_status("tiny"),
        "metadata": metadata,
        "scores": client.predict({"image": images}, "tiny").ravel().tolist(),
        "refusals": refusals,
    }
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with nothing but ovmsclient."""
    folder = tmp_path_factory.mktemp("ovmsclient")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    found = folder / "bin" / "python"
    command = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "ovmsclient"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"ovmsclient cannot be had here: {done.stderr[-300:]}")
    return found


@pytest.mark.slow
def test_status_metadata_and_predictions(python, tmp_path):
    write_model(tmp_path / "tiny" / "3", 0.5)
    images = np.random.default_rng(0).random((3, SIZE, SIZE, 3), np.float32)
    np.save(tmp_path / "images.npy", images)
    with Server("--models", tmp_path / "tiny", "--allow-any-graph") as server:
        rest = server.rest.removeprefix("http://")
        command = [python, "-c", CLIENT, server.address, rest, tmp_path / "images.npy"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
    for way in told.values():
        assert way["status"] == {"3": {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
        assert way["scores"] == pytest.approx(images[..., 0].mean((1, 2)) / 2, abs=1e-5)
        assert way["refusals"] == ["InvalidInputError", "InvalidInputError", "ModelNotFoundError"]
    assert told["grpc"]["metadata"] == {
        "model_version": 3,
        "inputs": {"image": {"shape": [-1, SIZE, SIZE, 3], "dtype": "DT_FLOAT"}},
        "outputs": {"fake_probability": {"shape": [-1, 1], "dtype": "DT_FLOAT"}},
    }
    assert told["http"]["metadata"]["model_spec"]["version"] == "3"
