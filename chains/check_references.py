"""Every template of a chain against the names that exist: syntax, scopes, steps, outputs, inputs, secrets.

Owns what a template may read where. Reports through `Findings`; never renders anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from chains.graph import StepTemplate, file_templates, nested_templates, own_templates, turn_templates
from chains.inside import Placed, every_step, steps_inside
from chains.references import Reference, references
from chains.sandbox import LOOP_NAMES, REPEAT_NAMES
from chains.source.findings import Findings
from chains.source.marks import YamlPath
from chains.spec import (
    Chain,
    ChainStep,
    EvaluateStep,
    FinetuneStep,
    MappedStep,
    PrepareStep,
    PromptStep,
    RepeatStep,
    Step,
    runs_once,
)
from chains.step_outputs import (
    METRIC_PARTS,
    OTHER_WORDS,
    TURN_OUTPUTS,
    answer_fields,
    declared_outputs,
    figures_of,
)
from chains.suggest import closest, did_you_mean
from chains.templates import has_expression, syntax_error

if TYPE_CHECKING:
    from chains.loading import ChainFile

SECRETS = frozenset({"env", "secret"})
Said: TypeAlias = tuple[str, str | None]
"""A problem's message and hint."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A chain under check: its right parts, the names of all parts, its files, and where findings go.

    `modules` are those that the machine lets a chain import.
    """

    chain: Chain
    names: Mapping[str, frozenset[str]]
    files: Mapping[str, bytes]
    folder: str
    findings: Findings
    modules: tuple[str, ...] = ()
    chains: Mapping[str, ChainFile] = field(default_factory=dict)
    """The chains that steps run, as far as they are right."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """Who reads: `step 'a'` or `output 'b'`, and the step itself if it is one."""

    words: str
    step_id: str | None = None
    step: Step | None = None
    around: tuple[Placed, ...] = ()


def check_references(subject: Subject) -> None:
    """Check the templates of all steps, outputs, models and collections."""
    for found in every_step(subject.chain):
        reader = _Reader(f"step {found.name!r}", found.id, found.step, found.around)
        seen = _as_seen_inside(subject, found.around)
        for template in templates_with_files(subject, found.id, found.step, found.path):
            _check_template(seen, template, reader)
        for template in turn_templates(found):
            turn = replace(reader, around=(*found.around, found))
            _check_template(_as_seen_inside(subject, turn.around), template, turn)
        _check_gate(subject, found.id, found.step)
    for name, value in subject.chain.outputs.items():
        for template in nested_templates(("outputs", name), value):
            _check_template(subject, template, _Reader(f"output {name!r}"))
    for section, parts in (("models", subject.chain.models), ("collections", subject.chain.collections)):
        for name, part in parts.items():
            for key, value in part:
                if isinstance(value, str):
                    _check_secret_template(subject, StepTemplate((section, name, key), value))
                elif key == "headers":
                    for template in nested_templates((section, name, key), value):
                        _check_secret_template(subject, template)


def _as_seen_inside(subject: Subject, around: Sequence[Placed]) -> Subject:
    """Return a chain as the steps inside others see it: those of all levels are beside them."""
    if not around:
        return subject
    steps = dict(subject.chain.steps)
    for outer in around:
        steps |= {inner.id: inner.step for inner in steps_inside(outer)}
    names = {**subject.names, "steps": subject.names["steps"] | frozenset(steps)}
    return replace(subject, chain=subject.chain.model_copy(update={"steps": steps}), names=names)


def templates_with_files(
    subject: Subject, step_id: str, step: Step, at: YamlPath | None = None
) -> list[StepTemplate]:
    """Return all templates of a step, prompt files included."""
    found = list(own_templates(step_id, step, at))
    if isinstance(step, PromptStep):
        found += file_templates(step_id, step, subject.files, at)
    return found


def note(subject: Subject, template: StepTemplate, place: tuple[int, int], said: Said) -> None:
    """Note a problem at a place inside a template, in the file that holds its text."""
    if template.file is not None:
        file = f"{subject.folder}/{template.file}" if subject.folder not in ("", ".") else template.file
        subject.findings.in_file(file, place, *said)
    else:
        subject.findings.inside(template.path, place, *said)


def _check_template(subject: Subject, template: StepTemplate, reader: _Reader) -> None:
    problem = syntax_error(template.source, bare=template.bare)
    if problem is not None:
        place = (problem.line, problem.column)
        note(subject, template, place, (f"{reader.words}: {problem.message}", problem.hint))
        return
    for reference in references(template.source, bare=template.bare):
        found = _problem_of(subject, template, reader, reference)
        if found is not None:
            note(subject, template, (reference.line, reference.column), found)


def _problem_of(
    subject: Subject, template: StepTemplate, reader: _Reader, reference: Reference
) -> Said | None:
    reads = f"{reader.words} reads {str(reference)!r}"
    root = reference.root
    if any(root == outer.id for outer in reader.around):
        hint = "Read the last turn as 'loop.previous'." if _is_turn(reader) else None
        return f"{reads}, which it is a part of", hint
    if root == reader.step_id:
        return None  # a cycle, which the graph's check names
    if root == "loop" and _is_turn(reader):
        return _loop_problem(subject, reader, reference, reads)
    if root == _item_of(reader.step) and root is not None:
        return None if template.may_read_item else _early_item(template, reference, reads)
    if root in (_item_of(outer.step) for outer in reader.around):
        return None
    if root in subject.names["steps"]:
        return _step_problem(subject, reader, reference, reads)
    if root == "inputs":
        return _input_problem(subject, reference, reads)
    if root == "row":
        return None if template.may_read_row else _row_problem(subject, reader, reference, reads)
    if root in SECRETS:
        return (
            f"{reads}, but secrets are for 'models' and 'collections' only",
            "They must never reach a prompt.",
        )
    return f"{reads}, but there is no step {root!r}", _unknown_hint(subject, reference)


def _item_of(step: Step | None) -> str | None:
    """Return what a step calls an item of its map."""
    return step.as_ if isinstance(step, MappedStep) and step.map is not None else None


def _is_turn(reader: _Reader) -> bool:
    return any(isinstance(outer.step, RepeatStep) for outer in reader.around)


def _loop_problem(subject: Subject, reader: _Reader, reference: Reference, reads: str) -> Said | None:
    """Say what is wrong with a use of what a turn knows of its repeat."""
    if not reference.path:
        return None
    first, rest = reference.path[0], reference.path[1:]
    if first not in REPEAT_NAMES:
        hint = "The others exist inside {% for %} only." if first in LOOP_NAMES else None
        return f"{reads}, but the 'loop' of a repeat has {sorted(REPEAT_NAMES)}", hint
    if first == "turn" or not rest:
        return None
    repeat = next(outer for outer in reversed(reader.around) if isinstance(outer.step, RepeatStep))
    beside = {inner.id: inner.step for inner in steps_inside(repeat)}
    if rest[0] not in beside:
        message = f"{reads}, but a turn of {repeat.name!r} has {list(beside)}"
        return message, did_you_mean(rest[0], beside, prefix="loop.previous.")
    return _path_problem(subject, beside[rest[0]], (f"loop.previous.{rest[0]}", rest[1:]), reads)


def _unknown_hint(subject: Subject, reference: Reference) -> str | None:
    if reference.root in subject.names["inputs"]:
        return f"Did you mean 'inputs.{reference.root}'?"
    if reference.root == "item":
        return "An item exists in a step with 'map', under the name that its 'as' gives it."
    if reference.root == "loop":
        return "'loop' exists inside {% for %} and inside a repeat only."
    meant = closest(reference.root, [*subject.names["steps"], "inputs"])
    if meant is not None:
        return f"Did you mean {'.'.join((meant, *reference.path))!r}?"
    if reference.root in subject.names["models"] or reference.root in subject.names["collections"]:
        return "Templates read steps and inputs, not models or collections."
    return did_you_mean(reference.root, subject.names["steps"])


def _step_problem(subject: Subject, reader: _Reader, reference: Reference, reads: str) -> Said | None:
    step = subject.chain.steps.get(reference.root)
    if step is None or not reference.path:
        return None  # a step that is wrong itself has its own problem
    name = reference.path[0]
    if _is_list_for(reader, step):
        if _is_index(name):
            return None
        return (
            f"{reads}, but here {reference.root!r} is a list over the rows: {reader.words} runs once",
            f"Write {reference.root} | map(attribute={name!r}) | list.",
        )
    return _path_problem(subject, step, (reference.root, reference.path), reads)


def _path_problem(subject: Subject, step: Step, read: tuple[str, tuple[str, ...]], reads: str) -> Said | None:
    """Say what is wrong with a path into what a step gives, of a list with the place in it before."""
    owner, path = read
    if path and isinstance(step, MappedStep) and step.map is not None:
        if not _is_index(path[0]):
            return (
                f"{reads}, but {owner!r} is a list: it runs for each item of its 'map'",
                f"Write {owner} | map(attribute={path[0]!r}) | list.",
            )
        owner, path = f"{owner}[{path[0]}]", path[1:]
    if path and isinstance(step, RepeatStep):
        return _turn_problem(subject, step, (owner, path), reads)
    return _output_problem(subject, step, (owner, path), reads)


def _turn_problem(
    subject: Subject, step: RepeatStep, read: tuple[str, tuple[str, ...]], reads: str
) -> Said | None:
    owner, path = read
    known: tuple[str, ...] = (*step.steps, *TURN_OUTPUTS)
    if _is_index(path[0]):
        owner, path, known = f"{owner}[{path[0]}]", path[1:], tuple(step.steps)
    if not path or (path[0] in TURN_OUTPUTS and path[0] in known):
        return None
    if path[0] not in step.steps:
        return _no_output(owner, path[0], reads, known)
    return _path_problem(subject, step.steps[path[0]], (f"{owner}.{path[0]}", path[1:]), reads)


def _is_index(name: str) -> bool:
    return name.lstrip("-").isdigit()


def _early_item(template: StepTemplate, reference: Reference, reads: str) -> Said:
    key = next(key for key in ("when", "map") if key in template.path)
    message = f"{reads}, but {key!r} is asked once for the row, before there is an item"
    if key == "map":
        return message, None
    return message, 'Leave items out of the list: map: "{{ list | selectattr(...) | list }}".'


def _output_problem(
    subject: Subject, step: Step, read: tuple[str, tuple[str, ...]], reads: str
) -> Said | None:
    """Say what is wrong with a path into a step's output; `read`: what stands for the step, and the path."""
    owner, path = read
    if not path:
        return None
    if isinstance(step, PromptStep) and step.gives_list:
        if path[0].lstrip("-").isdigit():
            return None
        return (
            f"{reads}, but {owner!r} is a list: its 'vote' is 'all'",
            f"Write {owner} | map(attribute={path[0]!r}) | list, or {owner}[0].{path[0]}.",
        )
    known = _declared(subject, step)
    if known is not None and path[0] not in known:
        return _no_output(owner, path[0], reads, known)
    return _deeper_problem(subject, step, read, reads)


