"""Validation of detectors by domain: real deepfakes, clips, blended and swapped fakes, genuine faces.

    python -m tools.validate MODEL … --data ../shared/data --photographs utk/split.csv --swaps swapped/faces.csv \
        -o validation.json

With `--parts genuine --write-tails` it writes the tails of genuine scores, from which the thresholds for several faces
derive, into the cards of bundled models.

No test set is opened. MODEL is a handle, a weights file with its card, or the folder of a run. Verdicts use the
threshold and inconclusive band of each model's card. Intervals are 95 % percentile bootstrap intervals over videos;
videos and pictures of one source are resampled together. Scores and the faces of clips are kept in `--cache`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from tfdfd import media
from tfdfd.data import crops as crop_sets
from tfdfd.data import degrade, pair_sets, self_blending
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.index import INDEXERS
from tfdfd.data.landmarks import TABLE
from tfdfd.data.splits import groups
from tfdfd.data.tables import FAKE, REAL, SOURCE
from tfdfd.detect import verdict as verdict_code
from tfdfd.detect.detector import Detector
from tfdfd.detect.verdict import verdict_of
from tfdfd.evaluation import sets as evaluation_sets
from tfdfd.evaluation.scoring import OpenedModel, cached_scores, open_model
from tfdfd.evaluation.sets import UNCHANGED, BlendedSet, DegradedSet, EvalSet
from tfdfd.extract import extraction, worker
from tfdfd.extract.extraction import Request
from tfdfd.faces import crop, detectors
from tfdfd.files import sha256, write_atomically
from tfdfd.media import decode
from tfdfd.metrics import auc
from tfdfd.metrics.calibration import genuine_tails
from tfdfd.metrics.intervals import RESAMPLES, bootstrap_interval
from tfdfd.metrics.scores import NO_FACE, OK, ScoreRow, aggregate_videos, filled
from tfdfd.models import CLIPS
from tfdfd.runtime.networks import Scorer, open_network
from tfdfd.version import __version__
from tfdfd.weights import CARRIED, cache_folder
from tools.packed.pack import hold_out

SCHEMA = 1
PARTS = ("ffpp", "clips", "blended", "swapped", "degraded", "genuine")
FFPP, CLIPS_NAME, PHOTOGRAPHS = "ffpp", "clips", "photographs"
HELD_OUT = ("talking_heads", "grid", "voxceleb2", "ffhq")
HOLD_OUT = 0.25  # share of the videos of these sets that packed training leaves out
DEGRADED = (
    "H.264, CRF 23", "H.264, CRF 32", "H.264, CRF 40", "resized to 1/2 and back", "JPEG quality 50",
    "JPEG quality 30", "Gaussian blur, sigma 2",
)  # fmt: skip
# Self-blended pairs differ from those by which training chooses its epoch.
SEED = 7
# Genuine sources with fewer videos count toward the worst source only together.
MIN_GENUINE = 20
TOGETHER = "talking_heads, grid, voxceleb2 and clips together"
_ANY_SIZE = 32  # of a set that is opened before the network's size is known
_DIGITS = 4
ALL = "all"
_VERDICTS = FAKE_VERDICT, OPEN, REAL_VERDICT = "fake", "inconclusive", "real"
FAILED = "failed"
PROTOCOL = {
    "positive": "fake = 1; scores are P(fake)",
    "verdict": "of the record's threshold and inconclusive band: inconclusive within the band, ends included; else "
    "fake from the threshold up, else real",
    "interval": f"95 % percentile bootstrap, {RESAMPLES:,} draws, seed 0, over videos; videos of one source are drawn "
    "together; null where a class is of one source or all draws agree",
    "missing": "a video without a score counts as P(fake) 0.5 in the AUC and as failed among the verdicts",
    "test_sets": "none is opened",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.validate")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="handle, weights file with its card, or run folder")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder that holds real_deepfakes")
    parser.add_argument("--photographs", type=Path, metavar="FACES.csv", help="genuine photographs with a val split")
    parser.add_argument("--swaps", type=Path, metavar="FACES.csv", help="set of 'tfdfd data swap' with a val split")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "validation", help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--write-tails", action="store_true", help="write the genuine tails into the cards of carried models"
    )
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    try:
        result = validate(
            options.models, options.data, options.photographs, options.swaps, options.cache, options.parts, _say
        )
    except ValueError as error:
        parser.error(str(error))
    if options.output:
        write_atomically(options.output, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if options.write_tails:
        for entry in result["models"]:
            write_tails(entry, CARRIED)
    print_table(result)


def validate(
    models: Sequence[str],
    data: Path,
    photographs: Path | None = None,
    swaps: Path | None = None,
    cache: Path | None = None,
    parts: Sequence[str] = PARTS,
    say: Callable[[str], None] = lambda text: None,
) -> dict:
    """Scores the models on all parts.

    Args:
        models: handles, weights files or run folders.
        data: folder that holds `real_deepfakes`.
        photographs: face set of genuine photographs with splits; None skips what needs it.
        swaps: face set that `tfdfd data swap` wrote; None skips the part.
        cache: folder where scores and the faces of clips are kept.
        parts: names from `PARTS`.
        say: receives progress messages.

    Returns:
        `{schema, tfdfd, protocol, models}`. Each entry of `models` tells of the model and has `parts` (figures, or
        `{"skipped": reason}`), `domains` (P(fake) of genuine and fake videos, as `tools.packed.finish` takes them) and
        `summary`.

    Raises:
        ValueError: a model or a set cannot be opened.
    """
    opened = [Model(name) for name in models]
    cache = Path(cache or cache_folder() / "validation")
    run = _Run(opened, Path(data) / "real_deepfakes", photographs, swaps, cache, say)
    scored = {part: getattr(run, part)() if part in parts else "not asked for" for part in PARTS}
    entries = []
    for model in opened:
        say(f"{model.name}: figures")
        entry = model.info()
        rows = {part: each if isinstance(each, str) else each[model] for part, each in scored.items()}
        entry["parts"] = {
            part: {"skipped": each} if isinstance(each, str) else _part(part, each, model)
            for part, each in rows.items()
        }
        for part in ("blended", "genuine") if photographs is None else ():
            if "skipped" not in entry["parts"][part]:
                entry["parts"][part]["without"] = "photographs: no --photographs given"
        entry["domains"] = {} if isinstance(rows["genuine"], str) else _domains(rows)
        entries.append(entry | {"summary": summary(entry)})
    return {"schema": SCHEMA, "tfdfd": __version__, "protocol": PROTOCOL, "models": entries}


def write_tails(entry: dict, cards: Path) -> None:
    """Writes the tails of genuine scores by domain into a model card, for the thresholds for several faces.

    Args:
        entry: an entry of `validate(...)["models"]` with the part `genuine`.
        cards: folder of the cards.

    Raises:
        ValueError: no card there is of these weights, or there are no genuine scores.
    """
    for file in sorted(cards.glob("*.json")):
        card = json.loads(file.read_text("utf-8"))
        if card["sha256"] == entry["sha256"]:
            break
    else:
        raise ValueError(f"{cards} has no card of {entry['model']} (sha256 {entry['sha256']}).")
    tails = genuine_tails({name: real for name, (real, _) in entry["domains"].items()})
    if not tails:
        raise ValueError(f"{entry['model']} has no genuine scores; validate the part genuine.")
    card.pop("genuine_tails", None)
    names = list(card)
    place = max(names.index(name) for name in ("threshold", "inconclusive_band", "inconclusive_rule") if name in card)
    items = list(card.items())
    items.insert(place + 1, ("genuine_tails", tails))
    write_atomically(file, json.dumps(dict(items), indent=1, ensure_ascii=False) + "\n")


def summary(result: dict) -> dict:
    """The figures by which a model is chosen; None if a part was skipped.

    The worst shares are over genuine sources of at least `MIN_GENUINE` videos; `mean` is the mean of the known AUCs.
    """
    parts = {part: content.get("figures", {}) for part, content in result["parts"].items()}
    aucs = {
        "ffpp_val_video_auc": parts["ffpp"].get("by video", {}).get("auc"),
        "clips_auc": parts["clips"].get(ALL, {}).get("auc"),
        "swapped_auc": parts["swapped"].get(ALL, {}).get("auc"),
    }
    large = [each["real"] for each in parts["genuine"].values() if each["real"]["n"] >= MIN_GENUINE]
    known = [value for value in aucs.values() if value is not None]
    return aucs | {
        "worst_genuine_fake_share": max((one["fake"] for one in large), default=None),
        "worst_genuine_inconclusive_share": max((one["inconclusive"] for one in large), default=None),
        "mean": round(float(np.mean(known)), _DIGITS) if known else None,
    }


class Model:
    """A detector under validation.

    Raises:
        ValueError: it cannot be opened, or takes clips instead of single crops.
    """

    def __init__(self, name: str):
        self.name = str(name)
        self.opened: OpenedModel = open_model(name)
        self.record, self.path, self.size = self.opened.record, self.opened.path, self.opened.size
        if self.record.model == CLIPS:
            raise ValueError(f"{name} scores clips of several crops; tools.validate takes networks of single crops.")

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer of `tfdfd detect`."""
        return Scorer(open_network(self.record, self.path)[0])

    def verdict(self, score: float) -> str:
        return verdict_of(score, self.record.threshold, self.record.inconclusive_band)

    def threshold_text(self) -> str:
        band = self.record.inconclusive_band
        return f"{self.record.threshold:.4f} of the record" + (
            f", inconclusive from {band[0]:.4f} to {band[1]:.4f}" if band else ", no inconclusive band"
        )

    def info(self) -> dict:
        known = self.opened.info()
        names = ("handle", "network", "sha256", "size", "threshold", "inconclusive_band")
        return {"model": self.name} | {name: known[name] for name in names}

    def scores(self, one: EvalSet, cache: Path, condition: str = UNCHANGED, *identity: str) -> list[ScoreRow]:
        """Cached scores of a set, degraded before its crops are scaled; crops without a score are left out."""
        changed = condition != UNCHANGED
        # Crops that are not square are scaled whole, as tfdfd detect scales its crops.
        sized = one.resized(self.size) if one.blended else DegradedSet(one, condition, self.size, by_file=True)
        # Scores of changed code are not reused.
        modules = (crop, crop_sets, self_blending, pair_sets, degrade, *((evaluation_sets,) if changed else ()))
        rows = cached_scores(self.opened, sized, cache / "scores", [*identity, *_code(*modules)])
        return [row for row in rows if row.status == OK]


