"""Records of detections: what was examined, with what and when; and their repetition, on this or another machine.

A record is a JSON file. Its own digest shows an accidental or careless change. It is not a signature: whoever changes a
record can compute the digest again, but the repeated detection then disagrees with the changed result.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdfd.detect.results import Detection
from tfdfd.files import sha256, temporary_beside
from tfdfd.media import Limits
from tfdfd.media.inputs import Inputs
from tfdfd.runtime import AUTO, RUNTIMES, is_installed
from tfdfd.weights import WeightRecord
from tfdfd.weights.store import how_to_get, locate

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector

RECORD_VERSION = 1
MAX_BYTES = 1 << 29
_LIBRARIES = ("numpy", "opencv-python", "opencv-python-headless", "av", "keras", "tensorflow", "openvino")
# Options of the face detector that name files; a record has their digests.
FILES = ("graph", "config")
# Largest difference of P(fake) at which two machines agree. The same machine repeats a score exactly. With another
# runtime, another release of OpenCV, or oneDNN switched off, eight clips differed by at most 0.000001, and their frames
# by 0.000005. GPUs may round to 10 bits (`tfdfd.runtime.equality.BOUNDS["server"]`), and the last bits of the face
# detector may move a box by a pixel, which matters to a frame more than to a mean. Other models, settings and clips
# are further apart.
TOLERANCE = 0.005
FRAME_TOLERANCE = 0.02
# Largest shift of a box's edges, as a share of its longer side.
BOX_TOLERANCE = 0.05
AGREES, DIFFERS, OTHER_INPUT = "agrees", "differs", "other_input"


class AlteredRecord(ValueError):
    """The record does not have its own digest: it was changed after it was written, or is damaged."""


class NotRepeatable(ValueError):
    """The recorded detection cannot be repeated here, such as without its model."""


@dataclass
class Comparison:
    """A repeated detection compared with the recorded one.

    Attributes:
        path: path of the input, as given.
        sha256: digest of the input; None if it cannot be read.
        outcome: `agrees`, `differs` or `other_input`.
        differences: each one as text; for `other_input`, the reason.
        recorded, repeated: P(fake), or None.
        largest: largest difference of P(fake) of the input, a face or a frame; None without a score.
    """

    path: str
    sha256: str | None
    outcome: str
    differences: list[str] = field(default_factory=list)
    recorded: float | None = None
    repeated: float | None = None
    largest: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_record(detector: Detector, results: Iterable[dict], date: str) -> dict[str, Any]:
    """The record of one call.

    Args:
        detector: as it scored the inputs.
        results: as in `results.jsonl`: `Detection.to_dict` with `bytes` and `sha256`. `elapsed_s` is left out.
        date: date of the detection, such as `tfdfd.detect.result_folder.now()`.
    """
    record = _head(detector, date) | {"results": [_recorded(result) for result in results]}
    return record | {"sha256": _digest(record)}


def write_record(path: str | os.PathLike, detector: Detector, results: Iterable[dict], date: str) -> dict[str, Any]:
    """Writes the file of `make_record(detector, results, date)`, atomically, with one result at a time in memory.

    Returns:
        The record, with `results` as given.

    Raises:
        OSError: the file cannot be written; an older one is left as it was.
    """
    head = _head(detector, date) | {"results": []}
    digested, _, end = _canonical(head).partition('"results":[]')
    digest = hashlib.sha256(f'{digested}"results":['.encode())
    # A quotation mark within a JSON text is escaped, so this is the place of the results.
    start = json.dumps(head, indent=1).rpartition('"results": []')[0]
    with temporary_beside(Path(os.path.realpath(path))) as file:
        file.write(f'{start}"results": ['.encode())
        separator = ""
        for result in map(_recorded, results):
            digest.update((separator + _canonical(result)).encode())
            lines = textwrap.indent(json.dumps(result, indent=1), "  ")
            file.write(f"{separator}\n{lines}".encode())
            separator = ","
        digest.update(f"]{end}".encode())
        close = "\n ]" if separator else "]"
        file.write(f'{close},\n "sha256": "{digest.hexdigest()}"\n}}\n'.encode())
    return head | {"results": results, "sha256": digest.hexdigest()}


def _head(detector: Detector, date: str) -> dict[str, Any]:
    return {
        "record": RECORD_VERSION,
        "date": date,
        "settings": detector.settings(),
        "given_threshold": detector.given_threshold,
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "processor": platform.machine(),
            "libraries": library_versions(),
        },
    }


def _recorded(result: dict) -> dict:
    return {key: value for key, value in result.items() if key != "elapsed_s"}


def record_text(record: dict[str, Any]) -> str:
    """The JSON text of a record's file."""
    return json.dumps(record, indent=1) + "\n"


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """The record in a file.

    Raises:
        AlteredRecord: the record does not have its own digest.
        ValueError: the file cannot be read, or is not a record.
    """
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes; a record has at most {MAX_BYTES:,}")
        record = json.loads(Path(path).read_bytes())
        if not isinstance(record, dict) or "record" not in record:
            raise ValueError("it is JSON of another kind; 'tfdfd detect --report' and '-o' write records")
        if record["record"] != RECORD_VERSION:
            raise ValueError(f"its version is {record['record']!r:.20}; expected {RECORD_VERSION}")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)} is not a record of a detection: {error}.") from error
    expected, own = record.pop("sha256", None), _digest(record)
    if expected != own:
        raise AlteredRecord(
            f"{os.fspath(path)} was changed after it was written, or is damaged: its content has the SHA-256 {own}, "
            f"and it states {expected!r:.70}. Get an unchanged copy."
        )
    try:
        _check(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a record of a detection: {type(error).__name__}: {error}."
        ) from error
    return record


