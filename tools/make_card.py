"""Bundles the weights of a finished run with a model card that states what they are worth.

    python -m tools.make_card RUN --faces utk/split.csv --data ../shared/data [--swaps swapped] [--handle tfdfd/NAME]

Writes `NAME.safetensors` (compact) and its card `NAME.json` where bundled weights are kept. The card evaluates the
run's thresholds on validation, self-blended pairs of the faces' test split, the crops and clips of the data folder,
swapped faces if there are any, robustness and latency, beside the MesoNet authors' four sets of weights and the
current default model. Scores are cached: an interrupted command resumes. `python -m tools.evidence` then adds what a
score means.

`--domains` takes the validation of the bundled weights: bundle them in another folder (`--out`), validate that file
with `python -m tools.validate`, and bundle them again.

`--data` is the folder with `crops/dfdc`, `crops/ffpp`, `videos/` and `mesonet/weights/`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from tfdfd.data import crops as crop_sets
from tfdfd.data import degrade, pair_sets, self_blending
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.index import INDEXERS
from tfdfd.data.leaks import refuse_leaks
from tfdfd.data.tables import FAKE, ORIGINAL, REAL
from tfdfd.evaluation import sets as evaluation_sets
from tfdfd.evaluation.evaluate import refuse_overlap, training_overlap
from tfdfd.evaluation.scoring import OpenedModel, cached_scores, open_model
from tfdfd.evaluation.sets import CONDITIONS, UNCHANGED, BlendedSet, DegradedSet, EvalSet, open_set
from tfdfd.faces import crop
from tfdfd.files import locked, sha256, write_atomically
from tfdfd.metrics import Confusion, auc, balanced_accuracy, confusion
from tfdfd.metrics.intervals import bootstrap_interval, compare
from tfdfd.metrics.report import FRAME, VIDEO, compute_report
from tfdfd.metrics.scores import OK, ScoreRow
from tfdfd.models import spec
from tfdfd.training.crop_set import CropSet, limited
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import CARD, finished_run
from tfdfd.weights import CARRIED, DEFAULT_MODEL, cache_folder, folder_for, write_card
from tfdfd.weights.loading import arrays_of_members, mask_head_file, save_mask_head
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.saving import FORMS, compact
from tfdfd.weights.store import PREFIX, locate
from tools.proof_scores import proof_scores
from tools.provenance import ended_short, initial_weights, run_description

SCHEMA = 1
REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = REPOSITORY / "tfdfd/samples"
PHOTOGRAPHS = "UTKFace, photographs of adults"
# UTKFace's terms of use; the weights are derived from it.
LICENCE = "research use only, non-commercial (UTKFace terms)"
AUTHORS = ("MesoInception_DF", "MesoInception_F2F", "Meso4_DF", "Meso4_F2F")
PICTURES, CLIPS = "crops as pictures, faces found", "videos"
BLENDED_TEST = "self-blended, test split"
RESAMPLES = 2000
# A photograph stays with the fake made from it.
CLUSTER = "source"
# Suffix of the key of a 95 % interval.
INTERVAL = "_ci95"
# Crops are degraded at this size, whatever a network takes: JPEG of a small crop differs from JPEG of a large one, and
# networks that are compared must see the same picture.
SIDE = 256
# Change of a rate at an operating point above which the compact weights differ from the run's.
MAX_CHANGE = 0.01
MOST_FAILURES = 5  # of a set
_METRICS = {
    "auc": "auc",
    "eer": "eer",
    "balanced_accuracy": "balanced_accuracy",
    "accuracy": "accuracy",
    "tpr_at_fpr_0.05": "tpr_at_fpr_5",
}
_CALIBRATION = {"brier": "brier", "ece": "ece", "ece_debiased": "ece_debiased", "log_loss": "log_loss"}
_DIGITS = 4
_ANY_SIZE = 32  # of a set that is opened for its rows alone
_FRAME_AND_FACE = re.compile(r"-\d+-\d+$")
# Fields of the run's card that hold for the bundled weights.
_KEPT = (
    "model", "arguments", "input_shape", "polarity", "threshold", "inconclusive_band", "inconclusive_rule",
    "genuine_tails", "operating_points", "calibration",
)  # fmt: skip
_LIMITS = (
    "A score is a hint for a person who looks further, not forensic proof.",
    "It looks for blending: faces generated as a whole, lip-syncing without a seam and retouching by hand are outside "
    "what it was trained for.",
    "Small, blurred or strongly compressed faces lose the traces it looks for (see robustness); filters, beauty "
    "retouching and local light on a genuine face may look like them.",
    "UTKFace is unevenly spread over age, gender and skin colour; scores by group were not measured.",
)
PROTOCOL = (
    "Photographs are split by file, look-alikes together; UTKFace names no identities, so one person in different "
    "pictures may be in several parts. Epoch, calibration, thresholds and the inconclusive band come from validation;"
    " test split, crops and clips were scored afterwards, with the weights as they are carried. Blended sets: one "
    "real crop and one self-blended fake of each photograph, both degraded alike. Crops as they are stored are scaled"
    " to the network's size; pictures and clips are scored by tfdfd.Detector (MTCNN, crops of 1.3 times the box, 32 "
    "frames). mean_auc is over test split, pictures and clips: what is stored as crops there is cut about twice as "
    "wide as networks are fed, which was seen only after a network had been scored on it. Intervals: 95 % percentile "
    "bootstrap, 2,000 draws, seed 0, over photographs with their fakes, or over the videos that crops and pictures "
    "are of (clips of one original together); none where a class is of one video. Weights beside these were scored in"
    " the same run on the same images, each at its own threshold."
)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with locked(arguments.cache, "tools.make_card"):
        card, staged = make_card(arguments)
    weights, cards = (arguments.out or folder for folder in (folder_for(card), CARRIED))
    for folder in (weights, cards):
        folder.mkdir(parents=True, exist_ok=True)
    # The weights first: a card without its weights is an error for whoever lists the bundled models.
    write_atomically(weights / card["file"], staged.read_bytes())
    head = mask_head_file(locate(arguments.run)[1])
    if head.is_file():
        save_mask_head(read_safetensors(head), weights / card["file"])
    write_card(cards / staged.with_suffix(".json").name, card)
    say(f"{weights / card['file']}: {card['bytes']:,} bytes, {card['handle']}")
    for row in card["mean_auc"]:
        say(f"mean AUC of {', '.join(row['sets'])}: {row['weights']} {row['mean_auc']}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.make_card")
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished 'tfdfd train'")
    add("--faces", required=True, help="face set with splits that the run was trained on")
    add("--blended", help="face set whose test split is blended (default: that of --faces)")
    add("--domains", type=Path, help="output of 'python -m tools.validate': figures by domain, for the card")
    add("--data", type=Path, required=True, help="folder with crops/, videos/ and mesonet/")
    add("--swaps", help="face set with faces of other people swapped in ('tfdfd data swap')")
    add("--swaps-split", default="test", help="split of the swaps; none: all (default: %(default)s)")
    add("--handle", help="handle of the bundled weights (default: tfdfd/ and the network's name)")
    add("--dtype", default="float16", choices=FORMS, help="form of the file (default: %(default)s)")
    add("--not-in-wheel", action="store_true", help="keep the weights in the checkout alone, whatever their size")
    add("--out", type=Path, help="folder for both files (default: where bundled files are kept)")
    cache = cache_folder().with_name("carrying")
    add("--cache", type=Path, default=cache, help="folder for cached results (default: %(default)s)")
    add("--beside", action="append", metavar="HANDLE|FILE", help="models to compare with (default: see above)")
    add("--photographs", default=PHOTOGRAPHS, help="description of the faces (default: %(default)s)")
    add("--licence", default=LICENCE, help="licence of the weights (default: %(default)s)")
    add("--initial-licence", help="licence of the ImageNet weights, if the run began with them")
    add("--pictures", type=Path, default=REPOSITORY / "docs/models", help="folder for failing samples")
    add("--limit", type=int, help="at most this many crops of a set: a smoke test")
    add("--latency-again", action="store_true", help="measure the latency again")
    arguments = parser.parse_args(argv)
    if arguments.handle and not arguments.handle.startswith(PREFIX):
        parser.error(f"--handle must begin with {PREFIX}; received {arguments.handle}")
    if arguments.limit and not arguments.out:
        parser.error("--limit evaluates too little for a bundled card; give another folder: --out")
    return arguments


def make_card(arguments: argparse.Namespace) -> tuple[dict, Path]:
    """The complete card and the file of its weights.

    Raises:
        ValueError: no finished run, a set that the run was trained on, or compact weights that behave differently.
    """
    run = finished_run(arguments.run)
    # First, because it may fail and the evaluation takes long.
    initial = initial_weights(run["recipe"], arguments.initial_licence)
    staged, card = stage(arguments, run["recipe"]["arguments"].get("freeze"))
    domains = {}
    if arguments.domains:
        domains = {"domains": domain_rows(json.loads(arguments.domains.read_text("utf-8")), card["sha256"])}
    networks = {"these": open_model(staged)}
    # The default model's handle may be that of these weights, which are to replace it.
    default = open_model(DEFAULT_MODEL) if not arguments.beside else None
    others = arguments.beside or [arguments.data / "mesonet/weights" / f"{name}.h5" for name in AUTHORS]
    beside = {f"{default.record.handle} ({default.record.sha256[:8]})": default} if default else {}
    beside |= {one.record.handle: one for one in map(open_model, others)}
    networks |= {name: one for name, one in beside.items() if one.record.sha256 != card["sha256"]}
    evaluated = evaluate_all(networks, run, arguments)
    command = shlex.join(["python", "-m", "tools.make_card", *command_words(arguments)])
    described = run_description(run, arguments.photographs, Path(arguments.faces).name, command, initial)
    card |= (
        {"licence": arguments.licence, "weights_form": arguments.dtype, "protocol": PROTOCOL} | evaluated | described
    )
    card["limits"] = [*_LIMITS, *_found_limits(evaluated, run["result"])]
    if initial:
        card["initial_weights"] = initial
    if arguments.limit:
        card["limit"] = arguments.limit
    return card | domains, staged


@dataclass(frozen=True)
class Clip:
    """A video or picture.

    Attributes:
        name: in cards.
        path: path of the file.
        dataset: `dfdc`, `ffpp` or `samples`.
        label: 0 real, 1 fake.
        method: `original`, or the manipulation.
        sources: what it shows or was made from; clips that share a source are resampled together.
    """

    name: str
    path: Path
    dataset: str
    label: int
    method: str
    sources: tuple[str, ...] = ()


def photograph_of(row) -> str:
    """The photograph that a crop shows or was made from (video `NAME` or `NAME#method`).

    By donors, all photographs would be one cluster of the bootstrap.
    """
    return row.video.partition("#")[0]


def video_of(file: str) -> str:
    """The video that a crop of the data folder was cut from: DFDC's are named `VIDEO-FRAME-FACE.png`."""
    return _FRAME_AND_FACE.sub("", PurePosixPath(file).stem)


