"""What a distill step gets from its teacher: the answers that its student is trained on, or its weights.

Owns how the questions of a file are asked and the files that come of it. They are asked as the rows of a step
of their own (tasks.asking), so budgets, retries, claims, reuse and resume are those of any prompt. Knows
nothing of training.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid, StepFailed
from chains.questions import answered, read_questions
from chains.spec import FinetuneStep, PromptStep
from tasks.asking import Answers, ask_in_forms, calling
from tasks.context import StepContext

if TYPE_CHECKING:
    from tasks.providers.weights import Weights

TAUGHT = ("train", "validation")
"""The parts of the data whose questions the teacher answers."""
SHOWN_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Taught:
    """A file of examples with the teacher's answers, not yet written."""

    content: bytes
    examples: int
    unanswered: int

    @property
    def sha256(self) -> str:
        """The hash of the file."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class _Asked:
    part: str
    row: dict[str, Any]
    messages: list[dict[str, str]]


async def answers_of_teacher(
    ctx: StepContext, step: FinetuneStep, files: Mapping[str, Path | None]
) -> dict[str, Taught]:
    """Ask the teacher what the files ask and return each part with its answers.

    Raise StepFailed where more questions stay unanswered than `max_unanswered` allows, InputInvalid for a
    row that asks nothing; BudgetExceeded and Cancelled leave the rest to a resume.
    """
    asked = [
        _Asked(part, row, messages)
        for part in TAUGHT
        if (path := files.get(part)) is not None
        for _, row, messages in read_questions(path)
    ]
    answers = await ask_in_forms(ctx, "teacher", _forms(step, asked), kind="teacher", root="question")
    _check_answered(step, asked, answers)
    taught = {}
    for part in dict.fromkeys(one.part for one in asked):
        rows = [(number, one) for number, one in enumerate(asked) if one.part == part]
        examples = [
            answered(one.row, answers.outputs[number]["text"])
            for number, one in rows
            if number in answers.outputs
        ]
        if not examples:
            raise StepFailed(f"The teacher {step.teacher!r} answered no question of data.{part}.")
        content = "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
        taught[part] = Taught(
            content.encode("utf-8", "surrogatepass"), len(examples), len(rows) - len(examples)
        )
    return taught


def check_vocabularies(teacher: Weights, student: Path, step: FinetuneStep) -> None:
    """Raise InputInvalid where teacher and student do not know the same tokens by the same numbers."""
    theirs, ours = _vocabulary(_with_tokenizer(teacher)), _vocabulary(student)
    if theirs == ours:
        return
    differ = sum(ours.get(token) != number for token, number in theirs.items())
    raise InputInvalid(
        f"teacher {step.teacher!r} and base {step.base!r} have different vocabularies ({len(theirs):,} and "
        f"{len(ours):,} tokens; {differ:,} of the teacher's have another number or none), so their logits "
        "cannot be compared.",
        hint="Say `level: sequence`: the student then learns from the teacher's answers. Or leave `base` "
        "out: a student from nothing has its teacher's vocabulary.",
    )


def _forms(step: FinetuneStep, asked: list[_Asked]) -> list[tuple[PromptStep, dict[int, dict[str, Any]]]]:
    """Return a prompt step for each order of roles, with the texts of the questions that have it."""
    by_roles: dict[tuple[str, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for number, one in enumerate(asked):
        texts = {f"message_{place}": message["content"] for place, message in enumerate(one.messages)}
        by_roles[tuple(message["role"] for message in one.messages)][number] = texts
    keys = {**calling(step), "retry": step.retry, "timeout": step.timeout}
    keys["cache"] = step.cache or "always"  # what was paid for is not asked again, whatever the teacher
    return [
        (
            PromptStep.model_validate(
                {
                    "prompt": [
                        {role: f"{{{{ question.message_{place} }}}}"} for place, role in enumerate(roles)
                    ],
                    "model": step.teacher,
                    **keys,
                }
            ),
            rows,
        )
        for roles, rows in by_roles.items()
    ]


def _check_answered(step: FinetuneStep, asked: list[_Asked], answers: Answers) -> None:
    failed = sorted(answers.failures)
    if len(failed) <= step.max_unanswered * len(asked):
        return
    shown = "; ".join(f"row {number}: {answers.failures[number]:.200}" for number in failed[:SHOWN_FAILURES])
    raise StepFailed(
        f"The teacher {step.teacher!r} did not answer {len(failed)} of {len(asked)} questions ({shown}).",
        hint="Resume the run to ask these again, raise max_tokens of the teacher, or let some stay "
        "unanswered with max_unanswered.",
    )


def _with_tokenizer(teacher: Weights) -> Path:
    own = (teacher.folder / "tokenizer.json").is_file()
    return teacher.folder if own else teacher.model_folder


def _vocabulary(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputInvalid(
            f"The model in {str(folder)!r} has no tokenizer.json, so its vocabulary cannot be compared.",
            hint="Save it with a fast tokenizer, or say `level: sequence`.",
        )
    vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    return vocabulary
