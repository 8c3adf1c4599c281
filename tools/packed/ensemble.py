"""Calibrates `best_ensemble`, carried networks under one last layer, and writes its weights and card.

    python -m tools.packed.ensemble --size 256 --faces FACES.csv -o FOLDER

The last layer begins as the mean of the members' calibrated logits. Platt's sigmoid is fitted on the labeled validation
crops of `--faces`, both classes weighing the same, and put into it. With `--domains VALIDATION.json`, of
`python -m tools.validate FOLDER/best_ensemble.safetensors`, threshold, band and figures by domain go into the card: run
once without, validate, run again, and repeat both once: figures are given at the band of the card that was validated.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from pathlib import Path

import numpy as np

from tfdfd.files import write_atomically
from tfdfd.models import build
from tfdfd.models.ensembles import MEMBERS
from tfdfd.recipes import list_recipes
from tfdfd.training.crop_set import CropSet
from tfdfd.weights import CARRIED, find_record, read_card
from tfdfd.weights.loading import HEAD, arrays_of_members
from tfdfd.weights.saving import named_weights
from tfdfd.weights.store import PREFIX, locate
from tools.make_card import as_json, domain_rows
from tools.packed.finish import calibrate, set_band
from tools.proof_scores import proof_scores

NETWORK = "best_ensemble"
_PROTOCOL = (
    "Validation only: threshold, band and calibration were chosen on these sets. Not judged on any other set yet. "
    "Intervals: 95 % percentile bootstrap over sources, 2,000 draws, seed 0."
)
_LIMITS = (
    "A score is a hint for a person who looks further, not forensic proof.",
    "All figures are of validation, on which threshold and calibration were chosen.",
    "Left-out methods, fully generated faces and lip-syncing were not validated for these weights.",
)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tools.packed.ensemble")
    parser.add_argument("--size", type=int, required=True, help="input side")
    parser.add_argument("--faces", type=Path, required=True, help="labeled face set whose val split calibrates")
    parser.add_argument("--domains", type=Path, help="of tools.validate: threshold, band and figures by domain")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    members = {name: find_record(f"{PREFIX}{name}") for name in MEMBERS}
    model = build(NETWORK, None, (options.size, options.size, 3))
    references = {name: {"handle": record.handle, "sha256": record.sha256} for name, record in members.items()}
    weights = named_weights(model)
    for name, values in arrays_of_members(references, model).items():
        weights[name].assign(values)
    recipe = list_recipes()["sbi-efficientnet-lite0"].changed(["data=crops", "augment=none", f"size={options.size}"])
    calibration = calibrate(model, CropSet(options.faces, recipe, options.size))
    calibration["fitted_on"] = f"mean of the members' calibrated logits, {calibration['fitted_on']}"
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"{NETWORK}.safetensors"
    write_card(file, model, references, calibration, options)
    if options.domains:
        validation = json.loads(options.domains.read_text("utf-8"))
        card_file = file.with_suffix(".json")
        set_band(card_file, validation["models"][0]["domains"])
        card = json.loads(card_file.read_text("utf-8"))
        card.pop("operating_points")
        card["domains"] = domain_rows(validation, card["sha256"])
        write_atomically(card_file, as_json(card))


def write_card(file: Path, model, references: dict, calibration: dict, options: argparse.Namespace) -> None:
    """Writes the last layer's weights, and a card with the members' licence, data and commands."""
    from safetensors.numpy import save

    names = [name for name in named_weights(model) if name.startswith(f"{HEAD}/")]
    data = save({name: np.array(named_weights(model)[name].value) for name in names})
    cards = [read_card(CARRIED / f"{name}.json") for name in references]
    card = {
        "handle": f"{PREFIX}{NETWORK}",
        "model": NETWORK,
        "input_shape": [options.size, options.size, 3],
        "file": file.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "licence": max((card["licence"] for card in cards), key=len),
        "training_data": cards[0]["training_data"],
        "polarity": "fake=1",
        # Of calibrated scores; the band that replaces it is by domain.
        "threshold": 0.5,
        "operating_points": {"balanced": {"threshold": 0.5}},
        "protocol": _PROTOCOL,
        "limits": list(_LIMITS),
        "members": references,
        "calibration": calibration,
        "commands": list(dict.fromkeys(_training_commands(cards)))
        + [
            f"python -m tools.packed.ensemble --size {options.size} --faces {options.faces.name}"
            f"{' --domains validation.json' if options.domains else ''} -o FOLDER"
        ],
        "seed": 0,
        "date": datetime.date.today().isoformat(),
    }
    write_atomically(file, data)
    write_atomically(file.with_suffix(".json"), as_json(card))
    record, path = locate(file)
    write_atomically(file.with_suffix(".json"), as_json(card | {"proof_scores": proof_scores(record, path)}))


def _training_commands(cards):
    """The members' commands without those that evaluate them alone."""
    return [command for card in cards for command in card["commands"] if "tools.make_card" not in command]


if __name__ == "__main__":
    main()
