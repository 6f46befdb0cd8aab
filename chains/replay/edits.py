"""What is edited in a chain for a replay: `STEP.prompt`, `STEP.temperature`, any other field of a step.

Owns what a target means and the edited chain file's text, which loads like any other. A sampling parameter
belongs to a model that other steps may use too, so a step that gets one of its own gets a model of its own.
An edit that changes nothing is none. Knows nothing of runs, and does not check the edited chain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from chains.errors import InputInvalid
from chains.graph import body_of, models_of
from chains.inside import every_step
from chains.loading import ChainFile
from chains.prompts import prompt_parts
from chains.source.marks import YamlPath
from chains.source.rewriting import with_value
from chains.source.scalars import ScalarRefused, plain_value
from chains.spec import Chain, ChainStep, Model, PromptStep, RepeatStep, Step
from chains.strict_json import NotStrictJson, parse
from chains.suggest import did_you_mean, shown
from chains.varying import SAMPLING


@dataclass(slots=True)
class Edited:
    """An edited chain file: its text, for each step by its whole name what was edited, and inputs' values."""

    source: bytes
    steps: dict[str, list[str]] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


def with_edits(
    chain_file: ChainFile,
    edits: Mapping[str, Any],
    models: Mapping[str, Model | str],
    *,
    from_text: bool = False,
) -> Edited:
    """Return the chain's text with the edits in it.

    `edits` are by target (`STEP.prompt`, `STEP.prompt.system`, `STEP.FIELD`, `inputs.NAME`); with `from_text`
    the values are texts of a command line or a form. `models` gives a step another model: one of the chain's
    by its name, or one that is not in it. Raises InputInvalid for a target that the chain does not have.
    """
    editing = _Editing(chain_file)
    for step_id, model in models.items():
        edit, rest = editing.placed(step_id)
        if rest:
            raise InputInvalid(f"the chain has no step {shown(step_id)}.")
        editing.other_model(edit, model)
    for target, value in edits.items():
        _apply(editing, target, value, from_text=from_text)
    editing.write_models()
    return Edited(editing.text.encode(), editing.steps, editing.inputs)


@dataclass(frozen=True, slots=True)
class Edit:
    """A step that is edited: its whole name, its place in the file, and the chain that it is a step of."""

    name: str
    place: YamlPath
    chain_file: ChainFile
    step: Step

    @property
    def own_name(self) -> str:
        """The name among the steps beside it."""
        return self.name.rpartition(".")[2]

    def inside(self, name: str) -> Edit:
        """Return a step inside."""
        assert isinstance(self.step, RepeatStep)
        body = body_of(self.chain_file, self.step)
        return Edit(f"{self.name}.{name}", (*self.place, "steps", name), body, self.step.steps[name])


