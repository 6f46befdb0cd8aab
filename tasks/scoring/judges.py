"""Judges: models that score each row, alone or against another answer, and how far they agree with people.

Owns what a verdict is worth. What a judge is asked is in tasks.scoring.judge_prompts, how in
tasks.asking. A row without a prediction scores 0 and is not asked about; a row whose verdict cannot
be had has no score and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chains.errors import StepFailed
from chains.graph import judge_model
from chains.spec import EvaluateStep, Judge, PromptStep
from tasks.asking import Answers, ask_rows, calling
from tasks.context import StepContext
from tasks.metrics.agreement import agreement_with
from tasks.metrics.estimate import wilson
from tasks.scoring.compared import Compared
from tasks.scoring.figures import Figure, figure_of_shares
from tasks.scoring.judge_prompts import form_of, messages_for, texts_for

_REASK = 1
"""A verdict that does not fit its form is asked for once more."""
SWAPPED = "swapped"
"""The second step of a pairwise judge is `STEP-JUDGE-swapped`."""
_WORTH = {"A": 1.0, "tie": 0.5, "B": 0.0}
_HUMAN_WORTH = {"prediction": 1.0, "tie": 0.5, "against": 0.0}


async def judged(ctx: StepContext, step: EvaluateStep, name: str, rows: Sequence[Compared]) -> Figure:
    """Ask the judge `name` about every row and return its figure."""
    judge = step.judges[name]
    variables, scores, unscored = _variables(name, judge, rows, with_reference=_sees_reference(step, judge))
    prompt = PromptStep(
        prompt=messages_for(judge.ask, judge.scale),
        output=form_of(judge.ask, judge.scale),
        model=judge_model(step, name, ctx.chain_file.chain),
        reask=_REASK,
        **calling(step),
    )
    more: dict[str, Any] = {}
    if judge.ask == "pairwise":
        reasons, verdicts = await _ask_both_ways(ctx, name, prompt, variables)
        found = verdicts.outputs
        stood = [item["first"] == item["second"] for item in found.values()]
        more = {"same_when_swapped": wilson(sum(stood), len(stood)).to_dict()} if stood else {}
        worth = {row: (item["first"] + item["second"]) / 2 for row, item in found.items()}
    else:
        verdicts = await ask_rows(ctx, name, prompt, variables)
        reasons = {row: {"reason": output["output"]["reason"]} for row, output in verdicts.outputs.items()}
        worth = {}
        for row, output in verdicts.outputs.items():
            value = _worth(judge, output["output"])
            if value is None:
                unscored[row] = "the answer makes no statement"
            else:
                worth[row] = value
    unscored |= verdicts.failures
    people = _human(name, judge, rows)
    if people:
        both = [(worth[row], people[row]) for row in sorted(people.keys() & worth.keys())]
        more["agreement"] = agreement_with(both) if both else None
    figure = figure_of_shares(name, scores | worth, unscored, **more)
    figure.per_row = reasons
    return figure


def _sees_reference(step: EvaluateStep, judge: Judge) -> bool:
    return step.evaluate.reference is not None and judge.ask in ("rubric", "pairwise")


def _variables(
    name: str, judge: Judge, rows: Sequence[Compared], *, with_reference: bool
) -> tuple[dict[int, dict[str, Any]], dict[int, float], dict[int, str]]:
    """Return what the judge sees of each row, the rows that score 0 unseen, and those without a verdict."""
    variables: dict[int, dict[str, Any]] = {}
    scores: dict[int, float] = {}
    unscored: dict[int, str] = {}
    names = [*texts_for(judge), *(("against",) if judge.ask == "pairwise" else ())]
    for item in rows:
        if item.pair.missing and judge.ask != "context_relevance":
            scores[item.row] = 0.0
            continue
        texts = {key: item.also[f"judges.{name}.{key}"] for key in names}
        lacking = next((text.reason for text in texts.values() if text.reason is not None), None)
        if lacking is not None:
            unscored[item.row] = lacking
            continue
        seen = {key: text.value for key, text in texts.items()}
        if judge.ask != "context_relevance":
            seen["prediction"] = item.pair.prediction
        if with_reference:
            seen["reference"] = item.pair.reference
        variables[item.row] = seen
    return variables, scores, unscored


async def _ask_both_ways(
    ctx: StepContext, name: str, prompt: PromptStep, variables: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, dict[str, Any]], Answers]:
    """Ask with the prediction first, then with the other answer first: judges favour a place."""

    def placed(first: str, second: str) -> dict[int, dict[str, Any]]:
        return {
            row: {key: value for key, value in seen.items() if key not in ("prediction", "against")}
            | {"first": seen[first], "second": seen[second]}
            for row, seen in variables.items()
        }

    one = await ask_rows(ctx, name, prompt, placed("prediction", "against"))
    other = await ask_rows(ctx, f"{name}-{SWAPPED}", prompt, placed("against", "prediction"))
    answers = Answers(failures=one.failures | other.failures)
    reasons = {}
    for row in one.outputs.keys() & other.outputs.keys():
        first, second = one.outputs[row]["output"], other.outputs[row]["output"]
        answers.outputs[row] = {"first": _WORTH[first["better"]], "second": 1 - _WORTH[second["better"]]}
        reasons[row] = {"reason": first["reason"], "reason_swapped": second["reason"]}
    return reasons, answers


def _worth(judge: Judge, verdict: Mapping[str, Any]) -> float | None:
    """Return what a verdict is worth, from 0 to 1; None where there is nothing to judge."""
    if judge.ask == "faithfulness":
        statements = verdict["statements"]
        return sum(item["supported"] for item in statements) / len(statements) if statements else None
    return _on_scale(judge, verdict["score"])


def _on_scale(judge: Judge, score: float) -> float:
    low, high = judge.scale
    return (score - low) / (high - low)


def _human(name: str, judge: Judge, rows: Sequence[Compared]) -> dict[int, float]:
    """Return what people's scores are worth, of the rows that have one."""
    if judge.human is None:
        return {}
    found = {}
    for item in rows:
        outcome = item.also[f"judges.{name}.human"]
        said = outcome.value
        if outcome.reason is not None or said is None or said == "":
            continue
        if judge.ask == "pairwise":
            worth = _HUMAN_WORTH.get(said) if isinstance(said, str) else None
        else:
            worth = _number_on_scale(judge, said)
        if worth is None:
            wanted = (
                "prediction, against or tie" if judge.ask == "pairwise" else f"on the scale {judge.scale}"
            )
            raise StepFailed(
                f"judge {name!r}: row {item.row} has the human score {said!r:.80}, which is not {wanted}.",
                hint="Correct the column that `human` reads.",
            )
        found[item.row] = worth
    return found


def _number_on_scale(judge: Judge, said: Any) -> float | None:
    try:
        worth = _on_scale(judge, float(said))
    except (TypeError, ValueError):
        return None
    return worth if 0 <= worth <= 1 else None  # false for NaN, too
