"""Measured values for the entries of a document, the verdicts on both, and the page with its pictures that shows them.

A measure is a name with dots: `frame.auc`, `video.balanced_accuracy`, `frame.recall.fake`, `val.loss.NeuralTextures`.
`@ffpp` restricts it to a data set, `/Deepfakes` to the fakes of a method and all real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from tfdfd.data.tables import FAKE, REAL
from tfdfd.evaluation.evaluate import training_summary
from tfdfd.html import data_uri, environment
from tfdfd.metrics import MetricError, accuracy, auc, balanced_accuracy, class_table, confusion, log_loss
from tfdfd.metrics.intervals import bootstrap_interval
from tfdfd.metrics.scores import OK, ScoreRow, aggregate_videos, read_scores
from tfdfd.reproduce import (
    CONFUSION,
    COUNT,
    CURVES,
    GIGA,
    GRADIENT_FLOW,
    KERNELS,
    LOSS,
    MILLION,
    PERCENT,
    ROC,
    SECONDS,
    SHARE,
    Document,
    Entry,
)
from tfdfd.reproduce.contradictions import Contradiction
from tfdfd.training.crop_set import LAST_SCORES
from tfdfd.training.history import load_pyplot, png_of
from tfdfd.training.run_folder import read_log

REPRODUCED, NOT_REPRODUCED, CANNOT, DRAWN = "reproduced", "not reproduced", "cannot be", "drawn"
THRESHOLD = 0.5
RESAMPLES = 500


@dataclass(frozen=True)
class Measured:
    """One measured value.

    Attributes:
        value: value in the entry's unit; shares in [0, 1].
        interval: 95 % bootstrap interval over videos, or None.
        protocol: data, split and threshold of the measurement.
    """

    value: float
    interval: tuple[float, float] | None
    protocol: str


@dataclass(frozen=True)
class Verdict:
    """An entry, its measured value and the verdict of `judge`."""

    entry: Entry
    measured: Measured | None
    status: str
    reason: str

    @property
    def difference(self) -> float | None:
        """Measured minus printed value; None if one is missing."""
        if self.measured is None or self.entry.printed is None:
            return None
        return self.measured.value - self.entry.printed


@dataclass
class Outcome:
    """Outcome of one experiment.

    Attributes:
        run: folder of the training, or None.
        evaluations: report folder by split.
        problem: reason why there is no result, or None.
        protocol: protocol of the training, as text.
        shortfall: in what the data fall short of the document's, although the data set is the same; or None.
    """

    run: Path | None = None
    evaluations: dict[str, Path] = field(default_factory=dict)
    problem: str | None = None
    protocol: str = ""
    shortfall: str | None = None


def judge(
    entry: Entry,
    document: Document,
    measured: Measured | None,
    *,
    datasets: Sequence[str],
    own_test: bool,
    quick: bool,
    problem: str | None = None,
    shortfall: str | None = None,
) -> Verdict:
    """Returns the verdict on an entry: reproduced, not reproduced, cannot be, or (a figure without a number) drawn.

    A number is reproduced if it lies within the measured interval or, without an interval, if the measured value rounds
    (or truncates, as some documents do) to it. It cannot be reproduced if the document contradicts itself, its data are
    absent or a training did not take place; the measured value is shown all the same.

    Args:
        entry: printed number or figure.
        document: its document.
        measured: measured value, or None.
        datasets: names of the data sets at hand.
        own_test: whether the test split is the data set's own.
        quick: whether trainings were shortened to check that they run.
        problem: reason why nothing was measured.
        shortfall: in what the data fall short of the document's.
    """
    verdict = partial(Verdict, entry, measured)
    if entry.cannot is not None:
        return verdict(CANNOT, entry.cannot)
    if entry.printed is None:
        return verdict(DRAWN, "the document prints no number") if problem is None else verdict(CANNOT, problem)
    if measured is None:
        return verdict(CANNOT, problem or "there is no figure of ours")
    if entry.experiment is not None:
        wanted = entry.data or document.data
        missing = sorted(set(wanted) - set(datasets))
        if quick:
            return verdict(CANNOT, "--quick shows that it runs, not how well")
        if missing:
            return verdict(CANNOT, f"data: it is of {', '.join(wanted)}; DATA has no {', '.join(missing)}")
        if document.own_test and not own_test:
            return verdict(CANNOT, "data: the data set's own test split is not in DATA")
        if shortfall:
            return verdict(CANNOT, f"data: {shortfall}")
    difference = measured.value - entry.printed
    half = 0.5 * 10.0**-entry.digits / (100 if entry.unit == SHARE else 1)
    apart = number(abs(difference), entry).replace(" %", " points" if entry.unit == SHARE else " %")
    off = f"ours is {apart} {'above' if difference > 0 else 'below'}"
    if measured.interval is None:
        if -half - 1e-9 <= difference < 2 * half + 1e-9:
            return verdict(REPRODUCED, "to the printed digit")
        return verdict(NOT_REPRODUCED, f"{off}; one training, no interval" if entry.experiment else off)
    low, high = measured.interval
    shown = f"interval [{number(low, entry)}, {number(high, entry)}]"
    if low - half <= entry.printed <= high + half:
        return verdict(REPRODUCED, f"within our {shown}")
    return verdict(NOT_REPRODUCED, f"{off}, {shown}")


def number(value: float | None, entry: Entry) -> str:
    """Formats a value in the unit of an entry."""
    if value is None:
        return "–"
    if entry.unit == SHARE:
        return f"{100 * value:.{max(entry.digits, 1)}f} %"
    suffix = {MILLION: " M", GIGA: " G", SECONDS: " s", PERCENT: " %", COUNT: "", LOSS: ""}[entry.unit]
    return f"{value:,.{entry.digits}f}{suffix}"


class Measures:
    """Measures values of finished experiments.

    Args:
        outcomes: by experiment.
        costs: by name: `learned.NAME` (M), `thesis_macs.NAME` (G), `saves.NAME` (percent), `saves_seconds.NAME`.
    """

    def __init__(self, outcomes: dict[str, Outcome], costs: dict[str, Measured]):
        self._outcomes, self._costs = outcomes, costs
        self._tables: dict[Path, list[ScoreRow]] = {}

    def of(self, entry: Entry) -> Measured | None:
        """Returns the measured value for an entry, or None."""
        if entry.measure is None:
            return None
        if entry.experiment is None:
            return self._costs.get(entry.measure)
        outcome = self._outcomes.get(entry.experiment)
        if outcome is None or outcome.run is None:
            return None
        if entry.measure in _OF_RUNS:
            value = _OF_RUNS[entry.measure](outcome)
            return None if value is None else Measured(value, None, f"the training of {outcome.run.name}")
        if entry.measure == "test_crops":
            return Measured(len(self._scores(outcome, "test")), None, "crops of our test split")
        return self._scored(entry.measure, outcome)

    def _scored(self, measure: str, outcome: Outcome) -> Measured | None:
        name, _, method = measure.partition("/")
        name, _, dataset = name.partition("@")
        level, kind, *part = name.split(".")
        split = level if level in ("val", "last", "test") else "test"
        rows = self._scores(outcome, split)
        if dataset:
            rows = [row for row in rows if row.dataset == dataset]
        if method:
            rows = [row for row in rows if row.label == REAL or row.method == method]
            if all(row.label == REAL for row in rows):
                return None
        if split == level and part and part[0] != "Overall":
            real = part[0] == "original_sequences"
            rows = [row for row in rows if (row.label == REAL if real else row.method == part[0] and row.label == FAKE)]
        if not rows:
            return None
        # The categories of S2: loss of frames, accuracy of videos.
        of_videos = level == "video" or (split == level and kind == "accuracy")
        labels, scores, clusters = _columns(rows, of_videos)
        metric = _METRICS[f"{kind}.{part[0]}" if level == "frame" and part else kind]
        unit = "videos" if of_videos else "frames"
        where = {"val": "validation", "last": "validation, last epoch", "test": "test"}[split]
        protocol = (
            f"{len(labels):,} {unit} of {'+'.join(sorted({row.dataset for row in rows}))}, {where}, at {THRESHOLD}"
        )
        try:
            value = float(metric(labels, scores))
            interval = bootstrap_interval(metric, labels, scores, clusters, RESAMPLES)
        except MetricError:
            return None
        except ZeroDivisionError:
            return None
        return Measured(value, interval, protocol)

    def _scores(self, outcome: Outcome, split: str) -> list[ScoreRow]:
        path = outcome.run / LAST_SCORES if split == "last" else outcome.evaluations.get(split, Path()) / "scores.csv"  # type: ignore[operator]
        if path not in self._tables:
            rows = read_scores(path) if path.is_file() else []
            self._tables[path] = [row for row in rows if row.status == OK]
        return self._tables[path]


def _columns(rows: Sequence[ScoreRow], of_videos: bool) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    if not of_videos:
        return (
            np.array([row.label for row in rows]), np.array([row.fake_probability for row in rows]),
            [f"{row.dataset}/{row.video}" for row in rows],
        )  # fmt: skip
    videos = [video for video in aggregate_videos(rows) if video.status == OK]
    return np.array([v.label for v in videos]), np.array([v.fake_probability for v in videos]), None


def _of_class(labels: np.ndarray, scores: np.ndarray, kind: str, name: str) -> float:
    """Returns `recall`, `precision` or `f1` of `real` or `fake`; 0 where it is undefined, as in the documents."""
    return class_table(confusion(labels, scores, THRESHOLD))[kind][name] or 0.0


_METRICS: dict[str, Callable] = {
    "accuracy": partial(accuracy, threshold=THRESHOLD),
    "balanced_accuracy": partial(balanced_accuracy, threshold=THRESHOLD),
    "auc": auc,
    "loss": log_loss,
    **{
        f"{name}.{kind}": partial(_of_class, kind=kind, name=name)
        for name in ("recall", "precision", "f1")
        for kind in ("real", "fake")
    },
}


def _last_row(outcome: Outcome) -> dict[str, float]:
    rows = read_log(outcome.run)  # type: ignore[arg-type]
    return {name: float(cell) for name, cell in rows[-1].items() if cell} if rows else {}


def _val_error(outcome: Outcome) -> float | None:
    accuracy_of_last = _last_row(outcome).get("val_accuracy")
    return None if accuracy_of_last is None else 1 - accuracy_of_last


_OF_RUNS: dict[str, Callable[[Outcome], float | None]] = {
    "val_error": _val_error,
    "train_accuracy": lambda outcome: training_summary(outcome.run).get("train_accuracy"),
    "val_accuracy": lambda outcome: training_summary(outcome.run).get("val_accuracy"),
    "train_loss": lambda outcome: training_summary(outcome.run).get("train_loss"),
    "train_seconds": lambda outcome: training_summary(outcome.run).get("seconds"),
}


def file_name(text: str) -> str:
    """Returns a text as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


