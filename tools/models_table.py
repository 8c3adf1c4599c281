"""Markdown tables of the bundled models, made from their cards.

    python -m tools.models_table            a table with one row per model
    python -m tools.models_table --write    docs/models.md: one section per model, all figures

All numbers come from the cards, which `python -m tools.make_card` writes.
"""

import argparse
from pathlib import Path

from tfdfd.detect.evidence import range_text
from tfdfd.evaluation.tables import NOTHING, Table, as_markdown, format_number, format_value
from tfdfd.faces.quality import MEASURES
from tfdfd.files import write_atomically
from tfdfd.weights.records import CARRIED, read_card

PAGE = Path(__file__).resolve().parents[1] / "docs/models.md"
AUTHORS = "tfdfd/meso_inception4.df"
THESE = "these"
_CHANGED = "Robustness: the blended test split, changed"
_HEAD = """# Carried models

What each set of weights that the repository carries is worth, from its model card (`tfdfd models show HANDLE`).
Made by `python -m tools.models_table --write`; the cards are made by `python -m tools.make_card`, whose head says
how. Nothing here is forensic proof.

**Blended photographs are not deepfakes**: all networks but the default were trained on self-blended photographs alone,
and the crops and clips of real deepfakes that they are judged on are very few. Read the intervals. Figures of the
default by domain, on validation, are in its card (`domains`); so are all of `tfdfd/clip_vit_b16` and
`tfdfd/best_ensemble`, which were validated and not judged yet."""


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cards", type=Path, default=CARRIED, help="folder of the cards (default: the bundled ones)")
    parser.add_argument("--write", action="store_true", help="write the page instead of showing the table")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to (default: docs/models.md)")
    arguments = parser.parse_args(argv)
    cards = evaluated_cards(arguments.cards)
    if not cards:
        raise SystemExit(f"{arguments.cards} has no card that tools.make_card wrote")
    if arguments.write:
        write_atomically(arguments.page, page(cards))
    else:
        print("\n".join(lines_of(summary(cards))))


def evaluated_cards(folder):
    """The cards with an evaluation."""
    cards = [read_card(path) for path in sorted(Path(folder).glob("*.json"))]
    return [card for card in cards if "card" in card]


def summary(cards):
    """One row per model: parameters, size and AUC on each set, with the MesoNet authors' weights for comparison."""
    sets = list(dict.fromkeys(row["set"] for card in cards for row in card["scores"]))
    rows = [
        (f"`{card['handle']}`", size_of(card), f"{card['parameters']:,}", file_of(card),
         *(auc_of(card, name, THESE) for name in sets), mean_of(card, THESE))
        for card in cards
    ]  # fmt: skip
    first = cards[0]
    rows.append(
        (f"MesoNet authors' `{AUTHORS}`", NOTHING, NOTHING, NOTHING, *(auc_of(first, name, AUTHORS) for name in sets),
         mean_of(first, AUTHORS))
    )  # fmt: skip
    counts = [counted(card, name) for name in sets for card in cards[:1]]
    heads = tuple(f"{name} ({count})" for name, count in zip(sets, counts, strict=True))
    columns = ("model", "pixels", "parameters", "file", *heads, "mean AUC")
    return Table("", "", columns, tuple(rows))


def page(cards):
    """The text of docs/models.md."""
    parts = [_HEAD, "\n".join(lines_of(summary(cards)))]
    for card in cards:
        parts.append("\n".join(section(card)))
    parts.append("\n".join(beside(cards)))
    return "\n\n".join(parts) + "\n"


def beside(cards):
    """Lines on the weights that every card compares with, once."""
    handles = {card["handle"] for card in cards}
    card = cards[0]
    names = [name for name in card["robustness"][0]["auc_of"] if name.partition(" ")[0] not in handles]
    yield from ("## Beside them", "", "The same images, in the same runs.", "")
    for table in (_figures(card, names), _calibration(card, names), _robustness(card, names)):
        yield from lines_of(table)
        yield ""


def section(card):
    """Lines on one model."""
    yield from (f"## `{card['handle']}`", "")
    band = card.get("inconclusive_band")
    between = f"; between {band[0]:.3f} and {band[1]:.3f} `inconclusive`" if band else ""
    yield f"`{card['model']}`, {size_of(card)} px, {card['parameters']:,} parameters, {file_of(card)} "
    yield f"({card['weights_form']}). Fake from P(fake) {card['threshold']:.3f}{between}. {card['training_data']}."
    training = card["training"]
    if training["short_of_its_best"]:
        yield f"Trained for {training['epochs']} epochs, and was still getting better."
    yield from (f"Licence: {card['licence']}.", "")
    for table in tables(card):
        yield from lines_of(table)
        yield ""
    if "tippett" in card:
        yield f"![Tippett plots of the likelihood ratios](tippett_{card['model']}.png)"
        yield ""
    timed = card["latency"]
    spent = ", ".join(f"{row['milliseconds']:g} ms for {row['batch']}" for row in timed["batches"])
    yield f"Time to score crops: {spent} ({timed['runtime']}, {timed['hardware']}; load {timed['load_before']} before)."
    yield ""
    for sample in card["samples"]:
        picture = f" ![its most wrong crop](models/{sample['picture']})" if "picture" in sample else ""
        yield f"- own sample `{sample['clip']}`: {verdict_of(sample)}{picture}"
    yield from ("", "Most wrong of its wrong verdicts:", "")
    for case in card["failure_cases"]:
        yield f"- {case['set']}: `{case['file']}`, {case['label']}, P(fake) {case['fake_probability']:.3f}"
    yield ""
    yield from (f"- {limit}" for limit in card["limits"])
    yield ""
    yield from ("<!-- test: skip takes hours -->\n```console", *(f"$ {command}" for command in card["commands"]), "```")