def evaluate_all(networks: dict[str, OpenedModel], run: dict, arguments: argparse.Namespace) -> dict:
    """Everything that a card states of the first network, by key of the card; the others are compared with it."""
    cache, these = arguments.cache, networks["these"]
    # Errors first: what is missing, and what the run was trained on.
    sets = _sets(arguments)
    clips = {PICTURES: pictures_in(arguments.data / "crops"), CLIPS: clips_in(arguments.data / "videos")}
    refuse_overlap(training_overlap(open_model(arguments.run), [one for one, _ in sets.values()]))
    say("validation: the run's thresholds with these weights")
    result = {"validation": validated(these, run, arguments.faces, cache, arguments.limit)}
    rows: dict[str, dict[str, list[ScoreRow]]] = {}
    for name, (one, source_of) in sets.items():
        say(f"{name}: {len(one.rows):,} crops")
        rows[name] = {weights: _scores(model, one, cache, source_of) for weights, model in networks.items()}
    for name, some in clips.items():
        say(f"{name}: {len(some)}")
        outcomes = {weights: detect_clips(model, some, cache) for weights, model in networks.items()}
        rows[name] = {weights: clip_rows(some, outcomes[weights]) for weights in networks}
    result |= _tables(rows, sets, networks)
    result["videos"] = {weights: [_short(outcome) for outcome in outcomes[weights]] for weights in networks}
    result["robustness"] = _robustness(networks, *next(iter(sets.values())), cache)
    result["samples"] = _samples(these, arguments.pictures, cache)
    say("latency")
    file = cache / "latency" / f"{these.key}.json"
    if arguments.latency_again:
        file.unlink(missing_ok=True)
    result["latency"] = cached_json(file, lambda: _latency(these))
    result["proof_scores"] = proof_scores(these.record, these.path)
    return result


