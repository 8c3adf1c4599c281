"""Options that several verbs have: the model, the face detector, and what one input may cost."""

from __future__ import annotations

from dataclasses import fields

from tfdfd.cli.parser import size


def add_model(parser) -> None:
    """Adds `--model`."""
    from tfdfd.weights.records import ALIASES, DEFAULT_MODEL

    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="HANDLE|FILE",
        help=f"weights, or {' or '.join(ALIASES)} (default: %(default)s)",
    )


def add_detector(parser) -> None:
    """Adds `--detector`, with a default, and the files of its network."""
    from tfdfd.faces.detectors import DETECTORS, NO_DETECTOR

    parser.add_argument(
        "--detector",
        default=DETECTORS[0],
        choices=(*DETECTORS, NO_DETECTOR),
        help=f"face detector (default: %(default)s); {NO_DETECTOR}: each image is a face crop already",
    )
    add_detector_files(parser)


def add_detector_files(parser) -> None:
    """Adds the files and settings of the detector `ssd`, and the smallest face."""
    parser.add_argument("--ssd", metavar="GRAPH", help="network for --detector ssd: .pb or .caffemodel")
    parser.add_argument("--ssd-config", metavar="FILE", help="its .pbtxt or .prototxt (default: the one beside it)")
    parser.add_argument(
        "--ssd-preset",
        choices=("opencv", "tf"),
        help="what GRAPH takes: BGR less OpenCV's mean (default), or RGB as TensorFlow's Object Detection API",
    )
    parser.add_argument(
        "--ssd-mean", nargs="+", type=float, metavar="M", help="of the channels, instead of the preset's"
    )
    parser.add_argument("--ssd-scale", type=float, metavar="S", help="factor after the mean (preset: 1)")
    parser.add_argument("--ssd-threshold", type=float, metavar="P", help="least score of a face (default: 0.5)")
    parser.add_argument("--ssd-keep-best", action="store_true", help="a frame's best box is a face whatever its score")
    parser.add_argument("--min-face", type=int, metavar="PX", help="smallest face of mtcnn and haar (S4: haar, 128)")


def detector_options(arguments) -> dict:
    """The arguments of the face detector.

    Raises:
        ValueError: files are given for another detector than `ssd`.
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
    if arguments.min_face < 1:
        raise ValueError(f"--min-face must be at least 1 pixel; received {arguments.min_face}.")
    names = {None: "min_face_size", "mtcnn": "min_face_size", "haar": "min_size"}
    if arguments.detector not in names:
        raise ValueError(f"--min-face is for --detector mtcnn and haar; the detector is {arguments.detector}.")
    return {names[arguments.detector]: arguments.min_face}


def add_limits(parser) -> None:
    """Adds an option for each field of `Limits`."""
    from tfdfd.media.limits import Limits

    group = parser.add_argument_group("limits of one input (a number, or such as 50M or 2GiB)")
    for field in fields(Limits):
        kind = float if field.name == "max_seconds" else size
        option = f"--{field.name.replace('_', '-')}"
        group.add_argument(option, type=kind, default=field.default, metavar="N", help=f"default: {field.default:,}")


def limits_of(arguments):
    """The `Limits` that the options give."""
    from tfdfd.media.limits import Limits

    return Limits(**{field.name: getattr(arguments, field.name) for field in fields(Limits)})
