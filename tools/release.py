"""Release files from the committed sources: wheel, sdist, CycloneDX bill of materials and their SHA-256 digests.

    make release            dist/tfdfd-VERSION…, the files of a release
    make lock               requirements.lock, which the bill of materials lists

Nothing of the working tree that is not committed gets into a release. The time in the archives is that of the commit
(`SOURCE_DATE_EPOCH`), so that anyone who builds the commit with the same `setuptools` and `wheel` gets the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from packaging.utils import parse_wheel_filename

from tfdfd.files import sha256, write_atomically

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", help="a new or empty folder")
    folder = parser.parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; give a new or an empty folder, so that a release has no other files")
    epoch = _git("log", "-1", "--format=%ct").decode().strip()
    with tempfile.TemporaryDirectory() as source:
        archive = Path(source) / "source.tar"
        archive.write_bytes(_git("-c", "tar.umask=022", "archive", "HEAD"))
        with tarfile.open(archive) as file:
            file.extractall(source, filter="data")
        archive.unlink()
        build(Path(source), folder, epoch)
        wheel = next(folder.glob("*.whl"))
        write_atomically(wheel.with_suffix(".cdx.json"), bill_of_materials(Path(source) / "requirements.lock", wheel))
    files = sorted(folder.iterdir())
    write_atomically(folder / "SHA256SUMS", "".join(f"{sha256(file)}  {file.name}\n" for file in files))
    print("\n".join(str(file) for file in [*files, folder / "SHA256SUMS"]))
    return 0


def build(source: Path, folder: Path, epoch: str) -> None:
    """Builds the sdist of a source folder, and the wheel from it, with the installed tools: no network."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, env=os.environ | {"SOURCE_DATE_EPOCH": epoch}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the build failed:\n{done.stdout}{done.stderr}")


def bill_of_materials(lock: Path, wheel: Path) -> str:
    """CycloneDX 1.6 as JSON: the wheel, and what the lock file pins, with hashes; valid by CycloneDX's own schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--sv", "1.6"]
    bill = json.loads(subprocess.run([*command, "--no-validate", str(lock)], check=True, stdout=subprocess.PIPE).stdout)
    name, version = parse_wheel_filename(wheel.name)[:2]
    bill["metadata"]["component"] = {
        "bom-ref": name,
        "type": "application",
        "name": name,
        "version": str(version),
        "purl": f"pkg:pypi/{name}@{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "hashes": [{"alg": "SHA-256", "content": sha256(wheel)}],
    }
    for component in bill["components"]:
        component.pop("description", None)  # the line of the lock file, whose hashes are above
    components = [component["bom-ref"] for component in bill["components"]]
    bill["dependencies"] = [{"ref": name, "dependsOn": components}, *({"ref": one} for one in components)]
    text = json.dumps(bill, indent=1) + "\n"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise SystemExit(f"the bill of materials is not valid: {error}")
    return text


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    sys.exit(main())