class KeptFaces:
    """Face extractor with a cache, by the file's digest and the size of the crops."""

    sandbox_note = None

    def __init__(self, extractor, folder: Path):
        self._extractor, self._folder = extractor, folder
        self._code = _code(extraction, worker, crop, detectors, decode, media)

    def extract_one(self, item, request):
        """As in `FaceExtractor`. Failures are not cached: a timeout says little about the file."""
        file = self._file(item, request)
        if file is not None and file.exists():
            return _unpacked(item.path, file.read_bytes(), request.size)
        answer = self._extractor.extract_one(item, request)
        if file is not None and answer.status in (OK, NO_FACE):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, b"".join(worker.pack(answer)))
        return answer

    def extract(self, items, request):
        """As of `FaceExtractor`."""
        processes = sum(item.error is None for item in items)
        return self._extractor.map(lambda item: self.extract_one(item, request), items, processes)

    def close(self):
        self._extractor.close()

    def _file(self, item, request):
        if item.error is not None:
            return None
        return self._folder / f"{_digest([sha256(item.path), asdict(request), self._code])[:32]}.faces"


def _unpacked(path, data, size):
    header, _ = worker.lengths(data[: worker.PREFIX_BYTES])
    end = worker.PREFIX_BYTES + header
    return worker.unpack(path, worker.parse(data[worker.PREFIX_BYTES : end]), data[end:], Request(size=size))


