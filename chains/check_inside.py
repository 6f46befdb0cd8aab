"""The rules for steps inside other steps: their kinds, their names, and the order in which they can run.

Knows nothing of what their templates read; chains.check_references says what is wrong with that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from chains.check_references import Subject
from chains.graph import nested_templates
from chains.inputs import WrongValue, value_of
from chains.inside import LONGEST_NAME, Placed, all_inside, every_step, steps_inside
from chains.spec import (
    ApproveStep,
    ChainStep,
    EmbedStep,
    EvaluateStep,
    FinetuneStep,
    PrepareStep,
    kind_of,
    runs_once,
)
from chains.step_outputs import TURN_OUTPUTS
from chains.suggest import did_you_mean
from chains.templates import has_expression

if TYPE_CHECKING:
    from chains.loading import ChainFile


def check_inside(subject: Subject, reserved: frozenset[str]) -> None:
    """Note what is wrong with steps that stand inside others; `reserved` are names that no step may have."""
    for around in every_step(subject.chain):
        if isinstance(around.step, ChainStep) and around.step.chain in subject.chains:
            _check_chain(subject, around, subject.chains[around.step.chain], around.step)
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


def _check_chain(subject: Subject, found: Placed, inner: ChainFile, step: ChainStep) -> None:
    """Note what a chain needs that is run by a step, and what keeps it from running within a row."""
    at, words = found.path, f"step {found.name!r}"
    for name, once in inner.chain.steps.items():
        if runs_once(once):
            message = (
                f"{words}: the chain {inner.chain.chain!r} has the step {name!r}, which runs once for a run, "
                "and here the chain runs for each row"
            )
            hint = "Do that in this chain, or in a run of its own."
            subject.findings.at_value((*at, "chain"), message, hint)
    for asked in every_step(inner.chain):
        if isinstance(asked.step, ApproveStep):
            message = f"{words}: the chain {inner.chain.chain!r} asks a person in its step {asked.name!r}"
            hint = f"Ask in this chain, before or after {found.name!r}."
            subject.findings.at_value((*at, "chain"), message, hint)
    for name, value in step.inputs.items():
        spec = inner.chain.inputs.get(name)
        if spec is None:
            message = f"{words}: the chain {inner.chain.chain!r} has no input {name!r}"
            subject.findings.at_key((*at, "inputs", name), message, did_you_mean(name, inner.chain.inputs))
        elif not _has_template(value):
            try:
                value_of(spec, value)
            except WrongValue as error:
                subject.findings.at_value((*at, "inputs", name), f"{words}: input {name!r} {error}")
    missing = [
        repr(name)
        for name, spec in inner.chain.inputs.items()
        if spec.is_required and name not in step.inputs
    ]
    if missing:
        message = f"{words} gives no value for {', '.join(missing)} of the chain {inner.chain.chain!r}"
        subject.findings.at_key(at, message, "Give it under 'inputs'.")
    longest = max((f"{found.name}.{name}" for name in _names_of(inner)), key=len, default="")
    if len(longest) > LONGEST_NAME:
        message = f"the whole name {longest!r} is longer than {LONGEST_NAME} characters"
        subject.findings.at_key(at, message, "Choose another name.")


def _names_of(inner: ChainFile) -> Iterator[str]:
    for step_id in inner.chain.steps:
        yield step_id
        yield from all_inside(inner, step_id)


def _has_template(value: Any) -> bool:
    return any(has_expression(template.source) for template in nested_templates((), value))


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
    elif isinstance(step, ApproveStep):
        subject.findings.at_key(
            inner.path,
            f"step {inner.name!r}: a row waits for a person as a whole, and cannot within {around!r}",
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
