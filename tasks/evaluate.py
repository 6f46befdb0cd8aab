"""The evaluate step: score predictions against references over all rows, and judge the gate.

Owns the step's output, the record of each row and the gate. Which rows count is in tasks.scoring.compared,
how a metric is computed in tasks.metrics. Invariant: rows + unlabelled = the run's rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from chains.errors import GateNotMet, HeadraceError, StepFailed
from chains.spec import EvaluateStep
from chains.step_outputs import evaluate_details
from chains.templates import evaluate
from tasks.context import OnceJob, RowResult, RowScore, RowView, StepContext
from tasks.metrics import METRICS, cells
from tasks.metrics.calibration import calibration
from tasks.metrics.classes import confusion, per_class
from tasks.metrics.estimate import PLACES
from tasks.metrics.structure import by_field
from tasks.scoring.compared import Compared, compared


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


def _score(step: EvaluateStep, views: Sequence[RowView]) -> tuple[dict[str, Any], list[Compared]]:
    confidence = step.evaluate.confidence
    rows = compared(step, views, {} if confidence is None else {"confidence": confidence})
    pairs = [item.pair for item in rows]
    output: dict[str, Any] = {name: METRICS[name].estimate(pairs).to_dict() for name in step.measured}
    output |= {"rows": len(rows), "missing": sum(pair.missing for pair in pairs)}
    output["unlabelled"] = len(views) - len(rows)
    return output | _details(step, rows), rows


def _details(step: EvaluateStep, rows: Sequence[Compared]) -> dict[str, Any]:
    """Return what the metrics' figures are made of: labels, fields and confidences."""
    pairs = [item.pair for item in rows]
    found: dict[str, Any] = {}
    wanted = evaluate_details(step)
    if "classes" in wanted:
        found |= {"classes": per_class(cells(pairs)), "confusion": confusion(cells(pairs))}
    if "by_field" in wanted:
        of_fields = by_field([(pair.prediction, pair.reference) for pair in pairs])
        found["by_field"] = {name: estimate.to_dict() for name, estimate in of_fields.items()}
    if "calibration" in wanted:
        found["calibration"] = calibration([_said(item) for item in rows if not item.pair.missing])
    return found


def _said(item: Compared) -> tuple[float, bool]:
    """Return a row's confidence and whether it was right to have it."""
    outcome = item.also["confidence"]
    value = outcome.value
    is_share = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if not is_share:  # also true of NaN
        why = outcome.reason or f"it is {value!r:.200}"
        raise StepFailed(
            f"row {item.row} has no confidence: {why}.", hint="`confidence` is a probability from 0 to 1."
        )
    return float(value), bool(METRICS["accuracy"].estimate([item.pair]).value)


def _row_score(step: EvaluateStep, item: Compared) -> RowScore:
    scores = {
        name: round(metric.score(item.pair), PLACES)
        for name in step.measured
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
        measured = ", ".join(f"{name} {_shown(result.output[name])}" for name in step.measured)
        raise GateNotMet(f"step {ctx.step_id!r}: the gate '{step.gate}' is not met: {measured}.")
    except HeadraceError as error:
        error.output, error.row_records = result.output, result.row_records
        raise


def _shown(estimate: dict[str, Any]) -> str:
    return (
        f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}] over {estimate['n']} rows"
    )
