"""The `evaluate` step: what is scored against what, by which metrics, and what must hold.

Knows nothing of how a metric is computed (tasks.metrics).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chains.spec.parts import Expression, Part, Template
from chains.spec.steps import StepBase


class Comparison(Part):
    """What is scored against what."""

    prediction: Template
    """What the chain said."""
    reference: Template | None = None
    """What is right. The texts of this step may read `row`, like those of prepare. Left out: every row is
    scored, by what needs no reference."""
    confidence: Template | None = None
    """The probability, from 0 to 1, that was given to the prediction; the step then gives `calibration`."""


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
]

NO_REFERENCE: frozenset[MetricName] = frozenset({"json_valid", "agreement"})
"""Metrics of the prediction alone."""


class EvaluateStep(StepBase):
    """Score predictions against references (once), each metric with its 95 % interval."""

    evaluate: Comparison
    """What is scored."""
    metrics: list[MetricName] | None = Field(default=None, min_length=1)
    """Which metrics. Default: `accuracy` where there is a reference, else none."""
    gate: Expression | None = None
    """A bare expression over the metrics, such as `accuracy.low >= 0.9`; where it is false the run fails."""

    @property
    def measured(self) -> tuple[MetricName, ...]:
        """The metrics that are computed."""
        if self.metrics is None:
            return ("accuracy",) if self.evaluate.reference is not None else ()
        return tuple(dict.fromkeys(self.metrics))

    @model_validator(mode="after")
    def _has_references(self) -> EvaluateStep:
        if self.evaluate.reference is None:
            lacking = [name for name in self.measured if name not in NO_REFERENCE]
            if lacking:
                raise ValueError(f"{', '.join(lacking)} need 'reference' under 'evaluate'")
        if self.evaluate.confidence is not None and self.evaluate.reference is None:
            raise ValueError("'confidence' needs 'reference' beside it")
        return self
