"""Run with: pytest tests/tasks/metrics/test_metric_scores.py"""

import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from chains.spec import MetricName
from tasks.metrics import METRICS, Pair
from tasks.metrics.text import canonical_text, contains, exact_match, normalise_answer, token_f1
from tasks.scoring import spent

LABELS = st.sampled_from(["refund", "delivery", "question", "other"])
ROWS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=60)


def pairs_of(rows):
    return [Pair(prediction=said, reference=right) for right, said in rows]


def test_there_is_a_metric_for_every_name_that_a_chain_may_say():
    # What is embedded or spent is scored beside the pairs of prediction and reference.
    assert {*METRICS, *spent.NAMES, "similarity", "perplexity"} == set(typing.get_args(MetricName))


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_accuracy_and_f1_equal_scikit_learn(rows):
    right, said = zip(*rows, strict=True)
    assert METRICS["accuracy"].estimate(pairs_of(rows)).value == pytest.approx(accuracy_score(right, said))
    for average in ("macro", "micro", "weighted"):
        expected = f1_score(right, said, average=average, zero_division=0)
        assert METRICS[f"f1_{average}"].estimate(pairs_of(rows)).value == pytest.approx(expected)


@given(ROWS, st.randoms())
@settings(max_examples=25, deadline=None)
def test_no_metric_depends_on_the_order_of_rows_and_each_interval_holds_its_value(rows, random):
    pairs = pairs_of(rows)
    shuffled = random.sample(pairs, len(pairs))
    for metric in METRICS.values():
        estimate = metric.estimate(pairs)
        assert metric.estimate(shuffled) == estimate
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_row_without_a_prediction_never_helps(data):
    rows = data.draw(ROWS)
    pairs = pairs_of(rows)
    chosen = data.draw(st.integers(0, len(pairs) - 1))
    without = [
        Pair(None, pair.reference, missing=True) if i == chosen else pair for i, pair in enumerate(pairs)
    ]
    # BLEU and chrF over a corpus weigh what was said too much: there, saying nothing may help
    for name in METRICS.keys() - {"bleu", "chrf"}:
        metric = METRICS[name]
        if metric.score is not None:
            assert metric.score(without[chosen]) == 0
            assert metric.estimate(without).value <= metric.estimate(pairs).value + 1e-12


def test_a_missing_prediction_is_wrong_even_where_nothing_is_right():
    missing, said_nothing = Pair(None, None, missing=True), Pair(None, None)
    assert METRICS["accuracy"].score(missing) == 0
    assert METRICS["accuracy"].score(said_nothing) == 1


def test_a_missing_prediction_is_a_miss_and_no_label_of_its_own():
    rows = [Pair("a", "a")] * 10 + [Pair("b", "b")] * 9 + [Pair(None, "b", missing=True)]
    # a: f1 1; b: 9 hits, 1 miss -> 18/19. A label for "nothing" would have cut the mean by a third.
    assert METRICS["f1_macro"].estimate(rows).value == pytest.approx((1 + 18 / 19) / 2)


def test_the_f1_interval_is_the_percentile_bootstrap_of_rows():
    rng = np.random.default_rng(7)
    right = rng.choice(["a", "b", "c"], 120)
    said = np.where(rng.random(120) < 0.7, right, rng.choice(["a", "b", "c"], 120))
    estimate = METRICS["f1_macro"].estimate(pairs_of(zip(right.tolist(), said.tolist(), strict=True)))
    draws = [
        f1_score(right[rows], said[rows], average="macro", zero_division=0)
        for rows in (rng.integers(0, 120, 120) for _ in range(600))
    ]
    assert estimate.method == "bootstrap"
    assert estimate.low == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
    assert estimate.high == pytest.approx(np.quantile(draws, 0.975), abs=0.02)


def test_all_rows_right_is_not_reported_as_certain():
    estimate = METRICS["f1_macro"].estimate([Pair("a", "a"), Pair("b", "b")] * 10)
    assert (estimate.value, estimate.high, estimate.method) == (1.0, 1.0, "wilson")
    assert round(estimate.low, 2) == 0.84


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("  refund ", "refund"),
        (3, "3"),
        (3.0, "3"),
        (3.25, "3.25"),
        (True, "true"),
        ("cafe\u0301", "caf\u00e9"),
        ({"b": 1, "a": None}, '{"a":null,"b":1}'),
        (["x", 1], '["x",1]'),
    ],
)
def test_values_are_compared_by_one_text(value, text):
    assert canonical_text(value) == text


def test_accuracy_keeps_case_apart():
    assert METRICS["accuracy"].score(Pair("Refund", "refund")) == 0


def test_squad_normalisation_drops_case_articles_punctuation_and_spaces():
    assert normalise_answer("The  Cat, a dog -- and AN owl!") == "cat dog and owl"
    assert exact_match("The Amazon.", "amazon") == 1


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("Denver Broncos", "the Denver Broncos", 1.0),
        ("Denver", "Denver Broncos", 2 / 3),
        ("New York Jets", "Denver Broncos", 0.0),
        ("cat cat cat", "cat", 0.5),
        ("", "", 1.0),
        ("", "x", 0.0),
        ("x", None, 0.0),
        ("the", "", 1.0),
    ],
)
def test_token_f1_equals_the_squad_script(said, right, score):
    assert token_f1(said, right) == pytest.approx(score)


def test_a_list_of_texts_as_the_reference_holds_alternatives():
    assert token_f1("Denver Broncos", ["Broncos", "the Denver Broncos"]) == 1
    assert exact_match("jets", ["Broncos", "the Denver Broncos"]) == 0
    assert METRICS["accuracy"].score(Pair(["a"], ["a"])) == 1


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("Your order A-4711\nis on its way.", "order a-4711 is", 1),
        ("Your order is on its way.", "A-4711", 0),
        ("anything", "", 0),
        ("", None, 1),
        (["A", "B"], "B", 1),
    ],
)
def test_contains_looks_for_the_reference_in_the_prediction(said, right, score):
    assert contains(said, right) == score
