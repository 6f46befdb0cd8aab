"""The `evaluate` step: what is scored against what, by which metrics, and what must hold.

Knows nothing of how a metric is computed (tasks.metrics).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from chains.spec.parts import Expression, Name, Part, Template
from chains.spec.steps import CallingStep


class Comparison(Part):
    """What is scored against what."""

    prediction: Template
    """What the chain said."""
    reference: Template | None = None
    """What is right. The texts of this step may read `row`, like those of prepare. Left out: every row is
    scored, by what needs no reference."""
    confidence: Template | None = None
    """The probability, from 0 to 1, that was given to the prediction; the step then gives `calibration`."""


class Judge(Part):
    """A model that scores each row."""

    ask: Literal["rubric", "pairwise", "faithfulness", "answer_relevance", "context_relevance"] = "rubric"
    """`rubric`: how well the prediction meets `rubric`, on `scale`; `pairwise`: whether it is better than
    `against`, asked twice with the places swapped; `faithfulness`: the share of its statements that `context`
    supports; `answer_relevance`: how well it answers `question`; `context_relevance`: how much of `context`
    helps with `question`."""
    rubric: Template | None = None
    """What a good answer is, in words."""
    scale: list[int] = Field(default=[1, 5], min_length=2, max_length=2)
    """The worst and the best score that the model can give; the figure is from 0 to 1."""
    question: Template | None = None
    """What was asked; the judge sees it."""
    context: Template | None = None
    """What the answer should rest on, such as the passages that were found."""
    against: Template | None = None
    """For `pairwise`: the other answer."""
    human: Template | None = None
    """The score that a person gave (for `pairwise`: `prediction`, `against` or `tie`). Rows that have one
    tell how well the judge agrees with people."""
    model: Name | None = None
    """A name under `models:`. Default: the model of the step, else of the chain."""

    @model_validator(mode="after")
    def _has_its_texts(self) -> Judge:
        lacking = [name for name in _NEEDED[self.ask] if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"a judge that asks for {self.ask!r} needs {', '.join(map(repr, lacking))}")
        if self.scale[0] >= self.scale[1]:
            raise ValueError("'scale' is the worst score and then the best one, such as [1, 5]")
        return self


_NEEDED = {
    "rubric": ("rubric",),
    "pairwise": ("against",),
    "faithfulness": ("context",),
    "answer_relevance": ("question",),
    "context_relevance": ("question", "context"),
}


class Check(Part):
    """One thing that a prediction must do. Give exactly one of these keys, and `name` where it helps."""

    name: Name | None = None
    """What the check is called in the results. Default: its place and its key."""
    contains: Template | None = None
    """A text that stands in it; case and runs of spaces do not count."""
    equals: Template | None = None
    """What it is, after Unicode NFC and trimming."""
    regex: str | None = None
    """A pattern that is found in it (Python's `re`, searched)."""
    is_json: dict[str, Any] | bool | None = None
    """It is JSON; with a short form of JSON Schema, JSON that fits it."""
    rubric: Template | None = None
    """A sentence that a model says is true of it."""
    python: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w./-]*:[A-Za-z_]\w*$")
    """`file.py:function` that takes the prediction and the reference, and returns true or false."""

    @property
    def kind(self) -> str:
        """The key that the check is written with."""
        return next(name for name in CHECK_KINDS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _is_one(self) -> Check:
        given = [name for name in CHECK_KINDS if getattr(self, name) is not None]
        if len(given) != 1 or self.is_json is False:
            raise ValueError(f"a check is exactly one of {', '.join(CHECK_KINDS)}")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"the regex {self.regex!r:.80} cannot be read: {error}") from error
        return self


CHECK_KINDS = ("contains", "equals", "regex", "is_json", "rubric", "python")