def tables(card):
    """All tables of a card."""
    yield _figures(card, [THESE])
    yield _table(
        "AUC, less that of others on the same examples",
        card["comparisons"],
        {"set": "set", "against": "against", "auc_difference": "difference", "p": "p"},
    )
    yield _calibration(card, [THESE])
    columns = {"condition": "condition", "auc": "AUC", "balanced_accuracy": "balanced accuracy"}
    yield _table(_CHANGED, card["robustness"], columns)
    yield from _evidence(card)
    rows = [
        {"clip": one["clip"], "label": ("real", "fake")[one["label"]], "score": verdict_of(one)}
        for one in card["videos"][THESE]
    ]
    yield _table("Clips", rows, {"clip": "clip", "label": "is", "score": "P(fake) and verdict"})


def _evidence(card):
    """What a score means, of a card that `tools.evidence` has written to."""
    if "tippett" not in card:
        return
    columns = {
        "domain": "domain", "n_real": "real", "n_fake": "fake", "lowest_lr": "lowest LR", "highest_lr": "highest LR",
        "cllr": "Cllr", "cllr_min": "Cllr min",
    }  # fmt: skip
    yield _table("Likelihood ratios on validation", card["likelihood_ratio_scores"], columns)
    columns = {
        "by": "by", "group": "group", "n_real": "genuine", "called_fake": "called fake", "fpr": "FPR",
        "called_inconclusive": "inconclusive",
    }  # fmt: skip
    yield _table("Genuine faces of validation called fake, by group", card["false_positives"], columns)
    shares = card["tested_range_shares"]
    rows = [
        {"measure": MEASURES[name][0], "range": range_text(limits), "outside": f"{shares['outside'][name]:.1%}"}
        for name, limits in card["tested_range"]["measures"].items()
    ]
    columns = {"measure": "measure", "range": "tested", "outside": f"outside, of {shares['n']:,} validation crops"}
    yield _table("Tested range", rows, columns)


def _figures(card, names):
    columns = {
        "set": "set", "weights": "weights", "level": "level", "n_real": "real", "n_fake": "fake",
        "threshold": "threshold", "auc": "AUC", "balanced_accuracy": "balanced accuracy", "tpr_at_threshold": "TPR",
        "fpr_at_threshold": "FPR", "accuracy": "accuracy", "majority_baseline": "majority",
    }  # fmt: skip
    return _table("Figures", _of(card["scores"], names), columns)


def _calibration(card, names):
    columns = {"set": "set", "weights": "weights", "brier": "Brier", "ece": "ECE", "ece_debiased": "ECE, debiased"}
    return _table("Calibration", _of(card["calibration_scores"], names), columns)


def _robustness(card, names):
    columns = {"condition": "condition"} | {name: f"AUC, {name}" for name in names}
    return _table(_CHANGED, [row | row["auc_of"] for row in card["robustness"]], columns)


def _of(rows, names):
    return [row for row in rows if row["weights"] in names]


def _table(title, rows, columns):
    cells = tuple(tuple(_cell(row, key) for key in columns) for row in rows)
    return Table(title, "", tuple(columns.values()), cells)


def _cell(row, key):
    value = row.get(key)
    if isinstance(value, float):
        return format_value({"value": value, "interval": row.get(f"{key}_ci95")})
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def lines_of(table):
    """Lines of Markdown with code left as code; without a heading if there is no title."""
    lines = [line.replace("\\`", "`").replace("\\_", "_") for line in as_markdown(table)]
    return lines if table.title else lines[2:]


def verdict_of(outcome):
    """`0.734 fake`, or the status without a score."""
    if outcome["fake_probability"] is None:
        return outcome["status"]
    return f"{format_number(outcome['fake_probability'])} {outcome['verdict']}"


def auc_of(card, name, weights):
    rows = [row for row in card["scores"] if (row["set"], row["weights"]) == (name, weights)]
    return _cell(rows[0], "auc") if rows else NOTHING


def mean_of(card, weights):
    return format_number(next((row["mean_auc"] for row in card["mean_auc"] if row["weights"] == weights), None))


def counted(card, name):
    row = next(row for row in card["scores"] if row["set"] == name)
    return f"{row['n_real']:,} / {row['n_fake']:,}"


def file_of(card):
    beside = " beside its members" if card.get("members") else ""
    return f"{card['bytes'] / 1e6:.2f} MB{beside}"


def size_of(card):
    return str(card["pixels"])


if __name__ == "__main__":
    main()
