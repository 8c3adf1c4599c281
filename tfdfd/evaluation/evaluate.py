"""Evaluation of one or more models on face sets, into a folder with the report in all its forms.

scores.csv, scores.json      P(fake) of each crop; `second.csv`, `model-3.csv` ... of further models
report.json, report.md, report.html
plots/, hardest/             pictures that report.md shows
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfdfd.data.tables import FAKE, REAL, FaceRow
from tfdfd.evaluation.report import (
    RUN_PICTURES,
    Pictures,
    as_json,
    as_markdown_report,
    check_matplotlib,
    draw_plots,
    make_report,
    pictures_of,
    render_page,
    stored_pictures,
    thumbnails,
)
from tfdfd.evaluation.scoring import OpenedModel, about_scores, open_model, score_sets
from tfdfd.evaluation.sets import EvalSet, open_set
from tfdfd.files import sha256, write_atomically
from tfdfd.metrics.scores import AGGREGATIONS, POLICIES, max_of_track_means, read_scores
from tfdfd.training.run_folder import (
    CROP,
    FINGERPRINTS,
    LOG,
    fingerprints_of,
    finished_run,
    read_fingerprints,
    read_log,
)
from tfdfd.weights.store import RUN, locate

MODELS = ("scores", "second")
TRAIN = "train"
_EXAMPLES = 3


@dataclass(frozen=True)
class Options:
    """How scores are evaluated and presented.

    Attributes:
        split: split of each set; None: all crops.
        threshold: on P(fake), for the first model; None: its own.
        aggregation: from crops to a video's score, key of `tfdfd.metrics.scores.AGGREGATIONS`.
        missing: policy for videos without a score, key of `tfdfd.metrics.scores.POLICIES`.
        cluster: unit of the bootstrap: `video` or `source`.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap and of blended pairs.
        table: `s0` ... `s4`, the tables of a source document, or None.
        blend: blend fakes from the real crops.
        index: `index.csv` that a single set was extracted from, or None.
        allow_leaks: evaluate a leaking set all the same.
        plots: draw plots.
        frames: number of equally spaced crops of each video that are scored, see `tfdfd.data.crops.equally_spaced`;
            None for all.
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
    frames: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("aggregation", AGGREGATIONS), ("missing", POLICIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; received {getattr(self, name)!r}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1]; received {self.threshold!r}.")
        if self.resamples < 0 or self.seed < 0:
            raise ValueError(f"resamples and seed must be at least 0; received {self.resamples} and {self.seed}.")

    def of_report(self) -> dict:
        """The options that `make_report` takes."""
        names = ("threshold", "table", "aggregation", "missing", "cluster", "resamples", "seed")
        return {name: getattr(self, name) for name in names}