def _declared(subject: Subject, step: Step) -> tuple[str, ...] | None:
    if isinstance(step, ChainStep):
        inner = subject.chains.get(step.chain)
        return tuple(inner.chain.outputs) if inner is not None else None
    return declared_outputs(step, subject.files)


def _is_list_for(reader: _Reader, step: Step) -> bool:
    """Whether a reader sees a list over rows; evaluate's comparison and outputs are read row by row."""
    if reader.around:
        return runs_once(reader.around[0].step) and not runs_once(step)
    if reader.step is None or isinstance(reader.step, EvaluateStep):
        return False
    return runs_once(reader.step) and not runs_once(step)


def _deeper_problem(
    subject: Subject, step: Step, read: tuple[str, tuple[str, ...]], reads: str
) -> Said | None:
    owner, path = read
    if len(path) < 2 or path[1].lstrip("-").isdigit():
        return None
    first, second = path[:2]
    known: tuple[str, ...] | None = None
    if isinstance(step, PromptStep) and first == "output":
        known = answer_fields(step, subject.files) or None
    elif isinstance(step, EvaluateStep) and first in figures_of(step):
        known = METRIC_PARTS
    if known is None or second in known:
        return None
    message = f"{reads}, but '{owner}.{first}' has {list(known)}"
    return message, did_you_mean(second, known, prefix=f"{owner}.{first}.")


