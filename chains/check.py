"""Everything about a chain that can be known before a run: names, references, files, order, secrets.

Owns the rules that go beyond shapes (chains.spec). Imports no code of the chain and opens no network. All
findings are collected; nothing stops at the first one.
"""

from __future__ import annotations

import ast
from pathlib import Path

from chains.approvals import OWN_OUTPUTS
from chains.check_evaluate import check_evaluate
from chains.check_inside import check_inside
from chains.check_order import check_order
from chains.check_references import (
    Subject,
    check_references,
    embedded_text_problems,
    templates_with_files,
)
from chains.check_secrets import check_models, check_secrets, check_store_model
from chains.inputs import WrongValue, value_of
from chains.inside import Placed, every_step, steps_inside
from chains.output_forms import read_short_form
from chains.outputs import schema_problems
from chains.references import references
from chains.source.files import FileRefused, expand, inside, is_allowed_module, locate, python_file
from chains.source.marks import YamlPath, step_at
from chains.spec import (
    RESERVED,
    ApproveStep,
    EmbedStep,
    EvaluateStep,
    FinetuneStep,
    MappedStep,
    PrepareStep,
    PromptStep,
    PythonStep,
    RetrieveStep,
    StepBase,
    kind_of,
)
from chains.suggest import did_you_mean, shown
from chains.templates import has_expression, is_whole
from chains.usage import missing_environment, warnings
from chains.varying import fields_of

__all__ = ["Subject", "check", "missing_environment", "warnings"]

NOT_STEP_NAMES = RESERVED | {"models", "collections", "steps", "outputs", "defaults", "self", "chain"}


def check(subject: Subject, *, root: Path, read_outside: bool) -> None:
    """Note every problem of a validated chain."""
    check_references(subject)
    _check_names(subject)
    _check_steps(subject, root, read_outside=read_outside)
    check_inside(subject, NOT_STEP_NAMES)
    check_order(subject)
    check_models(subject)
    _check_inputs(subject)
    _check_variants(subject)
    _check_schedules(subject, root, read_outside=read_outside)
    check_secrets(subject)


def _check_names(subject: Subject) -> None:
    for name in subject.names["steps"]:
        if name in NOT_STEP_NAMES:
            subject.findings.at_key(
                ("steps", name), f"{name!r} is a reserved name and cannot be a step", "Choose another name."
            )
    for name, part in subject.chain.collections.items():
        _known(
            subject,
            ("collections", name, "embedder"),
            part.embedder,
            words=f"collection {name!r}",
            section="models",
        )
    if subject.chain.defaults.model is not None:
        _known(
            subject, ("defaults", "model"), subject.chain.defaults.model, words="'defaults'", section="models"
        )


def _known(subject: Subject, path: YamlPath, name: str, *, words: str, section: str) -> None:
    known = subject.names[section]
    if name not in known:
        what = {"models": "model", "collections": "collection", "steps": "step"}[section]
        hint = did_you_mean(name, known) or f"Declare it under '{section}:'."
        subject.findings.at_value(
            path, f"{words} names the {what} {name!r}, which the chain does not have", hint
        )


def _check_steps(subject: Subject, root: Path, *, read_outside: bool) -> None:
    files = _Files(subject, root, read_outside)
    for found in every_step(subject.chain):
        at, step, words = found.path, found.step, f"step {found.name!r}"
        for index, name in enumerate(() if found.around else step.after):
            _known(subject, (*at, "after", index), name, words=f"{words}: 'after'", section="steps")
        _check_once(subject, at, words, step)
        if isinstance(step, MappedStep) and step.map is not None:
            _check_map(subject, found, step)
        match step:
            case PromptStep():
                _check_prompt(subject, at, words, step)
            case RetrieveStep():
                _known(subject, (*at, "retrieve"), step.retrieve, words=words, section="collections")
            case EmbedStep():
                _check_embed(subject, files, at, step)
            case PythonStep():
                _check_python(subject, (*at, "python"), words, step.python)
            case ApproveStep():
                _check_approve(subject, at, words, step)
            case PrepareStep():
                files.require((*at, "prepare"), step.prepare)
                _check_like(subject, (*at, "like"), words, step)
                if step.tokens is not None:
                    _known(subject, (*at, "tokens"), step.tokens, words=words, section="models")
            case FinetuneStep():
                for part, source in step.data:
                    if source is not None:
                        files.require((*at, "data", part), source)
                check_store_model(subject, (*at, "base"), words, step.base)
                _check_hosted(subject, (*at, "base"), words, step)
                _check_teacher(subject, (*at, "teacher"), words, step)
            case EvaluateStep():
                check_evaluate(subject, at, step, _known)
                for place, check in enumerate(step.checks):
                    if check.python is not None:
                        _check_python(subject, (*at, "checks", place, "python"), words, check.python)