_CLASSES = {REPRODUCED: "good", NOT_REPRODUCED: "bad", CANNOT: "soft", DRAWN: "soft"}


def render(
    answer: dict,
    verdicts: Sequence[Verdict],
    contradictions: Sequence[Contradiction],
    pictures: Mapping[tuple[str, str], bytes],
) -> str:
    """The page.

    Args:
        answer: as returned by `tfdfd.reproduce.runner.reproduce`.
        verdicts: verdicts of the document's entries, in its order.
        contradictions: contradictions of the document.
        pictures: PNGs by experiment and name.
    """
    tables = []
    for place, some in groupby(verdicts, key=lambda verdict: verdict.entry.place):
        tables.append({"title": place, "rows": [_row(verdict) for verdict in some]})
    figures: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        key = (verdict.entry.experiment or "", verdict.entry.picture or "")
        if key in pictures:
            figures.setdefault(key, []).append(f"{verdict.entry.place}: {verdict.entry.what}")
    if ("", "removed_blocks") in pictures:
        figures[("", "removed_blocks")] = ["figures 13, 14: CPU cost and accuracy against removed blocks"]
    shown = [{"title": "; ".join(titles), "uri": data_uri(pictures[key], "png")} for key, titles in figures.items()]
    template = environment(Path(__file__).parent).get_template("page.html.j2")
    return template.render(answer=answer, tables=tables, figures=shown, contradictions=contradictions)