def score_clips(model: Model, folder: Path, cache: Path) -> list[ScoreRow]:
    """Scores the clips of a folder in FaceForensics++'s layout with `tfdfd.Detector`; one row a clip."""
    rows = INDEXERS["ffpp"](folder).rows
    with Detector(model.path) as detector:
        detector._extractor = KeptFaces(detector._extractor, cache / "faces")
        contents = [sha256(folder / row.path) for row in rows]
        key = _digest([asdict(detector._request), detector._extractor._code, _code(verdict_code), contents])
        file = cache / "clips" / model.opened.key / f"{key[:16]}.json"
        outcomes = json.loads(file.read_text("utf-8")) if file.exists() else None
        if outcomes is None:
            detector._loaded = model.scorer
            results = detector.detect_many([folder / row.path for row in rows])
            outcomes = [[outcome.status, outcome.fake_probability] for outcome in results]
            if all(status in (OK, NO_FACE) for status, _ in outcomes):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(outcomes) + "\n")
    return [
        ScoreRow(
            row.path, CLIPS_NAME, row.path, 0, 0, row.label, row.method, row.source_id, row.compression, row.split,
            score, status,
        )
        for row, (status, score) in zip(rows, outcomes, strict=True)
    ]  # fmt: skip


class _Run:
    """Scores of each part: rows, or rows by name, for each model; or the reason why the part is skipped."""

    def __init__(self, models, root, photographs, swaps, cache, say):
        self._models, self._root, self._cache, self._say = models, root, cache, say
        # Sets are opened before anything that takes long.
        self._real = _validation(root) if (root / "faces.csv").is_file() else None
        self._photographs = _photographs(photographs) if photographs else None
        self._swaps = _swaps(swaps) if swaps else None
        self._no_faces = f"there is no {root / 'faces.csv'}"

    def ffpp(self):
        faces = self._of(FFPP)
        return self._score("FaceForensics++ crops", faces) if faces else self._no_faces

    def clips(self):
        return self._scored_clips

    def blended(self):
        result = {model: {} for model in self._models}
        for faces in filter(None, (self._of(*HELD_OUT), self._photographs)):
            self._say(f"self-blended fakes of {len(faces.rows):,} crops")
            self._cache.mkdir(parents=True, exist_ok=True)
            beside = Path(faces.root) / TABLE
            key = _digest([[row.file, row.sha256] for row in faces.rows])[:16]
            table = beside if beside.is_file() else self._cache / f"landmarks-{key}.csv"
            one = BlendedSet(str(faces.root), faces, _ANY_SIZE, seed=SEED, landmarks=table)
            without = Counter(row.dataset for row in one.absent)
            for model in self._models:
                for name, part in _by_dataset(model.scores(one, self._cache, UNCHANGED, sha256(table))).items():
                    result[model][name] = part, without[name]
        return result if any(result.values()) else self._no_faces

    def swapped(self):
        return self._score("swapped faces", self._swaps) if self._swaps else "no --swaps given"

    def degraded(self):
        faces = self._of(FFPP)
        if not faces:
            return self._no_faces
        scored = {condition: self._score(condition, faces, condition) for condition in DEGRADED}
        return {model: {name: rows[model] for name, rows in scored.items()} for model in self._models}

    def genuine(self):
        result = {model: {} for model in self._models}
        for faces in filter(None, (self._of(FFPP), self._of(*HELD_OUT), self._photographs)):
            for model, rows in self._score("genuine faces", faces).items():
                result[model] |= _by_dataset([row for row in rows if row.label == REAL])
        if not isinstance(self._scored_clips, str):
            for model, rows in self._scored_clips.items():
                result[model][CLIPS_NAME] = [row for row in rows if row.label == REAL]
        return result if any(result.values()) else self._no_faces

    @cached_property
    def _scored_clips(self):
        folder = self._root / "val_clips"
        if not folder.is_dir():
            return f"there is no {folder}"
        result = {}
        for model in self._models:
            self._say(f"clips by {model.name}")
            result[model] = score_clips(model, folder, self._cache)
        return result

    def _score(self, name, faces, condition=UNCHANGED):
        self._say(f"{name}: {len(faces.rows):,} crops")
        one = EvalSet(str(faces.root), faces, _ANY_SIZE)
        return {model: model.scores(one, self._cache, condition) for model in self._models}

    def _of(self, *datasets):
        """Validation crops of these data sets of `real_deepfakes`; None without any."""
        rows = tuple(row for row in self._real.rows if row.dataset in datasets) if self._real else ()
        return Faces(self._real.root, rows) if rows else None


