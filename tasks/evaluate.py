"""The evaluate step: score predictions against references over all rows, and judge the gate.

Owns which rows count and as what. A row without a reference is not scored (`unlabelled`); a row whose
prediction cannot be had is scored as wrong (`missing`), because leaving it out would flatter the chain.
Knows nothing of how a metric is computed (tasks.metrics). Invariant: rows + unlabelled = the run's rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from chains.errors import GateNotMet, HeadraceError, TemplateFailed
from chains.spec import EvaluateStep
from chains.templates import evaluate, references, render_value
from tasks.context import OnceJob, RowResult, RowScore, RowView, StepContext, StepSkipped
from tasks.metrics import METRICS, Pair
from tasks.metrics.estimate import PLACES

_NO_OUTPUT = frozenset({"failed", "blocked", "cancelled", "missing"})
"""How an upstream step ends without an answer; `skipped` is not one: a template may hold a default for it."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """One row that counts, and why its prediction is missing where it is."""

    row: int
    pair: Pair
    reason: str | None = None


async def run_once(ctx: StepContext, job: OnceJob) -> RowResult:
    """Score every row that has a reference.

    Raise StepSkipped where there is nothing to compare with, and GateNotMet, which carries the output, where
    the gate is false.
    """
    step = cast(EvaluateStep, ctx.step)
    views = job.rows()
    labelled = _labelled(step, views)
    scored = _predictions(step, labelled)
    output = await asyncio.to_thread(_measure, step, scored)
    output["unlabelled"] = len(views) - len(scored)
    result = RowResult(output=output, row_records=[_row_score(step, item) for item in scored])
    _judge(ctx, step, result)
    return result


def _labelled(step: EvaluateStep, views: Sequence[RowView]) -> list[tuple[RowView, Any]]:
    """Return the rows that have a reference, with it; none at all is a reason to skip the step."""
    if not views:
        raise StepSkipped("the run has no rows")
    template = step.evaluate.reference
    reads = [found for found in references(template) if found.root == "row" and not found.guarded]
    columns = sorted({found.path[0] for found in reads if found.path})
    with_data = [view for view in views if "row" in view.scope]
    if reads and not with_data:
        raise StepSkipped("the run has no data set, so there is nothing to compare with")
    for column in columns:
        if not any(column in view.scope["row"] for view in with_data):
            raise StepSkipped(f"the run has no labels: column {column!r} is not in the data")
    # A column that is there and empty is a label: "no order number" is an answer that can be right.
    candidates = [view for view in views if all(column in view.scope.get("row", {}) for column in columns)]
    found = [(view, _render(template, view)) for view in candidates]
    _raise_if_all_failed([outcome for _, outcome in found])
    labelled = [(view, outcome.value) for view, outcome in found if outcome.reason is None]
    if not labelled:
        raise StepSkipped(f"no row has a reference: {found[0][1].reason}")
    return labelled


def _predictions(step: EvaluateStep, labelled: Sequence[tuple[RowView, Any]]) -> list[_Scored]:
    found = [(view, reference, _render(step.evaluate.prediction, view)) for view, reference in labelled]
    _raise_if_all_failed([outcome for _, _, outcome in found])
    return [
        _Scored(view.row, Pair(outcome.value, reference, missing=outcome.reason is not None), outcome.reason)
        for view, reference, outcome in found
    ]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A rendered value, or why there is none; `error` where the template itself is why."""

    value: Any = None
    reason: str | None = None
    error: TemplateFailed | None = None


def _render(template: str, view: RowView) -> _Outcome:
    """Render for one row; an upstream step that failed has no answer, whatever default the template names."""
    ended = {found.root: view.statuses.get(found.root) for found in references(template)}
    for step_id, status in ended.items():
        if status in _NO_OUTPUT:
            return _Outcome(reason=f"step {step_id!r}: {status}")
    try:
        return _Outcome(render_value(template, view.scope))
    except TemplateFailed as error:
        for step_id, status in ended.items():
            if status == "skipped":
                return _Outcome(reason=f"step {step_id!r}: skipped")
        return _Outcome(reason=error.message, error=error)


def _raise_if_all_failed(outcomes: Sequence[_Outcome]) -> None:
    """Raise the template's failure where no row got past it: a mistake in the chain is no score of 0."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors and all(outcome.reason is not None for outcome in outcomes):
        raise errors[0]


def _measure(step: EvaluateStep, scored: Sequence[_Scored]) -> dict[str, Any]:
    pairs = [item.pair for item in scored]
    estimates: dict[str, Any] = {name: METRICS[name].estimate(pairs).to_dict() for name in step.metrics}
    return {**estimates, "rows": len(scored), "missing": sum(pair.missing for pair in pairs)}


def _row_score(step: EvaluateStep, item: _Scored) -> RowScore:
    scores = {
        name: round(metric.score(item.pair), PLACES)
        for name in step.metrics
        if (metric := METRICS[name]).score is not None
    }
    output = {"prediction": item.pair.prediction, "reference": item.pair.reference, "scores": scores}
    return RowScore(item.row, output if item.reason is None else {**output, "missing": item.reason})


def _judge(ctx: StepContext, step: EvaluateStep, result: RowResult) -> None:
    """Hold the measured values against the gate; what was measured is kept either way."""
    if step.gate is None:
        return
    try:
        if evaluate(step.gate, result.output):
            return
        measured = ", ".join(f"{name} {_shown(result.output[name])}" for name in step.metrics)
        raise GateNotMet(f"step {ctx.step_id!r}: the gate '{step.gate}' is not met: {measured}.")
    except HeadraceError as error:
        error.output, error.row_records = result.output, result.row_records
        raise


def _shown(estimate: dict[str, Any]) -> str:
    return (
        f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}] over {estimate['n']} rows"
    )
