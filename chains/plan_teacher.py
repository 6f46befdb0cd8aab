"""What a plan knows of a distill step's questions to its teacher: how many, how long, and what they may cost.

Reads the files that the step names, as far as they are there before a run. Asks nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chains.errors import ChainInvalid, InputInvalid
from chains.questions import read_questions
from chains.source.files import FileRefused, locate
from chains.spec import FinetuneStep, Model
from chains.templates import has_expression

if TYPE_CHECKING:
    from chains.loading import ChainFile

BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Questions:
    """How many questions a teacher is asked, and about how many tokens they have."""

    number: int
    tokens: int


def asks_teacher(step: object) -> bool:
    """Whether a step asks a teacher, which may cost money."""
    return isinstance(step, FinetuneStep) and step.finetune == "distill" and step.level == "sequence"


def questions_of(step: FinetuneStep, chain_file: ChainFile, *, read_outside: bool) -> Questions | None:
    """Return what is asked, or None where only a run can tell."""
    number = size = 0
    for source in (step.data.train, step.data.validation):
        if source is None:
            continue
        if has_expression(source):
            return None
        try:
            path = locate(chain_file.folder, source, read_outside=read_outside)
            for _, _, messages in read_questions(path):
                number += 1
                size += sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
        except (FileRefused, InputInvalid, ChainInvalid, OSError):
            return None  # a run says what is wrong with it
    return Questions(number, math.ceil(size / BYTES_PER_TOKEN))


def cost_note(step_id: str, step: FinetuneStep, questions: Questions | None, teacher: Model | None) -> str:
    """Say what the teacher is asked and, where its price stands in the chain, what that may cost."""
    if questions is None:
        return (
            f"{step_id} asks its teacher {step.teacher!r} every question of its data, "
            "which is known when it runs"
        )
    said = f"{step_id} asks its teacher {step.teacher!r} {questions.number:,} questions"
    if teacher is None or teacher.price is None or teacher.max_tokens is None:
        return f"{said}; what was answered before is not asked again"
    answers = questions.number * teacher.max_tokens
    usd = (questions.tokens * teacher.price.input + answers * teacher.price.output) / 1_000_000
    return f"{said} for up to about {usd:,.2f} USD; what was answered before is not asked again"
