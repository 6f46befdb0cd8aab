"""The rules for steps inside other steps: their kinds, their names, and the order in which they can run.

Knows nothing of what their templates read; chains.check_references says what is wrong with that.
"""

from __future__ import annotations

from chains.check_references import Subject
from chains.inside import LONGEST_NAME, Placed, every_step, steps_inside
from chains.spec import EmbedStep, EvaluateStep, FinetuneStep, PrepareStep, kind_of
from chains.step_outputs import TURN_OUTPUTS
from chains.suggest import did_you_mean


def check_inside(subject: Subject, reserved: frozenset[str]) -> None:
    """Note what is wrong with steps that stand inside others; `reserved` are names that no step may have."""
    for around in every_step(subject.chain):
        beside = [inner.id for inner in steps_inside(around)]
        for inner in steps_inside(around):
            _check_name(subject, inner, reserved)
            _check_kind(subject, inner)
            for index, name in enumerate(inner.step.after):
                if name not in beside:
                    message = f"step {inner.name!r}: 'after' names the step {name!r}, which is not beside it"
                    hint = did_you_mean(name, beside) or f"Write it at step {around.name!r}."
                    subject.findings.at_value((*inner.path, "after", index), message, hint)


def _check_name(subject: Subject, inner: Placed, reserved: frozenset[str]) -> None:
    taken = {name for outer in inner.around[1:] for name in _beside(outer)} | set(subject.names["steps"])
    if inner.id in reserved or inner.id in TURN_OUTPUTS:
        message = f"{inner.id!r} is a reserved name and cannot be a step inside {inner.around[-1].name!r}"
    elif inner.id in taken:
        message = f"step {inner.name!r} is called like a step around it, and could not be told from it"
    elif len(inner.name) > LONGEST_NAME:
        message = f"the whole name {inner.name!r} is longer than {LONGEST_NAME} characters"
    else:
        return
    subject.findings.at_key(inner.path, message, "Choose another name.")


def _beside(placed: Placed) -> list[str]:
    return [other.id for other in steps_inside(placed.around[-1])]


def _check_kind(subject: Subject, inner: Placed) -> None:
    step, around = inner.step, inner.around[-1].name
    if isinstance(step, PrepareStep | FinetuneStep | EvaluateStep) or (
        isinstance(step, EmbedStep) and step.into is not None
    ):
        subject.findings.at_key(
            inner.path,
            f"step {inner.name!r}: {kind_of(step)} runs once for the run, and a step in {around!r} does not",
            f"Write it beside step {inner.around[0].name!r}.",
        )
    elif step.once:
        subject.findings.at_value(
            (*inner.path, "once"),
            f"step {inner.name!r}: 'once' is over all rows, and a step inside {around!r} runs within one",
            f"Write the step beside {inner.around[0].name!r}, or leave 'once' out.",
        )
    elif step.pool is not None:
        subject.findings.at_key(
            (*inner.path, "pool"),
            f"step {inner.name!r}: steps inside {around!r} run where it runs",
            f"Write 'pool' at step {inner.around[0].name!r}.",
        )
