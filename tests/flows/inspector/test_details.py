"""The pages of steps that run once: what was measured, and how a training went."""

# ruff: noqa: E501 - lists of points and of texts

from __future__ import annotations

import json
import math
import re

import pytest
from served import OPTIONS, Served
from test_pages import EVIL, read

from chains.store import RecordRow, RunRow, StepRow
from flows.inspector.curves import Curve, chart
from flows.inspector.evaluation_view import _confusion
from flows.inspector.training_view import training_view

CHAIN = """chain: tuned
inputs: {ticket: {type: string}}
models:
  starter: {provider: starter}
  writer: {provider: openai, model: m, base_url: "http://127.0.0.1:1/v1"}
steps:
  triage: {prompt: "Sort this: {{ inputs.ticket }}", model: writer}
  tune:
    finetune: lora
    base: starter
    data: {train: train.jsonl, validation: val.jsonl, general: general.jsonl}
    publish: tiny
    max_forgetting: 0.1
    early_stopping_patience: 2
    gate: validation_loss < 3
  score:
    evaluate: {prediction: "{{ triage.text }}", reference: "{{ row.intent }}"}
    metrics: [accuracy, f1_macro]
    gate: accuracy.low > 0.9
"""
TRAINED = {
    "model": "models:tiny", "version": 3, "method": "scratch", "steps": 40, "train_loss": 1.5,
    "validation_loss": 2.0, "tokens": 900, "seconds": 12.5, "parameters_trained": 1000,
    "parameters_total": 2000, "stop_reason": "early_stop", "best_step": 30, "gap": 0.5,
    "gap_opened_at_step": 20, "forgetting": {"value": 0.05, "low": 0.01, "high": 0.2, "n": 30},
    "warnings": ["8 training examples are few."],
    "history": [{"step": at, "train_loss": 3 - at / 40, "validation_loss": 3 - at / 60} for at in (10, 20, 30, 40)],
    "curve": [{"step": at, "loss": 3 / (1 + at / 10), "learning_rate": 1e-3 * (1 - at / 41)} for at in range(1, 41)],
}  # fmt: skip


def estimate(value: float) -> dict[str, float | int | str]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 4, "method": "wilson"}


def write(served: Served, labels: list[str]) -> None:
    """Write a run with a training and an evaluation of one row per label, every second of them wrong."""
    rows = [(label, label if place % 2 == 0 else labels[0]) for place, label in enumerate(labels)]
    counts = [[sum(1 for r, p in rows if (r, p) == (a, b)) for b in labels] for a in labels]
    output = {
        "accuracy": estimate(0.5), "f1_macro": estimate(0.4), "rows": len(rows), "missing": 1, "unlabelled": 2,
        "confusion": {"labels": labels, "counts": counts, "missing": [0] * len(labels)},
    }  # fmt: skip
    served.store.put(
        RunRow(
            id="run1", chain="tuned", chain_hash="h", source=CHAIN.encode(), rows=len(rows), status="ok",
            started_at=1.0, finished_at=9.0, options=json.dumps(OPTIONS).encode(),
        ),
        *(
            StepRow(run_id="run1", id=name, kind=kind, once=True, status="ok", started_at=1.0, finished_at=2.0)
            for name, kind in (("tune", "finetune"), ("score", "evaluate"))
        ),
        RecordRow(
            id="tune", run_id="run1", step="tune", row=-1, status="ok", output=json.dumps(TRAINED).encode(),
            started_at=1.0, finished_at=2.0,
        ),
        RecordRow(
            id="score", run_id="run1", step="score", row=-1, status="ok", output=json.dumps(output).encode(),
            started_at=1.0, finished_at=2.0,
        ),
        *(
            RecordRow(
                id=f"score{row}", run_id="run1", step="score", row=row, status="ok", started_at=1.0,
                finished_at=2.0, output=json.dumps({
                    "prediction": said, "reference": wanted,
                    "scores": {"accuracy": float(said == wanted), "latency": 10.0 - row},
                }).encode(),
            )
            for row, (wanted, said) in enumerate(rows)
        ),
    )  # fmt: skip


def test_an_evaluation_shows_metrics_with_intervals_the_confusion_and_the_worst_rows(served: Served) -> None:
    write(served, ["refund", "delivery", "question", "address"])
    view = served.ask("/runs/run1/steps/score.json").json()["evaluation"]
    assert [(one["name"], one["low"]) for one in view["metrics"]] == [
        ("accuracy", 0.4),
        ("f1_macro", 0.30000000000000004),
    ]
    assert view["gate"] == "accuracy.low > 0.9"
    assert [line["cells"][0]["count"] for line in view["confusion"]["lines"]] == [1, 1, 0, 1]
    assert view["confusion"]["lines"][0]["cells"][0] == {"count": 1, "tenths": 10, "right": True}
    assert view["worst"]["by"] == "accuracy" and [one["row"] for one in view["worst"]["rows"]] == [1, 3]
    for path in ("/runs/run1/steps/score", "/runs/run1/steps/score/once"):
        page = served.ask(path)
        assert "0.4 to 0.6" in page.text and 'class="number wrong-10"' in page.text
        worst = re.findall('<a class="worst" href="([^"]+)"', page.text)
        assert worst == ["/runs/run1/steps/score/1", "/runs/run1/steps/score/3"]


