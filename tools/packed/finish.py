"""Turns a packed training into a calibrated run folder with a card, for `tools.make_card` and `--model`.

    python -m tools.packed.finish PACKED_RUN --faces FACES.csv [--also UTK.csv …] -o RUN

Platt scaling is fitted on the labeled validation crops of `--faces`, with both classes weighted equally (the set has
four fakes per genuine crop, a ratio that P(fake) must not learn), and folded into the last layer. With `--domains
VALIDATION.json`, the inconclusive band is set by the worst domain: run once without it, validate that run alone
(`python -m tools.validate`), and run again with its output into a new folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tfdfd.data.crops import faces_of
from tfdfd.files import write_atomically
from tfdfd.metrics.thresholds import count_within, genuine_tails
from tfdfd.models import build
from tfdfd.recipes import list_recipes
from tfdfd.training.calibrate import finish, fold
from tfdfd.training.crop_set import CropSet, score
from tfdfd.training.run_folder import CARD, RunFolder
from tfdfd.training.training_fingerprints import write_fingerprints
from tfdfd.weights.loading import load_safetensors, read_safetensors
from tfdfd.weights.saving import FORMS, compact, expand, named_weights

# Largest shares of the genuine videos of each domain that may be called fake and inconclusive.
FAKE_BOUND, OPEN_BOUND = 0.05, 0.3
# A domain with fewer genuine videos joins others of its kind.
MIN_GENUINE = 20
_RULE = (
    "by the worst domain of validation: of no domain more than {:.0%} of the genuine videos score above the band, or "
    "more than {:.0%} in it; domains: {}"
)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.packed.finish")
    parser.add_argument("run", type=Path, metavar="PACKED_RUN", help="finished run of tools.train_packed")
    parser.add_argument("--faces", type=Path, required=True, help="labeled face set whose val split calibrates")
    parser.add_argument("--also", type=Path, action="append", default=[], help="other face sets of the pack")
    parser.add_argument("--domains", type=Path, help="output of tools.validate: sets the band by the worst domain")
    parser.add_argument("--base", help="frozen base weights of the network: clip:FILE")
    parser.add_argument("--dtype", default="float32", choices=FORMS, help="form of the bundled weights")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    options = parser.parse_args(arguments)
    packed = json.loads((options.run / "log.json").read_text("utf-8"))
    settings = packed["settings"]
    packed["dtype"] = options.dtype
    recipe = list_recipes()[f"sbi-{settings['network'].replace('_', '-')}"].changed(
        ["data=crops", "calibration=none", f"size={settings['size'] or 'none'}", f"weights={settings['weights']}"]
    )
    model = build(settings["network"], options.base, _shape(settings), **settings["arguments"])
    weights = options.run / "weights.safetensors"
    if options.base:
        trained = read_safetensors(weights).keys()
        base = {name: np.array(v.value) for name, v in named_weights(model).items() if name not in trained}
        load_safetensors(model, weights, base)
    else:
        load_safetensors(model, weights)
    # Thresholds must be chosen with the weights as they will be rounded.
    rounded = expand(compact({name: np.array(v.value) for name, v in named_weights(model).items()}, options.dtype), "")
    for name, variable in named_weights(model).items():
        variable.assign(rounded[name])
    model.jit_compile = False
    crops = CropSet(options.faces, recipe, model.input_shape[1])
    with RunFolder(options.output, recipe, crops.digests(), "jax", {"packed": packed}) as run:
        faces = [faces_of(file) for file in (options.faces, *options.also)]
        write_fingerprints(
            run.path,
            {split: [row for each in faces for row in each.rows if row.split == split] for split in ("train", "val")},
            faces[0].root,
        )
        card = {"arguments": settings["arguments"], "calibration": calibrate(model, crops)}
        finish(model, recipe, crops, run, {"epochs": None, "best_epoch": None, "steps": settings["steps"]}, card=card)
        if options.domains:
            validation = json.loads(options.domains.read_text("utf-8"))
            set_band(run.path / CARD, validation["models"][0]["domains"])


def calibrate(model, crops) -> dict:
    """Fits Platt scaling on validation crops with equal class weights and folds it into the last layer."""
    from sklearn.linear_model import LogisticRegression

    rows, scores = score(model, crops)
    scores = np.clip(np.float64(scores), 1e-6, 1 - 1e-6)
    labels = np.array([row.label for row in rows])
    logits = np.log(scores / (1 - scores))[:, None]
    fitted = LogisticRegression(C=np.inf, class_weight="balanced").fit(logits, labels)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    fold(model, slope, offset)
    described = (
        f"validation crops ({(labels == 0).sum():,} real, {(labels == 1).sum():,} fake), both classes weighing the same"
    )
    return {
        "method": "platt",
        "slope": slope,
        "offset": offset,
        "fitted_on": described,
        "where": "in the last layer's weights",
    }


def set_band(card_file: Path, domains: dict[str, list[list[float]]]) -> None:
    """Writes threshold and band by the worst domain, and the tails of the genuine videos, into a card.

    Args:
        card_file: card of the run.
        domains: P(fake) of the genuine and of the fake videos by domain.
    """
    card = json.loads(card_file.read_text("utf-8"))
    low, high = worst_band({name: np.sort(scores[0]) for name, scores in domains.items()})
    counts = ", ".join(f"{name} ({len(scores[0])})" for name, scores in domains.items())
    card["inconclusive_band"] = [low, high]
    card["threshold"] = float(np.clip(card["operating_points"]["balanced"]["threshold"], low, high))
    card["genuine_tails"] = genuine_tails({name: scores[0] for name, scores in domains.items()})
    card["inconclusive_rule"] = _RULE.format(FAKE_BOUND, OPEN_BOUND, counts)
    write_atomically(card_file, json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def worst_band(genuine: dict[str, np.ndarray]) -> tuple[float, float]:
    """The narrowest band whose bounds hold in every domain.

    Args:
        genuine: sorted P(fake) of the genuine videos of each domain, at least `MIN_GENUINE` each.
    """
    few = {name: len(scores) for name, scores in genuine.items() if len(scores) < MIN_GENUINE}
    if few:
        raise ValueError(f"domains need {MIN_GENUINE} genuine videos each; {few} have fewer: join them with others.")
    high = max(float(scores[-1 - count_within(FAKE_BOUND, len(scores))]) for scores in genuine.values())
    lows = []
    for scores in genuine.values():
        below = scores[scores <= high]
        lows.append(float(below[max(0, len(below) - count_within(OPEN_BOUND, len(scores)))]))
    return max(lows), high


def _shape(settings):
    return (settings["size"], settings["size"], 3) if settings["size"] else None


if __name__ == "__main__":
    main()
