"""Options that several verbs share, and checks of what they name."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from tfdfd.extract.sandbox import SANDBOXES
from tfdfd.faces import DETECTORS, NO_DETECTOR
from tfdfd.media import FRAMES, Limits
from tfdfd.runtime import AUTO, RUNTIMES
from tfdfd.weights import ALIASES, DEFAULT_MODEL

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector
    from tfdfd.extract.engines import Engine

T = TypeVar("T")

LOCAL, RAY = "local", "ray"


class OutputFile(str):
    """The name of a file to write. `main` checks that it can be written before the verb runs."""


def output_or_stdout(name: str) -> str:
    """An argparse type: the name of a file to write, or `-`."""
    return name if name == "-" else OutputFile(name)


def check_writable(name: str) -> None:
    """Checks that a file can be written, so that the work before it is not lost.

    Raises:
        ValueError: the folder does not exist or is not writable, or `name` is not a regular file.
    """
    folder = os.path.dirname(os.path.abspath(name))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {name}: the folder {folder} does not exist or is not writable.")
    if not name or (os.path.exists(name) and not os.path.isfile(name)):
        raise ValueError(f"cannot write {name!r}: it is a folder, a device, a pipe or empty; give the name of a file.")


def size(text: str) -> int:
    """An argparse type: a count such as 50000000, 50M or 2G (powers of 1000), or 2GiB (powers of 1024)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)(i?B?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"expected a number such as 50000000, 50M or 2GiB; received {text!r}")
    base = 1024 if match[3].startswith("i") else 1000
    return int(float(match[1]) * base ** " kmg".index(match[2].lower() or " "))


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Adds `--quiet` and `--verbose`."""
    parser.add_argument("--quiet", action="store_true", help="show no progress on standard error")
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="show on standard error what is decided and why, and the seconds of each stage; -vv: details",
    )


def add_engine(parser: argparse._ActionsContainer, seen: str) -> None:
    """Adds `--engine` and `--address`.

    Args:
        seen: names what all nodes of a cluster must see.
    """
    parser.add_argument(
        "--engine", default=LOCAL, choices=(LOCAL, RAY), help=f"{RAY}: a Ray cluster whose nodes all see {seen}"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help=f"of the cluster (default: {RAY} on this machine alone)")


def engine_of(arguments: argparse.Namespace) -> Engine | None:
    """The engine of the options of `add_engine`; None: this process.

    Raises:
        ValueError: an option is invalid, or Ray is not installed.
    """
    if arguments.engine == RAY:
        from tfdfd.extract.engines import RayEngine

        return RayEngine(arguments.workers, arguments.address)
    if arguments.address is not None:
        raise ValueError(f"--address is for a Ray cluster; add --engine {RAY}.")
    return None


def add_json(parser: argparse._ActionsContainer, what: str) -> None:
    """Adds `--json FILE|-`."""
    parser.add_argument(
        "--json", type=output_or_stdout, metavar="FILE|-", help=f"write {what} as JSON; - for standard output"
    )


def add_seed(parser: argparse.ArgumentParser, of: str) -> None:
    """Adds `--seed`."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=f"seed of {of}")


def add_training(parser: argparse.ArgumentParser, settings: str) -> None:
    """Adds the options of verbs that train: `--set`, `--allow-leaks` and `--quiet`."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help=settings)
    parser.add_argument("--allow-leaks", action="store_true", help="accept a set whose splits share people or files")
    add_quiet(parser)


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Adds `--backend`."""
    parser.add_argument("--backend", choices=("tensorflow", "jax"), help="Keras backend (default: $KERAS_BACKEND)")


def select_backend(arguments: argparse.Namespace) -> None:
    """Sets the Keras backend that `--backend` names. Call it before Keras is imported."""
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend


def check_at_least(arguments: argparse.Namespace, option: str, least: int) -> None:
    """Raises `ValueError` if the value of an option is below `least`; None is accepted."""
    value = getattr(arguments, option)
    if value is not None and value < least:
        raise ValueError(f"--{option.replace('_', '-')} must be at least {least}; received {value}.")


