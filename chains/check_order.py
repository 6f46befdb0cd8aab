"""Circles among steps: those beside each other that need each other, also through what is inside them.

Knows nothing of the order of steps that have one (chains.order).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chains.check_references import Subject, note, templates_with_files
from chains.graph import StepTemplate, turn_templates, unread_needs
from chains.inside import Placed, every_step, placed, steps_inside
from chains.order import find_cycles, way_of
from chains.references import Reference, references


def check_order(subject: Subject) -> None:
    """Note every circle, at a reference that closes it."""
    _check_level(subject, [placed(subject.chain, step_id) for step_id in subject.chain.steps])
    for around in every_step(subject.chain):
        _check_level(subject, list(steps_inside(around)))


def _check_level(subject: Subject, level: Sequence[Placed]) -> None:
    """Note the circles among steps that stand beside each other."""
    beside = {found.id: found.step for found in level}
    chain = subject.chain.model_copy(update={"steps": beside})
    reads: dict[str, dict[str, tuple[Any, Reference]]] = {step_id: {} for step_id in beside}
    for found in level:
        for template, reference in _read_by(subject, found):
            if reference.root in beside:
                reads[found.id].setdefault(reference.root, (template, reference))
    needs = {step_id: frozenset(reads[step_id]) | unread_needs(step_id, chain) for step_id in beside}
    for cycle in find_cycles(needs):
        _note_cycle(subject, cycle, reads, {found.id: found for found in level})


def _read_by(subject: Subject, found: Placed) -> Iterator[tuple[StepTemplate, Reference]]:
    """Yield what a step, and those inside it, read outside of it."""
    within = {inner.id for inner in steps_inside(found)}
    templates = [*templates_with_files(subject, found.id, found.step, found.path), *turn_templates(found)]
    for template in templates:
        for reference in references(template.source, bare=template.bare):
            if reference.root not in within:
                yield template, reference
    for inner in steps_inside(found):
        # What names the step itself from inside has its own problem.
        for template, reference in _read_by(subject, inner):
            if reference.root not in within and reference.root != found.id:
                yield template, reference


def _note_cycle(
    subject: Subject,
    cycle: tuple[str, ...],
    reads: Mapping[str, Mapping[str, Any]],
    level: Mapping[str, Placed],
) -> None:
    first, second = cycle[0], cycle[1]
    at, step = level[first].path, level[first].step
    message = (
        f"step {first!r} needs itself" if len(cycle) == 2 else f"the steps need each other: {way_of(cycle)}"
    )
    hint = "Take one of these references away."
    if second in reads[first]:
        template, reference = reads[first][second]
        note(subject, template, (reference.line, reference.column), (message, hint))
    elif second in step.after:
        subject.findings.at_value((*at, "after", step.after.index(second)), message, hint)
    else:
        subject.findings.at_key(at, message, hint)
