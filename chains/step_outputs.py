"""What each kind of step gives to the steps after it: names of outputs, as far as a file can tell.

Owns the names. Knows nothing of values or of how they are made.
"""

from __future__ import annotations

from collections.abc import Mapping

from chains.approvals import OWN_OUTPUTS
from chains.errors import InputInvalid
from chains.outputs import schema_of
from chains.spec import (
    ApproveStep,
    EmbedStep,
    EvaluateStep,
    FinetuneStep,
    PrepareStep,
    PromptStep,
    RepeatStep,
    RetrieveStep,
    StepBase,
)

METRIC_PARTS = ("value", "low", "high", "n")
FINETUNE_OUTPUTS = (
    "model", "method", "task", "base", "version", "steps", "train_loss", "validation_loss",
    "validation_accuracy", "tokens", "seconds", "parameters_total", "parameters_trained", "stop_reason",
    "best_step", "gap", "gap_opened_at_step", "general_before", "general_after", "forgetting", "warnings",
    "history", "curve", "files",
)  # fmt: skip
HOSTED_OUTPUTS = (
    "model", "method", "base", "version", "job", "hosted_model", "tokens", "train_loss", "validation_loss",
    "seconds", "history",
)  # fmt: skip

TURN_OUTPUTS = ("turns", "turn", "reached")
"""What a repeat gives beside the steps of the turn that it took: all turns, the number of that one, and
whether `until` held."""

OTHER_WORDS = {
    "answer": "text", "response": "text", "content": "text", "json": "output", "parsed": "output",
    "docs": "hits", "documents": "hits", "passages": "hits", "results": "hits", "chunks": "hits",
    "embedding": "vector", "loss": "train_loss", "val_loss": "validation_loss", "valid": "validation",
}  # fmt: skip
"""What other tools call these outputs, for did-you-mean."""


def declared_outputs(step: StepBase, files: Mapping[str, bytes]) -> tuple[str, ...] | None:
    """Return the names of a step's outputs, or None where only a run can tell."""
    match step:
        case PromptStep():
            fields = answer_fields(step, files)
            of_vote = ("agreement",) if step.samples > 1 else ()
            own = ("text", "output", "finish_reason", *of_vote)
            return None if fields is None else tuple(dict.fromkeys((*own, *fields)))
        case RetrieveStep():
            return ("hits", "scores")
        case RepeatStep():
            return (*step.steps, *TURN_OUTPUTS)
        case EmbedStep(into=None):
            return ("vector", "dimension")
        case EmbedStep():
            return ("collection", "chunks", "embedded", "reused", "documents")
        case ApproveStep():
            return (*OWN_OUTPUTS, *step.fields)
        case PrepareStep():
            return ("train", "validation", "test", "counts", "dropped", "reasons", "tokens", "leaks", "card")
        case FinetuneStep(finetune="openai"):
            return HOSTED_OUTPUTS
        case FinetuneStep(finetune="distill", level="sequence"):
            return (*FINETUNE_OUTPUTS, "questions", "unanswered")
        case FinetuneStep():
            return FINETUNE_OUTPUTS
        case EvaluateStep():
            return (*figures_of(step), "rows", "missing", *evaluate_details(step))
        case _:
            return None


def figures_of(step: EvaluateStep) -> tuple[str, ...]:
    """Return the names of an evaluate step's figures, each a value with its interval."""
    return (*step.measured, *step.judges, *(("passed",) if step.checks else ()))


def evaluate_details(step: EvaluateStep) -> tuple[str, ...]:
    """Return the names of what an evaluate step gives beside its metrics and counts."""
    found: list[str] = []
    if any(name.startswith("f1_") for name in step.measured):
        found += ["classes", "confusion"]
    if "fields" in step.measured:
        found.append("by_field")
    if step.evaluate.confidence is not None:
        found.append("calibration")
    if "confusion" in found or "calibration" in found:
        found.append("files")
    if step.checks:
        found.append("checks")
    return tuple(found)


def answer_fields(step: PromptStep, files: Mapping[str, bytes]) -> tuple[str, ...] | None:
    """Return the fields of a structured answer; none for plain text, None where only a run can tell."""
    if step.output is None:
        return ()
    try:
        schema = schema_of(step.output, files)
    except InputInvalid:
        return None  # reported where the output form is checked
    if schema is None or "$ref" in schema or any(key in schema for key in ("allOf", "anyOf", "oneOf")):
        return None
    if schema.get("type", "object") != "object":
        return ()
    open_ended = schema.get("additionalProperties", True) is not False
    fields = schema.get("properties", {})
    return None if open_ended else tuple(fields)
