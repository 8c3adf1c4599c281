"""On the path of the tests' child processes: all of them import TensorFlow and Keras as those of the package do."""

import runpy
from pathlib import Path

# By its path: whether the package is imported is what some of these processes are about.
runpy.run_path(str(Path(__file__).parents[2] / "tfdfd" / "process.py"))["import_quickly"]()
