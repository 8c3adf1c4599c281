"""`tfdfd benchmark`: measurements of the source documents, repeated on this machine."""

from __future__ import annotations

from argparse import Namespace

from tfdfd.cli.options import add_json, add_quiet
from tfdfd.cli.output import StepLine, plural, table_lines, write_json, write_line
from tfdfd.cli.parser import Parser, exit_code

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


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd benchmark`."""
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
    from tfdfd.cost import hardware, hardware_line, why_no_cycles
    from tfdfd.cost.networks import NETWORKS, compare, rounds_of

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
    """The rows of `tfdfd.cost.networks.compare` as a table.

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
