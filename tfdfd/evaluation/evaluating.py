"""From a model and sets to a folder with the report in all its forms.

scores.csv, scores.json      what the model said of each crop; `second.csv` of a second model
report.json, report.md, report.html
plots/, hardest/             the pictures that report.md shows
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfdfd.data.tables import FAKE, REAL
from tfdfd.evaluation.hardest_crops import Pictures, pictures_of, pictures_told, thumbnails
from tfdfd.evaluation.judged_set import JudgedSet
from tfdfd.evaluation.opening_sets import open_set
from tfdfd.evaluation.page import render_page
from tfdfd.evaluation.plots import check_matplotlib, draw_plots
from tfdfd.evaluation.report_json import as_json, make_report
from tfdfd.evaluation.report_markdown import as_markdown_report
from tfdfd.evaluation.run_figures import training_figures
from tfdfd.evaluation.scoring import about_scores, open_model, score_sets
from tfdfd.evaluation.training_overlap import overlap, overlap_warnings, refuse_overlap
from tfdfd.files import write_atomically
from tfdfd.metrics.scores import AGGREGATIONS, POLICIES, max_of_track_means, read_scores

MODELS = ("scores", "second")


@dataclass(frozen=True)
class Options:
    """How scores are judged and shown.

    Attributes:
        split: of each set; None: all crops.
        threshold: of P(fake), for the first model; None: its own.
        aggregation: from crops to a video's score, by name.
        missing: what videos without a score count as.
        cluster: what intervals are over: `video` or `source`.
        resamples: of the bootstrap.
        seed: of the bootstrap and of blended pairs.
        table: `s0` ... `s4` or None.
        blend: whether fakes are made of the real crops.
        index: `index.csv` that a single set was extracted from, or None.
        allow_leaks: whether a leaking set is judged all the same.
        plots: whether pictures are drawn.
    """

    split: str | None = "test"
    threshold: float | None = None
    aggregation: str = "mean"
    missing: str = "exclude"
    cluster: str = "video"
    resamples: int = 2000
    seed: int = 0
    table: str | None = None
    blend: bool = False
    index: str | None = None
    allow_leaks: bool = False
    plots: bool = True

    def __post_init__(self):
        for name, choices in (("aggregation", AGGREGATIONS), ("missing", POLICIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; received {getattr(self, name)!r}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1]; received {self.threshold!r}.")
        if self.resamples < 0 or self.seed < 0:
            raise ValueError(f"resamples and seed must be at least 0; received {self.resamples} and {self.seed}.")


def evaluate(
    model: str | os.PathLike,
    data: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    options: Options | None = None,
    *,
    against: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Scores a model, or two, on sets, and writes the report.

    Args:
        model: a handle, a weights file with its card, or the folder of a run.
        data: face sets; `NAME=PATH` names one.
        folder: of the report; made where it is not there. Scores of the same model on the same sets are taken as they
            are, others are an error.
        options: how.
        against: a second model, compared on the same sets.
        progress: called with the number of crops scored, and of all; for each model from 0.

    Returns:
        What `report.json` holds.

    Raises:
        ValueError: a model, set or option that is of no use, or a set that leaks.
        EvaluationError: the network answers something that is no probability.
        OSError: a file cannot be written.
    """
    options = options or Options()
    if options.plots:
        check_matplotlib()
    if options.index and len(data) > 1:
        raise ValueError("--index is of one set; judge several one by one, or merge them first.")
    scored, trained, sets, leaks = [], [], [], None
    warnings = []
    for name, each in zip(MODELS, [model] + [against] * (against is not None), strict=False):
        opened = open_model(each)
        # A self-blended pair has the size of the network.
        sets = [_opened(where, opened, options) for where in data]
        _check_tracks(sets, options.aggregation)
        found = overlap(opened, sets)
        refuse_overlap(found, options.allow_leaks)
        warnings += overlap_warnings(found)
        leaks = leaks or found
        scored.append((opened.told(), score_sets(opened, sets, folder, name, progress)))
        trained.append(training_figures(opened.run))
        del opened
    warnings += [warning for one in sets for warning in _set_warnings(one)]
    told = [one.told() for one in sets]
    report = _judged(scored, told, options, leaks, warnings, trained)
    write_report(folder, report, pictures_of(sets), options.plots)
    return report