def _row(verdict: Verdict) -> dict[str, str]:
    entry, ours = verdict.entry, verdict.measured
    interval = ""
    if ours and ours.interval:
        interval = f"[{number(ours.interval[0], entry)}, {number(ours.interval[1], entry)}]"
    return {
        "what": entry.what,
        "printed": number(entry.printed, entry),
        "ours": number(ours.value, entry) if ours else "–",
        "interval": interval,
        "protocol": ours.protocol if ours else "",
        "verdict": verdict.status,
        "reason": verdict.reason,
        "kind": _CLASSES[verdict.status],
    }


# Name of a picture -> its file, in the run or in the evaluation of the last split.
_OF_RUN = {CURVES: "curves.png", GRADIENT_FLOW: "gradient_flow.png", KERNELS: "first_kernels.png"}
_OF_EVALUATION = {ROC: "plots/roc.png", CONFUSION: "plots/confusion.png"}
_BLOCKS = ("mobilenet_v3", "mobilenet_v3_r1", "mobilenet_v3_r2", "mobilenet_v3_r3")
REFERENCE = "meso_inception4"


def pictures_of(entry: Entry, outcome: Outcome) -> dict[tuple[str, str], bytes]:
    """Returns the PNG of an entry of a finished experiment, by experiment and name; empty without one."""
    if outcome.run is None or entry.picture is None or entry.experiment is None:
        return {}
    if entry.picture in _OF_RUN:
        file = outcome.run / _OF_RUN[entry.picture]
    elif entry.picture in _OF_EVALUATION and outcome.evaluations:
        file = outcome.evaluations[list(outcome.evaluations)[-1]] / _OF_EVALUATION[entry.picture]
    else:
        return {}
    return {(entry.experiment, entry.picture): file.read_bytes()} if file.is_file() else {}


