"""Markdown tables of the bundled models, made from their cards.

    python -m tools.models_table            a table with one row per model
    python -m tools.models_table --write    docs/models.md with that table, and docs/models/NAME.md, a page per model

All numbers come from the cards, which `python -m tools.make_card` writes.
"""

import argparse
import re
from pathlib import Path

from tfdfd.detect.evidence import range_text
from tfdfd.evaluation.tables import NOTHING, Table, as_markdown, format_number, format_value
from tfdfd.faces.crop import MEASURES
from tfdfd.files import write_atomically
from tfdfd.weights import CARRIED, read_card

PAGE = Path(__file__).resolve().parents[1] / "docs/models.md"
AUTHORS = "tfdfd/meso_inception4.df"
THESE = "these"
_CHANGED = "Robustness: the blended test split, changed"
_HEAD = """# Carried models

One page per model, made from its record and its evaluation (`tfdfd models show HANDLE`). Made by
`python -m tools.models_table --write`; the evaluations are made by `python -m tools.make_card` and
`python -m tools.validate`. Nothing here is forensic proof.

**Validation** is what thresholds were chosen on: FaceForensics++ val videos, and 43 val clips through `detect`. It
flatters every model a little, and the models that were trained on FaceForensics++ more."""
_JUDGED = """## On other sets

Sets that chose nothing. **Blended photographs are not deepfakes**, and the crops and clips of real deepfakes are very
few: read the intervals. `tfdfd/clip_vit_b16` and `tfdfd/best_ensemble` were validated and not judged here yet."""
_VERDICTS = {
    "real_called_fake": "genuine called fake",
    "real_called_inconclusive": "genuine left open",
    "fake_called_fake": "fake called fake",
    "fake_called_inconclusive": "fake left open",
}
_DOMAINS = {"set": "set", "n_real": "genuine", "n_fake": "fake", "auc": "AUC"} | _VERDICTS
_ESCAPED = re.compile(r"\\([`_]|\[(?=\\?`)|\](?=\(models/))")
# Sets of a card's domains, by the name of today and by that of the first cards.
_VIDEOS, _CLIPS = ("ffpp: by video", "FaceForensics++ val crops"), ("clips: all", "FaceForensics++ val clips")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cards", type=Path, default=CARRIED, help="folder of the cards (default: the bundled ones)")
    parser.add_argument("--write", action="store_true", help="write the page instead of showing the table")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to (default: docs/models.md)")
    arguments = parser.parse_args(argv)
    cards = all_cards(arguments.cards)
    if not cards:
        raise SystemExit(f"{arguments.cards} has no card with an evaluation, which tools.make_card writes")
    if arguments.write:
        write_atomically(arguments.page, overview(cards))
        pages = arguments.page.with_suffix("")
        pages.mkdir(parents=True, exist_ok=True)
        for card in cards:
            write_atomically(pages / f"{name_of(card)}.md", page(card))
    else:
        print("\n".join(lines_of(summary(judged(cards)))))


def all_cards(folder):
    """The cards of the models in a folder that were validated or judged."""
    cards = [read_card(path) for path in sorted(Path(folder).glob("*.json"))]
    return [card for card in cards if "scores" in card or "domains" in card]


def judged(cards):
    """The cards with scores on sets other than validation."""
    return [card for card in cards if "scores" in card]


def name_of(card):
    return card["handle"].rpartition("/")[2]