class _Files:
    """Existence of the data and documents that steps read when they run."""

    def __init__(self, subject: Subject, root: Path, read_outside: bool) -> None:
        self._subject = subject
        self._root = root
        self._read_outside = read_outside

    def require(self, path: YamlPath, text: str) -> None:
        """Note a literal path that leads to no file; a template's value is known only in a run."""
        if not has_expression(text):
            self._look(path, text, glob=False)

    def require_matches(self, path: YamlPath, pattern: str) -> None:
        """Note a path or glob that matches nothing."""
        self._look(path, pattern, glob=True)

    def _look(self, path: YamlPath, text: str, *, glob: bool) -> None:
        try:
            (expand if glob else locate)(self._root, text, read_outside=self._read_outside)
        except FileRefused as refusal:
            owner = f"step {path[1]!r}: "
            self._subject.findings.at_value(path, owner + refusal.message, refusal.hint)


def _check_once(subject: Subject, at: YamlPath, words: str, step: StepBase) -> None:
    always = isinstance(step, PrepareStep | FinetuneStep | EvaluateStep) or (
        isinstance(step, EmbedStep) and step.into is not None
    )
    if always and step.once is False:
        subject.findings.at_value(
            (*at, "once"), f"{words}: {kind_of(step)} always runs once per run", "Leave 'once' out."
        )


def _check_map(subject: Subject, found: Placed, step: MappedStep) -> None:
    at, words = found.path, f"step {found.name!r}"
    visible = {inner.id for outer in found.around for inner in steps_inside(outer)} | subject.names["steps"]
    if isinstance(step.map, str) and not is_whole(step.map):
        subject.findings.at_value(
            (*at, "map"), f"{words}: 'map' must be a list", 'Write map: "{{ step.list }}", or a list.'
        )
    taken = step.as_ in NOT_STEP_NAMES - {"item"}
    if taken or step.as_ in visible:
        what = "a reserved name" if taken else "the name of a step"
        subject.findings.at_value((*at, "as"), f"{words}: {step.as_!r} is {what}", "Choose another name.")


def _check_prompt(subject: Subject, at: YamlPath, words: str, step: PromptStep) -> None:
    if step.model is not None:
        _known(subject, (*at, "model"), step.model, words=words, section="models")
    elif subject.chain.defaults.model is None:
        hint = did_you_mean("", subject.names["models"]) or "Declare one under 'models:'."
        subject.findings.at_key(
            at, f"{words} has no model: neither 'model' nor 'defaults.model' is set", hint
        )
    if step.reask and step.output is None:
        subject.findings.at_key(
            (*at, "reask"), f"{words}: 'reask' needs 'output', or there is nothing to fall short of"
        )
    for key in ("vote", "quorum"):
        if step.samples == 1 and key in step.model_fields_set:
            subject.findings.at_key((*at, key), f"{words}: {key!r} needs several 'samples'")
    if step.samples > 1 and (step.quorum or 0) > step.samples:
        message = f"{words}: 'quorum' asks for {step.quorum} of {step.samples} samples"
        subject.findings.at_value((*at, "quorum"), message)
    if step.output is None:
        return
    if isinstance(step.output, str) and step.output.endswith(".json") and step.output not in subject.files:
        return  # the missing file has its own problem
    for problem in schema_problems(step.output, subject.files):
        path = (*at, "output", *problem.path) if not isinstance(step.output, str) else (*at, "output")
        subject.findings.at_value(path, f"{words}: {problem.message}", problem.hint)
    if isinstance(step.output, str) and not step.output.endswith(".json"):
        _check_python(subject, (*at, "output"), words, step.output)


