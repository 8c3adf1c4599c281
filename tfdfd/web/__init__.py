"""Static site with a model, the face detector and their runtime, which scores files in the visitor's browser.

The scripts in `site/` repeat `tfdfd/faces` and `tfdfd/detect`; their constants come from there by `settings.json`.
onnxruntime-web runs the networks, and mediabunny reads the containers of videos; both come from npm, by digest.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.detect import verdict
from tfdfd.detect.evidence import SUPPORT
from tfdfd.extract.extraction import MAX_CROPS
from tfdfd.faces import MARGIN, detectors
from tfdfd.faces.crop import MEASURES, MIN_AFFINITY
from tfdfd.files import cache_folder, new_folder, read_regular, sha256, temporary_folder, write_atomically
from tfdfd.html import environment
from tfdfd.hub.sources import blocks_of
from tfdfd.media import FRAMES, Limits
from tfdfd.models import clip_frames, spec
from tfdfd.publishing.exporting import export
from tfdfd.version import __version__
from tfdfd.weights import DEFAULT_MODEL
from tfdfd.weights.store import CARD, locate

if TYPE_CHECKING:
    from tfdfd.weights import WeightRecord

SITE, APP = Path(__file__).parent / "site", Path(__file__).parents[1] / "app"
SETTINGS = "settings.json"
_MAKER = "tfdfd web"
# What WebAssembly, the workers and the pictures of the page need; nothing from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)
# float32; a visitor downloads it.
MAX_MODEL_BYTES = 64 << 20


@dataclass(frozen=True)
class Package:
    """One version of a package of npm.

    Attributes:
        name, version: as on npm.
        sha512: digest of its archive, in base64 as npm states it.
        bytes: size of the archive.
        files: name in the site's folder `runtime`, by name in the archive.
        licence: license, and where its text and source are.
    """

    name: str
    version: str
    sha512: str
    bytes: int
    files: dict[str, str]
    licence: str

    @property
    def archive(self) -> str:
        return f"{self.name}-{self.version}.tgz"

    @property
    def url(self) -> str:
        return f"https://registry.npmjs.org/{self.name}/-/{self.archive}"


# The names end in .js: some servers give .mjs a type that browsers refuse.
RUNTIME = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        33_106_585,
        {
            "package/dist/ort.wasm.bundle.min.mjs": "ort.js",
            "package/dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
        },
        "MIT, Copyright (c) Microsoft Corporation; github.com/microsoft/onnxruntime",
    ),
    Package(
        "mediabunny",
        "1.61.0",
        "WciPOYwKZwgYkoBKcEK6JzzIf+w5whypPzFdOihOylZ/5Qv19FmNfRnTcaprH+jD136YpEASU30Eb6VNCJiz3A==",
        2_178_659,
        {"package/dist/bundles/mediabunny.min.mjs": "mediabunny.js"},
        "MPL-2.0; the source is on npm under this name and version, and at github.com/Vanilagy/mediabunny",
    ),
)


def build_site(
    site: str | os.PathLike, model: str | os.PathLike = DEFAULT_MODEL, runtime: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Writes the site: a new folder, or in place of a site that this function made; complete, or not at all.

    Args:
        site: folder to write.
        model: handle, weights file or folder of a run: a network of single face crops.
        runtime: folder with the archives of `RUNTIME`, as `npm pack` names them; None: they are downloaded from npm
            once, into the user's cache folder.

    Returns:
        `settings.json` of the site.

    Raises:
        ValueError: the model is unknown, scores no single crops or is too large; the folder holds something else; or an
            archive of the runtime is missing or has another digest.
        OSError: the folder cannot be written.
    """
    record, _ = locate(model)
    _check_model(record)
    folder = Path(os.path.realpath(site))
    _check_replaceable(folder)
    archives = [_archive(package, runtime) for package in RUNTIME]
    with new_folder(folder, _MAKER, replace=True) as new:
        settings = _write(new, record, model, archives)
        _check_replaceable(folder)  # once more: the export took a while
    return settings


