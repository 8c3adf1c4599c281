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
    from tfdfd.faces import DETECTORS, NO_DETECTOR

    parser.add_argument(
        "--detector",
        default=DETECTORS[0],
        choices=(*DETECTORS, NO_DETECTOR),
        help=f"face detector (default: %(default)s); {NO_DETECTOR}: each image is a face crop already",
    )
    add_detector_files(parser)


def add_detector_files(parser) -> None:
    """Adds the files of the detector `ssd`."""
    parser.add_argument("--ssd", metavar="GRAPH", help="network for --detector ssd: .pb or .caffemodel")
    parser.add_argument("--ssd-config", metavar="FILE", help="its .pbtxt or .prototxt (default: the one beside it)")


def detector_options(arguments) -> dict:
    """The arguments of the face detector.

    Raises:
        ValueError: files are given for another detector than `ssd`.
    """
    if arguments.detector == "ssd":
        return {"graph": arguments.ssd, "config": arguments.ssd_config}
    if arguments.ssd or arguments.ssd_config:
        chosen = f"; the detector is {arguments.detector}" if arguments.detector else ""
        raise ValueError(f"--ssd and --ssd-config are for --detector ssd{chosen}.")
    return {}


def add_limits(parser) -> None:
    """Adds an option for each field of `Limits`."""
    from tfdfd.media import Limits

    group = parser.add_argument_group("limits of one input (a number, or such as 50M or 2GiB)")
    for field in fields(Limits):
        kind = float if field.name == "max_seconds" else size
        option = f"--{field.name.replace('_', '-')}"
        group.add_argument(option, type=kind, default=field.default, metavar="N", help=f"default: {field.default:,}")


def limits_of(arguments):
    """The `Limits` that the options give."""
    from tfdfd.media import Limits

    return Limits(**{field.name: getattr(arguments, field.name) for field in fields(Limits)})
