"""Fuzzing of everything that strangers hand in: each input is accepted or refused by the documented error.

    python -m benchmarks.fuzz                           all targets, five minutes together
    python -m benchmarks.fuzz cards faces -s 600        these, ten minutes each
    python -m benchmarks.fuzz cards --case FILE         repeats one input, with its traceback

Each target runs in its own process, with 2 GiB more memory than it starts with and 20 seconds an input; a process that
ends is a finding, too, and is replaced. atheris guides the edits by coverage where it is installed. The corpus is made
by code. Findings are distinguished by exception and line, and the inputs are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib.util
import io
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.common import print_table

MINUTES = 5
SECONDS_PER_INPUT = 20
MEMORY = 2 << 30
ROOT = Path(__file__).resolve().parents[1]
# What JSON from strangers may have in place of anything.
ODD = (None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**400, 2**63, "", "\0", "\ud800", "../x", "=1+1")
ODD += ("x" * 70_000, [], {}, [[[]]], {"": {}}, [1, "a", None], "safetensors", 0.5)
PIECES = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"[" * 3000,
    b"9" * 400,
    b",",
    b'"',
    b"\r",
    b"-1",
    b"{}",
    b"null",
)


class Target(NamedTuple):
    """A reader of inputs: `seeds` are valid, and `read` raises one of `refusals` for what it does not take."""

    seeds: list[bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...] = (ValueError,)
    close: Callable[[], None] = lambda: None


def _file_reader(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = Path(tempfile.mkdtemp(prefix="tfdfd-fuzz-")) / name

    def reader(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return reader


def _json(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def _images() -> list[bytes]:
    import cv2
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    return [cv2.imencode(f".{kind}", picture)[1].tobytes() for kind in ("jpg", "png", "webp", "bmp", "tiff", "gif")]


def _videos() -> Iterator[bytes]:
    import av
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for container, codec in (("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mjpeg"), ("webm", "libvpx")):
        content = io.BytesIO()
        with av.open(content, "w", format=container) as file:
            stream = file.add_stream(codec, rate=5)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for shift in range(4):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, shift, 1), format="rgb24")))
            file.mux(stream.encode())
        yield content.getvalue()


def media() -> Target:
    from tfdfd.media import Limits, MediaError
    from tfdfd.media.decode import read_media

    limits = Limits(max_pixels=1_000_000, max_frames=200)

    def read(path: Path) -> None:
        for _ in read_media(str(path), 3, limits):
            pass

    return Target([*_images(), *_videos()], _file_reader("media", read), (MediaError,))


def detect() -> Target:
    """The same media through the sealed decoding process: whatever happens in it, there is a status."""
    from tfdfd.extract.extraction import Request
    from tfdfd.extract.pool import FaceExtractor
    from tfdfd.media import Limits
    from tfdfd.media.inputs import Input

    extractor = FaceExtractor("none", limits=Limits(max_pixels=1_000_000, max_frames=200, max_seconds=10), workers=1)
    known = {"ok", "no_face", "decode_error", "unsupported", "too_large", "timeout"}

    def read(path: Path) -> None:
        outcome = extractor.extract_one(Input(str(path)), Request(frames=3, size=16))
        if outcome.status not in known or (outcome.status == "ok") != bool(outcome.frames):
            raise AssertionError(f"status {outcome.status!r} with {len(outcome.frames)} frames")
        if outcome.status != "ok":
            raise ValueError(outcome.message)

    return Target([*_images(), *_videos()], _file_reader("media", read), close=extractor.close)


def _meso4() -> Any:
    from tfdfd.models import build

    return build("meso4", input_shape=(32, 32, 3))


def safetensors() -> Target:
    from safetensors.numpy import save

    from tfdfd.weights.loading import load_safetensors
    from tfdfd.weights.saving import named_weights

    model = _meso4()
    whole = {name: weight.numpy() for name, weight in named_weights(model).items()}
    few = dict(itertools.islice(whole.items(), 2))
    return Target([save(whole), save(few)], _file_reader("a.safetensors", lambda path: load_safetensors(model, path)))


def hdf5() -> Target:
    from tfdfd.weights.loading import load_keras_file

    model = _meso4()
    path = Path(tempfile.mkdtemp()) / "seed.weights.h5"
    model.save_weights(path)
    return Target([path.read_bytes()], _file_reader("a.weights.h5", lambda path: load_keras_file(model, path, "meso4")))


def cards() -> Target:
    from tfdfd.weights import WeightRecord
    from tfdfd.weights.store import read_card_file

    card = {"handle": "tfdfd/meso4.toy", "model": "meso4", "file": "toy.weights.h5", "bytes": 1, "sha256": "0" * 64}
    card |= {"licence": "none", "training_data": "none", "polarity": "fake=1", "threshold": 0.5}
    more = {
        "inconclusive_band": [0.4, 0.6],
        "input_shape": [64, 64, 3],
        "arguments": {"dropout": 0.5},
        "layout": "keras",
    }
    more["genuine_tails"] = [{"domain": "a", "n": 9, "n_above": 2, "highest": [0.9, 0.8], "mean_excess": 0.1}]
    more["members"] = {"one": {"handle": "tfdfd/meso4", "sha256": "0" * 64}}
    more["base"] = dict.fromkeys(("what", "file", "sha256", "package", "licence"), "x")

    def read(path: Path) -> None:
        record = WeightRecord.from_card(read_card_file(path))
        json.dumps(record.card)
        f"{record.threshold:.3f} {record.bytes:,}"

    return Target(_json(card, card | more), _file_reader("a.json", read))


def faces() -> Target:
    """Tables: faces.csv, index.csv and scores.csv; what is accepted reads the same after writing."""
    from tfdfd.data.tables import FaceRow, IndexRow, read_table, write_table
    from tfdfd.metrics.scores import ScoreRow

    face = FaceRow("a.png", "made", "a.mp4", 0, 0.0, 0, (0, 0, 8, 8), 0.5, 1, "Deepfakes", ("a",), split="train")
    score = ScoreRow("a.png", "made", "a.mp4", 0, 0, 1, "Deepfakes", ("a",), None, None, 0.5)
    folder = Path(tempfile.mkdtemp(prefix="tfdfd-fuzz-"))
    seeds, kinds = [], {}
    for row in (face, IndexRow("a.mp4", "ffpp", "video", 1, "Deepfakes", ("a", "b"), "c23", bytes=3), score):
        write_table(folder / "seed.csv", [row, row], type(row))
        seeds.append((folder / "seed.csv").read_bytes())
        kinds[seeds[-1].splitlines()[0]] = type(row)

    def read(path: Path) -> None:
        kind = kinds.get(path.read_bytes().split(b"\n")[0], FaceRow)
        rows = read_table(path, kind)
        write_table(path.with_name("again.csv"), rows, kind)
        # Two NaNs are not equal, but written alike.
        if repr(read_table(path.with_name("again.csv"), kind)) != repr(rows):
            raise AssertionError("a table that was read and written reads otherwise")

    return Target(seeds, _file_reader("faces.csv", read))


def manifests() -> Target:
    from tfdfd.hub.manifest import Manifest
    from tfdfd.hub.sources import HubError

    file = {"path": "saved_model.pb", "bytes": 3, "sha256": "0" * 64}
    manifest = {"schema": 1, "models": {"meso4": {"1": {"files": [file]}, "2": {"files": [file], "source": "0" * 64}}}}

    def read(data: bytes) -> None:
        parsed = Manifest.decode(data, "here")
        if Manifest.decode(parsed.encoded(), "here") != parsed:
            raise AssertionError("a manifest that was read and written reads otherwise")

    return Target(_json(manifest), read, (HubError,))


def settings() -> Target:
    """JSON files of run folders, search spaces, shards and splits."""
    from tfdfd.files import RUN, read_description, refuse_other
    from tfdfd.pipelines import INDEX, read_index
    from tfdfd.recipes import find_recipe
    from tfdfd.training.recipe import read_config
    from tfdfd.training.run_folder import FINGERPRINTS, FINGERPRINTS_SCHEMA, read_fingerprints, read_run
    from tfdfd.tuning.search_space import read_space

    recipe = find_recipe("s1-meso4")
    space = {"network": "meso4", "recipe": "s1-meso4", "search": {"learning_rate": {"min": 1e-4, "max": 1e-2}}}
    space["search"]["augment"] = {"choices": [None, "s1"]}  # type: ignore[index]
    config = {"network": "meso4", "settings": {"learning_rate": 0.1, "augment": "s1"}}
    run = {"recipe": recipe.settings(), "result": None, "data": {"faces": "x"}, "finished": False}
    shard = {"path": "a.tfrecord", "bytes": 1, "crops": 1, "split": "train"}
    readers: dict[str, Callable[[Path], object]] = {
        "space.json": read_space,
        "config.json": lambda path: read_config(path, recipe),
        RUN: lambda path: (read_run(path.parent), refuse_other(path.parent, read_description(path, "run"), run)),
        FINGERPRINTS: lambda path: read_fingerprints(path.parent),
        INDEX: lambda path: read_index(path.parent),
    }
    files = {name: _file_reader(name, read) for name, read in readers.items()}

    def read(data: bytes) -> None:
        refusals = []
        for reader in files.values():
            try:
                reader(data)
            except ValueError as error:
                refusals.append(error)
        if len(refusals) == len(files):
            raise refusals[0]

    index = {"schema": 1, "complete": True, "shards": [shard]}
    return Target(_json(space, config, run, {"schema": FINGERPRINTS_SCHEMA, "video": ["0"]}, index), read)


def _signatures() -> Any:
    import tensorflow as tf
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    from tfdfd.serve.loaded_model import Signature

    def definition(name: str, dtype: Any, shape: list[int]) -> Any:
        result = SignatureDef()
        for tensors, key, kind, sizes in (
            (result.inputs, name, dtype, shape),
            (result.outputs, "fake_probability", tf.float32, [-1, 1]),
        ):
            tensors[key].dtype = kind.as_datatype_enum
            tensors[key].name = f"{key}:0"
            tensors[key].tensor_shape.unknown_rank = False
            for size in sizes:
                tensors[key].tensor_shape.dim.add().size = size
        return result

    kinds = {"serving_default": ("image", tf.float32, [-1, -1, -1, 3]), "image_bytes": ("image_bytes", tf.string, [-1])}
    return {key: Signature(definition(*values), None) for key, values in kinds.items()}


def predict() -> Target:
    """Bytes of a `PredictRequest`, up to the arrays that the graph gets."""
    import numpy as np
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    from tfdfd.serve import ServingError
    from tfdfd.serve.tensors import arrays_of, check_inputs, to_proto

    signatures, most = _signatures(), 256 << 20
    pixels = np.full((2, 8, 8, 3), 0.5, np.float32)

    def request(signature: str, name: str, tensor: Any) -> bytes:
        message = PredictRequest()
        message.model_spec.name, message.model_spec.signature_name = "meso4", signature
        message.inputs[name].CopyFrom(tensor)
        return message.SerializeToString()

    def read(data: bytes) -> None:
        message = PredictRequest.FromString(data)
        signature = signatures.get(message.model_spec.signature_name or "serving_default")
        if signature is None:
            raise ServingError("INVALID_ARGUMENT", "no such signature")
        if check_inputs(message, signature, 64) > most:
            raise ServingError("RESOURCE_EXHAUSTED", "too large for the room of the server")
        arrays_of(message, signature)

    strings = np.array(_images()[:2], object)
    seeds = [request("", "image", to_proto(pixels)), request("image_bytes", "image_bytes", to_proto(strings))]
    seeds.append(request("", "image", tf.make_tensor_proto(pixels)))
    return Target(seeds, read, (ServingError, DecodeError))


def rest() -> Target:
    """JSON bodies of the REST API and of the Open Inference Protocol."""
    import numpy as np

    from tfdfd.serve import ServingError
    from tfdfd.serve.request_json import InputType, parse, read_infer, read_predict, to_bytes

    image = {"image": InputType("DT_FLOAT", np.dtype(np.float32), "iuf")}
    types = {"serving_default": image, "image_bytes": {"image_bytes": InputType("DT_STRING", None)}}
    whole = {"a": InputType("DT_INT32", np.dtype(np.int32), "iu", (-(2**31), 2**31 - 1)), **image}
    types["two"] = whole
    pixels = [[[0.1, 0.2, 0.3]]]
    infer = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "FP32", "data": [0.1, 0.2, 0.3]}

    def read(data: bytes) -> None:
        refusals = []
        for reader in (read_predict, read_infer):
            try:
                reader(data, types, "serving_default")
            except ServingError as error:
                refusals.append(error)
        with contextlib.suppress(ValueError):
            to_bytes(parse(data).get("b64"))
        if len(refusals) == 2:
            raise refusals[0]

    seeds = _json(
        {"instances": [pixels]},
        {"signature_name": "image_bytes", "instances": [{"b64": "AAAA"}]},
        {"signature_name": "two", "inputs": {"a": [1, 2], "image": [pixels, pixels]}},
        {"signature_name": "two", "instances": [{"a": 1, "image": pixels}]},
        {"id": "1", "inputs": [infer], "outputs": [{"name": "fake_probability"}]},
    )
    return Target(seeds, read, (ServingError,))


TARGETS = {
    target.__name__: target
    for target in (media, detect, safetensors, hdf5, cards, faces, manifests, settings, predict, rest)
}


class Fuzzer:
    """Runs a target on one input at a time and counts. A finding is an exception that the target does not document."""

    def __init__(self, target: Target, folder: Path):
        self.target, self.folder = target, folder
        self.inputs = self.accepted = 0
        self.slowest = 0.0
        self.findings: dict[str, str] = {}
        self._written = 0.0

    def __call__(self, data: bytes) -> None:
        (self.folder / "last").write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS_PER_INPUT, exit=True)
        start = time.monotonic()
        try:
            self.target.read(data)
            self.accepted += 1
        except self.target.refusals as error:
            str(error).encode("utf-8", "surrogatepass")
        except Exception as error:
            self._found(data, error)
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.inputs += 1
        self.slowest = max(self.slowest, time.monotonic() - start)
        if time.monotonic() > self._written + 0.5:
            self.write()

    def _found(self, data: bytes, error: Exception) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tfdfd/" in frame.filename]
        where = f"{frames[-1].filename.split('/tfdfd/')[-1]}:{frames[-1].lineno}" if frames else "elsewhere"
        kind = f"{type(error).__name__} at {where}"
        if kind not in self.findings:
            file = self.folder / f"case-{len(self.findings)}-{os.getpid()}"
            file.write_bytes(data)
            self.findings[kind] = f"{str(error)[:200]} ({file})"
            self.write()

    def write(self) -> None:
        """Writes the counts, which outlive the process."""
        counts = {"inputs": self.inputs, "accepted": self.accepted, "slowest": self.slowest}
        counts |= {"findings": self.findings}
        (self.folder / f"counts-{os.getpid()}.json").write_text(json.dumps(counts))
        self._written = time.monotonic()


def mutate(data: bytes, random: Random) -> bytes:
    """One edit: of bytes anywhere, or of a value in JSON."""
    if data[:1] in (b"{", b"[") and random.random() < 0.6:
        with contextlib.suppress(ValueError, RecursionError):
            return json.dumps(_edited(json.loads(data), random)).encode()
    at = random.randrange(len(data) + 1)
    length = random.choice([0, 1, 1, 1, 4, 4, 16, len(data)])
    piece = random.choice([*PIECES, *[random.randbytes(max(1, length % 64))] * 15])
    return data[:at] + piece + data[at + length :]


def _edited(value: Any, random: Random) -> Any:
    """JSON with one value replaced, removed or doubled."""
    places = [(value, key) for key in _keys(value)]
    for parent, key in places:
        places += [(parent[key], inner) for inner in _keys(parent[key])]
    if not places or random.random() < 0.03:
        return random.choice(ODD)
    parent, key = random.choice(places)
    change = random.random()
    if change < 0.6:
        parent[key] = random.choice(ODD)
    elif change < 0.8:
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[f"{key}2"] = parent[key]
    return value


def _keys(value: Any) -> list:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def run_inputs(fuzzer: Fuzzer, random: Random, until: Callable[[], bool]) -> None:
    """Tells the fuzzer the seeds, each with up to four edits, until `until` holds."""
    for data in fuzzer.target.seeds:
        fuzzer(data)
    while not until():
        data = random.choice(fuzzer.target.seeds)
        for _ in range(random.randrange(1, 5)):
            data = mutate(data, random)
        fuzzer(data)


def _work(name: str, folder: Path, seconds: float, seed: int) -> None:
    """The process of a target: reads inputs until the time is up."""
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["tfdfd"], enable_loader_override=False):
            target = TARGETS[name]()
    else:
        target = TARGETS[name]()
    warnings.simplefilter("ignore")
    for seed_input in target.seeds:
        with contextlib.suppress(Exception):
            target.read(seed_input)  # loads what is loaded late
    if Path("/proc/self/statm").exists():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    fuzzer = Fuzzer(target, folder)
    if guided:
        corpus = folder / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, data in enumerate(target.seeds):
            (corpus / f"seed{number}").write_bytes(data)

        def mutator(data: bytes, most: int, seed: int) -> bytes:
            # Half of the edits know JSON and odd lengths; the others are libFuzzer's, which combine what it has seen.
            random = Random(seed)
            return mutate(data, random)[:most] if random.random() < 0.5 else atheris.Mutate(data, most)

        options = [f"-max_total_time={math.ceil(seconds)}", f"-seed={seed + 1}", "-max_len=200000", "-verbosity=0"]
        options += ["-rss_limit_mb=0", "-timeout=60", f"-artifact_prefix={folder}/", str(corpus)]
        atheris.Setup([sys.argv[0], *options], fuzzer, custom_mutator=mutator)
        atheris.Fuzz()
    end = time.monotonic() + seconds
    run_inputs(fuzzer, Random(seed), lambda: time.monotonic() > end)
    fuzzer.write()
    target.close()


def fuzz(name: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Fuzzes a target for this long in child processes; returns the counts and the findings by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    end, findings, ends = time.monotonic() + seconds, {}, 0
    while (left := end - time.monotonic()) > (0 if not ends else 5):
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz",
            name,
            "--child",
            "-s",
            str(left),
            "--seed",
            str(ends * 10_000),
        ]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                [*command, "--folder", str(folder)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=os.environ | _QUIET | {"TMPDIR": str(folder)},
            )
            code = process.wait()
        if code:
            case = folder / f"end-{ends}"
            case.write_bytes((folder / "last").read_bytes() if (folder / "last").exists() else b"")
            last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
            findings[f"process ended with {code}, {ends}"] = f"{' '.join(last)[:200]} ({case})"
        ends += 1
    counts = [json.loads(file.read_text()) for file in sorted(folder.glob("counts-*.json"))]
    for one in counts:
        findings |= one["findings"]
    total = {key: sum(one[key] for one in counts) for key in ("inputs", "accepted")}
    return total | {"slowest": max((one["slowest"] for one in counts), default=0.0), "findings": findings}


_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "OPENCV_LOG_LEVEL": "OFF", "CUDA_VISIBLE_DEVICES": "", "PYTHONFAULTHANDLER": "1"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("-s", "--seconds", type=float, help="of each target (default: five minutes for all)")
    parser.add_argument("--folder", type=Path, help="keeps inputs of findings (default: a temporary folder)")
    parser.add_argument("--case", type=Path, help="an input to repeat")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    names = arguments.targets or list(TARGETS)
    if set(names) - set(TARGETS):
        parser.error(f"unknown targets {sorted(set(names) - set(TARGETS))}; there are {', '.join(TARGETS)}")
    if arguments.child:
        _work(names[0], arguments.folder, arguments.seconds, arguments.seed)
        return 0
    if arguments.case:
        TARGETS[names[0]]().read(arguments.case.read_bytes())
        return 0
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="tfdfd-fuzz-"))
    seconds = arguments.seconds or MINUTES * 60 / len(names)
    found = {name: fuzz(name, seconds, folder / name) for name in names}
    engine = "guided by atheris" if importlib.util.find_spec("atheris") else "random edits, without atheris"
    print(f"{seconds:.0f} s a target, {engine}\n")
    columns = ("target", "inputs", "accepted", "slowest", "findings")
    rows = [
        (n, f"{r['inputs']:,}", f"{r['accepted']:,}", f"{r['slowest']:.2f} s", len(r["findings"]))
        for n, r in found.items()
    ]
    print_table(columns, rows)
    for name, result in found.items():
        for kind, text in result["findings"].items():
            print(f"{name}: {kind}: {text}")
    return 1 if any(result["findings"] for result in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
