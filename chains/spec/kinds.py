"""The kinds of steps: which verb stands for which model, and which of them run once.

A new kind is a model in one of the rooms beside this one and a line here.
"""

from __future__ import annotations

from typing import TypeAlias

from chains.spec import nesting
from chains.spec.approving import ApproveStep
from chains.spec.evaluating import EvaluateStep
from chains.spec.finetuning import FinetuneStep
from chains.spec.nesting import ChainStep, RepeatStep
from chains.spec.preparing import PrepareStep
from chains.spec.steps import EmbedStep, PromptStep, PythonStep, RetrieveStep, StepBase

Step: TypeAlias = (
    PromptStep
    | RetrieveStep
    | EmbedStep
    | PythonStep
    | RepeatStep
    | ChainStep
    | ApproveStep
    | PrepareStep
    | FinetuneStep
    | EvaluateStep
)

KINDS: dict[str, type[StepBase]] = {
    "embed": EmbedStep,
    "retrieve": RetrieveStep,
    "prompt": PromptStep,
    "python": PythonStep,
    "repeat": RepeatStep,
    "chain": ChainStep,
    "approve": ApproveStep,
    "prepare": PrepareStep,
    "finetune": FinetuneStep,
    "evaluate": EvaluateStep,
}


# A repeat holds steps of any kind, and its module comes before the kinds.
vars(nesting)["Step"] = Step
RepeatStep.model_rebuild()


def kind_of(step: StepBase) -> str:
    """Return the verb that a step is written with."""
    for kind, cls in KINDS.items():
        if type(step) is cls:
            return kind
    raise TypeError(f"{type(step).__name__} is no kind of step")


def runs_once(step: StepBase) -> bool:
    """Whether a step runs once over all rows, or once for each row."""
    if step.once is not None:
        return step.once
    if isinstance(step, EmbedStep):
        return step.into is not None
    return isinstance(step, PrepareStep | FinetuneStep | EvaluateStep)
