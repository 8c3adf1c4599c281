"""Every metric of an evaluation against its recorded value, which `python -m tools.record` makes."""

import json
import math

import numpy as np
import pytest

from tests.seeded import METRICS as RECORDS
from tests.seeded import agrees, labels_and_scores, metric_values, recorded
from tfdfd.metrics import METRICS
from tfdfd.metrics.report import compute_metrics

LABELS, SCORES = labels_and_scores()


def test_the_values_are_the_recorded_ones():
    measured = metric_values(LABELS, SCORES)
    assert agrees(measured, recorded(RECORDS)), f"measured {measured}"


def test_no_metric_depends_on_the_order_of_the_examples():
    order = np.random.default_rng(3).permutation(len(LABELS))
    assert metric_values(LABELS[order], SCORES[order]) == pytest.approx(recorded(RECORDS), rel=1e-9)


@pytest.mark.parametrize("labels", [[], [0] * 8, [1] * 8], ids=["none", "real", "fake"])
def test_a_metric_is_a_number_or_null_with_a_reason(labels):
    values = compute_metrics(labels, [0.1 * i for i in range(len(labels))], threshold=0.5, resamples=0)
    json.dumps(values, allow_nan=False)
    for name in METRICS:
        value = values[name]["value"]
        assert (value is None) == bool(values[name].get("reason")), name
        assert value is None or math.isfinite(value), name
