"""What a reader of figures must not miss: a model that is no better than a guess, and figures of too little."""

from __future__ import annotations

from tfdfd.metrics.confusion import Confusion, no_better_than_majority
from tfdfd.metrics.coverage import LEAST, Coverage

# With so many of each class the 95 % interval of an AUC of 0.85 is 0.2 wide (Hanley and McNeil 1982).
FEW = 30


def warnings_of(figures: dict, where: str) -> list[dict[str, str]]:
    """Of `tfdfd.metrics.figures.figures`: dicts `{code, where, message}`, none for a model that passes.

    Codes: `no_scores`, `one_class`, `too_few`, `one_verdict`, `no_better_than_majority`, `no_better_than_chance`,
    `worse_than_chance`.
    """
    found = list(_found(figures))
    return [{"code": code, "where": where, "message": f"{where}: {message}"} for code, message in found]


def coverage_warnings(found: Coverage) -> list[dict[str, str]]:
    """`low_coverage` where less than 99 % of the videos have a score."""
    if found.share >= LEAST:
        return []
    message = (
        f"{found.scored:,} of {found.expected:,} videos have a score ({found.share:.1%}): {found.no_face:,} have no "
        f"face, {found.left_out:,} were left out for several faces, {found.broken:,} could not be read."
    )
    return [{"code": "low_coverage", "where": "videos", "message": message}]


def _found(told):
    if not told["n"]:
        yield "no_scores", "nothing has a score."
        return
    counts = {"real": told["n_real"], "fake": told["n_fake"]}
    absent = [kind for kind, count in counts.items() if not count]
    if absent:
        yield "one_class", f"there are no {absent[0]} ones, so that no figure that compares the two is given."
    for kind, count in counts.items():
        if 0 < count < FEW:
            yield "too_few", f"{count} {kind} example{'s' * (count != 1)}; figures of fewer than {FEW} mean little."
    found = Confusion(**told["confusion"])
    called_fake = found.real_as_fake + found.fake_as_fake
    if called_fake in (0, told["n"]):
        yield "one_verdict", f"all {told['n']:,} are called {'fake' if called_fake else 'real'} at this threshold."
    if absent:
        return
    if no_better_than_majority(found):
        frequent = "fake" if counts["fake"] >= counts["real"] else "real"
        how = "NO BETTER" if found.accuracy <= found.majority else "NOT SHOWN TO BE BETTER"
        yield (
            "no_better_than_majority",
            f"{how} THAN THE MAJORITY: accuracy {found.accuracy:.3f}, and calling everything {frequent} has "
            f"{found.majority:.3f}; balanced accuracy {found.balanced_accuracy:.3f}, where 0.5 is chance.",
        )
    value = told["auc"]["value"]
    low, high = told["auc"].get("interval") or (value, value)
    between = f" [{low:.3f}, {high:.3f}]" if low < high else ""
    if high < 0.5:
        yield (
            "worse_than_chance",
            f"AUC {value:.3f}{between} is below chance (0.5): are labels or P(fake) the wrong way round?",
        )
    elif low <= 0.5:
        yield "no_better_than_chance", f"AUC {value:.3f}{between} cannot be told from chance (0.5)."