class _Editing:
    """A chain file's text on its way to the edited one."""

    def __init__(self, chain_file: ChainFile) -> None:
        self.chain_file = chain_file
        self.text = chain_file.source.decode("utf-8").removeprefix("\ufeff")
        self.steps: dict[str, list[str]] = {}
        self.inputs: dict[str, Any] = {}
        self._models: dict[str, tuple[Edit, Model]] = {}
        self._named: dict[str, str] = {}

    @property
    def chain(self) -> Chain:
        return self.chain_file.chain

    def placed(self, target: str) -> tuple[Edit, list[str]]:
        """Return the step that a target names, one inside others too, and the rest of the target."""
        name, *path = target.split(".")
        if name not in self.chain.steps:
            hint = did_you_mean(name, ["inputs", *self.chain.steps])
            raise InputInvalid(f"{target!r}: the chain has no step {shown(name)}.", hint=hint)
        found = Edit(name, ("steps", name), self.chain_file, self.chain.steps[name])
        while isinstance(found.step, RepeatStep) and path and path[0] in found.step.steps:
            found = found.inside(path.pop(0))
        return found, path

    def note(self, step_id: str, what: str) -> None:
        found = self.steps.setdefault(step_id, [])
        if what not in found:
            found.append(what)

    def put(self, path: YamlPath, value: Any) -> None:
        self.text = with_value(self.text, path, value)

    def other_model(self, edit: Edit, model: Model | str) -> None:
        if "model" not in type(edit.step).model_fields:
            raise InputInvalid(
                f"step {edit.name!r} names no model that could be another.", hint="Edit its other fields."
            )
        now = self.model_name(edit)
        if isinstance(model, Model):
            if now is None or self.chain.models.get(now) != model:
                self._models[edit.name] = (edit, model)
                self.note(edit.name, "model")
        elif model not in self.chain.models:
            hint = did_you_mean(model, self.chain.models)
            raise InputInvalid(f"the chain has no model {shown(model)} for step {edit.name!r}.", hint=hint)
        elif model != now:
            self._named[edit.name] = model
            self.put((*edit.place, "model"), model)
            self.note(edit.name, "model")

    def sampling(self, edit: Edit, name: str, value: Any) -> None:
        _, own = self._models.get(edit.name, (edit, None))
        model = own or self.chain.models.get(self.model_name(edit) or "")
        if model is None:
            raise InputInvalid(f"step {edit.name!r} asks no model, so it has no {name!r}.")
        if getattr(model, name) != value:
            # Not validated here: whoever reads the edited chain does that, with all that is wrong at once.
            self._models[edit.name] = (edit, model.model_copy(update={name: value}))
            self.note(edit.name, name)

    def model_name(self, edit: Edit) -> str | None:
        if edit.name in self._named:
            return self._named[edit.name]
        names = models_of(edit.step, self.chain)
        return names[0] if len(names) == 1 else None

    def write_models(self) -> None:
        """Write the models that steps have of their own."""
        for edit, model in self._models.values():
            name = self._own_name(edit)
            kept = model.model_dump(mode="json", exclude_defaults=True, warnings=False)
            self.put(("models", name), kept)
            self.put((*edit.place, "model"), name)

    def _own_name(self, edit: Edit) -> str:
        """Return a name for the model of this step alone: one that it has already, else a free one."""
        stem = edit.name.replace(".", "_")[:50]
        now = self.model_name(edit)
        users = [found.name for found in every_step(self.chain) if now in models_of(found.step, self.chain)]
        if now == f"{stem}_model" and users == [edit.name] and self.chain.defaults.model != now:
            return now
        number, name = 1, f"{stem}_model"
        while name in self.chain.models:
            number += 1
            name = f"{stem}_model{number}"
        return name


def _apply(editing: _Editing, target: str, value: Any, *, from_text: bool) -> None:
    root, *path = target.split(".")
    if not path or not all(path):
        raise InputInvalid(
            f"{shown(target)} names nothing to edit.",
            hint="Write STEP.prompt, STEP.temperature, STEP.FIELD or inputs.NAME.",
        )
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        raise InputInvalid(f"the value of {target!r} is not UTF-8.", hint="Correct its encoding.")
    if root == "inputs" and "inputs" not in editing.chain.steps:
        if len(path) > 1 or path[0] not in editing.chain.inputs:
            hint = did_you_mean(".".join(path), editing.chain.inputs)
            raise InputInvalid(f"the chain has no input {shown('.'.join(path))}.", hint=hint)
        editing.inputs[path[0]] = value
        return
    edit, path = editing.placed(target)
    known = type(edit.step).model_fields
    if not path:
        raise InputInvalid(f"{target!r} is a step, and names no field of it.", hint="Write STEP.FIELD=VALUE.")
    if path[0] in SAMPLING and path[0] not in known and len(path) == 1:
        editing.sampling(edit, path[0], _read(Model, path, value, target) if from_text else value)
    elif path[0] == "prompt" and isinstance(edit.step, PromptStep):
        _edit_prompt(editing, edit, path[1:], value)
    elif path == ["model"] and isinstance(value, str):
        editing.other_model(edit, value)
    elif path[0] in known:
        _edit_field(editing, edit, path, _read(type(edit.step), path, value, target) if from_text else value)
    else:
        if isinstance(edit.step, ChainStep):
            raise InputInvalid(
                f"step {edit.name!r} runs the chain {edit.step.chain!r}, which is not edited from here.",
                hint="Edit its file, and take it with --chain.",
            )
        inside = edit.step.steps if isinstance(edit.step, RepeatStep) else ()
        hint = did_you_mean(path[0], [*inside, *known, *SAMPLING])
        raise InputInvalid(f"{target!r}: step {edit.name!r} has no field {shown(path[0])}.", hint=hint)


