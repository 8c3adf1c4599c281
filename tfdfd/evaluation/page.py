"""`report.html`: the report as one page that needs nothing else, to read, print and pass on.

Names come from strangers; they reach the page through Jinja2's autoescape only, and the page forbids itself scripts and
requests.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import jinja2

from tfdfd.evaluation.report_json import LOUD
from tfdfd.evaluation.report_markdown import facts, report_tables
from tfdfd.evaluation.table import figure, number, one_line
from tfdfd.evaluation.tables import hardest_table, protocol_line
from tfdfd.metrics.report import FRAME, VIDEO

_TITLES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "reliability": "Reliability",
    "confusion": "Confusion matrices",
    "scores": "Scores of real and fake",
}


def render_page(report: dict, plots: Mapping[str, bytes], thumbnails: Sequence[Sequence[bytes]]) -> str:
    """The page.

    Args:
        report: of `tfdfd.evaluation.report_json.make_report`.
        plots: PNGs by name.
        thumbnails: for each of the hardest videos, JPEGs.
    """
    judged = report["judged"]
    tiles = [
        {"level": level, "auc": figure(judged[level]["auc"]), "balanced": figure(judged[level]["balanced_accuracy"]),
         "accuracy": number(judged[level]["accuracy"]["value"]), "majority": number(judged[level]["majority"]),
         "protocol": protocol_line(judged, level)}
        for level in (VIDEO, FRAME)
    ]  # fmt: skip
    hardest = hardest_table(judged)
    samples = [
        {"row": row, "wrong": one["wrong"], "pictures": [_uri(data, "jpeg") for data in pictures]}
        for row, one, pictures in zip(hardest.rows, judged["hardest"], thumbnails, strict=True)
    ]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            model=report["model"]["handle"],
            warnings=[{"message": one["message"], "loud": one["code"] in LOUD} for one in report["warnings"]],
            tiles=tiles,
            facts=facts(report),
            tables=report_tables(report),
            plots={_TITLES[name]: _uri(data, "png") for name, data in plots.items()},
            broad={_TITLES[name] for name in ("confusion", "scores")},
            hardest=hardest,
            samples=samples,
        )
    )


def _uri(data, kind):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _printable(value):
    return one_line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@lru_cache(maxsize=1)
def _environment():
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        # By hand: the usual choice by file ending does not know `.j2`.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