def _sets(arguments) -> dict[str, tuple[EvalSet, Callable[[ScoreRow], str]]]:
    """The sets of crops by name, each with the source of a row; the blended test split first."""
    limit, folder = arguments.limit, arguments.data / "crops"
    everything = faces_of(arguments.blended or arguments.faces)
    refuse_leaks(everything.rows)
    part = faces_of(everything, "test")
    real = Faces(part.root, tuple(limited([row for row in part.rows if row.label == REAL], limit, 0)))
    where, photographs = str(everything.root), PHOTOGRAPHS if arguments.blended else arguments.photographs
    blended = BlendedSet(where, real, SIDE, "test", keep=True)
    sets = {f"{photographs}, {BLENDED_TEST}": (blended, photograph_of)}
    for name in ("dfdc", "ffpp"):
        sets[f"crops/{name}"] = open_set(folder / name, None, _ANY_SIZE), lambda row: video_of(row.file)
    if arguments.swaps:
        split = None if arguments.swaps_split == "none" else arguments.swaps_split
        name = f"faces of other people swapped in, {split or 'all'}"
        sets[name] = open_set(arguments.swaps, split, _ANY_SIZE), photograph_of
    for one, _ in list(sets.values())[1:]:
        one.rows = tuple(limited(one.rows, limit, 0))
    return sets


