"""Turns a packed training into a calibrated run folder with a card, for `tools.make_card` and `--model`.

    python -m tools.packed.finish TRAINED_RUN --faces FACES.csv [--also UTK.csv …] -o RUN

TRAINED_RUN is a run of `tools.train_packed` or of `tfdfd train`. `--size` gives the network a larger input than it was
trained on, and `--average MODEL SHARE` averages its weights with those of the model that its training began with
(Wortsman et al., Robust fine-tuning of zero-shot models, arXiv:2109.01903).

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
from tfdfd.metrics.calibration import between, count_within, genuine_tails
from tfdfd.models import build
from tfdfd.recipes import list_recipes
from tfdfd.training.calibrate import finish, fold
from tfdfd.training.crop_set import CropSet, score
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import CARD, WEIGHTS, RunFolder, finished_run, write_fingerprints
from tfdfd.weights.loading import MASK_HEAD, load_safetensors, load_weights, save_mask_head
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.saving import FORMS, compact, expand, named_weights
from tfdfd.weights.store import locate
from tools.packed.settings import start_of

# Largest shares of the genuine videos of each domain that may be called fake and inconclusive. Of sets that were not
# seen, at most 30 % should be left open; the domain that decides has few videos, hence the margin.
FAKE_BOUND, OPEN_BOUND = 0.05, 0.25
# A domain with fewer genuine videos joins others of its kind.
MIN_GENUINE = 20
_RULE = (
    "by the worst domain of validation: of no domain more than {:.0%} of the genuine videos score above the band, or "
    "more than {:.0%} in it; domains: {}"
)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.packed.finish")
    parser.add_argument(
        "run", type=Path, metavar="TRAINED_RUN", help="finished, of tools.train_packed or of 'tfdfd train'"
    )
    parser.add_argument("--faces", type=Path, required=True, help="labeled face set whose val split calibrates")
    parser.add_argument("--also", type=Path, action="append", default=[], help="other face sets of the pack")
    parser.add_argument("--domains", type=Path, help="output of tools.validate: sets the band by the worst domain")
    parser.add_argument("--base", help="frozen base weights of the network: clip:FILE")
    parser.add_argument("--size", type=int, help="input side of the finished network (default: that of the training)")
    parser.add_argument(
        "--average",
        nargs=2,
        metavar=("MODEL", "SHARE"),
        help="average the weights with those of MODEL, which get 1 - SHARE",
    )
    parser.add_argument("--dtype", default="float32", choices=FORMS, help="form of the bundled weights")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    options = parser.parse_args(arguments)
    recipe, settings, how = trained_run(options.run, options.size)
    how |= {"dtype": options.dtype}
    shape = (recipe.size, recipe.size, 3) if recipe.size else None
    model = build(recipe.network, options.base, shape, **settings)
    weights = options.run / WEIGHTS
    if options.base:
        trained = read_safetensors(weights).keys()
        base = {name: v.numpy() for name, v in named_weights(model).items() if name not in trained}
        load_safetensors(model, weights, base)
    else:
        load_safetensors(model, weights)
    if options.average:
        how["average"] = average(model, options.average[0], float(options.average[1]), settings)
    # Thresholds must be chosen with the weights as they will be rounded.
    rounded = expand(compact({name: v.numpy() for name, v in named_weights(model).items()}, options.dtype), "")
    for name, variable in named_weights(model).items():
        variable.assign(rounded[name])
    model.jit_compile = False
    crops = CropSet(options.faces, recipe, model.input_shape[1])
    with RunFolder(options.output, recipe, crops.digests(), how.pop("backend"), {"packed": how}) as run:
        faces = [faces_of(file) for file in (options.faces, *options.also)]
        write_fingerprints(
            run.path,
            {split: [row for each in faces for row in each.rows if row.split == split] for split in ("train", "val")},
            faces[0].root,
        )
        card = {"arguments": settings, "calibration": calibrate(model, crops)}
        finish(model, recipe, crops, run, how.pop("result"), card=card)
        if options.domains:
            validation = json.loads(options.domains.read_text("utf-8"))
            set_band(run.path / CARD, validation["models"][0]["domains"])
        head = options.run / f"{MASK_HEAD}.npz"
        if head.is_file():
            with np.load(head) as arrays:
                save_mask_head(dict(arrays), run.path / WEIGHTS)


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
    """The narrowest band whose bounds hold in every domain, with ends halfway between two genuine scores.

    Args:
        genuine: sorted P(fake) of the genuine videos of each domain, at least `MIN_GENUINE` each.

    Raises:
        ValueError: a domain has fewer.
    """
    few = {name: len(scores) for name, scores in genuine.items() if len(scores) < MIN_GENUINE}
    if few:
        raise ValueError(f"domains need {MIN_GENUINE} genuine videos each; {few} have fewer: join them with others.")
    high = max(between(scores, len(scores) - count_within(FAKE_BOUND, len(scores))) for scores in genuine.values())
    lows = []
    for scores in genuine.values():
        below = scores[scores <= high]
        lows.append(between(below, max(0, len(below) - count_within(OPEN_BOUND, len(scores)))))
    return max(lows), high


def average(model, other: str, share: float, arguments: dict) -> dict:
    """Averages the weights of a network with those of another model of the same network, in place.

    Args:
        model: the network.
        other: handle, weights file with its card, or run folder.
        share: share of the network's own weights in the mean, from 0 to 1.
        arguments: arguments of the network's builder.

    Returns:
        The digest of the other model and the share.

    Raises:
        ValueError: the share is out of range, or the other model is of another network.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"SHARE is {share}; expected a number from 0 to 1.")
    record, path = locate(other)
    theirs = _without_freeze(record.arguments or {})
    if (record.model, theirs) != (model.name, arguments):
        raise ValueError(f"{other} is {record.model} with {theirs}; expected {model.name} with {arguments}.")
    beside = build(record.model, None, model.input_shape[1:], **arguments)
    load_weights(beside, record, path)
    pairs = zip(model.get_weights(), beside.get_weights(), strict=True)
    model.set_weights([share * own + (1 - share) * their for own, their in pairs])
    return {"model": record.handle, "sha256": record.sha256, "share": share}


def trained_run(folder: Path, size: int | None) -> tuple[Recipe, dict, dict]:
    """The recipe, the builder's arguments, and how a run was trained."""
    if (folder / "run.json").is_file():
        run = finished_run(folder)
        recipe = Recipe.from_settings(run["recipe"])
        arguments = _without_freeze(recipe.arguments)
        how = {"recipe": run["recipe"], "backend": run["backend"], "result": dict(run["result"])}
    else:
        how = _log(folder)
        settings, before = how["settings"], []
        weights = settings["weights"]
        while start := start_of(weights):
            before.insert(0, _log(start)["settings"])
            weights = before[0]["weights"]
        how |= {"before": before} if before else {}
        recipe = list_recipes()[f"sbi-{settings['network'].replace('_', '-')}"].changed(
            ["data=crops", f"size={settings['size'] or 'none'}", f"weights={weights or 'none'}"]
        )
        arguments = settings["arguments"]
        how |= {"backend": "jax", "result": {"epochs": None, "best_epoch": None, "steps": settings["steps"]}}
    changes = ["calibration=none"] + ([f"size={size}"] if size else [])
    return recipe.changed(changes), arguments, how


def _log(folder):
    return json.loads((folder / "log.json").read_text("utf-8"))


def _without_freeze(arguments):
    """A builder's arguments without the one that concerns training alone."""
    return {key: value for key, value in arguments.items() if key != "freeze"}


if __name__ == "__main__":
    main()
