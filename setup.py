"""What setup.cfg cannot say: which folders beside the package are in it where it is installed (the published models of
saved_models/, and the search spaces and best settings of tuning/), and equal bytes for equal $SOURCE_DATE_EPOCH."""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

BESIDE = {
    "tfdfd.saved_models": "saved_models",
    "tfdfd.tuning.spaces": "tuning/spaces",
    "tfdfd.tuning.best": "tuning/best",
}
EPOCH = os.environ.get("SOURCE_DATE_EPOCH")
if EPOCH is not None:
    os.umask(0o022)  # the wheel's modes are those of the files that the build creates


class SameBytes(sdist):
    """Writes names in order and one time, owner and mode for all files; setuptools does so for wheels only."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):  # noqa: A002
        if EPOCH is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def same(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = int(EPOCH), 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            return entry

        path = Path(f"{base_name}.tar.gz")
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", mtime=int(EPOCH), fileobj=file) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for entry in sorted([Path(base_dir), *Path(base_dir).rglob("*")]):
                archive.add(entry, recursive=False, filter=same)
        return str(path)


setup(packages=[*find_packages(include=["tfdfd*"]), *BESIDE], package_dir=BESIDE, cmdclass={"sdist": SameBytes})
