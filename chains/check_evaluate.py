"""What of an evaluate step can be known before a run: its models, the steps that it times, its checks.

Owns the rules that go beyond shapes (chains.spec). Reports through `Findings`.
"""

from __future__ import annotations

from collections.abc import Callable

from chains.check_references import Subject
from chains.graph import judge_model, judging_names
from chains.outputs import schema_problems
from chains.source.marks import YamlPath
from chains.spec import EvaluateStep, runs_once
from chains.suggest import did_you_mean

MOST_ID = 64
"""Characters that the id of a step may have in the store; a judge's is `STEP-JUDGE`."""

Known = Callable[..., None]


def check_evaluate(subject: Subject, at: YamlPath, step: EvaluateStep, known: Known) -> None:
    """Note what is wrong; `known` notes a name that the chain does not have."""
    words = f"step {at[1]!r}"
    for key in ("model", "embedder", "language_model"):
        name = getattr(step, key)
        if name is not None:
            known(subject, (*at, key), name, words=words, section="models")
    for name, judge in step.judges.items():
        if judge.model is not None:
            known(subject, (*at, "judges", name, "model"), judge.model, words=words, section="models")
    _check_language_model(subject, at, words, step)
    _check_judged(subject, at, words, step)
    for place, name in enumerate(step.timed):
        path: YamlPath = (*at, "timed", place)
        known(subject, path, name, words=f"{words}: 'timed'", section="steps")
        other = subject.chain.steps.get(name)
        if other is not None and runs_once(other):
            subject.findings.at_value(
                path, f"{words}: 'timed' names step {name!r}, which runs once", "Name steps that run per row."
            )
    for place, check in enumerate(step.checks):
        if isinstance(check.is_json, dict):
            for problem in schema_problems(check.is_json, subject.files):
                where = (*at, "checks", place, "is_json", *problem.path)
                subject.findings.at_value(where, f"{words}: {problem.message}", problem.hint)


def _check_language_model(subject: Subject, at: YamlPath, words: str, step: EvaluateStep) -> None:
    model = subject.chain.models.get(step.language_model or "")
    if model is not None and model.provider == "openai":
        subject.findings.at_value(
            (*at, "language_model"),
            f"{words}: 'language_model' is {step.language_model!r}, which is behind an endpoint",
            "Name a model of provider local or starter: an endpoint does not tell what it makes of a text.",
        )


def _check_judged(subject: Subject, at: YamlPath, words: str, step: EvaluateStep) -> None:
    for name in judging_names(step):
        if judge_model(step, name, subject.chain) is None:
            hint = did_you_mean("", subject.names["models"]) or "Declare one under 'models:'."
            message = f"{words} has no model for {name!r}: neither 'model' nor 'defaults.model' is set"
            subject.findings.at_key(at, message, hint)
        if len(f"{at[1]}-{name}-swapped") > MOST_ID:  # the longest that a judge needs
            message = (
                f"{words}: its name and that of {name!r} have more than {MOST_ID - 9} characters together"
            )
            subject.findings.at_key(at, message, "Shorten one of them.")
