"""The package as a user has it: a wheel of the checkout, installed into a folder once for all tests of a process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def installed(tmp_path_factory) -> Path:
    """The folder with `tfdfd/` and `bin/tfdfd`, for PYTHONPATH and PATH."""
    folder = tmp_path_factory.getbasetemp() / "wheel"
    site = folder / "site"
    if site.is_dir():
        return site
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "large_weights", "docs")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source"]
    subprocess.run(build, check=True, capture_output=True)
    partial = folder / "partial"
    install = [*pip, "install", "--quiet", "--no-deps", "--target", partial, next(folder.glob("*.whl"))]
    subprocess.run(install, check=True, capture_output=True)
    os.rename(partial, site)
    return site


# For `python -c`: refuses to go on with the checkout's package.
FROM_THE_WHEEL = "import tfdfd; assert '/wheel/site/' in tfdfd.__file__, tfdfd.__file__\n"
