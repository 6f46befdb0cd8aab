"""Run with: pytest tests/tasks/test_evaluate_step.py"""

import json
from types import SimpleNamespace

import pytest

from chains.errors import GateNotMet, StepFailed, TemplateFailed
from chains.spec import Chain
from chains.store import open_store
from tasks.context import OnceJob, RowView, StepSkipped
from tasks.evaluate import run_once

kept = {}
"""The store of the test at work, where pictures go."""


@pytest.fixture(autouse=True)
def store(tmp_path):
    with open_store(tmp_path / "store") as opened:
        kept["store"] = opened
        yield opened


def context(**step):
    """A context with what an evaluate step reads of it: its step and its id."""
    step = {"evaluate": {"prediction": "{{ triage.intent }}", "reference": "{{ row.intent }}"}, **step}
    chain = Chain.model_validate({"chain": "t", "steps": {"score": step}})
    return SimpleNamespace(step_id="score", step=chain.steps["score"], store=kept["store"])


def view(row, said, right, status="ok"):
    scope = {"inputs": {}, "row": right if isinstance(right, dict) else {"intent": right}}
    if status == "ok":
        scope["triage"] = {"intent": said}
    return RowView(row, scope, {"triage": status})


async def score(views, **step):
    return await run_once(context(**step), OnceJob("r1", {}, lambda: views))


async def test_each_metric_comes_with_its_interval_and_each_row_with_its_score():
    views = [view(0, "refund", "refund"), view(1, "delivery", "refund")]
    result = await score(views, metrics=["accuracy", "f1_macro"])
    assert result.output["accuracy"] == {
        "value": 0.5,
        "low": 0.094531,
        "high": 0.905469,
        "n": 2,
        "method": "wilson",
    }
    assert result.output["f1_macro"]["value"] == 0.333333
    assert (result.output["rows"], result.output["missing"], result.output["unlabelled"]) == (2, 0, 0)
    assert result.value_key is None
    assert [(item.row, item.output) for item in result.row_records] == [
        (0, {"prediction": "refund", "reference": "refund", "scores": {"accuracy": 1.0}}),
        (1, {"prediction": "delivery", "reference": "refund", "scores": {"accuracy": 0.0}}),
    ]


async def test_twenty_of_twenty_is_not_reported_as_certain():
    result = await score([view(row, "refund", "refund") for row in range(20)])
    assert (result.output["accuracy"]["value"], result.output["accuracy"]["high"]) == (1.0, 1.0)
    assert 0.83 < result.output["accuracy"]["low"] < 0.85


@pytest.mark.parametrize("status", ["failed", "blocked", "skipped", "cancelled", "missing"])
async def test_a_row_whose_prediction_cannot_be_had_counts_as_wrong(status):
    result = await score([view(0, "refund", "refund"), view(1, None, "refund", status)])
    assert (result.output["accuracy"]["value"], result.output["accuracy"]["n"]) == (0.5, 2)
    assert result.output["missing"] == 1
    lost = result.row_records[1].output
    assert lost["prediction"] is None
    assert lost["scores"] == {"accuracy": 0.0}
    assert lost["missing"] == f"step 'triage': {status}"


async def test_a_default_stands_in_for_a_skipped_step_but_not_for_a_failed_one():
    guarded = {"prediction": "{{ triage.intent | default('refund') }}", "reference": "{{ row.intent }}"}
    views = [view(0, None, "refund", "skipped"), view(1, None, "refund", "failed")]
    result = await score(views, evaluate=guarded)
    assert (result.output["accuracy"]["value"], result.output["missing"]) == (0.5, 1)
    assert result.row_records[0].output["prediction"] == "refund"


async def test_a_null_prediction_is_an_answer():
    result = await score([view(0, None, None), view(1, None, "refund")])
    assert (result.output["accuracy"]["value"], result.output["missing"]) == (0.5, 0)


async def test_a_missing_prediction_is_wrong_even_where_the_label_is_null():
    result = await score([view(0, "x", "x"), view(1, None, None, "failed")])
    assert result.output["accuracy"]["value"] == 0.5


async def test_types_are_kept_and_compared_by_one_text():
    result = await score([view(0, 3, "3"), view(1, True, "true"), view(2, 3.0, 3), view(3, "3.5", 3)])
    assert [item.output["scores"]["accuracy"] for item in result.row_records] == [1, 1, 1, 0]
    assert result.row_records[0].output["prediction"] == 3


async def test_rows_without_the_label_column_are_counted_and_not_scored():
    result = await score(
        [view(0, "a", {"intent": "a"}), view(1, "a", {"ticket": "x"}), view(2, "a", {"intent": "b"})]
    )
    assert (result.output["rows"], result.output["unlabelled"], result.output["accuracy"]["value"]) == (
        2,
        1,
        0.5,
    )
    assert [item.row for item in result.row_records] == [0, 2]