def _scores(model, one, cache, source_of, condition=None):
    if condition is None and one.blended:
        sized = one.resized(model.size)
    else:  # crops that are not square are scaled whole, as tfdfd detect scales its crops
        sized = DegradedSet(one, condition or UNCHANGED, model.size)
    # Scores of changed code are not reused.
    modules = (crop, crop_sets, self_blending, pair_sets, degrade, *((evaluation_sets,) if condition else ()))
    rows = cached_scores(
        model, sized, cache / "scores", [cv2.__version__, *(sha256(module.__file__) for module in modules)]
    )
    return [replace(row, source_id=(source_of(row),)) for row in rows]


def _robustness(networks, one, source_of, cache):
    """One row per condition: the first network's AUC with its interval, and the AUCs of the others."""
    result = []
    for condition in CONDITIONS:
        row: dict = {"condition": condition}
        for weights, model in networks.items():
            rows = [each for each in _scores(model, one, cache, source_of, condition) if each.status == OK]
            labels, scores = [each.label for each in rows], [each.fake_probability for each in rows]
            if weights == "these":
                low, high = bootstrap_interval(auc, labels, scores, list(map(_source, rows)), RESAMPLES)
                row |= {"auc": round(auc(labels, scores), _DIGITS), f"auc{INTERVAL}": _rounded((low, high))}
                row["balanced_accuracy"] = round(balanced_accuracy(labels, scores, model.record.threshold), _DIGITS)
                row["auc_of"] = {}
            else:
                row["auc_of"][weights] = round(auc(labels, scores), _DIGITS)
        say(f"{condition}: AUC {row['auc']:.3f}")
        result.append(row)
    return result


def validated(model: OpenedModel, run: dict, faces: str, cache: Path, limit: int | None = None) -> dict:
    """The operating points of a run and what their thresholds do on validation with the compact weights.

    Raises:
        ValueError: the set is not the run's, or a rate has changed by more than 0.01.
    """
    key = hashlib.sha256(json.dumps([run["recipe"], run["data"], limit]).encode()).hexdigest()[:16]
    file = cache / "validation" / model.key / f"{key}.json"
    kept = cached_json(file, lambda: _validation_scores(model, run, faces, limit))
    labels, scores, result = kept["labels"], kept["scores"], run["result"]
    points, changes = {}, []
    for name, before in result["operating_points"].items():
        if before["threshold"] is None:
            points[name] = before
            continue
        matrix = confusion(labels, scores, before["threshold"])
        rates = {rate: getattr(matrix, rate) for rate in ("fpr", "tpr")}
        points[name] = {"threshold": round(before["threshold"], 6)} | {k: round(v, 4) for k, v in rates.items()}
        changes += [abs(value - before[rate]) for rate, value in rates.items()]
    largest = None if limit else round(max(changes), 4)
    if largest is not None and largest > MAX_CHANGE:
        raise ValueError(
            f"with the compact weights a rate at an operating point changes by {largest} on validation; at most "
            f"{MAX_CHANGE} is accepted. Use --dtype float32, or find what else differs from the run."
        )
    return {
        "set": "validation split (epoch, calibration and thresholds chosen here)",
        "level": "image" if result["val_videos"] == result["val_crops"] else "video, mean of its crops",
        "n_real": labels.count(0),
        "n_fake": labels.count(1),
        "auc": round(auc(labels, scores), 4),
        "auc_of_the_run": round(result["val_video_auc"], 4),
        "operating_points": points,
        "largest_change": largest,
    }


