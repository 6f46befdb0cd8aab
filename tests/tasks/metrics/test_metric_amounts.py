"""Amounts without an upper end, percentiles, and agreement of raters.

Run with: pytest tests/tasks/metrics/test_metric_amounts.py
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from tasks.metrics.agreement import agreement_with
from tasks.metrics.estimate import amount, percentile
from tasks.scoring.figures import figure_of_shares


def test_a_mean_of_amounts_has_the_t_interval():
    values = [0.4, 1.5, 12.0, 3.3, 0.9]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    found = amount(values)
    assert (found.value, found.high) == (pytest.approx(np.mean(values)), pytest.approx(high))
    assert found.low == max(0, low)  # no time is below 0
    assert (amount([2.0]).low, amount([2.0]).high, amount([2.0]).n) == (2.0, 2.0, 1)


def test_a_percentile_is_numpys_and_its_interval_holds_the_truth():
    values = np.random.default_rng(3).exponential(1.0, 101)
    assert percentile(values.tolist(), 0.95).value == pytest.approx(np.quantile(values, 0.95))
    truth = -np.log(0.05)
    held = 0
    for trial in range(1000):
        found = percentile(np.random.default_rng([5, trial]).exponential(1.0, 300).tolist(), 0.95)
        held += found.low <= truth <= found.high
    assert held >= 940


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.sampled_from([0.5, 0.95]))
def test_a_percentiles_interval_holds_its_value(values, share):
    found = percentile(values, share)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_kappa_equals_scikit_learn(scores):
    rows = [(one / 4, other / 4) for one, other in scores]
    found = agreement_with(rows)["kappa"]
    one, other = zip(*scores, strict=True)
    if len({*one, *other}) == 1:
        assert found is None
    else:
        expected = cohen_kappa_score(one, other, weights="quadratic", labels=range(5))
        assert found["value"] == pytest.approx(expected, abs=1e-6)
        assert found["low"] is None or found["low"] <= found["value"] <= found["high"]


def test_rows_without_a_score_widen_the_interval_to_what_they_could_have_been():
    scores = {row: float(row % 2) for row in range(40)}
    whole = figure_of_shares("polite", scores, {}).to_dict()
    lacking = figure_of_shares("polite", scores, {row: "no verdict" for row in range(40, 50)}).to_dict()
    assert (lacking["value"], lacking["n"], lacking["unscored"]) == (0.5, 40, 10)
    assert lacking["low"] == pytest.approx(whole["low"] * 40 / 50, abs=1e-6)
    assert lacking["high"] == pytest.approx((whole["high"] * 40 + 10) / 50, abs=1e-6)