def _validation(folder):
    """Validation rows of `real_deepfakes`, and those that packed training holds out of sets without a split."""
    faces = faces_of(folder)
    splits = [row["split"] for row in hold_out([asdict(row) for row in faces.rows], HOLD_OUT)]
    rows = tuple(row for row, split in zip(faces.rows, splits, strict=True) if split == "val")
    return Faces(faces.root, rows).with_digests()


def _photographs(table):
    faces = faces_of(table, "val")
    real = tuple(replace(row, dataset=PHOTOGRAPHS) for row in faces.rows if row.label == REAL)
    return Faces(faces.root, real).with_digests()


def _swaps(table):
    faces = faces_of(table, "val")
    # A fake shows two photographs; by both, all photographs would be one cluster. The target photograph counts.
    rows = tuple(replace(row, source_id=(row.video.partition("#")[0],)) for row in faces.rows)
    return Faces(faces.root, rows).with_digests()


def _by_dataset(rows):
    return {name: [row for row in rows if row.dataset == name] for name in dict.fromkeys(row.dataset for row in rows)}


def figures(rows: Sequence[ScoreRow], model: Model, level: str = "video") -> dict:
    """AUC and shares of verdicts, with intervals.

    Args:
        rows: scores of one set.
        model: its threshold and band give the verdicts.
        level: `video`, the mean of its crops, or `crop`.

    Returns:
        `auc`, `auc_ci95`, and for each class, `real` and `fake`, `{n, fake, fake_ci95, inconclusive,
        inconclusive_ci95, real, failed}`: the number of examples, the share of each verdict, the number without one.
    """
    videos = filled(aggregate_videos(rows), "as-chance")
    sources = groups(videos, by=(SOURCE,))
    if level == "crop":
        pairs = [(each, source) for video, source in zip(videos, sources, strict=True) for each in video.crops]
    else:
        pairs = list(zip(videos, sources, strict=True))
    examples, sources = zip(*pairs, strict=True)
    labels = [each.label for each in examples]
    scores = [each.fake_probability for each in examples]
    verdicts = [model.verdict(each.fake_probability) if each.status == OK else FAILED for each in examples]
    result = {"auc": None, "auc_ci95": None}
    if len(set(labels)) == 2:
        result = {"auc": round(auc(labels, scores), _DIGITS), "auc_ci95": _interval(auc, labels, scores, sources)}
    for label, name in ((REAL, "real"), (FAKE, "fake")):
        chosen = [number for number, other in enumerate(labels) if other == label]
        result[name] = _shares([verdicts[n] for n in chosen], [sources[n] for n in chosen])
    return result