def _edit_prompt(editing: _Editing, edit: Edit, path: list[str], value: Any) -> None:
    """Edit the whole prompt, or the text of the one message that has a role."""
    parts = prompt_parts(edit.chain_file, edit.own_name)
    if not path:
        new = [("user", value)] if isinstance(value, str) else value
        if isinstance(value, str) and parts == new:
            return
        editing.put((*edit.place, "prompt"), value)
        editing.note(edit.name, "prompt")
        return
    places = [place for place, (role, _) in enumerate(parts) if role == path[0] or str(place) == path[0]]
    if len(path) > 1 or len(places) != 1 or not isinstance(value, str):
        said = ", ".join(role for role, _ in parts)
        raise InputInvalid(
            f"step {edit.name!r} has no one message {'.'.join(path)!r}: its messages are {said}.",
            hint=f"Write {edit.name}.prompt.ROLE, or the message's number, from 0.",
        )
    role, text = parts[places[0]]
    if text == value:
        return
    whole = isinstance(edit.step, PromptStep) and isinstance(edit.step.prompt, str)
    editing.put((*edit.place, "prompt", *(() if whole else (places[0], role))), value)
    editing.note(edit.name, "prompt")


def _edit_field(editing: _Editing, edit: Edit, path: list[str], value: Any) -> None:
    now: Any = edit.step.model_dump(mode="json", by_alias=True)
    for name in path:
        now = now.get(name) if isinstance(now, Mapping) else None
    if now == value:
        return
    try:
        editing.put((*edit.place, *path), value)
    except KeyError as error:
        place = ".".join((edit.name, *path))
        raise InputInvalid(f"{place!r} is nothing that can be edited: {error} is not there.") from error
    editing.note(edit.name, ".".join(path))


def _read(model: type[BaseModel], path: list[str], text: Any, target: str) -> Any:
    """Return the value of a text for a field: where the field takes text, the text itself."""
    if not isinstance(text, str):
        return text
    annotation: Any = model.model_fields[path[0]].annotation
    for name in path[1:]:
        annotation = _below(annotation, name)
    if _takes_text(annotation) or text.startswith(("{{", "{%")):
        return text
    if text[:1] in ("[", "{", '"'):
        try:
            return parse(text)
        except NotStrictJson as error:
            raise InputInvalid(f"the value of {target!r} is no JSON: {error}.") from error
    try:
        return plain_value(text)
    except ScalarRefused as error:
        raise InputInvalid(f"the value of {target!r}: {error.message}.", hint=error.hint) from error


def _below(annotation: Any, name: str) -> Any:
    """Return the annotation of what stands under a key; None where any JSON may."""
    for choice in _choices(annotation):
        if isinstance(choice, type) and issubclass(choice, BaseModel) and name in choice.model_fields:
            return choice.model_fields[name].annotation
    return None


def _takes_text(annotation: Any) -> bool:
    return any(choice is str for choice in _choices(annotation))


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a field may have, without what annotates them."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in (Union, UnionType):
        return tuple(choice for part in get_args(annotation) for choice in _choices(part))
    return (annotation,)


def shown_edit(value: Any, limit: int = 100) -> str:
    """Return an edit's value as one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", " ⏎ ")
    return text if len(text) <= limit else text[: limit - 1] + "…"
