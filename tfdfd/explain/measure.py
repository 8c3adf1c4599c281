"""Localization accuracy of heat maps, measured on synthetic fakes with known masks.

Each method is compared with a centered ellipse, which ignores the picture. A heat map is evidence of where a face was
altered only if its method does better.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.tables import REAL
from tfdfd.explain import LIME, OF_CROPS, Explainer
from tfdfd.files import WorkDir, read_description, write_atomically
from tfdfd.metrics.intervals import bootstrap_mean

BLENDED, SWAPPED = FAKES = "blended", "swapped"
ELLIPSE = "ellipse"
# Metrics, and whether more is better.
METRICS = {"pointing": True, "iou": True, "insertion": True, "deletion": False}
_NAMES = {name: name for name in METRICS} | {"iou": "IoU"}
# Number of crops that are explained with a second seed as well, for methods that are random.
_REPEATED = 5
_STEPS = 20
_PROTOCOL = (
    "Fakes are made from real crops, so that the altered pixels are known (mask: at least half of its maximum). "
    "pointing: share of maps whose hottest pixel is in the mask. iou: of mask and hottest pixels, at the one share of "
    "pixels that is best for the method over all crops. insertion and deletion: area under P(fake) as the hottest "
    "pixels of the fake are put into the genuine picture of the pair (more is better), or are replaced by its pixels "
    "(less is better). stability: rank correlation of maps of two seeds; 1 where nothing is drawn. better: the 95 % "
    "interval of the paired difference to the ellipse (bootstrap over crops) lies on the better side of 0."
)
_STORED = Path(__file__).with_name("measured.json")


@dataclass(frozen=True)
class MaskedPair:
    """A genuine crop and the fake made from it, both RGB uint8, and their difference mask, bool `(size, size)`."""

    real: np.ndarray
    fake: np.ndarray
    mask: np.ndarray


def choose_faces(
    faces: str | os.PathLike, fakes: str, count: int, *, split: str | None = "test", seed: int = 0
) -> Faces:
    """Random real crops of a face set, enough for `count` fakes. No image is opened.

    Args:
        faces: a face set with real crops.
        fakes: `blended` (`tfdfd.data.self_blending`) or `swapped` (`tfdfd.data.face_swapping`).
        count: number of fakes.
        split: split of the set; None: all crops, for blended fakes only.
        seed: seed of the selection.

    Raises:
        ValueError: an unknown kind of fakes, or an unsuitable set.
    """
    if fakes not in FAKES:
        raise ValueError(f"fakes must be {' or '.join(FAKES)}; received {fakes!r}.")
    if count < 2:
        raise ValueError(f"at least 2 crops are needed for an interval; received {count}.")
    if fakes == SWAPPED and split is None:
        raise ValueError("swapped fakes take donors from the same split; give a set with splits, and the split.")
    every = faces_of(faces, split)
    real = [row for row in every.rows if row.label == REAL]
    if not real:
        raise ValueError(f"{every.root} has no real crop of split {split!r}; fakes are made from real crops.")
    # Some crops have no landmarks, and swaps need more crops to find similar donors.
    wanted = max(5 * count, 200) if fakes == SWAPPED else count + count // 5 + 4
    order = np.random.default_rng(seed).permutation(len(real))[:wanted]
    return Faces(every.root, tuple(real[i] for i in order))


def masked_pairs(
    faces: Faces,
    fakes: str,
    count: int,
    size: int,
    *,
    seed: int = 0,
    landmarks: str | os.PathLike | None = None,
) -> Iterator[MaskedPair]:
    """Up to `count` pairs from the crops of `choose_faces`.

    Args:
        faces, fakes, count: as for `choose_faces`.
        size: side of the crops in pixels.
        seed: seed of the fakes.
        landmarks: file of the landmarks; None: `landmarks.csv` beside the crops.

    Raises:
        ValueError: no crop has landmarks, or a crop cannot be read; SciPy or PyAV is missing for swapped ones.
    """
    pairs: Any
    if fakes == BLENDED:
        from tfdfd.data.pair_sets import BlendedPairs

        pairs = BlendedPairs(faces, size, split=None, seed=seed, landmarks=landmarks)
    else:
        from tfdfd.data.pair_sets import SwappedPairs

        splits: Any = tuple({row.split for row in faces.rows})
        pairs = SwappedPairs(faces, size, splits=splits, seed=seed, landmarks=landmarks)
    number = made = 0
    while made < count and number < len(pairs):
        pair, mask = pairs.pair_and_mask(number, None) if fakes == BLENDED else pairs.pair_and_mask(number)
        number += 1
        if mask.max() > 0:
            made += 1
            yield MaskedPair(pair[0], pair[1], mask >= mask.max() / 2)


def work_folder(folder: str | os.PathLike, request: dict) -> WorkDir:
    """The locked folder `work` of `measure`; an existing one is resumed only by an equal request."""
    return WorkDir(folder, "tfdfd explain --measure", request, holds="set of measurements")


def measure(
    explainer: Explainer,
    pairs: Iterator[MaskedPair],
    methods: tuple[str, ...] = OF_CROPS,
    progress: Callable[[int, str], None] = lambda number, method: None,
    work: str | os.PathLike | None = None,
) -> dict:
    """Measures each method and the ellipse on pairs.

    Args:
        explainer: explains by the methods.
        pairs: as returned by `masked_pairs`.
        methods: some of `OF_CROPS`.
        progress: called before each method of each pair.
        work: folder (`work_folder`) that keeps the values of each pair, a JSON file each. Values of an equal pair are
            taken from there, so that an interrupted call goes on, and a call with more methods measures only those.

    Returns:
        `crops`, `called_fake` (fakes above the record's threshold), `protocol`, and `methods`: by name `METRICS`,
        `iou_share`, `stability`, `seconds` and `cpu_seconds` per crop, and for each metric `against_ellipse`:
        `difference`, `ci95`, `better`.

    Raises:
        ValueError: there are no pairs.
    """
    shown = (*methods, ELLIPSE)
    results: dict[str, dict[str, Any]] = {
        method: {name: [] for name in (*METRICS, "stability", "seconds", "cpu_seconds")} for method in shown
    }
    called = crops = 0
    for number, pair in enumerate(pairs):
        file = Path(work) / f"{number:06}.json" if work is not None else None
        values = _measured_before(file, pair)
        if "called_fake" not in values:
            values["called_fake"] = bool(explainer.score(pair.fake[None])[0] >= explainer.record.threshold)
        for method in shown:
            progress(number, method)
            if method not in values["methods"]:
                values["methods"][method] = _values(explainer, pair, method, again=number < _REPEATED)
                if file:
                    write_atomically(file, json.dumps(values) + "\n")
            for name, value in values["methods"][method].items():
                results[method][name].append(np.array(value) if name == "iou" else value)
        crops += 1
        called += values["called_fake"]
    if not crops:
        raise ValueError("no fake could be made from these crops, so there is nothing to measure.")
    values = {method: _settled(result) for method, result in results.items()}
    figures = {method: _figures(value, results[method]) for method, value in values.items()}
    for method in methods:
        figures[method]["against_ellipse"] = {
            name: _compared(values[method][name], values[ELLIPSE][name], METRICS[name]) for name in METRICS
        }
    return {"crops": crops, "called_fake": int(called), "protocol": _PROTOCOL, "methods": figures}


def _measured_before(file: Path | None, pair: MaskedPair) -> dict[str, Any]:
    """Values of a pair in a file of `work`; without methods if there is no file, or if it is of another pair."""
    digest = hashlib.sha256(b"".join(one.tobytes() for one in (pair.real, pair.fake, pair.mask))).hexdigest()
    if file and file.exists():
        values = read_description(file, "measured pair")
        if values.get("pair_sha256") == digest:
            return values
    return {"pair_sha256": digest, "methods": {}}


def _values(explainer: Explainer, pair: MaskedPair, method: str, again: bool) -> dict[str, Any]:
    """Values of one method on one pair; `again`: explain once more with another seed if the method is random."""
    values: dict[str, Any] = {}
    if method == ELLIPSE:
        heat = centered_ellipse(explainer.size)
    else:
        start, cpu = time.perf_counter(), time.process_time()
        heat = explainer.explain(pair.fake, method).heat
        values = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    inserted, deleted = insertion_and_deletion(heat, pair, explainer.score)
    values |= {"pointing": pointing(heat, pair.mask), "iou": ious(heat, pair.mask).tolist()}
    values |= {"insertion": inserted, "deletion": deleted}
    if method == LIME and again:
        values["stability"] = rank_correlation(heat, _with_other_seed(explainer, pair.fake))
    return values


def centered_ellipse(size: int) -> np.ndarray:
    """A heat map that decreases from the center of the crop, in ellipses 4/3 as high as wide."""
    place = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return -np.hypot(place[None, :] / 3, place[:, None] / 4).astype(np.float32)


def pointing(heat: np.ndarray, mask: np.ndarray) -> float:
    """1 if the hottest pixel is in the mask, else 0; with ties, the share of the hottest pixels in the mask."""
    return float(mask[heat == heat.max()].mean())


def ious(heat: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Intersection over union of the mask and the hottest 1 %, 2 % … 99 % of the pixels, float64 `(99,)`."""
    inside = np.cumsum(mask.ravel()[_hottest_first(heat)])
    counts = np.round(np.arange(1, 100) / 100 * mask.size).astype(int)
    both = inside[counts - 1]
    return both / (counts + mask.sum() - both)


def insertion_and_deletion(
    heat: np.ndarray, pair: MaskedPair, score: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Areas under P(fake) over the share of pixels, hottest first, that come from the fake or from the real picture.

    As in RISE (Petsiuk et al., BMVC 2018), but with the genuine picture of the pair instead of a black or blurred one,
    which a forgery detector may well call fake.
    """
    order = _hottest_first(heat)
    counts = np.round(np.linspace(0, 1, _STEPS + 1) * len(order)).astype(int)
    areas = []
    for start, other in ((pair.real, pair.fake), (pair.fake, pair.real)):
        pictures = np.repeat(start.reshape(1, -1, 3), len(counts), axis=0)
        for picture, count in zip(pictures, counts, strict=True):
            picture[order[:count]] = other.reshape(-1, 3)[order[:count]]
        scores = score(pictures.reshape(-1, *start.shape)).astype(np.float64)
        areas.append(float(((scores[1:] + scores[:-1]) / 2).mean()))
    return areas[0], areas[1]


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of the pixels of two maps; 0 if one of them is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(heat.ravel()) for heat in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


@lru_cache(maxsize=1)
def stored() -> list[dict]:
    """The bundled results of `tfdfd explain --measure`, one for each kind of fakes."""
    return json.loads(_STORED.read_text("utf-8"))


def verdict_on(method: str, handle: str, sha256: str, numbers: bool = True) -> str:
    """One or two sentences on whether a method did better than the ellipse with these weights.

    Args:
        method: one of `OF_CROPS`.
        handle, sha256: of the weights.
        numbers: include the values of both.
    """
    measured = [run for run in stored() if run["model"]["sha256"] == sha256 and method in run["methods"]]
    if not measured:
        return f"Not measured with {handle}: whether this map is better than an ellipse in the middle is not known."
    return " ".join(_sentence(method, run, numbers) for run in measured)


def write_figures(figures: dict, path: str | os.PathLike) -> None:
    """Writes results as JSON, atomically."""
    write_atomically(path, json.dumps(figures, indent=1) + "\n")


def _sentence(method: str, run: dict[str, Any], numbers: bool) -> str:
    against = run["methods"][method]["against_ellipse"]
    won = [name for name in METRICS if against[name]["better"]]
    lost = [name for name in METRICS if name not in won]
    verdict = "It did not beat an ellipse in the middle of the crop"
    if won:
        verdict = f"It beat an ellipse in the middle of the crop in {_listed(won)}"
        verdict += f", not in {_listed(lost)}" if lost else ""
    if numbers:
        own, ellipse = (run["methods"][name] for name in (method, ELLIPSE))
        verdict += ": " + ", ".join(f"{_NAMES[name]} {own[name]:.2f} (ellipse {ellipse[name]:.2f})" for name in METRICS)
    return f"Measured on {run['crops']} {run['fakes']} faces: {verdict}."


def _listed(names: list[str]) -> str:
    *most, last = [_NAMES[name] for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def _with_other_seed(explainer: Explainer, crop: np.ndarray) -> np.ndarray:
    seed = explainer.seed
    explainer.seed = seed + 1
    try:
        return explainer.explain(crop, LIME).heat
    finally:
        explainer.seed = seed


def _settled(result: Any) -> dict[str, Any]:
    """One value per crop and metric; IoU at the share that is best over all crops."""
    curves = np.stack(result["iou"])
    best = int(curves.mean(axis=0).argmax())
    return {name: np.array(result[name]) for name in METRICS if name != "iou"} | {
        "iou": curves[:, best],
        "iou_share": (best + 1) / 100,
    }


def _figures(values: Any, result: Any) -> dict[str, Any]:
    figures = {name: round(float(values[name].mean()), 4) for name in METRICS}
    figures["iou_share"] = values["iou_share"]
    figures["stability"] = round(float(np.mean(result["stability"])), 4) if result["stability"] else 1.0
    for name in ("seconds", "cpu_seconds"):
        figures[name] = round(float(np.median(result[name])), 3) if result[name] else 0.0
    return figures


def _compared(values: Any, ellipse: Any, more_is_better: bool) -> dict[str, Any]:
    differences = values - ellipse
    low, high = bootstrap_mean(differences)
    better = low > 0 if more_is_better else high < 0
    return {
        "difference": round(float(differences.mean()), 4),
        "ci95": [round(low, 4), round(high, 4)],
        "better": bool(better),
    }


def _hottest_first(heat: np.ndarray) -> np.ndarray:
    return np.argsort(-heat.ravel(), kind="stable")
