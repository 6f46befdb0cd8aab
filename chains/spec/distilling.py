"""The keys of `finetune: distill`: whom a student learns from, and what of it.

Knows nothing of training; which of the keys go together is for chains.spec.finetuning, whose step has them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chains.spec.parts import Name
from chains.spec.steps import CallingStep

DISTILL = frozenset({"distill"})
DISTILL_KEYS = ("teacher", "level", "temperature", "jsd_beta", "label_weight", "max_unanswered")
CALLING_KEYS = ("cache", "deadline", "on_ambiguous", "budget")


class DistillKeys(CallingStep):
    """What a finetune step says of its teacher; also `cache`, `deadline`, `on_ambiguous` and `budget` are
    about the calls to it."""

    teacher: Name | None = None
    """A name under `models:`, which may be behind an endpoint where the level is `sequence`."""
    level: Literal["sequence", "logits"] = "sequence"
    """What is learnt: `sequence`, the answers that the teacher gives to the questions in `data` (arXiv
    1606.07947), or `logits`, how likely it finds each next token of the answers that stand in `data`; then
    both are local and share one vocabulary."""
    temperature: float = Field(default=1.0, gt=0)
    """For `level: logits`: both distributions are softened by it (arXiv 1503.02531)."""
    jsd_beta: float = Field(default=0.5, ge=0, le=1)
    """For `level: logits`: which generalised Jensen-Shannon divergence (arXiv 2306.13649). 0 is the forward
    Kullback-Leibler divergence, which covers all that the teacher may say, 1 the reverse one, which seeks
    what it says most."""
    label_weight: float = Field(default=0.0, ge=0, lt=1)
    """For `level: logits`: the share of the loss that is the ordinary one on the answers in `data`."""
    max_unanswered: float = Field(default=0.0, ge=0, lt=1)
    """For `level: sequence`: the share of questions that the teacher may fail to answer; these are left
    out."""
