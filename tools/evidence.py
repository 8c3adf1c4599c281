"""Writes what a score means into the card of a bundled model, from validation scores and crops alone.

    python -m tools.evidence tfdfd/efficientnet_lite0 --data ../shared/data --photographs utk/split.csv \
        --swaps swapped/faces.csv [--write]

- `likelihood_ratios`: the likelihood ratio of a score in each data domain, with its bounds; in the evaluation their
  cost (Cllr) and Tippett curves, of scores whose source the calibration had not seen.
- `false_positives`: genuine faces called fake by data set, and by age, sex and skin as UTKFace's file names state them.
- `tested_range`: ranges of size, sharpness, compression and pose of the validation crops, as they are and degraded.

The sets are those of `tools.validate`, whose cache it shares. Without `--write` it prints the figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.splits import groups
from tfdfd.data.tables import SOURCE
from tfdfd.evaluation.sets import CONDITIONS
from tfdfd.faces import build_detector
from tfdfd.faces.crop import BOTH, HIGH, LOW, MEASURES, measure_face, resize_crop
from tfdfd.files import write_atomically
from tfdfd.metrics import calibration
from tfdfd.metrics.intervals import bootstrap_interval
from tfdfd.metrics.scores import OK, ScoreRow, aggregate_videos
from tfdfd.weights import CARRIED, cache_folder, read_card, write_card
from tools import validate
from tools.validate import HELD_OUT, MIN_GENUINE, PHOTOGRAPHS, Model

_SPEECH = HELD_OUT[:3]
PARTS = ("ffpp", "clips", "blended", "swapped", "genuine")
DOMAINS = {
    "FaceForensics++ val crops": ["video"],
    "clips (talking heads, GRID, VoxCeleb2 held out; FaceForensics++ val clips)": ["video"],
    "photographs and other people's faces swapped in, val": ["image"],
    "photographs (val photographs, FFHQ held out) and faces blended of them": ["image"],
}
# Share of the crops of a domain that is outside a range, split between both ends of a range with two.
OUTSIDE = 0.01
_RULE = (
    f"of each measure, the central or lower or upper {1 - OUTSIDE:.0%} of the crops of at least one data set of "
    f"{MIN_GENUINE} validation crops or more: {{}}"
)
# Conditions under which validation found the model to hold, so that its range has them, too: by data set, name and
# change of an RGB image.
DEGRADED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "ffpp": ("H.264, CRF 32", lambda image: CONDITIONS["H.264, CRF 32"](image, np.random.default_rng(0))),
    "photographs": (
        "half their size",
        lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    ),
}
_AGES = ((18, 29), (30, 44), (45, 59), (60, 120))
_SEXES, _SKINS = ("male", "female"), ("White", "Black", "Asian", "Indian", "other")
_LEVEL, _DIGITS = 0.95, 4
_PLOTS = Path(__file__).resolve().parents[1] / "docs/models"
_OLD_LIMIT = "scores by group were not measured."
_NEW_LIMIT = "genuine faces called fake are counted by group under false_positives."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.evidence")
    parser.add_argument("model", metavar="HANDLE", help="handle of a bundled model")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder that holds real_deepfakes")
    parser.add_argument("--photographs", type=Path, required=True, metavar="FACES.csv", help="UTKFace with a val split")
    parser.add_argument("--swaps", type=Path, required=True, metavar="FACES.csv", help="set of 'tfdfd data swap'")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "validation", help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="write the card and its Tippett plot (docs/)")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    model = Model(options.model)
    files = [file for file in CARRIED.glob("*.json") if json.loads(file.read_bytes())["sha256"] == model.record.sha256]
    if not files:
        parser.error(f"{options.model} is not a bundled model")
    root = options.data / "real_deepfakes"
    run = validate._Run([model], root, options.photographs, options.swaps, options.cache, validate._say)
    facts = evidence(model, {part: getattr(run, part)()[model] for part in PARTS})
    sets = validate._validation(root), validate._photographs(options.photographs)
    crops = [(row.dataset, Path(faces.path(number))) for faces in sets for number, row in enumerate(faces.rows)]
    facts |= tested_range(crops, model.size)
    print(json.dumps({name: value for name, value in facts.items() if name != "tippett"}, indent=1))
    if options.write:
        card = read_card(files[0]) | facts
        card["limits"] = [limit.replace(_OLD_LIMIT, _NEW_LIMIT) for limit in card["limits"]]
        write_card(files[0], card)
        _plot(facts["tippett"], _PLOTS / f"tippett_{card['model']}.png")


def evidence(model: Model, rows: dict) -> dict:
    """`likelihood_ratios`, `likelihood_ratio_scores`, `tippett` and `false_positives` of a card."""
    facts: dict = {"likelihood_ratios": [], "likelihood_ratio_scores": [], "tippett": []}
    for (domain, kinds), scored in zip(DOMAINS.items(), _domains(rows), strict=True):
        videos = [video for video in aggregate_videos(scored) if video.status == OK]
        labels, scores = [video.label for video in videos], [video.fake_probability for video in videos]
        sources = groups(videos, by=(SOURCE,))
        fitted = calibration.fit_likelihood_ratio(labels, scores)
        facts["likelihood_ratios"].append({"domain": domain, "kinds": kinds} | fitted)
        values = calibration.cross_fitted(labels, scores, sources)
        # The bootstrap takes scores in [0, 1]; an LR and its posterior at even odds are the same thing.
        posterior = 1 / (1 + 10**-values)
        interval = bootstrap_interval(_cllr_of_posterior, labels, posterior, sources)
        low, high = fitted["log10_bounds"]
        facts["likelihood_ratio_scores"].append(
            {
                "domain": domain,
                "n_real": fitted["n_real"],
                "n_fake": fitted["n_fake"],
                "lowest_lr": float(f"{10**low:.3g}"),
                "highest_lr": float(f"{10**high:.3g}"),
                "cllr": round(calibration.cllr(labels, values), _DIGITS),
                "cllr_ci95": [round(float(end), _DIGITS) for end in interval],
                "cllr_min": round(calibration.cllr_min(labels, scores), _DIGITS),
            }
        )
        facts["tippett"].append({"domain": domain} | calibration.tippett(labels, values))
    return facts | {"false_positives": list(false_positives(rows["genuine"], model))}


def _cllr_of_posterior(labels, posterior):
    posterior = np.asarray(posterior)
    return calibration.cllr(labels, np.log10(posterior) - np.log10(1 - posterior))


def _domains(rows: dict) -> Iterator[list[ScoreRow]]:
    genuine = rows["genuine"]
    yield rows["ffpp"]
    yield [row for name in _SPEECH for row in genuine.get(name, ())] + rows["clips"]
    yield rows["swapped"]
    blended = [row for name in (PHOTOGRAPHS, "ffhq") for row in rows["blended"][name][0]]
    yield blended


def false_positives(genuine: dict[str, list[ScoreRow]], model: Model) -> Iterator[dict]:
    """Yields the shares of genuine videos and pictures that are called fake, with exact (Clopper-Pearson) intervals."""
    for name, rows in genuine.items():
        yield _share("data set", name, _verdicts(rows, model))
    by_group: dict[tuple[str, str], list[str]] = {}
    for row in genuine[PHOTOGRAPHS]:
        for group in utkface_groups(row.video):
            by_group.setdefault(group, []).append(model.verdict(row.fake_probability))
    for (kind, group), verdicts in sorted(by_group.items()):
        yield _share(f"photographs by {kind}", group, verdicts)


def utkface_groups(name: str) -> list[tuple[str, str]]:
    """Age, sex and skin group of a photograph by UTKFace's file name, `[age]_[gender]_[race]_[date]…`.

    The set's labels were estimated by its authors; a name that lacks one gives `not stated`.
    """
    age, *rest = Path(name).name.split("_")
    sex, skin = (rest[n] if len(rest) > n and len(rest[n]) == 1 else "" for n in (0, 1))
    years = next((f"{low} to {high}" for low, high in _AGES if age.isdigit() and low <= int(age) <= high), "not stated")
    years = years.replace("60 to 120", "60 and over")
    return [("age", years), ("sex", _named(_SEXES, sex)), ("skin group", _named(_SKINS, skin))]


def _named(names: Sequence[str], digit: str) -> str:
    return names[int(digit)] if digit.isdigit() and int(digit) < len(names) else "not stated"


def _verdicts(rows, model):
    return [model.verdict(video.fake_probability) for video in aggregate_videos(rows) if video.status == OK]


def _share(by: str, group: str, verdicts: Sequence[str]) -> dict:
    from scipy.stats import binomtest

    n, hits = len(verdicts), verdicts.count("fake")
    low, high = binomtest(hits, n).proportion_ci(_LEVEL, method="exact")
    return {
        "by": by,
        "group": group,
        "n_real": n,
        "called_fake": hits,
        "fpr": round(hits / n, _DIGITS),
        "fpr_ci95": [round(float(low), _DIGITS), round(float(high), _DIGITS)],
        "called_inconclusive": verdicts.count("inconclusive"),
    }


def tested_range(crops: Sequence[tuple[str, Path]], size: int) -> dict:
    """The ranges of the measures over validation crops.

    Returns:
        `tested_range` and `tested_range_shares` of a card: `{measures}`, `[low, high]` by measure; and `{rule, n,
        outside}`, the share of all n crops outside each.
    """
    detector = build_detector("mtcnn")
    measured: dict[str, list[dict[str, float]]] = {}
    degraded: dict[str, list[dict[str, float]]] = {}
    for dataset, file in crops:
        image = cv2.imread(str(file))[..., ::-1]
        measured.setdefault(dataset, []).append(_measured(image, size, detector))
        if dataset in DEGRADED:
            name, change = DEGRADED[dataset]
            changed = _measured(change(np.ascontiguousarray(image)), size, detector)
            degraded.setdefault(f"{dataset}, {name}", []).append(changed)
    large = {name: values for name, values in (measured | degraded).items() if len(values) >= MIN_GENUINE}
    everything = [one for values in measured.values() for one in values]
    ranges, outside = {}, {}
    for measure, (_, ends) in MEASURES.items():
        share = OUTSIDE / 2 if ends == BOTH else OUTSIDE
        columns = [[one[measure] for one in values if measure in one] for values in large.values()]
        low = min(float(np.quantile(column, share)) for column in columns)
        high = max(float(np.quantile(column, 1 - share)) for column in columns)
        low, high = (None if ends == HIGH else round(low, _DIGITS)), (None if ends == LOW else round(high, _DIGITS))
        ranges[measure] = [low, high]
        values = [one[measure] for one in everything if measure in one]
        beyond = [(low is not None and value < low) or (high is not None and value > high) for value in values]
        outside[measure] = round(float(np.mean(beyond)), _DIGITS)
    counts = ", ".join(f"{name} ({len(values)})" for name, values in large.items())
    shares = {"rule": _RULE.format(counts), "n": len(everything), "outside": outside}
    return {"tested_range": {"measures": ranges}, "tested_range_shares": shares}


def _measured(image: np.ndarray, size: int, detector) -> dict[str, float]:
    image = np.ascontiguousarray(image)
    # A crop ends near the face, where the detector expects more picture.
    border = max(image.shape) // 4
    padded = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REPLICATE)
    faces = detector.detect([padded], [1.0])[0]
    return measure_face(image, resize_crop(image, size), faces[0].landmarks if faces else None)


def _plot(curves: Sequence[dict], file: Path) -> None:
    import io

    from matplotlib.figure import Figure

    figure = Figure((9, 6.4), layout="constrained")
    for axes, curve in zip(figure.subplots(2, 2).flat, curves, strict=True):
        for name, color in (("real", "tab:blue"), ("fake", "tab:red")):
            axes.step(curve["log10_lr"], curve[name], where="pre", color=color, label=name)
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.set(ylim=(0, 1), xlabel="log10 LR", ylabel="share with this LR or more")
        axes.set_title(curve["domain"].partition(" (")[0], fontsize=9)
        axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    write_atomically(file, buffer.getvalue())


if __name__ == "__main__":
    main()
