"""The evaluate step: score predictions against references over all rows, and judge the gate.

Owns the step's output, the record of each row and the gate. Which rows count is in tasks.scoring.compared,
how a metric is computed in tasks.metrics. Invariant: rows + unlabelled = the run's rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from chains.errors import GateNotMet, HeadraceError, StepFailed
from chains.graph import judging_texts
from chains.spec import EvaluateStep
from chains.step_outputs import evaluate_details, figures_of
from chains.templates import evaluate
from tasks.context import OnceJob, RowResult, RowScore, StepContext
from tasks.metrics import METRICS, cells
from tasks.metrics.calibration import calibration
from tasks.metrics.classes import confusion, per_class
from tasks.metrics.estimate import PLACES
from tasks.metrics.structure import by_field
from tasks.scoring import perplexity, similarity, spent
from tasks.scoring.checks import checked
from tasks.scoring.compared import Compared, compared
from tasks.scoring.figures import Figure
from tasks.scoring.judges import judged
from tasks.scoring.pictures import confusion_svg, reliability_svg


async def run_once(ctx: StepContext, job: OnceJob) -> RowResult:
    """Score every row that has a reference.

    Raise StepSkipped where there is nothing to compare with, and GateNotMet, which carries the output, where
    the gate is false.
    """
    step = cast(EvaluateStep, ctx.step)
    views = job.rows()
    rows = await asyncio.to_thread(compared, step, views, _templates(step))
    figures = await _figures(ctx, step, rows)
    output = await asyncio.to_thread(_output, step, rows, figures)
    output["unlabelled"] = len(views) - len(rows)
    checks: dict[str, Figure] = {}
    if step.checks:
        figures["passed"], checks = await checked(ctx, step, rows)
        output["passed"] = figures["passed"].to_dict()
        output["checks"] = {name: figure.to_dict() for name, figure in checks.items()}
    pictures = _pictures(output)
    if pictures:
        output["files"] = await asyncio.to_thread(_put_all, ctx, pictures)
    records = [_row_score(step, item, figures, checks) for item in rows]
    result = RowResult(output=output, row_records=records)
    _judge(ctx, step, result)
    return result


def _templates(step: EvaluateStep) -> dict[str, str]:
    """Return what is rendered for each row besides prediction and reference, by the place of its text."""
    found = {".".join(map(str, path)): source for path, source in judging_texts(step)}
    if step.evaluate.confidence is not None:
        found["confidence"] = step.evaluate.confidence
    return found


async def _figures(ctx: StepContext, step: EvaluateStep, rows: Sequence[Compared]) -> dict[str, Figure]:
    """Return the figures that need more than a prediction and a reference."""
    found: dict[str, Figure] = {}
    names = [name for name in step.measured if name in spent.NAMES]
    if names:
        found |= await asyncio.to_thread(spent.spent, ctx, step, names, rows)
    if similarity.NAME in step.measured:
        found[similarity.NAME] = await similarity.similar(ctx, step, rows)
    if perplexity.NAME in step.measured:
        found[perplexity.NAME] = await perplexity.foretold(ctx, step, rows)
    for name in step.judges:
        found[name] = await judged(ctx, step, name, rows)
    return found


def _output(step: EvaluateStep, rows: Sequence[Compared], figures: Mapping[str, Figure]) -> dict[str, Any]:
    pairs = [item.pair for item in rows]
    output: dict[str, Any] = {
        name: METRICS[name].estimate(pairs).to_dict() for name in step.measured if name in METRICS
    }
    output |= {name: figure.to_dict() for name, figure in figures.items()}
    output |= {"rows": len(rows), "missing": sum(pair.missing for pair in pairs)}
    return output | _details(step, rows)


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


def _pictures(output: Mapping[str, Any]) -> dict[str, str]:
    """Return the drawings of an output by name."""
    found = {}
    if output.get("confusion"):
        found["confusion.svg"] = confusion_svg(output["confusion"])
    if "calibration" in output:
        found["reliability.svg"] = reliability_svg(output["calibration"]["bins"])
    return found


def _put_all(ctx: StepContext, pictures: Mapping[str, str]) -> dict[str, str]:
    return {name: ctx.store.put_blob(picture.encode()) for name, picture in pictures.items()}


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


def _row_score(
    step: EvaluateStep, item: Compared, figures: Mapping[str, Figure], checks: Mapping[str, Figure]
) -> RowScore:
    scores: dict[str, float] = {
        name: round(metric.score(item.pair), PLACES)
        for name in step.measured
        if (metric := METRICS.get(name)) is not None and metric.score is not None
    }
    every = {**figures, **checks}
    scores |= {name: figure.scores[item.row] for name, figure in every.items() if item.row in figure.scores}
    unscored = {
        name: figure.unscored[item.row] for name, figure in every.items() if item.row in figure.unscored
    }
    reasons = {name: figure.per_row[item.row] for name, figure in every.items() if item.row in figure.per_row}
    output: dict[str, Any] = {"prediction": item.pair.prediction, "reference": item.pair.reference}
    output |= {"scores": scores} | ({"unscored": unscored} if unscored else {})
    output |= {"verdicts": reasons} if reasons else {}
    return RowScore(item.row, output if item.reason is None else {**output, "missing": item.reason})


def _judge(ctx: StepContext, step: EvaluateStep, result: RowResult) -> None:
    """Hold the measured values against the gate; what was measured is kept either way."""
    if step.gate is None:
        return
    try:
        if evaluate(step.gate, result.output):
            return
        measured = ", ".join(f"{name} {_shown(result.output[name])}" for name in figures_of(step))
        raise GateNotMet(f"step {ctx.step_id!r}: the gate '{step.gate}' is not met: {measured}.")
    except HeadraceError as error:
        error.output, error.row_records = result.output, result.row_records
        raise


def _shown(estimate: dict[str, Any]) -> str:
    return (
        f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}] over {estimate['n']} rows"
    )
