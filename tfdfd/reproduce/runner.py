"""Runner of `tfdfd reproduce`: trains and evaluates a document's networks and writes the report.

REPORT/report.html, report.json   each number of the document beside the measured one
REPORT/run.json                   the request; the folder accepts no other
REPORT/work/                      index and face set of each data source, tables, trainings, evaluations

Finished steps are skipped and each unfinished step resumes, so the same command continues a stopped run. A later call
may add experiments (`only`), which are not part of the stored request.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from tfdfd.cost import NETWORKS, compare, rounds_of
from tfdfd.data import SrmOptions
from tfdfd.data.crops import Faces
from tfdfd.data.srm_set import SrmSet
from tfdfd.data.tables import FaceRow, read_table
from tfdfd.evaluation.evaluate import Options, evaluate
from tfdfd.evaluation.scoring import EvaluationError
from tfdfd.files import WorkDir, write_atomically
from tfdfd.models import MODELS, build
from tfdfd.models.counting import learned, thesis_macs
from tfdfd.recipes import find_recipe
from tfdfd.reproduce import DOCUMENTS, Document, Experiment
from tfdfd.reproduce.contradictions import contradictions
from tfdfd.reproduce.data import Note, Prepared, Source, prepare, sources_of, write_rows
from tfdfd.reproduce.results import (
    RESAMPLES,
    THRESHOLD,
    Measured,
    Measures,
    Outcome,
    Verdict,
    draw_removed_blocks,
    judge,
    pictures_of,
    render,
)
from tfdfd.text import did_you_mean
from tfdfd.training import TrainingError
from tfdfd.training.engine import Report
from tfdfd.training.procedures import train
from tfdfd.training.recipe import Recipe
from tfdfd.version import __version__

SCHEMA = 1
WORK = "tfdfd reproduce"
# The documents score without calibration, at a threshold of 0.5.
_COMMON = ("calibration=none",)
_QUICK_COST: dict[str, Any] = {"images": 32, "rounds": 1}
_SPLITS_EVALUATED = {"val": 7, "test": 12}


@dataclass(frozen=True)
class Request:
    """Request for one document.

    Attributes:
        document: `s0` to `s4`.
        data: see `tfdfd.reproduce.data.sources_of`.
        only: experiments or networks; empty for all.
        quick: train each network briefly on few small crops, to check that everything runs.
        settings: changes to every recipe, as `KEY=VALUE` of `tfdfd train --set`.
        imagenet: file of the ImageNet weights, by network.
        download: whether Keras may fetch ImageNet weights.
        extraction: settings of `FaceOptions` for videos, instead of the document's.
        costs: whether CPU cost is measured.
        seed: seed of the split.
    """

    document: str
    data: tuple[str, ...]
    only: tuple[str, ...] = ()
    quick: bool = False
    settings: tuple[str, ...] = ()
    imagenet: dict[str, str] = field(default_factory=dict)
    download: bool = False
    extraction: dict = field(default_factory=dict)
    costs: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """The checked plan of a request, made before any work.

    Attributes:
        document: the document.
        sources: data sources.
        recipes: recipe with all settings, by experiment.
        skipped: reason, by experiment that is not run.
    """

    document: Document
    sources: list[Source]
    recipes: dict[str, Recipe]
    skipped: dict[str, str]

    def lines(self) -> Iterator[str]:
        """Lines that are shown before the work begins."""
        for name, why in self.skipped.items():
            yield f"{name} is skipped: {why}"
        if not self.recipes:
            yield "no network is trained; the page has the document's contradictions and the counts of its networks"


def plan(request: Request) -> Plan:
    """Checks data, recipes and weights without training or decoding.

    Raises:
        ValueError: the document, an experiment, a setting or the data are unknown or invalid.
    """
    if request.document not in DOCUMENTS:
        raise ValueError(f"there is no document {request.document!r}; expected one of {', '.join(DOCUMENTS)}.")
    document = DOCUMENTS[request.document]
    chosen = _chosen(document, request.only)
    recipes, skipped = {}, {}
    for experiment in document.experiments:
        if experiment.name not in chosen:
            skipped[experiment.name] = "not among --only"
            continue
        recipe, why = _recipe(experiment, request)
        missing = [member for member in experiment.members if member not in recipes]
        if why or missing:
            skipped[experiment.name] = why or f"it needs {', '.join(missing)}"
        else:
            recipes[experiment.name] = recipe
    return Plan(document, sources_of(request.data), recipes, skipped)


def reproduce(request: Request, folder: str | os.PathLike, report: Report, ready_plan: Plan | None = None) -> dict:
    """Runs all steps that are not finished and writes the page.

    Args:
        request: the request.
        folder: folder of the report; created if absent.
        report: receives progress.
        ready_plan: result of `plan(request)`, if there is one already.

    Returns:
        The content of `report.json`.

    Raises:
        ValueError: data or settings are invalid, or the folder holds another reproduction.
        OSError: a file cannot be written.
    """
    todo = ready_plan or plan(request)
    folder = Path(folder)
    asked = {
        "schema": SCHEMA,
        "tfdfd": __version__,
        "document": request.document,
        "quick": request.quick,
        "settings": list(request.settings),
        "extraction": dict(request.extraction),
        "seed": request.seed,
        "backend": keras.backend.backend(),
    }
    asked |= {
        f"data {number}": {"path": os.path.abspath(source.path), "name": source.name, "sha256": source.sha256}
        for number, source in enumerate(todo.sources)
    }
    places = [f"data {number}.path" for number in range(len(todo.sources))]
    with WorkDir(folder, WORK, asked, holds="reproduction", places=places) as here:
        work = folder / "work"
        work.mkdir(exist_ok=True)
        prepared = _prepared(todo, request, work, report.note)
        outcomes = {name: Outcome(problem=f"not run: {why}") for name, why in todo.skipped.items()}
        outcomes |= _earlier(todo, prepared, work)
        answer = {}
        for experiment in todo.document.experiments:
            if experiment.name in todo.recipes:
                report.note(f"{experiment.name}: training")
                outcomes[experiment.name] = _run(experiment, todo, prepared, work, report)
                # Written after each network, so that a stopped run has a page, too.
                answer = _write(folder, todo, request, prepared, outcomes, _stored_costs(work))
        costs = _costs(todo, request, work, report.note)
        answer = _write(folder, todo, request, prepared, outcomes, costs)
        here.write({"finished": True})
    return answer


def _chosen(document: Document, only: Sequence[str]) -> set[str]:
    names = [experiment.name for experiment in document.experiments]
    if not only:
        return set(names)
    networks = {experiment.name: find_recipe(experiment.recipe).network for experiment in document.experiments}
    chosen = set()
    for word in only:
        found = [name for name in names if word in (name, networks[name])]
        if not found:
            known = [*names, *networks.values()]
            hint = did_you_mean(word, known, otherwise=f"there are {', '.join(names)}.")
            raise ValueError(f"{document.name} has no experiment or network {word!r}; {hint}")
        chosen.update(found)
    return chosen


def _recipe(experiment: Experiment, request: Request) -> tuple[Recipe, str | None]:
    """Returns the recipe of an experiment, and the reason why it cannot run, or None."""
    recipe = find_recipe(experiment.recipe)
    why = None
    if recipe.weights == "imagenet":
        file = request.imagenet.get(recipe.network)
        if file is not None:
            if not Path(file).is_file():
                raise ValueError(f"--imagenet {recipe.network}={file}: there is no such file.")
            recipe = replace(recipe, weights=f"imagenet:{file}")
        elif not request.download and not _is_cached(recipe.network):
            if request.quick and recipe.procedure == "fit":
                recipe = replace(recipe, weights=None)
            else:
                why = (
                    f"the ImageNet weights of {recipe.network} are not here: give --imagenet {recipe.network}=FILE "
                    "(the file that keras.applications loads), or --download where there is a network"
                )
    recipe = (recipe.quick() if request.quick else recipe).changed([*_COMMON, *experiment.settings, *request.settings])
    return recipe, why


def _is_cached(network: str) -> bool:
    """Returns whether Keras has downloaded the network's ImageNet weights before."""
    application = MODELS[network].imagenet
    models = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "models")
    if not application or application == "torchvision" or not models.is_dir():
        return False
    plain = application.lower().replace("_", "")
    return any(plain in file.name.lower().replace("_", "").replace("-", "") for file in models.iterdir())