def _shares(verdicts, sources):
    result = {"n": len(verdicts)}
    for verdict in _VERDICTS if verdicts else ():
        hits = [float(each == verdict) for each in verdicts]
        result[verdict] = round(float(np.mean(hits)), _DIGITS)
        if verdict != REAL_VERDICT:
            result[f"{verdict}_ci95"] = _interval(
                lambda _, values: float(np.mean(values)), [REAL] * len(hits), hits, sources
            )
    return result | {FAILED: verdicts.count(FAILED)}


def _interval(metric, labels, scores, sources):
    for label in set(labels):
        if len({source for source, other in zip(sources, labels, strict=True) if other == label}) < 2:
            return None
    low, high = bootstrap_interval(metric, labels, scores, sources)
    return [round(low, _DIGITS), round(high, _DIGITS)] if low < high else None


def _per_method(rows, model, level="video", ending=""):
    """Figures of the fakes of each method against all reals."""
    real = [row for row in rows if row.label == REAL]
    methods = sorted({row.method for row in rows if row.label == FAKE})
    return {
        method + ending: figures(real + [row for row in rows if row.method == method], model, level)
        for method in methods
    }


def _ffpp(rows, model):
    c40, result = [row for row in rows if row.compression == "c40"], {}
    for level in ("video", "crop"):
        result[f"by {level}"] = figures(rows, model, level)
        result |= _per_method(rows, model, level, f", by {level}")
        result |= {f"c40 only, by {level}": figures(c40, model, level)} if c40 else {}
    return result