def _check_model(record: WeightRecord) -> None:
    if clip_frames(record):
        what = "it scores clips of several frames"
    elif record.members:
        what = "it is an ensemble of several networks"
    elif (size := 4 * spec(record.model).params) > MAX_MODEL_BYTES:
        what = f"it is larger than {MAX_MODEL_BYTES:,} bytes (about {size:,})"
    else:
        return
    raise ValueError(
        f"{record.handle} does not run in a browser: {what}; give a network of single faces, such as --model fast."
    )


def _check_replaceable(folder: Path) -> None:
    """Raises `ValueError` if something else than an earlier site would be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        made_by = json.loads(read_regular(folder / SETTINGS, 1 << 20))["made_by"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        made_by = None
    if made_by != _MAKER:
        raise ValueError(f"{folder} is there already and holds no site of '{_MAKER}'; give a new folder.")


def _archive(package: Package, given: str | os.PathLike | None) -> bytes:
    """The bytes of a package's archive, with the stated digest."""
    if given is not None:
        path = Path(given) / package.archive
        try:
            data = read_regular(path, package.bytes)
        except OSError as error:
            raise ValueError(
                f"--runtime needs {path} ({error.strerror}): in that folder, run "
                f"'npm pack {package.name}@{package.version}', or omit --runtime to download it."
            ) from error
        return _checked(package, data, str(path))
    cached = cache_folder() / "npm" / package.archive
    try:
        return _checked(package, read_regular(cached, package.bytes), str(cached))
    except (OSError, ValueError):
        pass  # absent or damaged
    data = _checked(package, b"".join(blocks_of(package.url, package.bytes)), package.url)
    cached.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(cached, data)
    return data


def _checked(package: Package, data: bytes, source: str) -> bytes:
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != package.sha512:
        raise ValueError(
            f"{source} is not {package.name} {package.version}: its SHA-512 is {found}, expected {package.sha512}."
        )
    return data


def _write_runtime(folder: Path, archives: list[bytes]) -> None:
    folder.mkdir()
    for package, archive in zip(RUNTIME, archives, strict=True):
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
            for name, target in package.files.items():
                file = files.extractfile(name)
                if file is None:
                    raise ValueError(f"{package.archive} has no file {name}.")
                (folder / target).write_bytes(file.read())
    lines = [f"{package.name} {package.version}: {package.licence}" for package in RUNTIME]
    (folder / "LICENSES.txt").write_text("\n".join(lines) + "\n\n" + _MIT, "utf-8")


