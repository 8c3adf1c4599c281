"""Everything that a carried model is judged on, one part after the other; each part is kept, so that it can go on."""

from __future__ import annotations

from tfdfd.evaluation.scoring import open_model
from tfdfd.evaluation.training_overlap import overlap, refuse_overlap
from tools.carrying.clips import clip_rows, clips_in, detect_clips, own_samples, pictures_in
from tools.carrying.crops import BlendedCrops, StoredCrops, video_of
from tools.carrying.failures import failure_cases, sample_failures, write_sheet
from tools.carrying.figures import difference, figures, mean_auc
from tools.carrying.latency import latency
from tools.carrying.robustness import robustness
from tools.carrying.scoring import score, score_rows
from tools.carrying.validation import validated
from tools.proof_scores import proof_scores

SHEET = "hardest.png"
CLIPS = "videos"
PICTURES = "crops as pictures, faces found"
# What --blended is of, where a network was trained on more.
BLENDED_PHOTOGRAPHS = "UTKFace, photographs of adults"
BLENDED_TEST = "self-blended, test split"


def judge_all(network, others, run, arguments, say) -> dict:
    """What a card says of the network, by key.

    Args:
        network: that is judged, a `tools.carrying.scoring.Judged`.
        others: that stand beside it.
        run: its `run.json`.
        arguments: of `tools.carry_model`.
        say: is told what is done.
    """
    cache, limit = arguments.cache, arguments.limit
    networks = [network, *others]
    # Before anything that takes long: what is not there, or was trained on.
    sets = _sets(arguments)
    looked_at = {
        PICTURES: pictures_in(arguments.data / "crops"),
        CLIPS: clips_in(arguments.data / "videos"),
    }
    opened = open_model(arguments.run)
    refuse_overlap(overlap(opened, [one.opened for one in sets]))
    del opened
    say("validation: the run's thresholds with these weights")
    told = {"validation": validated(network, run, arguments.faces, cache, limit)}
    rows = {}  # of a set: of each network its score rows
    for crops in sets:
        say(f"{crops.name}: {len(crops):,} crops")
        rows[crops.name] = {one: score_rows(crops, found) for one, found in score(networks, crops, cache).items()}
    for name, clips in looked_at.items():
        say(f"{name}: {len(clips)}")
        found = {one: detect_clips(one, clips, cache) for one in networks}
        rows[name] = {one: clip_rows(clips, outcomes) for one, outcomes in found.items()}
    say("figures")
    told |= _figures(rows, sets, networks)
    told["videos"] = {one.name: [_short(outcome) for outcome in outcomes] for one, outcomes in found.items()}
    _sheet(arguments.run / SHEET, sets, told["failure_cases"])
    blended = sets[0]
    told["robustness"] = robustness(networks, blended, cache, say)
    samples = own_samples()
    found = detect_clips(network, samples, cache)
    told["samples"] = sample_failures(network, samples, found, arguments.pictures, cache)
    say("latency")
    told["latency"] = latency(network, cache, arguments.latency_again)
    told["proof_scores"] = proof_scores(network.record, network.path)
    return told


def _sets(arguments):
    """The blended test split first."""
    faces, limit = arguments.blended or arguments.faces, arguments.limit
    photographs = BLENDED_PHOTOGRAPHS if arguments.blended else arguments.photographs
    sets = [BlendedCrops(f"{photographs}, {BLENDED_TEST}", faces, "test", arguments.cache, limit=limit)]
    sets += [
        StoredCrops(f"crops/{name}", str(arguments.data / "crops" / name), None, limit, lambda row: video_of(row.file))
        for name in ("dfdc", "ffpp")
    ]
    if arguments.swaps:
        split = None if arguments.swaps_split == "none" else arguments.swaps_split
        sets.append(StoredCrops(f"faces of other people swapped in, {split or 'all'}", arguments.swaps, split, limit))
    return sets


def _figures(rows, sets, networks):
    told = {"scores": [], "calibration_scores": [], "comparisons": [], "failure_cases": []}
    notes = {crops.name: _note(crops) for crops in sets}
    for name, found in rows.items():
        level = "video" if name == CLIPS else "image"
        for one in networks:
            row, calibration, hardest = figures(
                name, one.name, found[one], one.record.threshold, level, notes.get(name)
            )
            told["scores"].append(row)
            told["calibration_scores"].append(calibration)
            if one is networks[0]:
                told["failure_cases"] += failure_cases(name, hardest)
            else:
                compared = difference(name, found[networks[0]], found[one], one.name)
                told["comparisons"] += [compared] if compared else []
    # Each example once: crops as they are stored are the pictures again, and swaps are a set of our own making.
    judged = (sets[0].name, PICTURES, CLIPS)
    told["mean_auc"] = mean_auc([row for row in told["scores"] if row["set"] in judged])
    return told


def _note(crops):
    """How many videos the crops of DFDC, which carry their names, are of."""
    if crops.name != "crops/dfdc":
        return None
    videos = [{crops.source_of(row) for row in crops.opened.rows if row.label == label} for label in (0, 1)]
    return f"crops of {len(videos[0])} real and {len(videos[1])} fake videos"


def _sheet(file, sets, cases):
    by_name = {crops.name: crops for crops in sets}
    write_sheet(file, [(by_name[case["set"]], case) for case in cases if case["set"] in by_name])


def _short(outcome):
    return {key: outcome[key] for key in ("clip", "label", "fake_probability", "verdict")} | (
        {} if outcome["status"] == "ok" else {"status": outcome["status"]}
    )
