"""What setup.cfg cannot say: the published models in saved_models/ are tfdfd/saved_models/ of an installed package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tfdfd*"]), "tfdfd.saved_models"],
    package_dir={"tfdfd.saved_models": "saved_models"},
)