_MIT = """\
MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def _write(folder: Path, record: WeightRecord, model: str | os.PathLike, archives: list[bytes]) -> dict[str, Any]:
    with temporary_folder() as exported:
        card = export(model, exported / "model", "onnx")
        networks = folder / "networks"
        networks.mkdir()
        shutil.copyfile(exported / "model" / "model.onnx", networks / "model.onnx")
        shutil.copyfile(exported / "model" / CARD, folder / CARD)
    for name in ("pnet", "rnet", "onet"):
        (networks / f"{name}.onnx").write_bytes(_any_batch(detectors.NETWORKS / f"{name}.onnx"))
    _write_runtime(folder / "runtime", archives)
    for source in (*SITE.glob("*.js"), *SITE.glob("*.css"), APP / "words.js", APP / "page.css"):
        shutil.copyfile(source, folder / source.name)
    files = {path.stem: f"networks/{path.name}" for path in sorted(networks.iterdir())} | {
        "runtime": "runtime/ort.wasm"
    }
    settings = _settings(record) | {
        "files": {
            name: {"path": path, "sha256": sha256(folder / path), "bytes": (folder / path).stat().st_size}
            for name, path in files.items()
        }
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    (folder / "index.html").write_text(_page(record, card, settings), "utf-8")
    return settings


def _any_batch(path: Path) -> bytes:
    """A network of the face detector for any number of patches; the first one also for pictures of any size."""
    import onnx

    network = onnx.load(path)
    sizes = (0, 2, 3) if path.stem == "pnet" else (0,)
    for number in sizes:
        network.graph.input[0].type.tensor_type.shape.dim[number].dim_param = f"d{number}"
    for output in network.graph.output:
        output.type.tensor_type.ClearField("shape")
    return bytes(network.SerializeToString())


def _settings(record: WeightRecord) -> dict[str, Any]:
    """Constants of the package that the scripts need, and the facts of the model."""
    points = record.card.get("operating_points")
    return {
        "made_by": _MAKER,
        "tfdfd": __version__,
        "model": {
            "handle": record.handle,
            "sha256": record.sha256,
            "size": (record.input_shape or spec(record.model).input_shape)[0],
            "threshold": record.threshold,
            "inconclusive_band": record.inconclusive_band,
            "genuine_tails": record.genuine_tails,
            "operating_points": points if isinstance(points, dict) else None,
            "likelihood_ratios": record.likelihood_ratios,
            "tested_range": record.tested_range,
        },
        "frames": FRAMES,
        "max_crops": MAX_CROPS,
        "margin": MARGIN,
        "limits": Limits().to_dict(),
        "mtcnn": {
            "min_face_size": detectors.MIN_FACE_SIZE,
            "cell": detectors.CELL,
            "stride": detectors.STRIDE,
            "scale_factor": detectors.SCALE_FACTOR,
            "proposal_threshold": detectors.PROPOSAL_THRESHOLD,
            "refine_threshold": detectors.REFINE_THRESHOLD,
            "output_threshold": detectors.OUTPUT_THRESHOLD,
            "pyramid_overlap": detectors.PYRAMID_OVERLAP,
            "overlap": detectors.OVERLAP,
            "max_proposals": detectors.MAX_PROPOSALS,
        },
        "search": {
            "video_side": detectors.VIDEO_SIDE,
            "image_side": detectors.IMAGE_SIDE,
            "elongated": detectors.ELONGATED,
            "second_look": detectors.SECOND_LOOK,
            "clear_face": detectors.CLEAR_FACE,
            "part_scale": detectors.PART_SCALE,
            "most_pixels": detectors.MOST_PIXELS,
            "same": detectors.SAME,
        },
        "tracks": {"min_affinity": MIN_AFFINITY},
        "deciding": {
            "sure": verdict.SURE["mtcnn"],
            "sure_enough": verdict.SURE_ENOUGH["mtcnn"],
            "min_presence": verdict.MIN_PRESENCE,
            "min_side": verdict.MIN_SIDE,
            "bystander_side": verdict.BYSTANDER_SIDE,
            "bystander_share": verdict.BYSTANDER_SHARE,
        },
        "bound": verdict.BOUND,
        "measures": {name: words for name, (words, _) in MEASURES.items()},
        "support": SUPPORT,
    }


def _page(record: WeightRecord, card: dict[str, Any], settings: dict[str, Any]) -> str:
    band = record.inconclusive_band
    facts = {
        "Model": record.handle,
        "SHA-256": record.sha256,
        "Threshold": f"{record.threshold:.3f}",
        "Inconclusive": f"from {band[0]:.3f} to {band[1]:.3f}" if band else "no band",
        "Face detector": "MTCNN",
        "Frames of a video": str(FRAMES),
        "License": record.licence,
        "Training data": record.training_data,
        "Made with": f"tfdfd {__version__}",
    }
    limits = card.get("limits")
    megabytes = round(sum(file["bytes"] for file in settings["files"].values()) / 1e6)
    template = environment(SITE, APP).get_template("index.html.j2")
    return template.render(
        policy=POLICY,
        facts=facts,
        limits=[limit for limit in limits if isinstance(limit, str)] if isinstance(limits, list) else [],
        megabytes=megabytes,
    )
