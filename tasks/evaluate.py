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
    output, scored = await asyncio.to_thread(_score, step, job.rows())
    result = RowResult(output=output, row_records=[_row_score(step, item) for item in scored])
    _judge(ctx, step, result)
    return result


def _score(step: EvaluateStep, views: Sequence[RowView]) -> tuple[dict[str, Any], list[_Scored]]:
    scored = _scored(step, views)
    output = _measure(step, scored)
    output["unlabelled"] = len(views) - len(scored)
    return output, scored


def _scored(step: EvaluateStep, views: Sequence[RowView]) -> list[_Scored]:
    """Return the rows that have a reference, in one pass that keeps no more of a row than what is compared.

    None at all is a reason to skip the step.
    """
    if not views:
        raise StepSkipped("the run has no rows")
    template = step.evaluate.reference
    reads = [found for found in references(template) if found.root == "row" and not found.guarded]
    columns = sorted({found.path[0] for found in reads if found.path})
    found = _Columns(columns)
    labels, predictions = _Failures(), _Failures()
    scored = []
    for view in views:
        # A column that is there and empty is a label: "no order number" is an answer that can be right.
        if not found.all_in(view):
            continue
        label = labels.note(_render(template, view))
        if label.reason is not None:
            continue
        said = predictions.note(_render(step.evaluate.prediction, view))
        pair = Pair(said.value, label.value, missing=said.reason is not None)
        scored.append(_Scored(view.row, pair, said.reason))
    if reads and not found.with_data:
        raise StepSkipped("the run has no data set, so there is nothing to compare with")
    for column in columns:
        if column not in found.seen:
            raise StepSkipped(f"the run has no labels: column {column!r} is not in the data")
    labels.raise_if_all()
    if not scored:
        raise StepSkipped(f"no row has a reference: {labels.first_reason}")
    predictions.raise_if_all()
    return scored


class _Columns:
    """Which of the columns that a reference reads are in the data."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = wanted
        self.seen: set[str] = set()
        self.with_data = False

    def all_in(self, view: RowView) -> bool:
        """Note a row's columns; return whether it has all that are wanted."""
        self.with_data = self.with_data or "row" in view.scope
        here = [column for column in self._wanted if column in view.scope.get("row", {})]
        self.seen.update(here)
        return len(here) == len(self._wanted)


class _Failures:
    """How a template failed over the rows, without keeping the rows."""

    def __init__(self) -> None:
        self._error: TemplateFailed | None = None
        self._all = True
        self.first_reason: str | None = None

    def note(self, outcome: _Outcome) -> _Outcome:
        """Take one row's outcome and return it."""
        if outcome.reason is None:
            self._all = False
        self.first_reason = self.first_reason or outcome.reason
        self._error = self._error or outcome.error
        return outcome

    def raise_if_all(self) -> None:
        """Raise the template's failure where no row got past it: a mistake in the chain is no score of 0."""
        if self._error is not None and self._all:
            raise self._error


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