def _validation_scores(model, run, faces, limit):
    from tfdfd.training.crop_set import score, videos_of

    recipe = Recipe.from_settings(run["recipe"])
    crops = CropSet(faces, replace(recipe, limit=limit or recipe.limit), model.size)
    digest, trained_on = crops.digests()["rows_sha256"], run["data"]["rows_sha256"]
    if limit is None and digest != trained_on:
        raise ValueError(
            f"{faces} is not the set that the run was trained on: the digest of its rows is {digest}, expected "
            f"{trained_on}. Give the set that 'tfdfd train' was given."
        )
    labels, scores = videos_of(*score(model.network, crops))
    return {"labels": labels.tolist(), "scores": np.asarray(scores, float).tolist()}


def clips_in(folder: Path) -> list[Clip]:
    """The videos in `folder/dfdc` and `folder/ffpp`, laid out as in their data sets."""
    return [
        Clip(f"{dataset}/{row.path}", folder / dataset / row.path, dataset, row.label, row.method, row.source_id)
        for dataset in ("dfdc", "ffpp")
        for row in INDEXERS[dataset](folder / dataset).rows
        if row.status == OK
    ]


def pictures_in(folder: Path) -> list[Clip]:
    """The pictures in `real/` and `fake/` of each data set.

    They are cut wider than networks take them and are not square, so faces are detected in them first.

    Raises:
        ValueError: there are none.
    """
    pictures = [
        Clip(f"{dataset}/{name}/{path.name}", path, dataset, label, name, (video_of(path.name),))
        for dataset in ("dfdc", "ffpp")
        for label, name in ((REAL, "real"), (FAKE, "fake"))
        for path in sorted((folder / dataset / name).glob("*.png"))
    ]
    if not pictures:
        raise ValueError(f"{folder} has no pictures dfdc/real/*.png, dfdc/fake/*.png, ffpp/…; give their folder.")
    return pictures


def detect_clips(model: OpenedModel, clips: Sequence[Clip], cache: Path) -> list[dict]:
    """`{clip, label, method, status, fake_probability, verdict, frames_scored}` of each clip by `tfdfd.Detector`."""
    names = [[clip.name, clip.path.stat().st_size, clip.label] for clip in clips]
    key = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
    return cached_json(cache / "clips" / model.key / f"{key}.json", lambda: _detect(model, clips))


def _detect(model, clips):
    from tfdfd.detect.detector import Detector

    with Detector(model.path) as detector:
        outcomes = {outcome.path: outcome for outcome in detector.detect_many([clip.path for clip in clips])}
    fields = ("status", "fake_probability", "verdict", "frames_scored")
    return [
        {"clip": clip.name, "label": clip.label, "method": clip.method}
        | {field: getattr(outcomes[str(clip.path)], field) for field in fields}
        for clip in clips
    ]


def clip_rows(clips: Sequence[Clip], outcomes: Sequence[dict]) -> list[ScoreRow]:
    """Score rows in which each clip is one example with the score of the whole clip."""
    return [
        ScoreRow(
            clip.name, clip.dataset, clip.name, 0, 0, clip.label, clip.method, clip.sources, None, None,
            one["fake_probability"], one["status"],
        )
        for clip, one in zip(clips, outcomes, strict=True)
    ]  # fmt: skip


def _short(outcome):
    status = {} if outcome["status"] == OK else {"status": outcome["status"]}
    return {key: outcome[key] for key in ("clip", "label", "fake_probability", "verdict")} | status


def _samples(model, folder, cache):
    """Outcomes of the package's two samples; one with a wrong verdict gets its most wrong crop as `picture`."""
    known = (("genuine.mp4", REAL, ORIGINAL), ("blended.mp4", FAKE, "self-blended"))
    clips = [Clip(name, SAMPLES / name, "samples", label, method) for name, label, method in known]
    result = []
    for clip, one in zip(clips, detect_clips(model, clips, cache), strict=True):
        if one["verdict"] == ("fake", "real")[clip.label]:
            kept = cache / "pictures" / model.key / f"{clip.path.stem}.jpg"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(kept, _worst_crop(model, clip))
            one = one | {"picture": f"{model.record.handle.removeprefix(PREFIX)}-{kept.name}"}
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / one["picture"], kept.read_bytes())
        result.append(one)
    return result


