"""What setup.cfg cannot say: which folders beside the package are in it where it is installed: the published models of
saved_models/, and the search spaces and best settings of tuning/."""

from setuptools import find_packages, setup

BESIDE = {
    "tfdfd.saved_models": "saved_models",
    "tfdfd.tuning.spaces": "tuning/spaces",
    "tfdfd.tuning.best": "tuning/best",
}

setup(packages=[*find_packages(include=["tfdfd*"]), *BESIDE], package_dir=BESIDE)
