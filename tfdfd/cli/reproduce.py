"""`tfdfd reproduce` and `benchmark`: experiments and measurements of the source documents, repeated and compared."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any

from tfdfd.cli import Parser, exit_code
from tfdfd.cli.options import add_json, add_quiet, add_seed
from tfdfd.cli.output import StepLine, warn, write_json, write_line
from tfdfd.faces import DETECTORS, NO_DETECTOR
from tfdfd.text import plural, table_lines

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


_SLIM = """\
CPU time, cycles, wall time and memory of scoring the same images, relative to the first network: S0's Table 3.

Each network scores in its own process, in turns, with random weights (seeded; the cost does not depend on them). The
measurement covers the path from uint8 crops in memory, at the size of the network, to P(fake): gathering a batch,
scaling to [0, 1], the network. The start of Python and TensorFlow, building, converting and compiling are not part of
it; their CPU time is a separate column. CPU s is user + system time of all threads; the best round of each network
counts. Cycles come from 'perf stat' if the machine can count them. The percentages of the paper are of cycles on its
own machine and runtime. Peak memory is that of the process with its libraries (with openvino this includes TensorFlow,
which converts).

Exit code: 0 every network measured, whether or not it saves as much as in the paper; 1 none could be; 3 some could
not; 2 wrong usage."""


def add_benchmark_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(title="measurements", metavar="MEASUREMENT", required=True)
    actions.add_parser(
        "slim", help="compare slimmed MobileNets with MesoInception4", add_arguments=_add_slim, description=_SLIM
    )


def _add_slim(parser: Parser) -> None:
    from tfdfd.cost import BATCH, IMAGES, ROUNDS, RUNTIME
    from tfdfd.runtime import RUNTIMES

    parser.add_argument(
        "--networks", nargs="+", metavar="NAME", help="the first is the reference (default: those of the paper)"
    )
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--batch", type=int, default=BATCH, metavar="N", help="images per call (default: %(default)s, as in detect)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="default: %(default)s")
    parser.add_argument("--runtime", default=RUNTIME, choices=RUNTIMES, help="default: %(default)s")
    add_json(parser, "rows and all rounds")
    add_quiet(parser)
    parser.set_defaults(run=_slim)


def _slim(arguments: Namespace) -> int:
    from tfdfd.cost import NETWORKS, compare, hardware, hardware_line, rounds_of, why_no_cycles

    names = list(dict.fromkeys(arguments.networks or NETWORKS))
    rounds = rounds_of(names, arguments.images, arguments.batch, arguments.rounds, arguments.runtime)
    steps = StepLine(len(names) * arguments.rounds, arguments.quiet)
    measured = []
    for number in range(arguments.rounds):
        for name in names:
            steps.begin(f"{name}, round {number + 1}")
            measured.append(next(rounds))
            steps.end()
    rows = compare(measured)
    settings = {"images": arguments.images, "batch": arguments.batch, "runtime": arguments.runtime}
    if arguments.json:
        answer = {"schema": 1, "hardware": hardware(), **settings, "rows": rows, "rounds": measured}
        write_json(answer, arguments.json)
    if arguments.json != "-":
        write_line(hardware_line())
        best_of = f"best of {plural(arguments.rounds, 'round')}"
        write_line(f"{arguments.images:,} images, {arguments.batch} per call, {arguments.runtime}, {best_of}")
        for line in slim_lines(rows, why_no_cycles()):
            write_line(line)
    return exit_code(sum("error" not in row for row in rows), len(rows))


_COLUMNS = (
    ("CPU s", lambda row: f"{row['cpu_s']:.2f}"),
    ("user", lambda row: f"{row['user_s']:.2f}"),
    ("system", lambda row: f"{row['system_s']:.2f}"),
    ("saved", lambda row: _percent(row["saves_cpu"])),
    ("G cycles", lambda row: "-" if row["cycles"] is None else f"{row['cycles'] / 1e9:.2f}"),
    ("saved", lambda row: _percent(row["saves_cycles"])),
    ("paper saved", lambda row: _percent(row["paper_saves"])),
    ("wall s", lambda row: f"{row['wall_s']:.2f}"),
    ("peak MB", lambda row: f"{row['peak_memory_bytes'] / 1e6:,.0f}"),
    ("start CPU s", lambda row: f"{row['start_cpu_s']:.2f}"),
    ("", lambda row: {None: "", True: "holds", False: "MISSED"}[row["holds"]]),
)


def slim_lines(rows: list[dict], no_cycles: str | None) -> list[str]:
    """The rows of `tfdfd.cost.compare` as a table.

    Sentences below it name the networks that miss the saving of the paper, and say why there are no cycles.
    """
    width = max(len("network"), *(len(row["name"]) for row in rows))
    measured = [[row["name"].ljust(width), *(cell(row) for _, cell in _COLUMNS)] for row in rows if "error" not in row]
    lines = table_lines([["network".ljust(width), *(title for title, _ in _COLUMNS)], *measured])
    lines += [f"{row['name']:{width}}  not measured: {row['error']}" for row in rows if "error" in row]
    if no_cycles:
        lines.append(f"cycles: not available, {no_cycles}; CPU time stands in for them")
    for row in rows:
        if row.get("holds") is False:
            unit = "CPU time" if row["saves_cycles"] is None else "cycles"
            saved = row["saves_cpu"] if row["saves_cycles"] is None else row["saves_cycles"]
            more = f"{saved:.2f} % less" if saved >= 0 else f"{-saved:.2f} % more"
            paper = f"the paper's needs {row['paper_saves']:.2f} % fewer cycles"
            lines.append(f"{row['name']} needs {more} {unit} than {rows[0]['name']}; {paper}: missed")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