def add_detection(parser: argparse.ArgumentParser, frames: str) -> None:
    """Adds the options of verbs that detect faces and score them: model, detector, frames, runtime, workers."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="HANDLE|FILE",
        help=f"weights: a handle, a file, or {' or '.join(ALIASES)}",
    )
    parser.add_argument(
        "--detector",
        default=DETECTORS[0],
        choices=(*DETECTORS, NO_DETECTOR),
        help=f"face detector; {NO_DETECTOR}: each image already is a face crop",
    )
    add_detector_files(parser)
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help=frames)
    parser.add_argument(
        "--runtime",
        default=AUTO,
        choices=(AUTO, *RUNTIMES),
        help="runtime of the network; auto: the fastest installed; openvino needs pip install 'tfdfd[edge]'",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="decoding processes (default: one per core, up to 4)")
    parser.add_argument(
        "--sandbox",
        default=SANDBOXES[0],
        choices=SANDBOXES,
        help="seal the decoding processes against files, network and other processes; auto: where the kernel can; "
        "require: refuse to decode without",
    )
    add_quiet(parser)
    add_limits(parser)


def detector_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Detector` that the options of `add_detection` give.

    Raises:
        ValueError: files are given for a detector other than `ssd`, or a limit is out of range.
    """
    given = values_of(arguments, "model", "detector", "frames", "workers", "runtime", "sandbox")
    return given | {"detector_options": detector_options(arguments), "limits": limits_of(arguments)}


def open_detector(arguments: argparse.Namespace, **others: Any) -> Detector:
    """The `Detector` of the options of `add_detection`.

    Raises:
        ValueError: as `detector_arguments` and `Detector`.
    """
    given = detector_arguments(arguments)
    from tfdfd.detect.detector import Detector

    return Detector(**given, **others)


def add_detector_files(parser: argparse._ActionsContainer) -> None:
    """Adds the files and settings of the detector `ssd`, and the smallest face of the others."""
    parser.add_argument("--ssd", metavar="GRAPH", help="network of --detector ssd: .pb or .caffemodel")
    parser.add_argument("--ssd-config", metavar="FILE", help="its .pbtxt or .prototxt (default: the one beside it)")
    parser.add_argument(
        "--ssd-preset",
        choices=("opencv", "tf"),
        help="input of GRAPH: BGR less OpenCV's mean (default), or RGB as in TensorFlow's Object Detection API",
    )
    parser.add_argument(
        "--ssd-mean", nargs="+", type=float, metavar="M", help="mean of the channels (default: the preset's)"
    )
    parser.add_argument("--ssd-scale", type=float, metavar="S", help="factor after the mean (default: the preset's, 1)")
    parser.add_argument("--ssd-threshold", type=float, metavar="P", help="least score of a face (default: 0.5)")
    parser.add_argument("--ssd-keep-best", action="store_true", help="accept a frame's best box whatever its score")
    parser.add_argument("--min-face", type=int, metavar="PX", help="smallest face of mtcnn and haar (S4: haar, 128)")


def detector_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the face detector.

    Raises:
        ValueError: an option is given for a detector other than its own, or `--min-face` is below 1.
    """
    settings = {
        "preset": arguments.ssd_preset,
        "mean": arguments.ssd_mean,
        "scale": arguments.ssd_scale,
        "threshold": arguments.ssd_threshold,
        "keep_best": arguments.ssd_keep_best or None,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    if arguments.detector == "ssd":
        if arguments.min_face is not None:
            raise ValueError("--min-face is for --detector mtcnn and haar; an SSD searches one size.")
        return {"graph": arguments.ssd, "config": arguments.ssd_config, **settings}
    if arguments.ssd or arguments.ssd_config or settings:
        chosen = f"; the detector is {arguments.detector}" if arguments.detector else ""
        raise ValueError(f"--ssd and its settings, such as --ssd-config, are for --detector ssd{chosen}.")
    if arguments.min_face is None:
        return {}
    check_at_least(arguments, "min_face", 1)
    names = {None: "min_face_size", "mtcnn": "min_face_size", "haar": "min_size"}
    if arguments.detector not in names:
        raise ValueError(f"--min-face is for --detector mtcnn and haar; the detector is {arguments.detector}.")
    return {names[arguments.detector]: arguments.min_face}


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each field of `Limits`."""
    group = parser.add_argument_group("limits of one input (a number, or with a suffix: 50M, 2GiB)")
    for field in fields(Limits):
        kind = float if field.name == "max_seconds" else size
        option = f"--{field.name.replace('_', '-')}"
        group.add_argument(option, type=kind, default=field.default, metavar="N", help=f"default: {field.default:,}")


def limits_of(arguments: argparse.Namespace) -> Limits:
    """The `Limits` that the options give."""
    return from_options(Limits, arguments)


def from_options(kind: type[T], arguments: argparse.Namespace, **others: Any) -> T:
    """A dataclass whose fields have the values of the options of the same names.

    Args:
        kind: the dataclass.
        arguments: parsed options; None stands for the default of the field.
        others: values of the fields that have no option of the same name.
    """
    return kind(**values_of(arguments, *(field.name for field in fields(kind) if field.name not in others)), **others)  # type: ignore[arg-type]


def values_of(arguments: argparse.Namespace, *names: str) -> dict:
    """The values of options by name, without those that are None."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