def _no_output(owner: str, name: str, reads: str, known: tuple[str, ...]) -> Said:
    other = OTHER_WORDS.get(name)
    meant = other if other in known else closest(name, known)
    hint = f"Did you mean {owner + '.' + meant!r}?" if meant else None
    return f"{reads}, but step {owner!r} has outputs {list(known)}", hint


def _input_problem(subject: Subject, reference: Reference, reads: str) -> Said | None:
    known = subject.names["inputs"]
    if not reference.path or reference.path[0] in known:
        return None
    name = reference.path[0]
    hint = did_you_mean(name, known, prefix="inputs.") or "Declare it under 'inputs:'."
    return f"{reads}, but the chain has no input {name!r}", hint


def _row_problem(subject: Subject, reader: _Reader, reference: Reference, reads: str) -> Said:
    if isinstance(reader.step, EvaluateStep | PrepareStep | FinetuneStep):
        return f"{reads}, but this text is read once for the run, where there is no row", None
    column = reference.path[0] if reference.path else None
    hint = f"Make {column!r} an input and read 'inputs.{column}'." if column else None
    if column in subject.names["inputs"]:
        hint = f"Did you mean 'inputs.{column}'?"
    return (
        f"{reads}, but only evaluate, prepare and finetune see 'row': a prompt must not see its own answer",
        hint,
    )


