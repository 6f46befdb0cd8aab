"""Each family of metrics equals the library that papers cite for it, or figures worked out by hand.

Run with: pytest tests/tasks/metrics/test_metric_families.py
"""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import confusion_matrix, ndcg_score, precision_recall_fscore_support

from tasks.metrics import METRICS, Pair
from tasks.metrics.calibration import calibration
from tasks.metrics.classes import confusion, per_class
from tasks.metrics.structure import by_field

WORDS = st.lists(
    st.sampled_from(
        ["the", "cat", "sat", "on", "a", "mat", "quickly,", "and", "ran", "away.", "Then", "it", "slept"]
    ),
    max_size=9,
).map(" ".join)
CORPUS = st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=14)
LABELS = st.sampled_from(["refund", "delivery", "other"])


def estimate(name, rows):
    return METRICS[name].estimate([Pair(said, right) for said, right in rows]).value


@settings(max_examples=60, deadline=None)
@given(CORPUS)
def test_bleu_and_chrf_equal_sacrebleu(rows):
    said, right = [said for said, _ in rows], [right for _, right in rows]
    assert estimate("bleu", rows) == pytest.approx(BLEU().corpus_score(said, [right]).score / 100)
    assert estimate("chrf", rows) == pytest.approx(CHRF().corpus_score(said, [right]).score / 100)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_rouge_equals_rouge_score(said, right):
    expected = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(right, said)
    for name, score in expected.items():
        assert estimate(name, [(said, right)]) == pytest.approx(score.fmeasure)


def test_a_list_of_references_holds_alternatives_of_which_the_best_counts():
    pair = Pair("the cat sat", ["a dog ran", "the cat sat"])
    assert all(METRICS[name].score(pair) == 1 for name in ("chrf", "rouge1", "rouge2", "rougeL"))
    # sacrebleu counts the n-grams of all references, and three words have no n-gram of four
    expected = BLEU().corpus_score(["the cat sat on it"], [["a dog ran"], ["the cat sat on it"]]).score / 100
    right = [("the cat sat on it", ["a dog ran", "the cat sat on it"])]
    assert estimate("bleu", right) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=40).filter(
        lambda rows: len({*sum(rows, ())}) > 1
    )
)
def test_figures_per_class_and_the_confusion_equal_scikit_learn(rows):
    right, said = zip(*rows, strict=True)
    labels = sorted({*right, *said})
    precision, recall, f1, support = precision_recall_fscore_support(
        right, said, labels=labels, zero_division=0
    )
    found = {item["label"]: item for item in per_class(rows)}
    for place, label in enumerate(labels):
        item = found[label]
        assert item["rows"] == support[place]
        assert (item["precision"] or {"value": 0})["value"] == pytest.approx(precision[place], abs=1e-6)
        assert (item["recall"] or {"value": 0})["value"] == pytest.approx(recall[place], abs=1e-6)
        assert item["f1"]["value"] == pytest.approx(f1[place], abs=1e-6)
        assert 0 <= item["f1"]["low"] <= item["f1"]["value"] <= item["f1"]["high"] <= 1
    table = confusion(rows)
    assert table["labels"] == labels
    assert table["counts"] == confusion_matrix(right, said, labels=labels).tolist()


def test_a_row_without_an_answer_stands_apart_in_the_confusion():
    table = confusion([("a", "a"), ("a", None), ("b", "")])
    assert table == {"labels": ["a", "b"], "counts": [[1, 0], [0, 0]], "missing": [1, 1]}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(any), st.randoms())
def test_ndcg_equals_scikit_learn(grades, random):
    order = random.sample(range(len(grades)), len(grades))
    reference = {str(place): grade for place, grade in enumerate(grades)}
    scores = [0.0] * len(grades)
    for rank, place in enumerate(order):
        scores[place] = float(len(grades) - rank)
    said = [str(place) for place in order]
    for k in (3, 10):
        assert estimate(f"ndcg_at_{k}", [(said, reference)]) == pytest.approx(
            ndcg_score([grades], [scores], k=k)
        )


def test_retrieval_counts_each_relevant_id_once_and_takes_hits_ids_and_grades():
    hits = [{"id": "c", "text": "..."}, {"id": "a", "text": "..."}, {"id": "a", "text": "..."}]
    assert METRICS["recall_at_1"].score(Pair(hits, ["a", "b"])) == 0
    assert METRICS["recall_at_3"].score(Pair(hits, ["a", "b"])) == 0.5
    assert METRICS["mrr"].score(Pair(hits, "a")) == 0.5
    assert METRICS["mrr"].score(Pair([], "a")) == 0
    graded = METRICS["ndcg_at_10"].score(Pair(["b", "a"], {"a": 2, "b": 1, "c": 0}))
    assert graded == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    # nothing is relevant: right is to find nothing
    assert METRICS["recall_at_5"].score(Pair([], [])) == METRICS["ndcg_at_5"].score(Pair([], [])) == 1
    assert METRICS["recall_at_5"].score(Pair(["a"], [])) == METRICS["ndcg_at_5"].score(Pair(["a"], [])) == 0


@pytest.mark.parametrize(
    ("said", "valid"), [('{"a": 1}', 1), ("[1]", 1), ({"a": 1}, 1), ("", 0), ("a", 0), ('{"a": NaN}', 0)]
)
def test_what_is_json_and_what_is_not(said, valid):
    assert METRICS["json_valid"].score(Pair(said, None)) == valid


def test_structured_answers_are_scored_field_by_field():
    rows = [
        ({"intent": "refund", "order": 17}, '{"intent": "refund", "order": "17"}'),
        ('{"intent": "other"}', {"intent": "refund", "order": None}),
        ("no JSON", {"intent": "refund", "order": "3"}),
    ]
    assert [METRICS["fields"].score(Pair(*row)) for row in rows] == [1, 0, 0]
    found = by_field(rows)
    assert {name: (e.value, e.n) for name, e in found.items()} == {
        "intent": (pytest.approx(1 / 3), 3),
        "order": (pytest.approx(1 / 3), 3),
    }


def test_repeated_answers_agree_by_pairs():
    assert METRICS["agreement"].score(Pair(["Refund.", "refund", "delivery"], None)) == pytest.approx(1 / 3)
    assert METRICS["agreement"].score(Pair(["refund"], None)) == 1
    mixed = Pair(["refund", "delivery"], "refund")
    assert (METRICS["pass_all"].score(mixed), METRICS["pass_any"].score(mixed)) == (0, 1)


def test_calibration_by_hand():
    rows = [(0.95, True)] * 8 + [(0.95, False)] * 2 + [(0.15, False)] * 10
    found = calibration(rows)
    assert found["brier"]["value"] == pytest.approx((8 * 0.05**2 + 2 * 0.95**2 + 10 * 0.15**2) / 20)
    assert found["error"]["value"] == pytest.approx(abs(0.95 - 0.8) / 2 + 0.15 / 2)
    assert [bin["rows"] for bin in found["bins"]] == [0, 10, 0, 0, 0, 0, 0, 0, 0, 10]
    assert found["bins"][9]["accuracy"]["value"] == 0.8
    assert found["bins"][0]["accuracy"] is None
