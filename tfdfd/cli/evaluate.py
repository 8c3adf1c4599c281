"""`tfdfd evaluate`: what a model is worth on a set, as a table here and a report in a folder."""

from __future__ import annotations

import contextlib
import os
import sys

_DESCRIPTION = """\
Scores the crops of a set with a model and judges the scores: of frames and of videos, by method and by data set, with
intervals over videos, beside the majority's share; writes report.html, report.md, report.json and scores.csv.

A set is a faces.csv, its folder, a folder with real/ and fake/, or shards; several sets: --data A --data NAME=B. A
set that leaks, or that the model's run was trained on, is refused. A stopped scoring goes on with the same command.

Exit code: 0 judged, whatever the outcome; 1 it could not be; 2 wrong usage, or a model or set of no use."""

# As `tfdfd.evaluation` has them, which imports NumPy.
AGGREGATIONS = ("mean", "median", "trimmed", "max_over_faces_mean_over_frames", "max_of_track_means", "confident")
MISSING = ("exclude", "as-real", "as-fake", "as-chance")


def add_parser(verbs) -> None:
    parser = verbs.add_parser("evaluate", help="what a model is worth on a set", description=_DESCRIPTION)
    parser.add_argument("model", nargs="?", metavar="MODEL|RUN", help="handle, weights file, or folder of 'train'")
    parser.add_argument("--data", action="append", metavar="SET", help="what to judge on; repeat it for several")
    parser.add_argument("-o", "--output", required=True, metavar="REPORT", help="folder of the report")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "none"),
        help="which crops (default: test; with --from-scores all); none: all, whatever their split",
    )
    parser.add_argument("--from-scores", metavar="scores.csv", help="judge these anew, without a network")
    parser.add_argument(
        "--against",
        metavar="MODEL|scores.csv",
        help="a second model on the same sets (with --from-scores its table), and whether they differ",
    )
    parser.add_argument("--blend", action="store_true", help="fakes are blended of the set's real crops")
    parser.add_argument("--index", metavar="INDEX.csv", help="of the set: labels of videos that have no crop")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="P(fake) from which the verdict is fake (default: the model's)"
    )
    parser.add_argument(
        "--aggregate", default="mean", choices=AGGREGATIONS, help="from crops to a video's score (default: %(default)s)"
    )
    parser.add_argument(
        "--missing",
        default="exclude",
        choices=MISSING,
        help="what videos without a score count as (default: %(default)s)",
    )
    parser.add_argument(
        "--cluster",
        default="video",
        choices=("video", "source"),
        help="what intervals are over: videos, or those of one original together (default: %(default)s)",
    )
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of bootstrap and blending (default: 0)")
    parser.add_argument("--table", choices=("s0", "s1", "s2", "s3", "s4"), help="a source document's tables besides")
    parser.add_argument("--allow-leaks", action="store_true", help="judge on leaking or trained-on data all the same")
    parser.add_argument("--no-plots", action="store_true", help="without pictures of curves")
    parser.add_argument("--json", metavar="FILE|-", help="report.json once more; - for standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from tfdfd.cli.outcome import check_writable, write_json

    if arguments.json not in (None, "-"):
        check_writable(arguments.json)
    report = _again(arguments) if arguments.from_scores else _scored(arguments)
    page = os.path.join(os.path.abspath(arguments.output), "report.html")
    sys.stderr.write(f"report: {page}\n")
    for warning in _loud(report["warnings"]):
        sys.stderr.write(f"tfdfd evaluate: WARNING: {_shown(warning['message'])}\n")
    if arguments.json:
        write_json(report, arguments.json)
    if arguments.json != "-":
        for line in _lines(report):
            print(line)
    return 0


def _scored(arguments):
    if not arguments.model or not arguments.data:
        raise ValueError("give a model and what to judge it on: tfdfd evaluate MODEL --data SET -o REPORT.")
    split = arguments.split or "test"
    _check_splits(arguments.data, split)
    from tfdfd.evaluation.evaluate import evaluate

    with _Progress(arguments.quiet) as progress:
        options = _options(arguments, split)
        return evaluate(
            arguments.model, arguments.data, arguments.output, options, against=arguments.against, progress=progress
        )


def _check_splits(data, split):
    """A set without the split is found out before a network is loaded."""
    from tfdfd.data.crops import faces_of, named_set
    from tfdfd.pipelines.shards import is_packed, open_shards

    if split != "none":
        for _, where in map(named_set, data):
            (open_shards if is_packed(where) else faces_of)(where, split)


def _again(arguments):
    from tfdfd.evaluation.evaluate import evaluate_scores

    if arguments.data or arguments.blend or arguments.index:
        raise ValueError("--from-scores judges what was scored; leave --data, --blend and --index out.")
    options = _options(arguments, arguments.split or "none")
    return evaluate_scores(
        arguments.from_scores, arguments.output, options, model=arguments.model, against=arguments.against
    )


def _options(arguments, split):
    from tfdfd.evaluation.evaluate import Options

    return Options(
        split=None if split == "none" else split,
        threshold=arguments.threshold,
        aggregation=arguments.aggregate,
        missing=arguments.missing,
        cluster=arguments.cluster,
        resamples=arguments.resamples,
        seed=arguments.seed,
        table=arguments.table,
        blend=arguments.blend,
        index=arguments.index,
        allow_leaks=arguments.allow_leaks,
        plots=not arguments.no_plots,
    )


def _lines(report):
    """What a person wants to know, and what must not be missed."""
    from tfdfd.evaluation.report import stored_tables
    from tfdfd.evaluation.tables import as_text, comparison_table, short_table

    yield from as_text(short_table(report))
    compared = comparison_table(report)
    for table in [*stored_tables(report["tables"]), *([compared] if compared else [])]:
        yield ""
        yield from as_text(table)
    for warning in report["warnings"]:
        yield f"WARNING: {_shown(warning['message'])}"


def _loud(warnings):
    """The first of each kind, but not that there are few examples: all of them are in the answer."""
    from tfdfd.evaluation.report import QUIET

    first = {}
    for one in warnings:
        first.setdefault(one["code"], one)
    return [one for code, one in first.items() if code not in QUIET]


def _shown(text):
    from tfdfd.cli.shown import shown

    return shown(text)


class _Progress(contextlib.AbstractContextManager):
    """A bar on a terminal, a line a part elsewhere."""

    def __init__(self, quiet):
        self._quiet = quiet

    def __enter__(self):
        from tfdfd.cli.progress import bar_on

        self._bar = bar_on(sys.stderr) if not self._quiet and sys.stderr.isatty() else None
        self._task = None
        return self

    def __exit__(self, *error):
        if self._bar:
            self._bar.stop()

    def __call__(self, done, total):
        if self._bar:
            if self._task is None:
                self._bar.start()
                self._task = self._bar.add_task("evaluate", total=total)
            self._bar.update(self._task, completed=done, total=total, description=f"{done:,} of {total:,} crops")
        elif not self._quiet:
            sys.stderr.write(f"[{done}/{total}] crops scored\n")
            sys.stderr.flush()