def summary(cards):
    """One row per model: parameters, size and AUC on each set, with the MesoNet authors' weights for comparison."""
    sets = list(dict.fromkeys(row["set"] for card in cards for row in card["scores"]))
    rows = [
        (link_to(card), str(card["pixels"]), f"{card['parameters']:,}", file_of(card),
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


def validated(cards):
    """One row per model that was validated by domain: AUC and verdicts."""
    rows, counts = [], {}
    for card in cards:
        domains = {row["set"]: row for row in card.get("domains", ())}
        videos, clips = (
            next((domains[name] for name in names if name in domains), None) for names in (_VIDEOS, _CLIPS)
        )
        if not (videos and clips):
            continue
        for name, row in (("FaceForensics++ val videos", videos), ("val clips", clips)):
            counts[name] = f"{row['n_real']:,} / {row['n_fake']:,}"
        verdicts = (_cell(videos, key) for key in _VERDICTS)
        rows.append((link_to(card), _cell(videos, "auc"), _cell(clips, "auc"), *verdicts))
    columns = tuple(f"{name} ({count})" for name, count in counts.items())
    return Table("", "", ("model", *columns, *_VERDICTS.values()), tuple(rows))


def overview(cards):
    """The text of docs/models.md."""
    table = validated(cards)
    parts = [_HEAD, *(["\n".join(lines_of(table))] if table.rows else [])]
    if others := judged(cards):
        parts += [_JUDGED, "\n".join(lines_of(summary(others))), "\n".join(beside(others))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def link_to(card):
    return f"[`{card['handle']}`](models/{name_of(card)}.md)"


def beside(cards):
    """Lines on the weights that every card compares with, once."""
    handles = {card["handle"] for card in cards}
    card = cards[0]
    names = [name for name in card["robustness"][0]["auc_of"] if name.partition(" ")[0] not in handles]
    yield from ("## Other weights on the same sets", "", "The same images, in the same runs.", "")
    for table in (_figures(card, names), _calibration(card, names), _robustness(card, names)):
        yield from lines_of(table)
        yield ""


def page(card):
    """The text of one model's page."""
    lines = [f"# `{card['handle']}`", ""]
    facts = [f"`{card['model']}`"]
    if "pixels" in card:
        facts += [f"{card['pixels']} px", f"{card['parameters']:,} parameters"]
    facts.append(file_of(card) + (f" ({card['weights_form']})" if "weights_form" in card else ""))
    lines += [", ".join(facts) + ".", "", f"**Trained on** {card['training_data']}."]
    if card.get("training", {}).get("short_of_its_best"):
        lines.append(f"Trained for {card['training']['epochs']} epochs, and was still getting better.")
    band = card.get("inconclusive_band")
    between = f"; from {band[0]:.3f} to {band[1]:.3f} it is `inconclusive`" if band else ""
    lines += ["", f"**Verdict**: fake from P(fake) {card['threshold']:.3f}{between}.", ""]
    lines += [f"**License of the weights**: {card['licence']}.", "", "**Limits**", ""]
    lines += [f"- {limit}" for limit in card["limits"]]
    for table in tables(card):
        title, *rest = lines_of(table)
        lines += ["", title.removeprefix("#"), *rest]
    if "tippett" in card:
        lines += ["", f"![Tippett plots of the likelihood ratios](tippett_{card['model']}.png)"]
    if "scores" in card:
        lines += ["", *_cases(card)]
    lines += ["", "## Commands", "", "<!-- test: skip takes hours -->", "```console"]
    lines += [*(f"$ {command}" for command in card["commands"]), "```"]
    return "\n".join(lines) + "\n"


def _cases(card):
    """Lines on speed, own samples and the most wrong verdicts."""
    timed = card["latency"]
    spent = ", ".join(f"{row['milliseconds']:g} ms for {row['batch']}" for row in timed["batches"])
    yield "## Speed and mistakes"
    yield ""
    yield f"Time to score crops: {spent} ({timed['runtime']}, {timed['hardware']}; load {timed['load_before']} before)."
    yield ""
    for sample in card["samples"]:
        picture = f" ![its most wrong crop]({sample['picture']})" if "picture" in sample else ""
        yield f"- own sample `{sample['clip']}`: {verdict_of(sample)}{picture}"
    yield from ("", "The wrong verdicts that were furthest from the truth:", "")
    for case in card["failure_cases"]:
        yield f"- {case['set']}: `{case['file']}`, {case['label']}, P(fake) {case['fake_probability']:.3f}"


def tables(card):
    """All tables of a card: validation, then what it was judged on."""
    if "domains" in card:
        yield _table("Validation, by domain", card["domains"], _DOMAINS)
    if "scores" not in card:
        return
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
    """Lines of Markdown with code and links left as they are; without a heading if there is no title."""
    lines = [_ESCAPED.sub(r"\1", line) for line in as_markdown(table)]
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
    size = card["bytes"]
    return f"{size / 1e6:.2f} MB{beside}" if size >= 1e4 else f"{size:,} bytes{beside}"


if __name__ == "__main__":
    main()
