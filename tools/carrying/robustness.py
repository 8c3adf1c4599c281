"""AUC of self-blended pairs under each condition of `tfdfd.evaluation.degradations`, of several networks at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tfdfd.evaluation.degradations import CONDITIONS
from tools.carrying.figures import short_figures
from tools.carrying.scoring import Judged, score, score_rows


def robustness(
    networks: Sequence[Judged], crops, cache: Path, say: Callable[[str], None] = lambda text: None
) -> list[dict]:
    """A row for each condition: the first network's AUC with its interval, and the AUCs of the others beside it.

    Args:
        networks: the one that is judged, then those beside it.
        crops: of `tools.carrying.crops`.
        cache: folder for scores.
        say: is told of each condition that is done.
    """
    rows = []
    for condition in CONDITIONS:
        found = score(networks, crops, cache, condition)
        told = [short_figures(score_rows(crops, found[one]), one.record.threshold) for one in networks]
        beside = {one.name: row["auc"] for one, row in zip(networks[1:], told[1:], strict=True)}
        rows.append({"condition": condition} | told[0] | {"auc_of": beside})
        say(f"{condition}: AUC {told[0]['auc']:.3f}")
    return rows
