"""Run with: pytest tests/tasks/metrics/test_metric_estimates.py"""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from chains.errors import StepFailed
from tasks.metrics.estimate import Estimate, mean, t_quantile, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (20, 20, 0.8389, 1.0),
        (0, 20, 0.0, 0.1611),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_equals_published_values(successes, n, low, high):
    estimate = wilson(successes, n)
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy_and_holds_its_value(case):
    successes, n = case
    estimate = wilson(successes, n)
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert estimate.low == pytest.approx(interval.low, abs=1e-12)
    assert estimate.high == pytest.approx(interval.high, abs=1e-12)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 29, 99, 200, 201, 999, 100_000])
def test_t_quantile_equals_scipy(degrees):
    assert t_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-8)


def test_a_mean_has_the_t_interval():
    scores = [0.1, 0.5, 0.4, 0.9, 0.3, 0.7, 0.2, 0.6, 0.5, 0.8, 0.35, 0.15]
    estimate = mean(scores)
    low, high = stats.t.interval(0.95, len(scores) - 1, loc=estimate.value, scale=stats.sem(scores))
    assert (estimate.method, estimate.n) == ("t", 12)
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))


def test_rows_that_are_all_equal_do_not_give_an_interval_of_no_width():
    estimate = mean([1.0] * 20)
    assert estimate.method == "wilson"
    assert (round(estimate.low, 2), estimate.high) == (0.84, 1.0)


def test_fewer_than_ten_rows_get_the_wider_interval():
    scores = [0.49, 0.5, 0.51]
    estimate = mean(scores)
    assert (estimate.method, estimate.value) == ("wilson", pytest.approx(0.5))
    assert estimate.high - estimate.low > 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.randoms())
def test_a_mean_holds_its_value_whatever_the_order_of_rows(scores, random):
    estimate = mean(scores)
    random.shuffle(scores)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert mean(scores) == estimate


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_an_error_and_never_a_value(bad):
    with pytest.raises(StepFailed, match="not a finite number"):
        Estimate(bad, 0.0, 1.0, 10, "t")


def test_nan_in_a_score_does_not_become_a_number():
    with pytest.raises(StepFailed, match="not a finite number"):
        mean([0.5, math.nan] * 10)


def test_no_rows_is_an_error_that_says_so():
    for attempt in (lambda: wilson(0, 0), lambda: mean([])):
        with pytest.raises(StepFailed, match="at least one row"):
            attempt()


def test_an_estimate_survives_json_unchanged():
    data = wilson(2, 3).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data == {"value": 0.666667, "low": 0.20766, "high": 0.938508, "n": 3, "method": "wilson"}
