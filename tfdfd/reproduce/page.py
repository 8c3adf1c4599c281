"""The page of a reproduction: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tfdfd.html import data_uri, environment
from tfdfd.reproduce.contradictions import Contradiction
from tfdfd.reproduce.results import CANNOT, DRAWN, NOT_REPRODUCED, REPRODUCED, Verdict, number

_CLASSES = {REPRODUCED: "good", NOT_REPRODUCED: "bad", CANNOT: "soft", DRAWN: "soft"}


def render(
    answer: dict,
    verdicts: Sequence[Verdict],
    contradictions: Sequence[Contradiction],
    pictures: Mapping[tuple[str, str], bytes],
) -> str:
    """The page.

    Args:
        answer: of `tfdfd.reproduce.runner.reproduce`.
        verdicts: of the document's entries, in its order.
        contradictions: of the document.
        pictures: PNGs by experiment and name.
    """
    tables = []
    for place, some in groupby(verdicts, key=lambda verdict: verdict.entry.place):
        tables.append({"title": place, "rows": [_row(verdict) for verdict in some]})
    figures: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        key = (verdict.entry.experiment or "", verdict.entry.picture or "")
        if key in pictures:
            figures.setdefault(key, []).append(f"{verdict.entry.place}: {verdict.entry.what}")
    if ("", "removed_blocks") in pictures:
        figures[("", "removed_blocks")] = ["figures 13, 14: CPU cost and accuracy against removed blocks"]
    shown = [{"title": "; ".join(titles), "uri": data_uri(pictures[key], "png")} for key, titles in figures.items()]
    template = environment(Path(__file__).parent).get_template("page.html.j2")
    return template.render(answer=answer, tables=tables, figures=shown, contradictions=contradictions)


def _row(verdict: Verdict) -> dict[str, str]:
    entry, ours = verdict.entry, verdict.measured
    interval = ""
    if ours and ours.interval:
        interval = f"[{number(ours.interval[0], entry)}, {number(ours.interval[1], entry)}]"
    return {
        "what": entry.what,
        "printed": number(entry.printed, entry),
        "ours": number(ours.value, entry) if ours else "–",
        "interval": interval,
        "protocol": ours.protocol if ours else "",
        "verdict": verdict.status,
        "reason": verdict.reason,
        "kind": _CLASSES[verdict.status],
    }