def evaluate(
    model: str | os.PathLike,
    data: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    options: Options | None = None,
    *,
    against: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Scores one or more models on sets and writes the report.

    Args:
        model: a handle, a weights file with its card, or the folder of a run.
        data: face sets; `NAME=PATH` names one.
        folder: report folder, created if missing. Scores of the same model on the same sets are reused; others are an
            error.
        options: see `Options`.
        against: a second model to compare on the same sets; further ones are in the tables of a document.
        progress: called with the number of crops scored and the total, from 0 for each model.

    Returns:
        The content of `report.json`.

    Raises:
        ValueError: an invalid model, set or option, or a set that leaks.
        EvaluationError: the network returns something that is not a probability.
        OSError: a file cannot be written.
    """
    options = options or Options()
    if options.plots:
        check_matplotlib()
    if options.index and len(data) > 1:
        raise ValueError("--index belongs to one set; evaluate the sets one by one, or merge them first.")
    scored, training, sets, leaks = [], [], [], None
    warnings = []
    models = [model, *_list(against)]
    for name, each in zip(score_names(len(models)), models, strict=True):
        opened = open_model(each)
        # Blended pairs are made at the network's size.
        sets = [
            open_set(
                where,
                options.split,
                opened.size,
                frames=opened.frames,
                blend=options.blend,
                index=options.index,
                seed=options.seed,
                allow_leaks=options.allow_leaks,
                chosen_frames=options.frames,
            )
            for where in data
        ]
        _check_tracks(sets, options.aggregation)
        overlap = training_overlap(opened, sets)
        refuse_overlap(overlap, options.allow_leaks)
        warnings += overlap_warnings(overlap)
        leaks = leaks or overlap
        scored.append((opened.info(), score_sets(opened, sets, folder, name, progress)))
        training.append(training_summary(opened.run))
        del opened
    warnings += [warning for one in sets for warning in _set_warnings(one)]
    about = [one.info() for one in sets]
    report = make_report(scored, about, **options.of_report(), leaks=leaks, warnings=warnings, training=training)
    run = run_pictures(scored[0][0]["run"]) if options.plots else {}
    write_report(folder, report, pictures_of(sets), options.plots, run)
    return report


def evaluate_scores(
    table: str | os.PathLike,
    folder: str | os.PathLike,
    options: Options | None = None,
    *,
    model: str | os.PathLike | None = None,
    against: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
) -> dict:
    """Evaluates stored scores again, without a network.

    Args:
        table: a `scores.csv`; the JSON beside it, if present, identifies the model and the sets.
        folder: folder of the report.
        options: see `Options`; `split` None takes all rows.
        model: its threshold is used if there is no JSON beside the table.
        against: table of a second model on the same sets, or tables of several.

    Returns:
        The content of `report.json`.

    Raises:
        ValueError: no table, no threshold, or an invalid option.
    """
    options = options or Options(split=None)
    if options.plots:
        check_matplotlib()
    sets: list[dict]
    each: Any
    scored, sets = [], []
    for index, each in enumerate([table, *_list(against)]):
        about = about_scores(each) or {"model": _record_info(each, model if not index else None), "sets": []}
        rows = read_scores(each)
        if options.split is not None:
            rows = [row for row in rows if row.split == options.split]
        if not rows:
            raise ValueError(f"{each} has no scores{f' of split {options.split!r}' if options.split else ''}.")
        scored.append((about["model"], rows))
        sets = sets or about["sets"]
    training = [training_summary(about.get("run")) for about, _ in scored]
    report = make_report(scored, sets, **options.of_report(), training=training)
    write_report(folder, report, stored_pictures(sets), options.plots)
    return report


def score_names(count: int) -> list[str]:
    """Names of the tables of scores of `count` models: `scores`, `second`, `model-3` ..."""
    return [*MODELS, *(f"model-{number}" for number in range(3, count + 1))][:count]


def write_report(
    folder: str | os.PathLike,
    report: dict,
    pictures: Pictures,
    plots: bool = True,
    run: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a report in all its forms; `report.html`, which is complete, last.

    Args:
        folder: created if missing.
        report: as returned by `tfdfd.evaluation.report.make_report`.
        pictures: source of the crops.
        plots: draw plots.
        run: pictures as returned by `run_pictures`, shown after the plots.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_plots(report["judged"], report["histogram"]) if plots else {}
    drawn |= run or {}
    shown = thumbnails(report["judged"]["hardest"], pictures)
    plot_files = _write_pictures(folder / "plots", {f"{name}.png": data for name, data in drawn.items()})
    names = [[f"{number:02}-{n}.jpg" for n, _ in enumerate(some)] for number, some in enumerate(shown, 1)]
    pairs = zip(names, shown, strict=True)
    _write_pictures(folder / "hardest", dict(pair for some, data in pairs for pair in zip(some, data, strict=True)))
    links = [[f"hardest/{name}" for name in some] for some in names]
    write_atomically(folder / "report.json", as_json(report))
    write_atomically(folder / "report.md", as_markdown_report(report, plot_files, links))
    write_atomically(folder / "report.html", render_page(report, drawn, shown))


def training_summary(run: str | os.PathLike | None) -> dict[str, float | None]:
    """`train_accuracy` and `val_accuracy` of crops at 0.5 and `train_loss`, all of the kept epoch, and total `seconds`.

    Empty without a run; None for values that the run does not record.

    Raises:
        ValueError: the run is not finished, or one of its files is damaged.
    """
    if run is None or not os.path.isfile(os.path.join(run, RUN)):
        return {}
    result = finished_run(run)["result"]
    try:
        history = [{name: float(cell) for name, cell in row.items() if cell} for row in read_log(run)] or [{}]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{Path(run) / LOG} is not a training log: {error}.") from error
    # Without a best epoch the last one was kept.
    kept = next((row for row in history if row.get("epoch") == result.get("best_epoch")), history[-1])
    return {
        "train_accuracy": result.get("train_accuracy", kept.get("accuracy")),
        "val_accuracy": result.get("val_crop_accuracy", kept.get("val_accuracy")),
        "train_loss": result.get("train_cross_entropy", kept.get("loss")),
        "seconds": result.get("training_seconds", history[-1].get("seconds")),
    }


def run_pictures(run: str | os.PathLike | None) -> dict[str, bytes]:
    """PNGs of a run's training by name, see `RUN_PICTURES`; empty without a run."""
    files = {name: Path(run, f"{name}.png") for name in RUN_PICTURES} if run is not None else {}
    return {name: file.read_bytes() for name, file in files.items() if file.is_file()}


def training_overlap(model: OpenedModel, sets: Sequence[EvalSet]) -> dict:
    """What the sets share with the data of the model's run.

    Returns:
        A dict for JSON: `checked`; `why_not` if it could not be checked; `shared`: for each part of the run's data
        (`train`, `val`) and kind (`source`, `identity`, `video`, `file`) the number of `crops` that share one, and
        some `examples`.

    Raises:
        ValueError: the run's list of what it has seen is damaged.
    """
    if model.run is None:
        why = f"{model.record.handle} is not a run of 'tfdfd train'; its training data is described in words only"
        return {"checked": False, "why_not": why, "shared": {}}
    seen = read_fingerprints(model.run)
    if seen is None:
        return {"checked": False, "why_not": f"the run {model.run} has no {FINGERPRINTS}", "shared": {}}
    shared = {}
    for part, marks in seen.items():
        files = defaultdict(list)
        for one in sets:
            for row in one.sources:
                for kind in {kind for kind, mark in _marks(one, row) if mark in marks}:
                    files[kind].append(row.file)
        if files:
            shared[part] = {
                kind: {"crops": len(some), "examples": some[:_EXAMPLES]} for kind, some in sorted(files.items())
            }
    return {"checked": True, "shared": shared}


def refuse_overlap(overlap: dict, allow: bool = False) -> None:
    """Raises `ValueError` if crops share something with the training split, unless `allow`."""
    if TRAIN in overlap["shared"] and not allow:
        raise ValueError(
            f"the model was trained on part of this data: {_shared_text(overlap['shared'][TRAIN])}. Give a split that "
            "it has not seen, another set, or --allow-leaks."
        )


def overlap_warnings(overlap: dict) -> list[dict[str, str]]:
    """Warnings `trained_on` and `chosen_on`, and `not_checked` if a run has no list of its data."""
    warnings = []
    for part, kinds in overlap["shared"].items():
        if part == TRAIN:
            code, message = "trained_on", f"THE MODEL WAS TRAINED ON PART OF THIS SET: {_shared_text(kinds)}."
        else:
            code = "chosen_on"
            message = (
                f"best epoch, threshold and calibration were chosen on part of this set ({part}): "
                f"{_shared_text(kinds)}."
            )
        warnings.append({"code": code, "where": "data", "message": message})
    if not overlap["checked"] and FINGERPRINTS in overlap["why_not"]:
        message = f"whether the model was trained on this set could not be checked: {overlap['why_not']}."
        warnings.append({"code": "not_checked", "where": "data", "message": message})
    return warnings


def _marks(one: EvalSet, row: FaceRow) -> list[tuple[str, str]]:
    marks = fingerprints_of(row, one.root or one.where)
    if row.sha256 or one.root is None:
        return marks
    # The table of a plain folder has no digests.
    path = Path(os.path.join(one.root, row.file))
    return marks + ([(CROP, sha256(path))] if path.is_file() else [])


def _shared_text(kinds: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{shared['crops']:,} crops share a {kind} with it, such as {shared['examples'][0]}"
        for kind, shared in kinds.items()
    )


def _check_tracks(sets: Sequence[EvalSet], aggregation: str) -> None:
    if aggregation == max_of_track_means.__name__:
        for one in sets:
            if not one.has_tracks:
                raise ValueError(
                    f"{one.where} is packed, and shards do not store which crops show the same person; pass the face "
                    f"set itself, or use another aggregation than {aggregation}."
                )


def _set_warnings(one: EvalSet) -> Iterator[dict[str, str]]:
    if one.unlabelled:
        counts = ", ".join(f"{count:,} {status}" for status, count in one.unlabelled.items())
        message = (
            f"{one.where}: {sum(one.unlabelled.values()):,} videos without a crop are not counted, because their label "
            f"or split is unknown ({counts}); --index INDEX.csv provides it."
        )
        yield {"code": "unlabelled", "where": "data", "message": message}
    if not one.blended and {row.label for row in one.rows} == {REAL} and not any(r.label == FAKE for r in one.absent):
        message = f"{one.where}: all crops are real; --blend makes fakes from them."
        yield {"code": "only_real", "where": "data", "message": message}
    if not one.blended and all(row.video == row.file for row in one.rows) and len(one.rows) > 1:
        message = (
            f"{one.where}: it is unknown which crops belong to one video, so each counts as a video; intervals are too "
            "narrow if several belong together. A faces.csv tells."
        )
        yield {"code": "no_videos", "where": "data", "message": message}


def _record_info(table: str | os.PathLike, model: str | os.PathLike | None) -> dict[str, Any]:
    """Description of a model whose scores have no JSON beside them."""
    if model is None:
        return {"handle": os.path.basename(table), "threshold": None}
    record, _ = locate(model)
    return {
        "handle": record.handle,
        "network": record.model,
        "sha256": record.sha256,
        "threshold": record.threshold,
        "training_data": record.training_data,
    }


def _list(against: Any) -> list:
    if against is None:
        return []
    return [against] if isinstance(against, str | os.PathLike) else list(against)


def _write_pictures(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Replaces the pictures of an earlier report; returns the links."""
    shutil.rmtree(folder, ignore_errors=True)
    if files:
        folder.mkdir(parents=True)
    for name, data in files.items():
        write_atomically(folder / name, data)
    return [f"{folder.name}/{name}" for name in files]