@pytest.mark.parametrize(
    ("views", "reason"),
    [
        ([], "the run has no rows"),
        (
            [RowView(0, {"inputs": {}, "triage": {"intent": "a"}}, {"triage": "ok"})],
            "the run has no data set",
        ),
        ([view(0, "a", {"ticket": "x"})], "the run has no labels: column 'intent' is not in the data"),
    ],
)
async def test_without_labels_the_step_is_skipped_and_says_why(views, reason):
    with pytest.raises(StepSkipped, match=reason):
        await score(views)


async def test_a_reference_from_another_step_needs_no_data_set():
    views = [
        RowView(
            row,
            {"inputs": {}, "triage": {"intent": "a"}, "other": {"intent": right}},
            {"triage": "ok", "other": "ok"},
        )
        for row, right in enumerate("ab")
    ]
    compared = {"prediction": "{{ triage.intent }}", "reference": "{{ other.intent }}"}
    assert (await score(views, evaluate=compared)).output["accuracy"]["value"] == 0.5


async def test_a_template_that_fails_on_one_row_costs_that_row_only():
    odd = RowView(1, {"inputs": {}, "row": {"intent": "a"}, "triage": {}}, {"triage": "ok"})
    result = await score([view(0, "a", "a"), odd])
    assert result.output["missing"] == 1
    assert "intent" in result.row_records[1].output["missing"]


async def test_a_template_that_fails_on_every_row_is_a_failure_and_not_a_score_of_zero():
    views = [
        RowView(row, {"inputs": {}, "row": {"intent": "a"}, "triage": {}}, {"triage": "ok"})
        for row in range(3)
    ]
    with pytest.raises(TemplateFailed, match="intent"):
        await score(views)


async def test_a_gate_that_is_met_lets_the_step_pass():
    views = [view(row, "a", "a") for row in range(20)]
    assert (await score(views, gate="accuracy.low >= 0.8 and missing == 0")).output["rows"] == 20


async def test_a_gate_that_is_not_met_keeps_what_was_measured():
    with pytest.raises(
        GateNotMet, match=r"'accuracy.low >= 0.9' is not met: accuracy 1.000 \[0.839, 1.000\]"
    ) as caught:
        await score([view(row, "a", "a") for row in range(20)], gate="accuracy.low >= 0.9")
    assert caught.value.output["accuracy"]["value"] == 1.0
    assert len(caught.value.row_records) == 20


async def test_a_gate_that_cannot_be_asked_keeps_what_was_measured():
    with pytest.raises(TemplateFailed) as caught:
        await score([view(0, "a", "a")], gate="recall.low >= 0.9")
    assert caught.value.output["rows"] == 1


async def test_equal_rows_leave_equal_bytes():
    views = [view(row, "ab"[row % 3 == 0], "ab"[row % 2]) for row in range(50)]
    first, second = [
        json.dumps((await score(views, metrics=["accuracy", "f1_macro", "token_f1"])).output, allow_nan=False)
        for _ in range(2)
    ]
    assert first == second


async def test_a_metric_over_labels_brings_the_figures_of_each_class_and_the_confusion():
    views = [view(0, "refund", "refund"), view(1, "delivery", "refund"), view(2, None, "delivery", "failed")]
    output = (await score(views, metrics=["f1_macro"])).output
    assert [(item["label"], item["rows"]) for item in output["classes"]] == [("refund", 2), ("delivery", 1)]
    assert output["confusion"] == {
        "labels": ["delivery", "refund"],
        "counts": [[0, 0], [1, 1]],
        "missing": [1, 0],
    }
    assert "classes" not in (await score(views)).output


async def test_fields_and_confidences_bring_their_figures():
    evaluate = {
        "prediction": "{{ triage }}",
        "reference": "{{ row.labels }}",
        "confidence": "{{ row.sure }}",
    }
    views = [
        view(row, {"intent": "refund"}, {"labels": {"intent": {"intent": "refund"}}, "sure": 0.75})
        for row in range(12)
    ]
    output = (await score(views, evaluate=evaluate, metrics=["fields", "accuracy"])).output
    assert output["by_field"]["intent"]["n"] == 12
    assert output["accuracy"]["value"] == 1
    assert output["calibration"]["error"]["value"] == 0.25


@pytest.mark.parametrize("sure", ["0.8", 1.5, None, True])
async def test_a_confidence_that_is_no_probability_is_never_averaged_away(sure):
    evaluate = {
        "prediction": "{{ triage.intent }}",
        "reference": "{{ row.intent }}",
        "confidence": "{{ row.sure }}",
    }
    views = [view(0, "refund", {"intent": "refund", "sure": sure})]
    with pytest.raises(StepFailed, match="row 0 has no confidence"):
        await score(views, evaluate=evaluate)


async def test_without_a_reference_every_row_is_scored_by_what_needs_none():
    views = [view(0, ["refund", "refund"], {}), view(1, ["refund", "other"], {})]
    evaluate = {"prediction": "{{ triage.intent }}"}
    output = (await score(views, evaluate=evaluate, metrics=["agreement"])).output
    assert (output["agreement"]["value"], output["rows"], output["unlabelled"]) == (0.5, 2, 0)
    with pytest.raises(ValueError, match="accuracy need 'reference'"):
        await score(views, evaluate=evaluate, metrics=["accuracy"])
