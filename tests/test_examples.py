"""The notebooks in examples/, each run as a script from an installed wheel, in a folder of its own."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PLAIN
from tests.made_faces import make_faces
from tests.wheel import FROM_THE_WHEEL, installed

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
QUICK = ("detect",)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "faces"
    make_faces(folder, videos=18, frames=1)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return installed(tmp_path_factory)


def code_of(notebook):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow) for path in NOTEBOOKS],
)
def test_a_notebook_runs_from_beginning_to_end(notebook, faces, site, tmp_path):
    (tmp_path / "faces").symlink_to(faces)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        program = re.sub(r"^PORT = \d+$", f"PORT = {one.getsockname()[1]}", code_of(notebook), flags=re.MULTILINE)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "agg"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (site, PLAIN)))
    environment["PATH"] = f"{site / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", FROM_THE_WHEEL + program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_output_and_names_its_extra(notebook):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    assert "pip install" in "".join(cells[0]["source"])