MetricName = Literal[
    "accuracy",
    "f1_macro",
    "f1_micro",
    "f1_weighted",
    "exact_match",
    "token_f1",
    "contains",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
    "json_valid",
    "fields",
    "recall_at_1",
    "recall_at_3",
    "recall_at_5",
    "recall_at_10",
    "recall_at_20",
    "recall_at_50",
    "recall_at_100",
    "ndcg_at_1",
    "ndcg_at_3",
    "ndcg_at_5",
    "ndcg_at_10",
    "ndcg_at_20",
    "ndcg_at_50",
    "ndcg_at_100",
    "mrr",
    "agreement",
    "pass_all",
    "pass_any",
    "similarity",
    "perplexity",
    "latency",
    "latency_p50",
    "latency_p95",
    "cost",
]

NO_REFERENCE: frozenset[MetricName] = frozenset(
    {"json_valid", "agreement", "perplexity", "latency", "latency_p50", "latency_p95", "cost"}
)
"""Metrics of the prediction alone."""


class EvaluateStep(CallingStep):
    """Score predictions against references (once), each metric with its 95 % interval."""

    evaluate: Comparison
    """What is scored."""
    metrics: list[MetricName] | None = Field(default=None, min_length=1)
    """Which metrics. Default: `accuracy` where there is a reference and neither judges nor checks."""
    judges: dict[Name, Judge] = {}
    """Models that score each row, each under the name of its figure."""
    checks: list[Check] = []
    """What every prediction must do; `passed` is the share of rows that do all of it."""
    model: Name | None = None
    """The model of judges and of `rubric` checks. Default: the chain's."""
    embedder: Name | None = None
    """The model under `models:` whose vectors `similarity` compares."""
    language_model: Name | None = None
    """The local model under `models:` whose `perplexity` on each prediction is measured."""
    timed: list[Name] = []
    """The per-row steps that `latency` and `cost` count. Default: those that `prediction` reads."""
    gate: Expression | None = None
    """A bare expression over the metrics, such as `accuracy.low >= 0.9`; where it is false the run fails."""

    @property
    def measured(self) -> tuple[MetricName, ...]:
        """The metrics that are computed."""
        if self.metrics is None:
            alone = self.evaluate.reference is not None and not self.judges and not self.checks
            return ("accuracy",) if alone else ()
        return tuple(dict.fromkeys(self.metrics))

    @property
    def check_names(self) -> tuple[str, ...]:
        """What each check is called in the results."""
        return tuple(
            check.name or f"check_{place}_{check.kind}" for place, check in enumerate(self.checks, start=1)
        )

    @property
    def rubric_checks(self) -> tuple[int, ...]:
        """The places of the checks that ask a model."""
        return tuple(place for place, check in enumerate(self.checks) if check.rubric is not None)

    @model_validator(mode="after")
    def _has_references(self) -> EvaluateStep:
        if self.evaluate.reference is None:
            lacking = [name for name in self.measured if name not in NO_REFERENCE]
            if lacking:
                raise ValueError(f"{', '.join(lacking)} need 'reference' under 'evaluate'")
        if not self.measured and not self.judges and not self.checks:
            raise ValueError("there is nothing to measure: give 'metrics', 'judges' or 'checks'")
        if "similarity" in self.measured and self.embedder is None:
            raise ValueError("'similarity' needs 'embedder'")
        if "perplexity" in self.measured and self.language_model is None:
            raise ValueError("'perplexity' needs 'language_model'")
        if self.evaluate.confidence is not None and self.evaluate.reference is None:
            raise ValueError("'confidence' needs 'reference' beside it")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> EvaluateStep:
        names = [*self.measured, *self.judges]
        taken = [name for name in self.judges if names.count(name) > 1 or name in _OWN_OUTPUTS]
        if taken:
            raise ValueError(f"a judge cannot be called {taken[0]!r}: the step gives that itself")
        checks = [*self.check_names, *self.judges]
        if len(set(checks)) < len(checks):
            raise ValueError("two checks, or a check and a judge, have the same name")
        return self


_OWN_OUTPUTS = frozenset(
    {
        "rows",
        "missing",
        "unlabelled",
        "classes",
        "confusion",
        "by_field",
        "calibration",
        "files",
        "passed",
        "checks",
    }
)