def _prepared(todo: Plan, request: Request, work: Path, note: Note) -> Prepared:
    table, about = work / "faces.csv", work / "faces.json"
    if about.is_file() and table.is_file():
        record = json.loads(about.read_text("utf-8"))
        return Prepared(work, tuple(read_table(table, FaceRow)), **record)
    prepared = prepare(
        todo.document, todo.sources, work, note, quick=request.quick, extraction=request.extraction, seed=request.seed
    )
    write_rows(table, prepared.rows)
    record = {"held_out": prepared.held_out, "protocol": prepared.protocol, "left_out": prepared.left_out}
    write_atomically(about, json.dumps(record, indent=1) + "\n")
    return prepared


def _earlier(todo: Plan, prepared: Prepared, work: Path) -> dict[str, Outcome]:
    """Returns the results of experiments that an earlier call finished and this request skips."""
    found = {}
    for experiment in todo.document.experiments:
        folder = work / "runs" / experiment.name
        evaluations = _evaluations(todo.document, experiment, work)
        done = all((path / "report.html").is_file() for path in evaluations.values())
        if experiment.name in todo.skipped and done and (folder / "run.json").is_file():
            recipe = Recipe.from_settings(json.loads((folder / "run.json").read_text("utf-8"))["recipe"])
            found[experiment.name] = _outcome(experiment, todo, prepared, work, recipe)
    return found