def _check_approve(subject: Subject, at: YamlPath, words: str, step: ApproveStep) -> None:
    for problem in read_short_form(step.fields)[1] if step.fields else ():
        subject.findings.at_value((*at, "fields", *problem.path), f"{words}: {problem.message}", problem.hint)
    for name in step.fields:
        if name in OWN_OUTPUTS:
            message = f"{words}: a field cannot be called {name!r}, which every answer has"
            subject.findings.at_key((*at, "fields", name), message)
    if step.timeout is None and "on_timeout" in step.model_fields_set:
        subject.findings.at_key((*at, "on_timeout"), f"{words}: 'on_timeout' needs 'timeout'")


def _check_embed(subject: Subject, files: _Files, at: YamlPath, step: EmbedStep) -> None:
    words = f"step {step_at(at)!r}"
    if step.model is not None:
        _known(subject, (*at, "model"), step.model, words=words, section="models")
    if step.into is None:
        return
    _known(subject, (*at, "into"), step.into, words=words, section="collections")
    if step.model is not None:
        hint = "Leave 'model' out."
        subject.findings.at_key(
            (*at, "model"), f"{words}: with 'into' the collection's embedder is used", hint
        )
    texts = (
        [((*at, "embed"), step.embed)]
        if isinstance(step.embed, str)
        else [((*at, "embed", index), text) for index, text in enumerate(step.embed)]
    )
    for path, text in texts:
        if has_expression(text):
            embedded_text_problems(subject, path, words, text)
        else:
            files.require_matches(path, text)


def _check_python(subject: Subject, path: YamlPath, words: str, reference: str) -> None:
    """Look for the function in the file's syntax tree: the file is never imported here."""
    file = python_file(reference)
    if file is None:
        _check_module(subject, path, words, reference.rpartition(":")[0])
        return
    source = subject.files.get(file)
    if source is None:
        return  # the missing file has its own problem
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        subject.findings.at_value(path, f"{words}: {shown(file)} is no Python that can be read{where}")
        return
    names = _bound_names(tree)
    name = reference.rpartition(":")[2]
    if "*" not in names and name not in names:
        hint = did_you_mean(name, [known for known in names if not known.startswith("_")])
        subject.findings.at_value(path, f"{words}: {shown(file)} has no function {name!r}", hint)


def _check_module(subject: Subject, path: YamlPath, words: str, module: str) -> None:
    if "/" in module:
        hint = "Write it with its ending, as in checks.py:function."
        subject.findings.at_value(path, f"{words}: {shown(module)} is neither a file nor a module", hint)
    elif not is_allowed_module(module, subject.modules):
        subject.findings.at_value(
            path,
            f"{words}: this machine does not let a chain import {shown(module)}",
            "Put the function into a file beside the chain, or add the module to HEADRACE_ALLOWED_MODULES.",
        )


def _check_hosted(subject: Subject, path: YamlPath, words: str, step: FinetuneStep) -> None:
    """Look whether the endpoint of a hosted job can be known: it is that of its base, under `models:`."""
    if step.finetune != "openai" or step.base is None:
        return
    _known(subject, path, step.base, words=words, section="models")
    base = subject.chain.models.get(step.base)
    if base is not None and base.provider != "openai":
        subject.findings.at_value(
            path,
            f"{words}: 'finetune: openai' tunes at an endpoint, and {step.base!r} is of provider "
            f"{base.provider!r}",
            "Name a model of provider openai, or take lora.",
        )


