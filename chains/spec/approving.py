"""The step that asks a person.

Knows nothing of where the question is shown or of who answers.
"""

from __future__ import annotations

from typing import Any, Literal

from chains.spec.parts import Duration, Expression, Template
from chains.spec.steps import StepBase


class ApproveStep(StepBase):
    """Ask a person, and wait for the answer."""

    approve: Template
    """The question."""
    show: list[Expression] = []
    """What is shown with it: expressions, such as `draft` or `draft.text`."""
    fields: dict[str, Any] = {}
    """What is asked besides yes or no: names and types in the short form of `output:`. A yes needs them,
    unless they say `required: false`."""
    timeout: Duration | None = None
    """How long an answer is waited for. Left out: for ever."""
    on_timeout: Literal["fail", "skip", "approve", "reject"] = "fail"
    """What happens then: the row fails, the step is skipped, or the answer is yes or no."""
