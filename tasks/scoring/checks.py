"""Checks: what every prediction must do, by text, pattern, form, function or a model's word.

Owns what each check means. A row passes when all of its checks do; a row without a prediction passes none.
A check that cannot be made for a row leaves the row without a score, and says why.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from chains.errors import HeadraceError, OutputInvalid, StepFailed
from chains.graph import judge_model
from chains.outputs import parse_output, schema_of
from chains.patterns import TooSlow, search
from chains.spec import Check, EvaluateStep, PromptStep
from chains.textform import text_of
from tasks.asking import ask_rows, calling
from tasks.context import StepContext
from tasks.metrics.structure import json_valid
from tasks.metrics.text import accuracy, canonical_text, contains
from tasks.python import load_object
from tasks.scoring.compared import Compared
from tasks.scoring.figures import Figure, figure_of_shares
from tasks.scoring.judge_prompts import form_of, messages_for


async def checked(
    ctx: StepContext, step: EvaluateStep, rows: Sequence[Compared]
) -> tuple[Figure, dict[str, Figure]]:
    """Return the share of rows that pass all checks, and each check's own."""
    each: dict[str, Figure] = {}
    for place, (name, check) in enumerate(zip(step.check_names, step.checks, strict=True)):
        if check.rubric is not None:
            each[name] = await _by_model(ctx, step, place, rows)
        else:
            judge = await asyncio.to_thread(_judge_of, ctx, place, check)
            each[name] = await asyncio.to_thread(_by_rule, name, judge, rows)
    unscored: dict[int, str] = {}
    scores: dict[int, float] = {}
    for item in rows:
        reasons = [figure.unscored[item.row] for figure in each.values() if item.row in figure.unscored]
        passed = [figure.scores[item.row] for figure in each.values() if item.row in figure.scores]
        if reasons and all(passed):  # one that has failed has failed, whatever the others would say
            unscored[item.row] = reasons[0]
        else:
            scores[item.row] = float(all(passed))
    return figure_of_shares("passed", scores, unscored), each


_Rule = Callable[[Compared], bool]


def _by_rule(name: str, rule: _Rule, rows: Sequence[Compared]) -> Figure:
    scores: dict[int, float] = {}
    unscored: dict[int, str] = {}
    for item in rows:
        if item.pair.missing:
            scores[item.row] = 0.0
            continue
        try:
            scores[item.row] = float(rule(item))
        except HeadraceError as error:
            unscored[item.row] = error.message
    return figure_of_shares(name, scores, unscored)


def _judge_of(ctx: StepContext, place: int, check: Check) -> _Rule:
    """Return the function that says whether a row passes."""
    match check.kind:
        case "contains":
            return lambda item: contains(item.pair.prediction, _text(item, place, "contains")) == 1
        case "equals":
            return lambda item: accuracy(item.pair.prediction, _text(item, place, "equals")) == 1
        case "regex":
            return lambda item: _found(check.regex or "", canonical_text(item.pair.prediction))
        case "is_json":
            return _form_rule(check)
        case _:
            return _function_rule(ctx, check.python or "")


def _text(item: Compared, place: int, key: str) -> Any:
    outcome = item.also[f"checks.{place}.{key}"]
    if outcome.reason is not None:
        raise StepFailed(outcome.reason)
    return outcome.value


def _found(pattern: str, text: str) -> bool:
    try:
        return search(pattern, text)
    except TooSlow as error:
        raise StepFailed(f"the regex {pattern!r:.80} needs too long for this text: {error}") from error


def _form_rule(check: Check) -> _Rule:
    if not isinstance(check.is_json, dict):
        return lambda item: json_valid(item.pair.prediction) == 1
    schema = schema_of(check.is_json, {})
    assert schema is not None  # a short form always stands for one

    def fits(item: Compared) -> bool:
        said = item.pair.prediction
        try:
            parse_output(said if isinstance(said, str) else text_of(said), schema)
        except OutputInvalid:
            return False
        return True

    return fits


def _function_rule(ctx: StepContext, target: str) -> _Rule:
    function = load_object(ctx.chain_file, target, ctx.settings)
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise StepFailed(f"check {target!r} is no plain function.", hint="Define it with `def`.")

    def passes(item: Compared) -> bool:
        try:
            verdict = function(item.pair.prediction, item.pair.reference)
        except Exception as error:
            raise StepFailed(f"check {target!r} raised {type(error).__name__}: {error!s:.200}") from error
        if not isinstance(verdict, bool):
            raise StepFailed(f"check {target!r} returned {verdict!r:.80}, neither True nor False.")
        return verdict

    return passes


async def _by_model(ctx: StepContext, step: EvaluateStep, place: int, rows: Sequence[Compared]) -> Figure:
    name = step.check_names[place]
    prompt = PromptStep(
        prompt=messages_for("check"),
        output=form_of("check"),
        model=judge_model(step, name, ctx.chain_file.chain),
        reask=1,
        **calling(step),
    )
    variables: dict[int, dict[str, Any]] = {}
    scores: dict[int, float] = {}
    unscored: dict[int, str] = {}
    for item in rows:
        rubric = item.also[f"checks.{place}.rubric"]
        if item.pair.missing:
            scores[item.row] = 0.0
        elif rubric.reason is not None:
            unscored[item.row] = rubric.reason
        else:
            variables[item.row] = {"prediction": item.pair.prediction, "rubric": rubric.value}
    answers = await ask_rows(ctx, name, prompt, variables)
    scores |= {row: float(output["output"]["holds"]) for row, output in answers.outputs.items()}
    figure = figure_of_shares(name, scores, unscored | answers.failures)
    figure.per_row = {row: {"reason": output["output"]["reason"]} for row, output in answers.outputs.items()}
    return figure