def _check_gate(subject: Subject, step_id: str, step: Step) -> None:
    if not isinstance(step, EvaluateStep | FinetuneStep) or step.gate is None:
        return
    template = StepTemplate(("steps", step_id, "gate"), step.gate, bare=True)
    problem = syntax_error(step.gate, bare=True)
    if problem is not None:
        note(
            subject,
            template,
            (problem.line, problem.column),
            (f"step {step_id!r}: {problem.message}", problem.hint),
        )
        return
    known = declared_outputs(step, {}) or ()
    for reference in references(step.gate, bare=True):
        place = (reference.line, reference.column)
        reads = f"the gate of step {step_id!r} reads {str(reference)!r}"
        if reference.root not in known:
            message = f"{reads}, but it can read the step's own results only: {list(known)}"
            note(subject, template, place, (message, _near(reference.root, known)))
        elif isinstance(step, EvaluateStep) and reference.root in figures_of(step):
            if not reference.path:
                note(
                    subject,
                    template,
                    place,
                    (f"{reads}, which has {list(METRIC_PARTS)}", f"Write '{reference.root}.low'."),
                )
            elif reference.path[0] not in METRIC_PARTS:
                note(
                    subject,
                    template,
                    place,
                    (
                        f"{reads}, but {reference.root!r} has {list(METRIC_PARTS)}",
                        _near(reference.path[0], METRIC_PARTS),
                    ),
                )


def _near(name: str, known: tuple[str, ...]) -> str | None:
    meant = closest(name, known)
    return f"Did you mean {meant!r}?" if meant else None


def _check_secret_template(subject: Subject, template: StepTemplate) -> None:
    section, name, *_ = template.path
    words = f"{str(section)[:-1]} {name!r}"
    problem = syntax_error(template.source)
    if problem is not None:
        note(subject, template, (problem.line, problem.column), (f"{words}: {problem.message}", problem.hint))
        return
    if not has_expression(template.source):
        return
    for reference in references(template.source):
        place = (reference.line, reference.column)
        if reference.root not in SECRETS:
            hint = "Write {{ env.NAME }} or {{ secret.name }}."
            note(
                subject,
                template,
                place,
                (f"{words} reads {str(reference)!r}, but {section} can read env and secret only", hint),
            )
        elif len(reference.path) != 1:
            note(
                subject,
                template,
                place,
                (
                    f"{words} reads {str(reference)!r}, which names no {reference.root} value",
                    f"Write {{{{ {reference.root}.NAME }}}}.",
                ),
            )


def embedded_text_problems(subject: Subject, path: YamlPath, words: str, value: str) -> None:
    """Note a template where only a plain file path may stand."""
    if has_expression(value):
        subject.findings.at_value(path, f"{words} takes files by path or glob, not a template")