def recorded_options(
    record: dict[str, Any], model: str | None = None, files: dict[str, str | None] | None = None, trust: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The arguments of `Detector` that repeat a recorded detection, and notes on what differs.

    Args:
        record: from `read_record`.
        model: handle or file of the recorded weights, if the recorded handle does not have them.
        files: files of the face detector by option, see `FILES`.
        trust: whether the record may ask for higher limits than the default ones.

    Raises:
        NotRepeatable: the weights or a file are not here, or a limit is too high; the message says what to do.
    """
    settings = record["settings"]
    limits = Limits(**settings["limits"])
    higher = [each.name for each in fields(Limits) if getattr(limits, each.name) > each.default]
    if higher and not trust:
        raise NotRepeatable(
            f"the record asks for {', '.join(f'{name} {getattr(limits, name):,}' for name in higher)}, more than the "
            "default. If you trust it, give --trust-limits."
        )
    detector = dict(settings["detector"])
    name = detector.pop("name")
    for option in FILES:
        if detector.get(option):
            detector[option] = _checked_file(option, detector[option], (files or {}).get(option))
    notes, runtime = [], settings["runtime"]
    if runtime not in RUNTIMES or not is_installed(runtime):
        notes.append(f"the scores were computed by {runtime}, and here by another runtime")
        runtime = AUTO
    from tfdfd.version import __version__

    if settings["tfdfd"] != __version__:
        notes.append(f"the record is of tfdfd {settings['tfdfd']}, and this is {__version__}")
    options = {
        "model": _located(settings["model"], model),
        "detector": name,
        "detector_options": detector,
        "frames": settings["frames"],
        "threshold": record["given_threshold"],
        "limits": limits,
        "runtime": runtime,
    }
    return options, notes


def verify(record: dict[str, Any], detector: Detector, inputs: Inputs) -> Iterator[Comparison]:
    """Repeats the detection of each input, and compares the outcome with the recorded one of the same bytes.

    Two outcomes agree if status, verdict, frames and faces are the same, P(fake) of the input and of each face differs
    by at most `TOLERANCE`, that of each frame by `FRAME_TOLERANCE`, and boxes by `BOX_TOLERANCE`.
    """
    recorded = {result["sha256"]: result for result in reversed(record["results"]) if result.get("sha256")}
    for item in inputs.items:
        try:
            digest = sha256(item.path) if item.error is None else None
        except OSError as error:
            yield Comparison(item.path, None, OTHER_INPUT, [f"it cannot be read: {error.strerror}"])
            continue
        if digest is None:
            yield Comparison(item.path, None, OTHER_INPUT, [item.error.message])  # type: ignore[union-attr]
        elif digest not in recorded:
            yield Comparison(item.path, digest, OTHER_INPUT, [_other(digest, record["results"])])
        else:
            (detection,) = detector.iter_detect(Inputs([item]))
            yield _compare(item.path, digest, recorded[digest], detection)


def _compare(path: str, digest: str, result: dict[str, Any], detection: Detection) -> Comparison:
    before, now = Detection.from_dict(result), detection
    differences = [
        f"{name.replace('_', ' ')}: recorded {one!r}, now {other!r}"
        for name in ("status", "verdict", "kind", "frames_requested", "frames_scored", "faces_judged")
        if (one := getattr(before, name)) != (other := getattr(now, name))
    ]
    largest = None
    if before.status == now.status == "ok":
        pairs = [("P(fake)", before.fake_probability, now.fake_probability, TOLERANCE)]
        if [track.track for track in before.faces] != [track.track for track in now.faces]:
            differences.append(f"faces: recorded {len(before.faces)}, now {len(now.faces)}")
        else:
            for one, other in zip(before.faces, now.faces, strict=True):
                face = f"face {one.track + 1}"
                pairs.append((f"P(fake) of {face}", one.fake_probability, other.fake_probability, TOLERANCE))
                if one.decides != other.decides:
                    differences.append(f"{face}: recorded {_decides(one.decides)}, now {_decides(other.decides)}")
                if [frame.index for frame in one.frames] != [frame.index for frame in other.frames]:
                    differences.append(f"{face} was found in other frames")
                    continue
                for first, second in zip(one.frames, other.frames, strict=True):
                    where = f"{face}, frame {first.index}"
                    pairs.append((where, first.fake_probability, second.fake_probability, FRAME_TOLERANCE))
                    shift = max(abs(a - b) for a, b in zip(first.box, second.box, strict=True))
                    if shift > max(2, BOX_TOLERANCE * max(first.box[2:])):
                        differences.append(f"{where}: the box is {shift} px away")
        largest = round(max(abs(one - other) for _, one, other, _ in pairs), 6)  # type: ignore[operator]
        differences += [
            f"{name}: recorded {one}, now {other}"
            for name, one, other, most in pairs
            if abs(one - other) > most  # type: ignore[operator]
        ]
    outcome = DIFFERS if differences else AGREES
    return Comparison(path, digest, outcome, differences, before.fake_probability, now.fake_probability, largest)


def _decides(decides: bool) -> str:
    return "it decides" if decides else "it does not decide"


def _other(digest: str, results: list[dict]) -> str:
    known = [str(result.get("sha256")) for result in results]
    listed = f"one input, with the SHA-256 {known[0]}" if len(known) == 1 else f"{len(known):,} others"
    return f"the record has no input of these bytes: the SHA-256 is {digest}, and the record is of {listed}"


def _located(recorded: dict[str, Any], model: str | None) -> str:
    handle, digest = recorded["handle"], recorded["sha256"]
    wanted = f"the record is of {handle} with the SHA-256 {digest}"
    try:
        found, _ = locate(model or handle)
    except ValueError as error:
        raise NotRepeatable(f"{wanted}, which is not on this machine. {error}") from error
    if found.sha256 != digest:
        raise NotRepeatable(
            f"{wanted}; {model or handle} has {found.sha256} here. {_hint(found)}, or give the recorded weights with "
            "--model FILE."
        )
    return model or handle


def _hint(found: WeightRecord) -> str:
    return f"Install the version of tfdfd that the record names, or, for weights from a hub, {how_to_get(found)}"


def _checked_file(option: str, digest: str, given: str | None) -> str:
    name = {"graph": "--ssd GRAPH", "config": "--ssd-config FILE"}[option]
    if not given:
        raise NotRepeatable(f"the record is of a face detector with a file of SHA-256 {digest}; give it with {name}.")
    if (own := sha256(given)) != digest:
        raise NotRepeatable(f"{given} has the SHA-256 {own}; the record is of {digest}. Give that file with {name}.")
    return given


def _check(record: dict[str, Any]) -> None:
    """Raises an error unless the fields that are read have their types."""
    settings = record["settings"]
    Limits(**settings["limits"])
    texts = (record["date"], settings["tfdfd"], settings["runtime"], settings["detector"]["name"])
    if not all(isinstance(text, str) for text in (*texts, settings["model"]["handle"], settings["model"]["sha256"])):
        raise TypeError("a text is expected in the settings")
    if not isinstance(settings["frames"], int) or not isinstance(record["given_threshold"], (int, float, type(None))):
        raise TypeError("a number is expected in the settings")
    for result in record["results"]:
        Detection.from_dict(result)


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(record).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """The versions of the libraries that decide the scores."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