def _evaluations(document: Document, experiment: Experiment, work: Path) -> dict[str, Path]:
    return {split: work / "evaluations" / f"{experiment.name}-{split}" for split in document.evaluated}


def _outcome(experiment: Experiment, todo: Plan, prepared: Prepared, work: Path, recipe: Recipe) -> Outcome:
    rows = prepared.subset(experiment.crops)
    shortfall = None
    if experiment.crops and len(rows) < experiment.crops * 0.98:
        shortfall = f"{len(rows):,} balanced crops, where the document has {experiment.crops:,}"
    changed = find_recipe(experiment.recipe)
    differing = [
        f"{name}={value}"
        for name, value in recipe.settings().items()
        if value != changed.settings()[name] and name not in ("calibration", "weights", "members")
    ]
    protocol = f"{len(rows):,} crops of {'+'.join(prepared.datasets)}; {prepared.protocol}; seed {recipe.seed}"
    if experiment.noise:
        protocol += f"; SRM clone, kernel {todo.document.noise_kernel}"
    if differing:
        protocol += f"; other than the recipe {experiment.recipe}: {', '.join(differing)}"
    evaluations = _evaluations(todo.document, experiment, work)
    return Outcome(work / "runs" / experiment.name, evaluations, None, protocol, shortfall)


def _run(experiment: Experiment, todo: Plan, prepared: Prepared, work: Path, report: Report) -> Outcome:
    """Trains and evaluates one network, unless that is done; a failure becomes the outcome's `problem`."""
    recipe = todo.recipes[experiment.name]
    if experiment.members:
        recipe = replace(recipe, members=tuple(str(work / "runs" / name) for name in experiment.members))
    try:
        table = _table(experiment, todo.document, prepared, work, report.note)
        train(recipe, table, work / "runs" / experiment.name, report)
        for split, folder in _evaluations(todo.document, experiment, work).items():
            if (folder / "report.html").is_file():  # written last, of a run that does not change any more
                continue
            options = Options(split=split, threshold=THRESHOLD, resamples=RESAMPLES)
            if todo.document.name == "s2":
                options = replace(options, frames=_SPLITS_EVALUATED[split])
            evaluate(work / "runs" / experiment.name, [str(table)], folder, options)
    except (ValueError, TrainingError, EvaluationError) as error:
        report.note(f"{experiment.name}: {error}")
        return Outcome(problem=f"failed: {error}")
    finally:
        keras.utils.clear_session()
        gc.collect()
    return _outcome(experiment, todo, prepared, work, recipe)


def _table(experiment: Experiment, document: Document, prepared: Prepared, work: Path, note: Note) -> Path:
    """Returns the table of crops on which an experiment is trained."""
    rows = prepared.subset(experiment.crops)
    table = work / "faces.csv"
    if experiment.crops is not None:
        table = write_rows(work / f"faces-{experiment.crops}.csv", rows)
    if not experiment.noise:
        return table
    clone = work / "noise"
    with SrmSet(Faces(work, rows), clone, SrmOptions((document.noise_kernel,))) as noise:
        for done in noise.clone():
            if done % 2048 == 0:
                note(f"SRM: {done:,} of {len(rows):,} crops")
        noise.finish()
    return clone / "faces.csv"


def _stored_costs(work: Path) -> dict[str, Measured]:
    file = work / "costs.json"
    if not file.is_file():
        return {}
    stored = json.loads(file.read_text("utf-8"))
    return {name: Measured(one["value"], None, one["protocol"]) for name, one in stored.items()}