def _worst_crop(model, clip):
    from tfdfd.detect.detector import Detector

    with Detector(model.path) as detector:
        faces = detector.detect(clip.path).faces
    frames = [frame for face in [face for face in faces if face.decides] or faces for frame in face.frames]
    worst = max(frames, key=lambda frame: abs(frame.fake_probability - clip.label))
    return cv2.imencode(".jpg", worst.crop[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def _latency(model):
    """Median time from uint8 crops to scores as `tfdfd detect` scores them."""
    from tfdfd.cost import hardware_line
    from tfdfd.runtime.networks import Scorer, open_network

    load_before = round(os.getloadavg()[0], 2)  # how busy the machine was
    opened, _ = open_network(model.record, model.path)
    scorer, batches = Scorer(opened), []
    for count in (1, 32):
        crops = np.random.default_rng(0).integers(0, 256, (count, scorer.size, scorer.size, 3), np.uint8)
        scorer(crops)  # compiles
        times: list[float] = []
        while len(times) < 5 or (len(times) < 50 and sum(times) < 4):
            start = time.perf_counter()
            scorer(crops)
            times.append(time.perf_counter() - start)
        milliseconds = round(1000 * statistics.median(times), 2)
        batches.append({"batch": count, "milliseconds": milliseconds, "rounds": len(times)})
    return {"hardware": hardware_line(), "runtime": opened.runtime, "load_before": load_before, "batches": batches}


def cached_json(file: Path, make: Callable[[], object]):
    """The content of a JSON file, made first if it does not exist."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(make(), indent=1) + "\n")
    return json.loads(file.read_text("utf-8"))


def _tables(rows, sets, networks):
    result: dict[str, list] = {"scores": [], "calibration_scores": [], "comparisons": [], "failure_cases": []}
    for name, scored in rows.items():
        note = None
        if name == "crops/dfdc":  # crops carry the names of their videos
            one, source_of = sets[name]
            videos = [{source_of(row) for row in one.rows if row.label == label} for label in (0, 1)]
            note = f"crops of {len(videos[0])} real and {len(videos[1])} fake videos"
        for weights, model in networks.items():
            level = "video" if name == CLIPS else "image"
            scores, calibration, hardest = card_rows(
                name, weights, scored[weights], model.record.threshold, level, note
            )
            result["scores"].append(scores)
            result["calibration_scores"].append(calibration)
            if weights == "these":
                result["failure_cases"] += _failures(name, hardest)
            elif compared := difference(name, scored["these"], scored[weights], weights):
                result["comparisons"].append(compared)
    # Each example once: stored crops are the pictures again, and swaps are a set of our own making.
    counted = (next(iter(sets)), PICTURES, CLIPS)
    result["mean_auc"] = mean_auc([row for row in result["scores"] if row["set"] in counted])
    return result


def card_rows(
    name: str, weights: str, rows: Sequence[ScoreRow], threshold: float, level: str = "image", note: str | None = None
) -> tuple[dict, dict, list[dict]]:
    """Rows of a card for the scores of one network on one set.

    Args:
        name: name of the set.
        weights: weights of the network.
        rows: the scores; the rows of one video are its crops.
        threshold: scores at or above it are called fake; not chosen on these rows.
        level: what an example is.
        note: what readers must know of the set.

    Returns:
        A row of `scores`, a row of `calibration_scores`, and the hardest videos.
    """
    report = compute_report(rows, threshold, cluster=CLUSTER, resamples=RESAMPLES)
    metrics = report[VIDEO]
    if report[FRAME]["n"] != metrics["n"]:
        level = "video, mean of its crops"
    head = {"set": name, "weights": weights, "level": level, "n_real": metrics["n_real"], "n_fake": metrics["n_fake"]}
    notes = [note] if note else []
    matrix = Confusion(**metrics["confusion"])
    scores = head | {"threshold": round(threshold, 6)} | _values(metrics, _METRICS, notes)
    for rate in ("tpr", "fpr"):
        value = getattr(matrix, rate)
        scores[f"{rate}_at_threshold"] = None if value is None else round(value, _DIGITS)
    scores["majority_baseline"] = round(metrics["majority"], _DIGITS)
    unscored = sum(row.status != OK for row in rows)
    if unscored:
        notes.append(f"{unscored} without a score are in no figure")
    if notes:
        scores["note"] = "; ".join(dict.fromkeys(notes))
    return scores, head | _values(metrics, _CALIBRATION, []), report["hardest"]


def difference(name: str, rows: Sequence[ScoreRow], others: Sequence[ScoreRow], against: str) -> dict | None:
    """The AUC of the first minus that of the second on the same examples; None if a class has fewer than two sources.

    `p` is of the paired bootstrap; `p_delong` of DeLong's test, if every example has a source of its own.
    """
    compared = compare(rows, others, cluster=CLUSTER, resamples=RESAMPLES)
    sources = [{_source(row) for row in rows if row.label == label} for label in (0, 1)]
    # A class of a single source is the same in every resample.
    if compared["auc"] is None or min(map(len, sources)) < 2:
        return None
    alone, tested = sum(map(len, sources)) == len(rows), compared["delong"]
    return {
        "set": name,
        "against": against,
        "auc_difference": round(compared["auc"]["difference"], _DIGITS),
        f"auc_difference{INTERVAL}": _rounded(compared["auc"]["interval"]),
        "p": round(compared["auc"]["p"], _DIGITS),
        "p_delong": float(f"{tested['p']:.3g}") if alone and tested and tested["p"] is not None else None,
    }


def mean_auc(rows: Sequence[dict]) -> list[dict]:
    """For each set of weights the mean AUC over the sets on which all of them have one."""
    names = list(dict.fromkeys(row["weights"] for row in rows))
    by_set: dict[str, dict] = {}
    for row in rows:
        by_set.setdefault(row["set"], {})[row["weights"]] = row["auc"]
    sets = [name for name, aucs in by_set.items() if all(aucs.get(weights) is not None for weights in names)]
    return [
        {
            "weights": weights,
            "mean_auc": round(sum(by_set[name][weights] for name in sets) / len(sets), _DIGITS) if sets else None,
            "sets": sets,
        }
        for weights in names
    ]


def _values(metrics, names, notes):
    values, reasons = {}, {}
    for ours, theirs in names.items():
        one = metrics[theirs]
        values[ours] = None if one["value"] is None else round(one["value"], _DIGITS)
        values[f"{ours}{INTERVAL}"] = one.get("interval") and _rounded(one["interval"])
        for key in ("reason", "interval_reason"):
            if one.get(key):
                reasons.setdefault(one[key].rstrip("."), []).append(ours)
    notes += [f"{', '.join(some)}: {reason}" for reason, some in reasons.items()]
    return values


def _failures(name, hardest):
    """Wrong verdicts, the worst first."""
    wrong = [one for one in hardest if one["wrong"]][:MOST_FAILURES]
    return [
        {
            "set": name,
            "file": one["files"][0],
            "label": ("real", "fake")[one["label"]],
            "method": one["method"],
            "fake_probability": round(one["fake_probability"], _DIGITS),
        }
        for one in wrong
    ]


def _source(row):
    return ";".join(row.source_id) or row.video


def _rounded(interval: Iterable[float]) -> list[float]:
    return [round(end, _DIGITS) for end in interval]


def stage(arguments: argparse.Namespace, freeze: str | None = None) -> tuple[Path, dict]:
    """The compact weights with the first version of their card in the cache, where they can be opened by path.

    Args:
        arguments: arguments of the command.
        freeze: the `freeze` argument of the network, so that fine-tuning trains the same layers; None: not set.
    """
    from safetensors.numpy import save

    run_card = json.loads((arguments.run / CARD).read_bytes())
    handle = arguments.handle or f"{PREFIX}{run_card['model']}"
    arrays = read_safetensors(locate(arguments.run)[1])
    own, members = without_members(arrays, finished_run(arguments.run)["result"].get("members", {}))
    data = save(compact(own, arguments.dtype))
    card = {"card": SCHEMA, "handle": handle}
    card |= {name: run_card[name] for name in _KEPT if run_card.get(name) is not None}
    for name in ("threshold", "inconclusive_band", "operating_points"):
        if name in card:
            card[name] = _six_digits(card[name])
    # The run's card does not say which weights are trainable.
    if freeze is not None:
        card["arguments"] = {**card.get("arguments", {}), "freeze": freeze}
    card |= {
        "file": f"{handle.removeprefix(PREFIX)}.safetensors",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "parameters": sum(each.size for each in arrays.values()),
        "pixels": (run_card.get("input_shape") or spec(run_card["model"]).input_shape)[0],
    }
    if arguments.not_in_wheel:
        card["in_wheel"] = False
    if members:
        card["members"] = members
    card |= {name: run_card[name] for name in ("licence", "training_data")}
    folder = arguments.cache / "staged" / card["sha256"][:16]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / card["file"]
    write_atomically(file, data)
    write_atomically(file.with_suffix(".json"), as_json(card))
    return file, card


def without_members(arrays: dict, members: dict) -> tuple[dict, dict]:
    """The arrays that an ensemble trained on top of its members, and the members whose weights it includes.

    Raises:
        ValueError: a member has no handle of bundled weights, or the ensemble changed it.
    """
    inside = {name: each for name, each in members.items() if any(key.startswith(f"{name}/") for key in arrays)}
    theirs = arrays_of_members(inside)
    changed = [key for key, values in theirs.items() if not np.array_equal(arrays.get(key), values)]
    if changed:
        raise ValueError(f"the run's values of {changed[0]} differ from its member's, which must stay frozen.")
    return {key: values for key, values in arrays.items() if key not in theirs}, inside


def domain_rows(validation: dict, sha256: str) -> list[dict]:
    """The figures of `python -m tools.validate` for these weights, one row per set, with the AUCs of the others.

    Raises:
        ValueError: they are of other weights.
    """
    rows = {model["sha256"]: _rows_of(model) for model in validation["models"]}
    if sha256 not in rows:
        raise ValueError(f"the validation is of {', '.join(rows)}, not of weights {sha256}; run tools.validate again.")
    names = {model["sha256"]: model["handle"] for model in validation["models"]}
    for other in rows.keys() - {sha256}:
        for name, row in rows[sha256].items():
            if name in rows[other] and rows[other][name]["auc"] is not None:
                row.setdefault("auc_of", {})[f"{names[other]} ({other[:8]})"] = rows[other][name]["auc"]
    return list(rows[sha256].values())


def _rows_of(model):
    rows = {}
    for part, content in model["parts"].items():
        for name, figure in content.get("figures", {}).items():
            protocol = content["protocol"]
            row = {"set": f"{part}: {name}", "split": protocol["split"], "level": protocol["level"]}
            row |= {"auc": figure["auc"], "auc_ci95": figure["auc_ci95"]}
            for kind in ("real", "fake"):
                row[f"n_{kind}"] = figure[kind]["n"]
                if figure[kind]["n"]:
                    row |= {f"{kind}_called_{verdict}": figure[kind][verdict] for verdict in ("fake", "inconclusive")}
            rows[row["set"]] = row
    return rows


def _found_limits(evaluated, result):
    """Limits that follow from the figures."""
    own, limits = [row for row in evaluated["scores"] if row["weights"] == "these"], []
    for row in own:
        if row["auc"] is not None and "blended" not in row["set"]:
            shown = f" {row['auc_ci95']}" if row["auc_ci95"] else ""
            limits.append(
                f"On {row['set']} ({row['n_real']} real, {row['n_fake']} fake) its AUC is {row['auc']}{shown}, where "
                "0.5 is chance" + ("." if min(row["n_real"], row["n_fake"]) >= 100 else "; too few to say more.")
            )
    for row in own:
        if "test split" in row["set"] and row["fpr_at_threshold"] is not None:
            limits.append(
                f"At its threshold {row['fpr_at_threshold']:.0%} of the genuine photographs of the test split are "
                f"called fake, and {1 - row['tpr_at_threshold']:.0%} of the fakes are missed, not counting the "
                "inconclusive band."
            )
    if ended_short(result):
        limits.append(
            f"Training ended after {result['epochs']} epochs, of which the last was the best on validation: longer, it "
            "might have become better."
        )
    return limits


def command_words(arguments: argparse.Namespace) -> list[str]:
    """The arguments that determine a card, without the folders of this machine."""
    words = ["RUN", "--faces", Path(arguments.faces).name, "--data", "../shared/data"]
    for name in ("blended", "domains", "swaps", "handle"):
        value = getattr(arguments, name)
        words += [f"--{name}", value if name == "handle" else Path(value).name] if value else []
    words += ["--dtype", arguments.dtype]
    for model in arguments.beside or []:
        words += ["--beside", model if model.startswith(PREFIX) else Path(model).name]
    defaults = {"photographs": PHOTOGRAPHS, "licence": LICENCE, "initial_licence": None, "limit": None}
    for name, default in defaults.items():
        if getattr(arguments, name) != default:
            words += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return words


def as_json(card: dict) -> str:
    return json.dumps(card, indent=1, ensure_ascii=False) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _six_digits(value):
    if isinstance(value, dict):
        return {key: _six_digits(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_six_digits(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
