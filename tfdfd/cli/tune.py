"""`tfdfd tune`: which settings of a network and its training are best on validation."""

from __future__ import annotations

import functools
import os
import shlex
import sys

from tfdfd.cli.outcome import exit_code

_DESCRIPTION = """\
Searches the settings of a network with KerasTuner: builder, optimizer, augmentation, as the space of the network says
or a file of yours. Each trial is a training in a run folder of its own; what is compared is the AUC on validation, of
videos where a video has several crops. Test data are never opened.

SEARCH holds trials.csv, TensorBoard's HParams log, and at the end best.json for 'tfdfd train --config'. A search that
was stopped, however, goes on with the same command: ended trials are kept, those under way go on where they were. A
larger --max-trials makes it longer. A trial that fails is told as failed, and does not end the search.

--workers N starts N processes on this machine; one that is killed is replaced, and its trial goes on. Workers on other
machines, which see SEARCH and SET under the same names, join with the same command without --workers and KerasTuner's
variables KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT; the chief is whose id holds "chief".
The chief asks nobody who they are: only on a network that you trust.

hyperband trains each round anew, with the epochs of its round; at most those of the recipe.

Exit code: 0 every trial has a score; 1 none has, or the search could not go on; 3 some failed; 2 wrong usage."""


def add_parser(verbs) -> None:
    from tfdfd.tuning import TUNERS

    parser = verbs.add_parser("tune", help="search the settings of a network", description=_DESCRIPTION)
    parser.add_argument("space", metavar="SPACE", help="a network by name, such as meso4, or a space: FILE.json")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv with splits, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="SEARCH", help="folder of the search")
    parser.add_argument("--tuner", choices=TUNERS, default="random", help="what chooses values (default: random)")
    parser.add_argument("--max-trials", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of this machine (default: this one alone)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a setting of all trials, which is then not searched; repeat it",
    )
    parser.add_argument("--quick", action="store_true", help="trials of one epoch of few small crops: whether it runs")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of search and trainings (default: 0)")
    parser.add_argument("--allow-leaks", action="store_true", help="take a set whose splits share people or files")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), help="of Keras (default: $KERAS_BACKEND)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    if arguments.workers is not None and arguments.workers < 0:
        raise ValueError(f"--workers must be at least 0; received {arguments.workers}.")
    if arguments.seed < 0:
        raise ValueError(f"--seed must be at least 0; received {arguments.seed}.")
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    from tfdfd.cli.training_progress import TrainingProgress
    from tfdfd.tuning.search import CHIEF, WORKER, make_search, role, run_alone, run_chief, run_worker
    from tfdfd.tuning.search_space import read_space

    space = read_space(arguments.space)
    part = role(arguments.workers)
    search = make_search(
        space,
        arguments.data,
        arguments.output,
        tuner=arguments.tuner,
        max_trials=arguments.max_trials,
        seed=arguments.seed,
        settings=tuple(arguments.settings),
        quick=arguments.quick,
        allow_leaks=arguments.allow_leaks,
    )
    words = _words(arguments)
    command = shlex.join(["tfdfd", *words, *(["--workers", str(arguments.workers)] if arguments.workers else [])])
    note = functools.partial(_note, arguments.quiet)
    reports = functools.partial(TrainingProgress, arguments.quiet)
    if part == WORKER:
        run_worker(search, reports, note)
        return 0
    if part == CHIEF:
        worker = [sys.executable, "-m", "tfdfd", *words]
        rows, best = run_chief(search, command, worker, arguments.workers or 0, note)
    else:
        rows, best = run_alone(search, command, reports, note)
    for line in table_of(rows, search.objective):
        print(line)
    if best is None:
        sys.stderr.write(f"tfdfd tune: no trial has a score; {os.path.join(arguments.output, 'trials.csv')} says why\n")
    else:
        low, high = best["score"]["interval"] or (None, None)
        between = f" (95 % interval {low:.4f} to {high:.4f}, not corrected for the choice)" if low is not None else ""
        print(f"best {search.objective} {best['score']['value']:.4f}{between}")
        print(_train_command(space.recipe, arguments))
    return exit_code(sum(row["status"] == "COMPLETED" for row in rows), len(rows))


def _train_command(recipe, arguments):
    """What trains the network with the best settings, to be pasted as it is."""
    run = f"{os.path.normpath(arguments.output)}-best"
    words = ["tfdfd", "train", recipe, "--config", os.path.join(arguments.output, "best.json")]
    words += ["--data", arguments.data, "-o", run]
    words += ["--allow-leaks"] if arguments.allow_leaks else []
    return shlex.join([*words, *(["--backend", arguments.backend] if arguments.backend else [])])


def table_of(rows: list[dict], objective: str) -> list[str]:
    """The trials, the best first, the failed last."""
    rows = sorted(rows, key=lambda row: (row[objective] is None, -(row[objective] or 0)))
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("status", "message")))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return [
        lines[0],
        *(f"{line}  {row.get('message', '')}".rstrip() for line, row in zip(lines[1:], rows, strict=True)),
    ]


def _cell(value):
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(arguments):
    """The command without --workers: what a worker of this machine is started with."""
    words = ["tune", arguments.space, "--data", arguments.data, "-o", arguments.output]
    words += ["--tuner", arguments.tuner, "--max-trials", str(arguments.max_trials), "--seed", str(arguments.seed)]
    for setting in arguments.settings:
        words += ["--set", setting]
    words += [f"--{name.replace('_', '-')}" for name in ("quick", "allow_leaks", "quiet") if getattr(arguments, name)]
    return [*words, *(["--backend", arguments.backend] if arguments.backend else [])]


def _note(quiet, text):
    if not quiet:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