def _costs(todo: Plan, request: Request, work: Path, note: Note) -> dict[str, Measured]:
    """Returns the counts and CPU costs that the document's entries need; each is measured once and stored."""
    found = _stored_costs(work)
    wanted = {entry.measure for entry in todo.document.entries if entry.measure and entry.experiment is None}
    missing = sorted(wanted - set(found))
    if not request.costs:
        missing = [name for name in missing if not name.startswith("saves")]
    for network in sorted({name.partition(".")[2] for name in missing if not name.startswith("saves")}):
        model = build(network)
        note(f"{network}: counted")
        protocol = f"counted from the graph at {model.input_shape[1]} px, one output"
        found[f"learned.{network}"] = Measured(learned(model) / 1e6, None, protocol)
        found[f"thesis_macs.{network}"] = Measured(thesis_macs(model) / 1e9, None, protocol)
        del model
        keras.utils.clear_session()
    if any(name.startswith("saves") for name in missing):
        rows = []
        for row in rounds_of(NETWORKS, **(_QUICK_COST if request.quick else {})):
            note(f"{row['name']}: CPU cost, round {row['round']}")
            rows.append(row)
        found |= _saved(compare(rows))
    kept = {name: asdict(one) for name, one in found.items()}
    write_atomically(work / "costs.json", json.dumps(kept, indent=1) + "\n")
    return found


def _saved(rows: Sequence[dict[str, Any]]) -> dict[str, Measured]:
    found, first = {}, rows[0]
    for row in rows:
        if "error" in row or "error" in first:
            continue
        cycles = row.get("saves_cycles") is not None
        protocol = f"{'cycles' if cycles else 'CPU time (cycles are not counted here)'}, best round, this machine"
        found[f"cost.{row['name']}"] = Measured(row["cpu_s"], None, "CPU seconds, this machine")
        if row is not first:
            saved = row["saves_cycles"] if cycles else row["saves_cpu"]
            found[f"saves.{row['name']}"] = Measured(saved, None, protocol)
            wall = first["wall_s"] - row["wall_s"]
            found[f"saves_seconds.{row['name']}"] = Measured(wall, None, "wall clock, measured on this machine")
    return found


def _write(
    folder: Path,
    todo: Plan,
    request: Request,
    prepared: Prepared,
    outcomes: dict[str, Outcome],
    costs: dict[str, Measured],
) -> dict[str, Any]:
    """Writes the page and its JSON, and returns the content of the JSON."""
    document, measures = todo.document, Measures(outcomes, costs)
    verdicts = []
    for entry in document.entries:
        outcome = outcomes.get(entry.experiment) if entry.experiment else None
        problem = outcome.problem if outcome else None
        if entry.experiment and outcome is None:
            problem = "not run yet"
        if entry.experiment is None and entry.measure and measures.of(entry) is None:
            problem = "the cost was not measured"
        verdicts.append(
            judge(
                entry, document, measures.of(entry), datasets=prepared.datasets, own_test=prepared.held_out == "own",
                quick=request.quick, problem=problem, shortfall=outcome.shortfall if outcome else None,
            )
        )  # fmt: skip
    found = contradictions(document.name, prepared.rows)
    pictures: dict[tuple[str, str], bytes] = {}
    for verdict in verdicts:
        entry = verdict.entry
        if entry.picture and entry.experiment and entry.experiment in outcomes:
            pictures |= pictures_of(entry, outcomes[entry.experiment])
    removed = draw_removed_blocks(verdicts, costs) if document.name == "s0" else None
    if removed:
        pictures[("", "removed_blocks")] = removed
    counts: dict[str, int] = {}
    for verdict in verdicts:
        counts[verdict.status] = counts.get(verdict.status, 0) + 1
    answer = {
        "schema": SCHEMA,
        "tfdfd": __version__,
        "document": document.name,
        "title": document.title,
        "quick": request.quick,
        "settings": list(request.settings),
        "data": {
            "datasets": list(prepared.datasets),
            "crops": len(prepared.rows),
            "split": prepared.protocol,
            "left_out": prepared.left_out,
        },
        "protocol": document.protocol,
        "counts": counts,
        "experiments": {
            name: {"problem": outcome.problem, "protocol": outcome.protocol} for name, outcome in outcomes.items()
        },
        "entries": [_entry_json(verdict) for verdict in verdicts],
        "contradictions": [asdict(one) for one in found],
    }
    write_atomically(folder / "report.json", json.dumps(answer, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "report.html", render(answer, verdicts, found, pictures))
    return answer


def _entry_json(verdict: Verdict) -> dict[str, Any]:
    entry, ours = verdict.entry, verdict.measured
    return {
        "place": entry.place,
        "what": entry.what,
        "unit": entry.unit,
        "printed": entry.printed,
        "experiment": entry.experiment,
        "ours": ours and {"value": ours.value, "interval": ours.interval, "protocol": ours.protocol},
        "difference": verdict.difference,
        "verdict": verdict.status,
        "reason": verdict.reason,
    }