def _swapped(rows, model):
    return {ALL: figures(rows, model, "crop")} | _per_method(rows, model, "crop")


def _clips(rows, model):
    return {ALL: figures(rows, model)} | _per_method(rows, model)


def _blended(rows, model):
    return {
        name: figures(part, model, "crop") | {"without_landmarks": without} for name, (part, without) in rows.items()
    }


def _degraded(rows, model):
    return {name: figures(part, model) for name, part in rows.items()}


def _genuine(rows, model):
    small = [row for name in (*HELD_OUT[:3], CLIPS_NAME) for row in rows.get(name, ())]
    return _degraded(rows | ({TOGETHER: small} if small else {}), model)


_FFPP_CROPS, _MEAN_OF_CROPS = "real_deepfakes/faces.csv, dataset ffpp", "video, mean of its crops"
_OTHERS = f"others: {HOLD_OUT:.0%} of the videos, by crc32 of their names, which packed training holds out"
# Of each part: title, figures, data, split, level.
_PARTS = {
    "ffpp": ("FaceForensics++ val crops", _ffpp, _FFPP_CROPS, "val", f"crop; {_MEAN_OF_CROPS}"),
    "clips": (
        "FaceForensics++ val clips, by Detector", _clips, "real_deepfakes/val_clips", "val",
        "clip, by tfdfd.Detector (MTCNN, 32 frames, mean of a track, highest track)",
    ),
    "blended": (
        "Self-blended fakes of genuine crops", _blended,
        "genuine crops, each with one self-blended fake, both degraded alike as photographs",
        f"photographs: val; {_OTHERS}", "crop",
    ),
    "swapped": (
        "Swapped faces, by crop", _swapped,
        "photographs and the same with another face swapped in ('tfdfd data swap'), as frames of H.264", "val", "crop",
    ),
    "degraded": (
        "FaceForensics++ val crops degraded, by video", _degraded,
        f"{_FFPP_CROPS}; crops are degraded as they are stored, then scaled", "val", _MEAN_OF_CROPS,
    ),
    "genuine": (
        "Genuine faces, by video", _genuine, "genuine faces by source",
        f"ffpp, clips, photographs: val; {_OTHERS}", f"{_MEAN_OF_CROPS}; clips by tfdfd.Detector",
    ),
}  # fmt: skip


def _part(part, rows, model):
    _, make, data, split, level = _PARTS[part]
    protocol = {"data": data, "split": split, "level": level, "threshold": model.threshold_text()}
    return {"protocol": protocol, "figures": make(rows, model)}