def judge_again(
    table: str | os.PathLike,
    folder: str | os.PathLike,
    options: Options | None = None,
    *,
    model: str | os.PathLike | None = None,
    against: str | os.PathLike | None = None,
) -> dict:
    """Judges stored scores anew, without a network.

    Args:
        table: a `scores.csv`; the JSON beside it says of what model and sets it is, if it is there.
        folder: of the report.
        options: how; `split` None takes all rows.
        model: whose threshold is taken where no JSON is beside the table.
        against: another table, of a second model on the same sets.

    Returns:
        What `report.json` holds.

    Raises:
        ValueError: no table, no threshold, or an option that is of no use.
    """
    options = options or Options(split=None)
    if options.plots:
        check_matplotlib()
    scored, told = [], []
    for place, each in enumerate([table] + [against] * (against is not None)):
        about = about_scores(each) or {"model": _unknown(each, model if not place else None), "sets": []}
        rows = read_scores(each)
        if options.split is not None:
            rows = [row for row in rows if row.split == options.split]
        if not rows:
            raise ValueError(f"{each} has no scores{f' of split {options.split!r}' if options.split else ''}.")
        scored.append((about["model"], rows))
        told = told or about["sets"]
    report = _judged(scored, told, options, None, [], [training_figures(about.get("run")) for about, _ in scored])
    write_report(folder, report, pictures_told(told), options.plots)
    return report


def write_report(folder: str | os.PathLike, report: dict, pictures: Pictures, plots: bool = True) -> None:
    """Writes a report in all its forms; `report.html`, which has everything, last.

    Args:
        folder: made where it is not there.
        report: of `tfdfd.evaluation.report_json.make_report`.
        pictures: where crops come from.
        plots: whether they are drawn.
    """
    folder = Path(folder)
    drawn = draw_plots(report["judged"], report["histogram"]) if plots else {}
    shown = thumbnails(report["judged"]["hardest"], pictures)
    plot_files = _write_pictures(folder / "plots", {f"{name}.png": data for name, data in drawn.items()})
    names = [[f"{place:02}-{n}.jpg" for n, _ in enumerate(some)] for place, some in enumerate(shown, 1)]
    pairs = zip(names, shown, strict=True)
    _write_pictures(folder / "hardest", dict(pair for some, data in pairs for pair in zip(some, data, strict=True)))
    links = [[f"hardest/{name}" for name in some] for some in names]
    write_atomically(folder / "report.json", as_json(report))
    write_atomically(folder / "report.md", as_markdown_report(report, plot_files, links))
    write_atomically(folder / "report.html", render_page(report, drawn, shown))


def _judged(scored, told, options, leaks, warnings, trained):
    return make_report(
        scored,
        told,
        threshold=options.threshold,
        table=options.table,
        aggregation=options.aggregation,
        missing=options.missing,
        cluster=options.cluster,
        resamples=options.resamples,
        seed=options.seed,
        leaks=leaks,
        warnings=warnings,
        trained=trained,
    )


def _opened(where, model, options):
    return open_set(
        where,
        options.split,
        model.size,
        frames=model.frames,
        blend=options.blend,
        index=options.index,
        seed=options.seed,
        allow_leaks=options.allow_leaks,
    )


def _check_tracks(sets, aggregation):
    if aggregation == max_of_track_means.__name__:
        for one in sets:
            if not one.has_tracks:
                raise ValueError(
                    f"{one.where} is packed, and shards do not say which crops show the same person; give the face set "
                    f"itself, or another aggregation than {aggregation}."
                )


def _set_warnings(one: JudgedSet):
    if one.unlabelled:
        counts = ", ".join(f"{count:,} {status}" for status, count in one.unlabelled.items())
        message = (
            f"{one.where}: of videos without a crop {sum(one.unlabelled.values()):,} are in no figure and no count, as "
            f"their label or split is not known ({counts}); --index INDEX.csv tells it."
        )
        yield {"code": "unlabelled", "where": "data", "message": message}
    if not one.blended and {row.label for row in one.rows} == {REAL} and not any(r.label == FAKE for r in one.absent):
        message = f"{one.where}: all crops are real; --blend makes fakes of them."
        yield {"code": "only_real", "where": "data", "message": message}

    if not one.blended and all(row.video == row.file for row in one.rows) and len(one.rows) > 1:
        message = (
            f"{one.where}: which crops are of one video is not told, so that each counts as a video of its own; "
            "intervals are too narrow where several are of one. A faces.csv tells it."
        )
        yield {"code": "no_videos", "where": "data", "message": message}


def _unknown(table, model):
    """What is known of a model whose scores came without a word."""
    if model is None:
        return {"handle": os.path.basename(table), "threshold": None}
    from tfdfd.weights.store import locate

    record, _ = locate(model)
    return {
        "handle": record.handle,
        "network": record.model,
        "sha256": record.sha256,
        "threshold": record.threshold,
        "training_data": record.training_data,
    }


def _write_pictures(folder, files):
    """Links to what was written; what an earlier report has left is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    if files:
        folder.mkdir(parents=True)
    for name, data in files.items():
        write_atomically(folder / name, data)
    return [f"{folder.name}/{name}" for name in files]
