"""`tfdfd reproduce`: a source document's experiments on the user's data, and one page with both sets of numbers."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any

from tfdfd.cli.options import add_quiet, add_seed
from tfdfd.cli.output import warn, write_line
from tfdfd.cli.parser import Parser
from tfdfd.faces import DETECTORS, NO_DETECTOR

_DESCRIPTION = """\
Runs every experiment of a source document: index, faces, split, training and evaluation of each network. Writes
report.html and report.json in REPORT: each number and figure of the document, ours, both protocols, and a verdict:
reproduced, not reproduced (by how much, with a 95 % interval), or cannot be (why: data, contradiction).

s0 MobileNetV3 and MesoInception4   s1 Meso4, MesoInception4, SVM   s2 transfer learning and Reseption
s3 MobileNetV1 bottlenecks          s4 MobileNetV2, VGG16, ResNet50V2, with and without SRM

DATA is a faces.csv (crops are used as they are) or its folder, or the folder of a data set as 'tfdfd index' takes it;
NAME=DATA names its data set (mesonet, ffpp, celebdf, dfdc). What cannot be run is said before any work. A run that was
stopped goes on with the same command; other experiments may be added with another --only.

Exit code: 0 every network asked for was trained and evaluated; 1 none; 3 some failed or were skipped; 2 wrong usage."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd reproduce`."""
    parser.description = _DESCRIPTION
    parser.add_argument("document", choices=("s0", "s1", "s2", "s3", "s4"), help="the document")
    parser.add_argument("data", nargs="+", metavar="DATA", help="crops or data sets; several are merged")
    parser.add_argument("-o", "--output", required=True, metavar="REPORT", help="a new folder, or one to go on with")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these networks or experiments")
    parser.add_argument("--quick", action="store_true", help="short trainings on few small crops: whether it runs")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="of every recipe; repeat it"
    )
    parser.add_argument(
        "--imagenet", action="append", default=[], metavar="NETWORK=FILE", help="ImageNet weights; repeat it"
    )
    parser.add_argument("--download", action="store_true", help="let Keras fetch ImageNet weights")
    parser.add_argument("--no-costs", action="store_true", help="s0: do not measure CPU cost")
    faces = parser.add_argument_group("faces of videos (default: as the document)")
    faces.add_argument("--frames", type=int, metavar="N", help="equally spaced frames of a video")
    faces.add_argument("--detector", choices=(*DETECTORS, NO_DETECTOR))
    faces.add_argument("--ssd", metavar="GRAPH", help="network for --detector ssd")
    add_seed(parser, "the split")
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from tfdfd.cli.output import TrainingProgress
    from tfdfd.reproduce.runner import Request, plan, reproduce

    request = Request(
        document=arguments.document,
        data=tuple(arguments.data),
        only=tuple(arguments.only),
        quick=arguments.quick,
        settings=tuple(arguments.settings),
        imagenet=_files(arguments.imagenet),
        download=arguments.download,
        extraction=_extraction(arguments),
        costs=not arguments.no_costs,
        seed=arguments.seed,
    )
    todo = plan(request)
    for line in todo.lines():
        warn(f"tfdfd reproduce: {line}")
    with TrainingProgress(arguments.quiet) as report:
        answer = reproduce(request, arguments.output, report, todo)
    for line in _lines(answer):
        write_line(line)
    warn(f"report: {os.path.join(os.path.abspath(arguments.output), 'report.html')}")
    done = sum(one["problem"] is None for one in answer["experiments"].values())
    asked = [name for name, why in todo.skipped.items() if why != "not among --only"]
    failed = [name for name in todo.recipes if answer["experiments"][name]["problem"]]
    return 1 if not done else 3 if asked or failed else 0


def _files(assignments: Iterable[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for text in assignments:
        network, equals, file = text.partition("=")
        if not (network and equals and file):
            raise ValueError(f"--imagenet is NETWORK=FILE, such as vgg16=vgg16_notop.h5; received {text!r}.")
        files[network] = file
    return files


def _extraction(arguments: Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if arguments.frames is not None:
        settings |= {"frames": arguments.frames, "every_s": None, "all": False, "first": False}
    if arguments.detector is not None:
        settings |= {"detector": arguments.detector, "detector_options": {}}
    if arguments.detector == "ssd":
        settings["detector_options"] = {"graph": arguments.ssd}
    elif arguments.ssd:
        raise ValueError("--ssd is the network of --detector ssd.")
    return settings


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    total = len(answer["entries"])
    counts = ", ".join(f"{count} {status}" for status, count in answer["counts"].items())
    yield f"{answer['document']}: {total} numbers and figures: {counts}"
    for entry in answer["entries"]:
        if entry["verdict"] in ("reproduced", "not reproduced"):
            yield f"  {entry['place']}: {entry['what']}: {entry['verdict']}, {entry['reason']}"
    for one in answer["contradictions"]:
        if one["is_one"]:
            yield f"  contradiction, {one['place']}: {one['says']}; {one['follows']}"
