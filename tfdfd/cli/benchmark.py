"""`tfdfd benchmark`: measurements of the source documents, made again on this machine."""

from __future__ import annotations

from tfdfd.cli.outcome import check_writable, exit_code, write_json

_SLIM = """\
CPU time, cycles, wall time and memory of scoring the same images, as ratios against the first network: S0's Table 3.

Each network scores in a process of its own, in turns, with random weights (seeded; the cost does not depend on them).
Measured is the way from uint8 crops in memory at the network's own size to P(fake): gathering a batch, scaling to
[0, 1], the network. Start of Python and TensorFlow, building, converting and compiling come before and are told apart.
CPU s is user + system time of all threads; each network takes its best round by it. Cycles come from 'perf stat', where
the machine counts them. The paper's percentages are of cycles on its own machine and runtime. Peak memory is of the
process, libraries included (with openvino also TensorFlow, which converts).

Exit code: 0 every network measured, whether or not it saves what the paper's does; 1 none could be; 3 some could not;
2 wrong usage."""


def add_parser(verbs) -> None:
    from tfdfd.cost import BATCH, IMAGES, ROUNDS, RUNTIME
    from tfdfd.runtime import RUNTIMES

    parser = verbs.add_parser("benchmark", help="measurements of the source documents, made again here")
    actions = parser.add_subparsers(title="measurements", metavar="MEASUREMENT", required=True)
    slim = actions.add_parser("slim", help="what slimmed MobileNets save against MesoInception4", description=_SLIM)
    slim.add_argument(
        "--networks", nargs="+", metavar="NAME", help="the first is compared with (default: those of the paper)"
    )
    slim.add_argument("--images", type=int, default=IMAGES, metavar="N", help="default: %(default)s")
    slim.add_argument(
        "--batch", type=int, default=BATCH, metavar="N", help="images a call (default: %(default)s, as detect)"
    )
    slim.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="default: %(default)s")
    slim.add_argument("--runtime", default=RUNTIME, choices=RUNTIMES, help="default: %(default)s")
    slim.add_argument("--json", metavar="FILE|-", help="write rows and all rounds as JSON; - for standard output")
    slim.add_argument("--quiet", action="store_true", help="no progress on standard error")
    slim.set_defaults(run=_slim)


def _slim(arguments) -> int:
    from tfdfd.cli.waiting import Waiting
    from tfdfd.cost import hardware, hardware_line, why_no_cycles
    from tfdfd.cost.slim import NETWORKS, compare, rounds_of

    names = list(dict.fromkeys(arguments.networks or NETWORKS))
    measuring = rounds_of(names, arguments.images, arguments.batch, arguments.rounds, arguments.runtime)
    if arguments.json not in (None, "-"):
        check_writable(arguments.json)
    waiting = Waiting(len(names) * arguments.rounds, arguments.quiet)
    measured = []
    for number in range(arguments.rounds):
        for name in names:
            waiting.begin(f"{name}, round {number + 1}")
            measured.append(next(measuring))
            waiting.end()
    rows = compare(measured)
    settings = {"images": arguments.images, "batch": arguments.batch, "runtime": arguments.runtime}
    if arguments.json:
        answer = {"schema": 1, "hardware": hardware(), **settings, "rows": rows, "rounds": measured}
        write_json(answer, arguments.json)
    if arguments.json != "-":
        print(hardware_line())
        rounds = f"best of {arguments.rounds} round{'' if arguments.rounds == 1 else 's'}"
        print(f"{arguments.images:,} images, {arguments.batch} a call, {arguments.runtime}, {rounds}")
        for line in slim_lines(rows, why_no_cycles()):
            print(line)
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
    """The rows of `tfdfd.cost.slim.compare` as aligned lines, and in words what misses the paper and why no cycles."""
    first = rows[0]["name"]
    name_width = max(len(row["name"]) for row in [*rows, {"name": "network"}])
    table = [[title for title, _ in _COLUMNS]]
    table += [[cell(row) for _, cell in _COLUMNS] for row in rows if "error" not in row]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    names = ["network", *(row["name"] for row in rows if "error" not in row)]
    lines = [
        f"{name:{name_width}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in zip(names, table, strict=True)
    ]
    lines = [line.rstrip() for line in lines]
    lines += [f"{row['name']:{name_width}}  not measured: {row['error']}" for row in rows if "error" in row]
    if no_cycles:
        lines.append(f"cycles: not available, {no_cycles}; CPU time stands in for them")
    for row in rows:
        if row.get("holds") is False:
            what = "CPU time" if row["saves_cycles"] is None else "cycles"
            ours = row["saves_cpu"] if row["saves_cycles"] is None else row["saves_cycles"]
            more = f"{ours:.2f} % less" if ours >= 0 else f"{-ours:.2f} % more"
            told = f"needs {more} {what} than {first}; the paper's needs {row['paper_saves']:.2f} % fewer cycles"
            lines.append(f"{row['name']} {told}: missed")
    return lines


def _percent(value):
    return "-" if value is None else f"{value:.2f} %"