def _domains(rows):
    """P(fake) of the genuine and of the fake videos by domain, from which `tools.packed.finish` sets the band."""
    genuine = rows["genuine"]
    fakes = {part: rows[part] for part in ("ffpp", "clips") if not isinstance(rows[part], str)}
    kinds = {
        "FaceForensics++ val crops": ((FFPP,), fakes.get("ffpp", ())),
        "photographs (val photographs, FFHQ held out)": ((PHOTOGRAPHS, "ffhq"), ()),
        "videos (talking heads, GRID, VoxCeleb2 held out; FaceForensics++ val clips)": (
            (*HELD_OUT[:3], CLIPS_NAME),
            fakes.get("clips", ()),
        ),
    }
    domains = {}
    for name, (sources, fake) in kinds.items():
        real = [row for source in sources for row in genuine.get(source, ())]
        if real:
            domains[name] = [_video_scores(real), _video_scores([row for row in fake if row.label == FAKE])]
    return domains


def _video_scores(rows):
    return [video.fake_probability for video in aggregate_videos(rows) if video.status == OK]


def print_table(result: dict) -> None:
    """Prints one row per figure and one column per model."""
    from rich.console import Console
    from rich.table import Table

    models = result["models"]
    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(markup=False, width=70 + 30 * len(models))
    table = Table(title="Validation; AUC and shares of verdicts with 95 % intervals over videos")
    table.add_column("")
    for entry in models:
        table.add_column(entry["model"], overflow="fold")
    columns = [dict(table_rows(entry)) for entry in models]
    section = None
    for key in dict.fromkeys(key for column in columns for key in column):
        if key[0] != section:
            section = key[0]
            table.add_section()
            table.add_row(section, style="bold")
        table.add_row(f"  {key[1]}", *(column.get(key, "") for column in columns))
    console.print(table)


def table_rows(entry: dict) -> list[tuple[tuple[str, str], str]]:
    """`((section, label), text)` of each figure of one model."""
    rows = []
    for part, content in entry["parts"].items():
        title = _PARTS[part][0]
        rows += [((title, key), content[key]) for key in ("skipped", "without") if key in content]
        for name, figure in content.get("figures", {}).items():
            if name.endswith(", by crop"):
                continue
            if figure["auc"] is not None:
                counts = f"{figure['real']['n']:,} real, {figure['fake']['n']:,} fake"
                rows.append(((title, f"AUC {name} ({counts})"), _with_interval(figure, "auc", "{:.3f}")))
            for label, shares in _shown(part, name, figure):
                start = f"{name}, {label} (n {shares['n']:,})"
                for verdict in _VERDICTS if part == "clips" else _VERDICTS[:2]:
                    said = verdict if verdict == OPEN else f"called {verdict}"
                    rows.append(((title, f"{start}: {said}"), _with_interval(shares, verdict, "{:.1%}")))
                if shares[FAILED]:
                    rows.append(((title, f"{start}: without a score"), str(shares[FAILED])))
    for name, value in entry["summary"].items():
        rows.append((("Summary", name.replace("_", " ")), "–" if value is None else f"{value:.3f}"))
    return rows


def _shown(part, name, figure):
    """The classes whose shares of verdicts the table shows; the JSON has all."""
    classes = {"degraded": ("real",), "genuine": ("real",), "blended": ()}.get(part, ("real", "fake"))
    if part in ("ffpp", "clips", "swapped") and name not in ("by video", ALL):
        classes = ()
    return [(label, figure[label]) for label in classes]


def _with_interval(figure, name, form):
    if figure.get(name) is None:
        return "–"
    interval = figure.get(f"{name}_ci95")
    return form.format(figure[name]) + (f" [{', '.join(map(form.format, interval))}]" if interval else "")


def _digest(value) -> str:
    return hashlib.sha256(json.dumps([cv2.__version__, value], sort_keys=True).encode()).hexdigest()


def _code(*modules) -> list[str]:
    return [cv2.__version__, *(sha256(module.__file__) for module in modules)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