def test_labels_and_predictions_are_inert_and_many_labels_are_cut(served: Served) -> None:
    write(served, EVIL[:10])
    page = served.ask("/runs/run1/steps/score")
    seen = read(page.text)
    assert seen.scripts == ["/htmx.js"] and not seen.tags & {"img", "iframe", "style", "math"}
    assert all(text in "".join(seen.text) for text in EVIL[:4])
    many = [f"label{place}" for place in range(100)]
    counts = [[place if place == other else 0 for other in range(100)] for place in range(100)]
    table = _confusion({"labels": many, "counts": counts, "missing": [0] * 100})
    assert table is not None and table["left_out"] == 70 and table["labels"][0] == "label70"


def test_a_training_shows_its_curves_and_what_each_guard_has_seen(served: Served) -> None:
    write(served, ["a", "b"])
    view = served.ask("/runs/run1/steps/tune.json").json()["training"]
    guards = {guard["name"]: (guard["state"], guard["text"]) for guard in view["guards"]}
    assert guards["divergence"][0] == "ok"
    assert guards["over-fitting"] == (
        "warned",
        "validation loss +0.500 against the training loss; wide since step 20",
    )
    assert guards["early stopping"] == ("ok", "stopped; the best was step 30")
    assert guards["forgetting"][0] == "failed" and "limit 0.1" in guards["forgetting"][1]
    assert guards["gate"][0] == "ok" and "validation_loss < 3" in guards["gate"][1]
    assert len(view["curve"]) == 40 and "pictures" not in view
    page = served.ask("/runs/run1/steps/tune").text
    for kind in ("step-loss", "train-loss", "validation-loss", "rate"):
        assert f'<path class="{kind}" d="M' in page, kind
    assert "8 training examples are few." in page


def test_a_training_under_way_shows_the_milestones_so_far() -> None:
    milestones = [
        {"step": 10, "total": 40, "loss": 2.5, "learning_rate": 1e-3, "milestone": "checkpoint", "validation_loss": None},
        {"step": 20, "total": 40, "loss": 2.0, "learning_rate": 8e-4, "milestone": "evaluation", "validation_loss": 2.2},
    ]  # fmt: skip
    view = training_view(None, {"history": milestones}, None)
    assert view["guards"] == []
    assert [picture["title"] for picture in view["pictures"]] == ["Loss", "Learning rate"]
    assert [line["kind"] for line in view["pictures"][0]["legend"]] == ["step-loss", "validation-loss"]


def test_a_job_at_an_endpoint_claims_no_guard_that_nobody_kept() -> None:
    output = {
        "method": "openai", "job": "ftjob-1", "steps": 9, "hosted_model": "ft:m",
        "history": [{"step": 5, "train_loss": 1.5}, {"step": 9, "train_loss": 1.0}],
    }  # fmt: skip
    view = training_view(None, output, None)
    assert view["guards"] == [] and view["facts"]["job"] == "ftjob-1"
    assert [line["kind"] for line in view["pictures"][0]["legend"]] == ["train-loss"]


def test_a_training_that_diverged_says_so() -> None:
    error = {"type": "TrainingDiverged", "message": "Training diverged at step 4: loss nan.", "hint": None}
    guards = {guard["name"]: guard for guard in training_view(None, {}, error)["guards"]}
    assert guards["divergence"]["state"] == "failed" and "step 4" in guards["divergence"]["text"]


@pytest.mark.parametrize(
    "points",
    [[(1.0, 2.0)], [(0.0, 0.0)], [(1.0, -5.0), (2.0, 5.0)], [(1.0, math.nan), (2.0, 3.0)], [(1.0, 1e300), (2.0, 1e-300)]],
)  # fmt: skip
def test_a_chart_of_odd_points_stays_inside_its_frame(points: list[tuple[float, float]]) -> None:
    picture = chart("<b>", [Curve("</title><script>", 'x"y', points)])
    assert picture is not None and "<script" not in picture and "<b>" not in picture
    assert "nan" not in picture and "inf" not in picture
    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', picture):
        assert 0 <= float(x) <= 560 and 0 <= float(y) <= 220


def test_a_chart_of_nothing_is_none() -> None:
    assert chart("x", []) is None
    assert chart("x", [Curve("a", "b", [(1.0, math.inf)])]) is None