def draw_removed_blocks(verdicts: Sequence[Verdict], costs: dict[str, Measured]) -> bytes | None:
    """Figures 13 and 14 of S0 as one PNG: CPU cost, and accuracy, of MobileNetV3 without 0 to 3 blocks.

    Args:
        verdicts: verdicts on S0's entries, with accuracies as `frame.accuracy`.
        costs: CPU seconds as `cost.NETWORK`.

    Returns:
        The PNG file, or None without accuracies and costs.
    """
    accuracies = {
        verdict.entry.what.partition(":")[0]: verdict.measured.value
        for verdict in verdicts
        if verdict.entry.measure == "frame.accuracy" and verdict.measured
    }
    seconds = {name: costs[f"cost.{name}"].value for name in (*_BLOCKS, REFERENCE) if f"cost.{name}" in costs}
    if not accuracies and not seconds:
        return None
    figure, (left, right) = load_pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, values, title in (
        (left, seconds, "CPU seconds, 1,000 images"),
        (right, accuracies, "accuracy, test frames"),
    ):
        removed = [number for number, name in enumerate(_BLOCKS) if name in values]
        axis.plot(removed, [values[_BLOCKS[number]] for number in removed], marker="o", label="MobileNetV3")
        if REFERENCE in values:
            axis.axhline(values[REFERENCE], linestyle="--", color="gray", label="MesoInception4")
        axis.set(xlabel="removed blocks", title=title, xticks=range(len(_BLOCKS)))
        axis.grid(alpha=0.3)
        axis.legend()
    return png_of(figure)
