"""From a finished run to carried weights with a model card that says what they are worth, by one command.

    python -m tools.carry_model RUN --faces utk/split.csv --data ../shared/data [--swaps swapped] [--handle tfdfd/NAME]

Writes `NAME.safetensors` (compact) and its card `NAME.json` where carried weights lie, and `hardest.png` into the run.
Judged are the run's own thresholds on validation, self-blended pairs of the faces' test split, the crops and clips of
the data folder, faces of other people swapped in where there are any, robustness, and time; beside the MesoNet authors'
four sets of weights and the model that is the default at present, in the same run on the same images. What is done is
kept in the cache folder: a command that was stopped goes on, and the next network finds pixels and scores of those
beside it there.

`--data` is the folder with `crops/dfdc`, `crops/ffpp`, `videos/` and `mesonet/weights/`.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np

from tfdfd.files import locked_folder, write_atomically
from tfdfd.models import spec
from tfdfd.training.run_folder import CARD, finished_run
from tfdfd.weights.loading import arrays_of_members, read_safetensors
from tfdfd.weights.records import CARRIED, DEFAULT_MODEL, cache_folder, folder_for, write_card
from tfdfd.weights.saving import FORMS, compact
from tfdfd.weights.store import PREFIX, locate

REPOSITORY = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = "UTKFace, photographs of adults"
# What UTKFace asks of whoever uses it; weights are derived from it.
LICENCE = "research use only, non-commercial (UTKFace terms)"
AUTHORS = ("MesoInception_DF", "MesoInception_F2F", "Meso4_DF", "Meso4_F2F")


def main(argv=None):
    arguments = parsed(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    lock = locked_folder(arguments.cache, "tools.carry_model")
    try:
        card, staged = carried(arguments)
    finally:
        if lock is not None:
            os.close(lock)
    weights, cards = (arguments.out or folder for folder in (folder_for(card), CARRIED))
    for folder in (weights, cards):
        folder.mkdir(parents=True, exist_ok=True)
    # The weights first: a card whose weights are not there is an error for whoever lists what is carried.
    write_atomically(weights / card["file"], staged.read_bytes())
    write_card(cards / staged.with_suffix(".json").name, card)
    say(f"{weights / card['file']}: {card['bytes']:,} bytes, {card['handle']}")
    for row in card["mean_auc"]:
        say(f"mean AUC of {', '.join(row['sets'])}: {row['weights']} {row['mean_auc']}")


def parsed(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished 'tfdfd train'")
    parser.add_argument("--faces", required=True, help="the face set with splits that the run was trained on")
    parser.add_argument("--blended", help="face set whose test split is blended (default: that of --faces)")
    parser.add_argument("--domains", type=Path, help="of 'python -m tools.validate': figures by domain, for the card")
    parser.add_argument("--data", type=Path, required=True, help="folder with crops/, videos/ and mesonet/")
    parser.add_argument("--swaps", help="face set of faces of other people swapped in ('tfdfd data swap')")
    parser.add_argument("--swaps-split", default="test", help="of the swaps; none: all (default: %(default)s)")
    parser.add_argument("--handle", help="of the carried weights (default: tfdfd/ and the network's name)")
    parser.add_argument("--dtype", default="float16", choices=FORMS, help="form of the file (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="where both files go (default: where carried files lie)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache_folder().with_name("carrying"),
        help="where work is kept (default: %(default)s)",
    )
    parser.add_argument(
        "--beside", action="append", metavar="HANDLE|FILE", help="judged beside it (default: see above)"
    )
    parser.add_argument("--photographs", default=PHOTOGRAPHS, help="what the faces are (default: %(default)s)")
    parser.add_argument("--licence", default=LICENCE, help="of the weights (default: %(default)s)")
    parser.add_argument("--initial-licence", help="of ImageNet's weights, where the run began with them")
    parser.add_argument("--pictures", type=Path, default=REPOSITORY / "docs/models", help="of own samples that fail")
    parser.add_argument("--limit", type=int, help="at most so many crops of a set: to see that it runs")
    parser.add_argument("--latency-again", action="store_true", help="measure the time anew")
    arguments = parser.parse_args(argv)
    if arguments.handle and not arguments.handle.startswith(PREFIX):
        parser.error(f"--handle must begin with {PREFIX}; received {arguments.handle}")
    if arguments.limit and not arguments.out:
        parser.error("with --limit nothing is judged well enough to be carried; give another folder: --out")
    return arguments


def carried(arguments):
    """The whole card, and the file of the weights it is of.

    Raises:
        ValueError: no finished run, a set that the run was trained on, or weights that do something else when compact.
    """
    from tools.carrying.card import finished_card
    from tools.carrying.judging import judge_all
    from tools.carrying.scoring import Judged
    from tools.carrying.terms import initial_weights

    run = finished_run(arguments.run)
    # First, as it may be an error, and judging takes long.
    initial = initial_weights(run["recipe"], arguments.initial_licence)
    run_card = json.loads((arguments.run / CARD).read_bytes())
    staged, begun = stage(arguments, run_card, run["recipe"]["arguments"].get("freeze"))
    network = Judged(staged, "these")
    others = [one for one in beside(arguments) if one.record.sha256 != network.record.sha256]
    judged = judge_all(network, others, run, arguments, say)
    command = shlex.join(["python", "-m", "tools.carry_model", *command_words(arguments)])
    card = finished_card(
        begun,
        run,
        judged,
        weights=arguments.dtype,
        faces=Path(arguments.faces).name,
        photographs=arguments.photographs,
        licence=arguments.licence,
        initial=initial,
        command=command,
        limit=arguments.limit,
    )
    if arguments.domains:
        card["domains"] = domain_rows(json.loads(arguments.domains.read_text("utf-8")), card["sha256"])
    return card, staged


def domain_rows(validation: dict, sha256: str) -> list[dict]:
    """What `python -m tools.validate` found of these weights, a row a set, with the AUC of what was validated beside.

    Raises:
        ValueError: it was of other weights.
    """
    rows = {model["sha256"]: _rows_of(model) for model in validation["models"]}
    if sha256 not in rows:
        raise ValueError(f"the validation is of {', '.join(rows)}, not of weights {sha256}; run tools.validate anew.")
    names = {model["sha256"]: model["handle"] for model in validation["models"]}
    for other in rows.keys() - {sha256}:
        for name, row in rows[sha256].items():
            if name in rows[other] and rows[other][name]["auc"] is not None:
                row.setdefault("auc_of", {})[f"{names[other]} ({other[:8]})"] = rows[other][name]["auc"]
    return list(rows[sha256].values())


def _rows_of(model):
    rows = {}
    for part, told in model["parts"].items():
        for name, figure in told.get("figures", {}).items():
            row = {"set": f"{part}: {name}", "split": told["protocol"]["split"], "level": told["protocol"]["level"]}
            row |= {"auc": figure["auc"], "auc_ci95": figure["auc_ci95"]}
            for kind in ("real", "fake"):
                row[f"n_{kind}"] = figure[kind]["n"]
                if figure[kind]["n"]:
                    row |= {f"{kind}_called_{verdict}": figure[kind][verdict] for verdict in ("fake", "inconclusive")}
            rows[row["set"]] = row
    return rows


def stage(arguments, run_card, freeze=None):
    """The weights in their compact form with the beginning of their card, where they can be scored by path."""
    from safetensors.numpy import save

    from tools.carrying.card import begun_card

    handle = arguments.handle or f"{PREFIX}{run_card['model']}"
    arrays = read_safetensors(locate(arguments.run)[1])
    own, members = without_members(arrays, finished_run(arguments.run)["result"].get("members", {}))
    data = save(compact(own, arguments.dtype))
    known = {"file": f"{handle.removeprefix(PREFIX)}.safetensors", "bytes": len(data)}
    known |= {"sha256": hashlib.sha256(data).hexdigest(), "parameters": sum(each.size for each in arrays.values())}
    known["pixels"] = (run_card.get("input_shape") or spec(run_card["model"]).input_shape)[0]
    folder = arguments.cache / "staged" / known["sha256"][:16]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / known["file"]
    if members:
        known["members"] = members
    card = begun_card(run_card, handle, known, freeze)
    write_atomically(file, data)
    write_atomically(file.with_suffix(".json"), as_json(card))
    return file, card


def without_members(arrays, members):
    """What an ensemble learnt on top of its members, and those of them that it has inside.

    Raises:
        ValueError: a member has no handle that its weights are carried under, or the ensemble changed it.
    """
    inside = {name: told for name, told in members.items() if any(key.startswith(f"{name}/") for key in arrays)}
    theirs = arrays_of_members(inside)
    changed = [key for key, values in theirs.items() if not np.array_equal(arrays.get(key), values)]
    if changed:
        raise ValueError(f"the run has other values for {changed[0]} than its members, which it was to leave alone.")
    return {key: values for key, values in arrays.items() if key not in theirs}, inside


def beside(arguments):
    """What stands beside the judged weights."""
    from tools.carrying.scoring import Judged

    if arguments.beside:
        return [Judged(model) for model in arguments.beside]
    # Its handle may be that of the judged weights, which are to take its place.
    default = Judged(DEFAULT_MODEL)
    default.name += f" ({default.record.sha256[:8]})"
    return [default, *(Judged(arguments.data / "mesonet/weights" / f"{name}.h5") for name in AUTHORS)]


def command_words(arguments):
    """The arguments that decide on a card, without the folders of this machine."""
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


def as_json(card):
    return json.dumps(card, indent=1, ensure_ascii=False) + "\n"


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
