"""Run with: pytest tests/tasks/metrics/test_metric_compare.py"""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from chains.errors import StepFailed
from tasks.metrics.compare import compare, mcnemar

BINARY = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=160
)


@given(BINARY)
def test_mcnemar_equals_the_binomial_test_on_rows_that_changed(rows):
    before, after = zip(*rows, strict=True)
    wins = sum(new > old for old, new in rows)
    losses = sum(new < old for old, new in rows)
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(before, after) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_stays_exact_where_powers_of_two_exceed_a_float():
    before, after = [0.0] * 3000, [1.0] * 1600 + [0.0] * 1400
    losses = [1.0] * 1500
    p = mcnemar(before + losses, after + [0.0] * 1500)
    assert p == pytest.approx(stats.binomtest(1600, 3100).pvalue, rel=1e-9)


@given(BINARY, st.randoms())
@settings(max_examples=40, deadline=None)
def test_a_difference_holds_its_value_turns_its_sign_and_ignores_order(rows, random):
    before, after = (list(side) for side in zip(*rows, strict=True))
    result = compare(before, after)
    assert -1 <= result.low <= result.difference <= result.high <= 1
    assert compare(after, before).difference == -result.difference
    assert compare(after, before).p == result.p
    mixed = random.sample(rows, len(rows))
    assert compare([old for old, _ in mixed], [new for _, new in mixed]) == result


def test_below_a_hundred_rows_the_interval_is_the_paired_t():
    rng = np.random.default_rng(1)
    before, after = rng.random(50), rng.random(50)
    result = compare(before.tolist(), after.tolist())
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (result.method, result.p) == ("t", pytest.approx(stats.ttest_rel(after, before).pvalue))
    assert (result.low, result.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_from_a_hundred_rows_on_the_interval_is_the_paired_bootstrap():
    rng = np.random.default_rng(2)
    before = (rng.random(400) < 0.6).astype(float)
    after = np.where(rng.random(400) < 0.2, 1.0, before)
    result = compare(before.tolist(), after.tolist())
    differences = after - before
    means = rng.choice(differences, (4000, 400)).mean(axis=1)
    assert (result.method, result.verdict) == ("bootstrap", "better")
    assert result.low == pytest.approx(np.quantile(means, 0.025), abs=0.005)
    assert result.high == pytest.approx(np.quantile(means, 0.975), abs=0.005)


def test_twenty_equal_rows_do_not_prove_that_nothing_changed():
    result = compare([1.0] * 20, [1.0] * 20)
    assert (result.difference, result.p, result.verdict) == (0, 1.0, "no difference shown")
    assert (round(result.low, 2), round(result.high, 2)) == (-0.16, 0.16)


def test_a_gain_on_every_row_still_has_an_interval():
    result = compare([0.0] * 20, [1.0] * 20)
    assert (result.difference, result.high, result.verdict) == (1.0, 1.0, "better")
    assert round(result.low, 2) == 0.68


def test_a_handful_of_rows_gets_no_verdict():
    assert compare([0.0] * 9, [1.0] * 9).verdict == "too few rows"


def test_a_loss_is_called_worse():
    assert compare([1.0] * 60, [0.0] * 30 + [1.0] * 30).verdict == "worse"


def test_it_leaves_plain_json():
    data = compare([0.0, 1.0] * 60, [1.0, 1.0] * 60).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["difference"], data["n"], data["verdict"]) == (0.5, 120, "better")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1.0], [1.0, 0.0], "got 1 and 2"),
        ([], [], "at least one row"),
        ([math.nan], [1.0], "got nan"),
        ([1.0], [1.5], "got 1.5"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(before, after, message):
    with pytest.raises(StepFailed, match=message):
        compare(before, after)


def test_the_p_of_a_bootstrap_agrees_with_the_t_test_and_is_never_zero():
    rng = np.random.default_rng(4)
    before = rng.random(400)
    after = np.clip(before + rng.normal(0.01, 0.1, 400), 0, 1)
    result = compare(before.tolist(), after.tolist())
    assert result.method == "bootstrap"
    assert result.p == pytest.approx(stats.ttest_rel(after, before).pvalue, abs=0.02)
    assert (result.p < 0.05) == (not result.low <= 0 <= result.high)
    surely = compare(before.tolist(), np.clip(before + 0.3 * rng.random(400), 0, 1).tolist())
    assert 0 < surely.p < 0.001