def _check_teacher(subject: Subject, path: YamlPath, words: str, step: FinetuneStep) -> None:
    if step.teacher is None:
        return
    _known(subject, path, step.teacher, words=words, section="models")
    teacher = subject.chain.models.get(step.teacher)
    if step.level == "logits" and teacher is not None and teacher.provider == "openai":
        subject.findings.at_value(
            path,
            f"{words}: 'level: logits' needs a teacher's weights, and {step.teacher!r} is behind an endpoint",
            "Say 'level: sequence', or name a model of provider local or starter.",
        )


def _bound_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=asname):
                names.add(asname or name.partition(".")[0])
    return names


def _check_like(subject: Subject, path: YamlPath, words: str, step: PrepareStep) -> None:
    if step.like is None:
        return
    _known(subject, path, step.like, words=words, section="steps")
    other = subject.chain.steps.get(step.like)
    if other is None:
        return
    if not isinstance(other, PromptStep):
        subject.findings.at_value(
            path,
            f"{words}: 'like' names step {step.like!r}, which is of kind {kind_of(other)!r}",
            "Name a prompt step.",
        )
        return
    read = {
        reference.root
        for template in templates_with_files(subject, step.like, other)
        if template.path[2] == "prompt"
        for reference in references(template.source)
        if reference.root in subject.names["steps"] and not reference.guarded
    }
    if read:
        listed = ", ".join(repr(name) for name in sorted(read))
        message = (
            f"{words}: the prompt of step {step.like!r} reads {listed}, and an example has the inputs only"
        )
        subject.findings.at_value(
            path, message, "Read it with | default(...), or prepare from a prompt that reads inputs."
        )


def _check_inputs(subject: Subject) -> None:
    for name, spec in subject.chain.inputs.items():
        if "default" not in spec.model_fields_set or spec.default is None:
            continue
        try:
            value_of(spec, spec.default)
        except WrongValue as error:
            subject.findings.at_value(("inputs", name, "default"), f"the default of input {name!r} {error}")


def _check_variants(subject: Subject) -> None:
    """Look whether the steps and fields that variants change are there; values are looked at with a run."""
    for name, variant in subject.chain.variants.items():
        for step_id, fields in variant.steps.items():
            at: YamlPath = ("variants", name, "steps", step_id)
            step = subject.chain.steps.get(step_id)
            if step is None:
                if step_id not in subject.names["steps"]:
                    hint = did_you_mean(step_id, subject.names["steps"])
                    subject.findings.at_key(at, f"variant {name!r}: the chain has no step {step_id!r}", hint)
                continue
            known = fields_of(step)
            for field in fields:
                if field not in known:
                    message = f"variant {name!r}: step {step_id!r} has no field {field!r}"
                    subject.findings.at_key((*at, field), message, did_you_mean(field, known))


def _check_schedules(subject: Subject, root: Path, *, read_outside: bool) -> None:
    """Look whether each scheduled run would be given what the chain needs."""
    chain = subject.chain
    for name, schedule in chain.schedule.items():
        at: YamlPath = ("schedule", name, "inputs")
        words = f"schedule {name!r}"
        for given, value in schedule.inputs.items():
            if given not in chain.inputs:
                if given not in subject.names["inputs"]:
                    hint = did_you_mean(given, subject.names["inputs"])
                    subject.findings.at_key((*at, given), f"{words}: the chain has no input {given!r}", hint)
                continue
            try:
                value_of(chain.inputs[given], value)
            except WrongValue as error:
                subject.findings.at_value((*at, given), f"{words}: input {given!r} {error}")
        needed = [name for name, spec in chain.inputs.items() if spec.is_required]
        missing = [repr(name) for name in needed if name not in schedule.inputs]
        if missing and schedule.data is None:
            subject.findings.at_key(
                ("schedule", name),
                f"{words} gives no value for {', '.join(missing)}",
                "Give it under 'inputs', or name a data set with 'data'.",
            )
        if schedule.data is not None:  # it may come later than the chain
            try:
                inside(root, schedule.data, read_outside=read_outside)
            except FileRefused as refusal:
                subject.findings.at_value(
                    ("schedule", name, "data"), f"{words}: {refusal.message}", refusal.hint
                )
