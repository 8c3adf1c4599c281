"""`tfdfd tune`: a search for the hyperparameters of a network and its training that are best on validation."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from argparse import Namespace
from typing import Any

from tfdfd.cli.options import add_backend, add_seed, add_training, check_at_least, select_backend, values_of
from tfdfd.cli.parser import Parser, exit_code
from tfdfd.cli.text import table_lines, warn, write_line

_DESCRIPTION = """\
Searches hyperparameters of a network with KerasTuner: builder, optimizer, augmentation, as defined by the search space
of the network or by a file. Each trial is a training in a run folder of its own. The objective is the AUC on
validation, over videos if any video has several crops. Test data are never opened.

SEARCH holds trials.csv, TensorBoard's HParams log, and at the end best.json for 'tfdfd train --config'. A search that
was stopped in any way resumes with the same command: finished trials are kept, running ones continue. A larger
--max-trials extends a search. A failed trial is listed as failed and does not end the search.

--workers N starts N processes on this machine; a killed process is replaced and its trial resumes. Workers on other
machines, where SEARCH and SET have the same paths, join with the same command without --workers and with KerasTuner's
variables KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT; the chief is the process whose id
contains "chief". The chief does not authenticate workers: use it only on a network that you trust.

hyperband trains from scratch in each round, with the epochs of that round, at most those of the recipe.

Exit code: 0 every trial has a score; 1 none has, or the search could not go on; 3 some failed; 2 wrong usage."""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `tfdfd tune`."""
    from tfdfd.tuning import TUNERS

    parser.description = _DESCRIPTION
    parser.add_argument("space", metavar="SPACE", help="name of a network, such as meso4, or a space: FILE.json")
    parser.add_argument("--data", required=True, metavar="SET", help="faces.csv with splits, or its folder")
    parser.add_argument("-o", "--output", required=True, metavar="SEARCH", help="folder of the search")
    parser.add_argument("--tuner", choices=TUNERS, default="random", help="search algorithm")
    parser.add_argument("--max-trials", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on this machine (default: only this one)")
    add_training(parser, "fixes a setting for all trials, so that it is not searched; repeatable")
    parser.add_argument("--quick", action="store_true", help="smoke test: trials of one epoch of few small crops")
    add_seed(parser, "search and training")
    add_backend(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    check_at_least(arguments, "workers", 0)
    check_at_least(arguments, "seed", 0)
    select_backend(arguments)
    from tfdfd.cli.progress import Progress, TrainingProgress
    from tfdfd.tuning.search import CHIEF, WORKER, make_search, role, run_alone, run_chief, run_worker
    from tfdfd.tuning.search_space import read_space

    space = read_space(arguments.space)
    own_role = role(arguments.workers)
    options = values_of(arguments, "tuner", "max_trials", "seed", "quick", "allow_leaks")
    search = make_search(space, arguments.data, arguments.output, settings=tuple(arguments.settings), **options)
    words = _worker_command(arguments)
    command = shlex.join(["tfdfd", *words, *(["--workers", str(arguments.workers)] if arguments.workers else [])])
    note = Progress(arguments.quiet).line
    reports = functools.partial(TrainingProgress, arguments.quiet)
    if own_role == WORKER:
        run_worker(search, reports, note)
        return 0
    if own_role == CHIEF:
        worker = [sys.executable, "-m", "tfdfd", *words]
        rows, best = run_chief(search, command, worker, arguments.workers or 0, note)
    else:
        rows, best = run_alone(search, command, reports, note)
    for line in trial_lines(rows, search.objective):
        write_line(line)
    if best is None:
        table = os.path.join(arguments.output, "trials.csv")
        warn(f"tfdfd tune: no trial has a score; see the messages in {table}")
    else:
        low, high = best["score"]["interval"] or (None, None)
        interval = f" (95 % interval {low:.4f} to {high:.4f}, not corrected for the choice)" if low is not None else ""
        write_line(f"best {search.objective} {best['score']['value']:.4f}{interval}")
        write_line(_train_command(space.recipe, arguments))
    return exit_code(sum(row["status"] == "COMPLETED" for row in rows), len(rows))


def _train_command(recipe: str, arguments: Namespace) -> str:
    """The command that trains the network with the best settings."""
    run = f"{os.path.normpath(arguments.output)}-best"
    words: list[str] = ["tfdfd", "train", recipe, "--config", os.path.join(arguments.output, "best.json")]
    words += ["--data", arguments.data, "-o", run]
    words += ["--allow-leaks"] if arguments.allow_leaks else []
    return shlex.join([*words, *(["--backend", arguments.backend] if arguments.backend else [])])


def _worker_command(arguments: Namespace) -> list[str]:
    """The command without --workers, with which the workers on this machine are started."""
    words = ["tune", arguments.space, "--data", arguments.data, "-o", arguments.output]
    words += ["--tuner", arguments.tuner, "--max-trials", str(arguments.max_trials), "--seed", str(arguments.seed)]
    for setting in arguments.settings:
        words += ["--set", setting]
    words += [f"--{name.replace('_', '-')}" for name in ("quick", "allow_leaks", "quiet") if getattr(arguments, name)]
    return [*words, *(["--backend", arguments.backend] if arguments.backend else [])]


def trial_lines(rows: list[dict], objective: str) -> list[str]:
    """A table of the trials, the best first, the failed last."""
    rows = sorted(rows, key=lambda row: (row[objective] is None, -(row[objective] or 0)))
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("status", "message")))
    head, *lines = table_lines([names, *([_cell(row.get(name)) for name in names] for row in rows)], left=0)
    return [head, *(f"{line}  {row.get('message', '')}".rstrip() for line, row in zip(lines, rows, strict=True))]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
