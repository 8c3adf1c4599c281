"""`tfdfd evaluate`: metrics of a model on a test set, as a table and as a report in a folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfdfd.cli import Parser
from tfdfd.cli.options import add_json, add_quiet, add_seed, from_options
from tfdfd.cli.output import Progress, warn, write_json, write_line

if TYPE_CHECKING:
    from tfdfd.evaluation.evaluate import Options

_DESCRIPTION = """\
Scores the crops of a set with a model and evaluates the scores: of frames and of videos, by method and by data set,
with confidence intervals over videos, and with the majority class as a baseline. Writes report.html, report.md,
report.json and scores.csv.

A set is a faces.csv, its folder, a folder with real/ and fake/, or shards. Several sets: --data A --data NAME=B. A set
that leaks, or that the model was trained on, is refused. A run that was stopped resumes with the same command.

Exit code: 0 evaluated, whatever the result; 1 it could not be; 2 wrong usage, or an invalid model or set."""

# Same as in tfdfd.metrics, which imports NumPy.
AGGREGATIONS = ("mean", "median", "trimmed", "max_over_faces_mean_over_frames", "max_of_track_means", "confident")
MISSING = ("exclude", "as-real", "as-fake", "as-chance")


def add_arguments(parser: Parser) -> None:
    parser.description = _DESCRIPTION
    parser.add_argument("model", nargs="?", metavar="MODEL|RUN", help="handle, weights file, or folder of 'train'")
    parser.add_argument("--data", action="append", metavar="SET", help="set to evaluate on; repeatable")
    parser.add_argument("-o", "--output", required=True, metavar="REPORT", help="folder of the report")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "none"),
        help="split of the crops (default: test; with --from-scores none); none: all crops",
    )
    parser.add_argument("--from-scores", metavar="scores.csv", help="evaluate these scores, without a network")
    parser.add_argument(
        "--against",
        action="append",
        metavar="MODEL|scores.csv",
        help="compare with a second model on the same sets (with --from-scores, with its table); repeatable, for "
        "further models in the tables of --table",
    )
    parser.add_argument("--blend", action="store_true", help="blend the fakes from the real crops of the set")
    parser.add_argument(
        "--frames", type=int, metavar="N", help="N equally spaced crops of each video (default: all; S2 tests on 12)"
    )
    parser.add_argument("--index", metavar="INDEX.csv", help="index of the set: labels of videos without a crop")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="P(fake) from which the verdict is fake (default: the model's)"
    )
    parser.add_argument("--aggregate", default="mean", choices=AGGREGATIONS, help="from crops to a video's score")
    parser.add_argument("--missing", default="exclude", choices=MISSING, help="treatment of videos without a score")
    parser.add_argument(
        "--cluster",
        default="video",
        choices=("video", "source"),
        help="unit of resampling: videos, or all videos of one original together",
    )
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap samples")
    add_seed(parser, "bootstrap and blending")
    parser.add_argument("--table", choices=("s0", "s1", "s2", "s3", "s4"), help="also make the tables of this document")
    parser.add_argument("--allow-leaks", action="store_true", help="evaluate on leaking or training data nevertheless")
    parser.add_argument("--no-plots", action="store_true", help="write no plots")
    add_json(parser, "report.json once more")
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    report = _evaluate_scores(arguments) if arguments.from_scores else _evaluate_model(arguments)
    page = os.path.join(os.path.abspath(arguments.output), "report.html")
    warn(f"report: {page}")
    for warning in _first_of_each_kind(report["warnings"]):
        warn(f"tfdfd evaluate: WARNING: {warning['message']}")
    if arguments.json:
        write_json(report, arguments.json)
    if arguments.json != "-":
        for line in _lines(report):
            write_line(line)
    return 0


def _evaluate_model(arguments: Namespace) -> dict[str, Any]:
    if not arguments.model or not arguments.data:
        raise ValueError("give a model and a set to evaluate it on: tfdfd evaluate MODEL --data SET -o REPORT.")
    split = arguments.split or "test"
    _check_splits(arguments.data, split)
    from tfdfd.evaluation.evaluate import evaluate

    with Progress(arguments.quiet) as progress:

        def report(done: int, total: int) -> None:
            progress.update(done, total, "crops scored")

        options = _options(arguments, split)
        return evaluate(
            arguments.model, arguments.data, arguments.output, options, against=arguments.against, progress=report
        )


def _check_splits(data: Sequence[str], split: str) -> None:
    """Raises `ValueError` for a set without the split before a network is loaded."""
    from tfdfd.data.crops import faces_of, named_set
    from tfdfd.pipelines import is_packed, open_shards

    if split != "none":
        for _, where in map(named_set, data):
            (open_shards if is_packed(where) else faces_of)(where, split)


def _evaluate_scores(arguments: Namespace) -> dict[str, Any]:
    from tfdfd.evaluation.evaluate import evaluate_scores

    if arguments.data or arguments.blend or arguments.index or arguments.frames:
        raise ValueError("--from-scores evaluates existing scores; omit --data, --blend, --frames and --index.")
    options = _options(arguments, arguments.split or "none")
    return evaluate_scores(
        arguments.from_scores, arguments.output, options, model=arguments.model, against=arguments.against
    )


def _options(arguments: Namespace, split: str | None) -> Options:
    from tfdfd.evaluation.evaluate import Options

    return from_options(
        Options,
        arguments,
        split=None if split == "none" else split,
        aggregation=arguments.aggregate,
        plots=not arguments.no_plots,
    )


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """The tables of the report."""
    from tfdfd.evaluation.report import stored_tables
    from tfdfd.evaluation.tables import as_text, comparison_table, short_table

    yield from as_text(short_table(report))
    compared = comparison_table(report)
    for table in [*stored_tables(report["tables"]), *([compared] if compared else [])]:
        yield ""
        yield from as_text(table)


def _first_of_each_kind(warnings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first warning of each kind, without those about few examples. The report has all of them."""
    from tfdfd.evaluation.report import QUIET

    first: dict[str, dict[str, Any]] = {}
    for one in warnings:
        first.setdefault(one["code"], one)
    return [one for code, one in first.items() if code not in QUIET]
