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
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from chains.errors import InputInvalid
from chains.graph import models_of
from chains.loading import ChainFile
from chains.prompts import prompt_parts
from chains.source.marks import YamlPath
from chains.source.rewriting import with_value
from chains.source.scalars import ScalarRefused, plain_value
from chains.spec import Chain, Model, PromptStep, Step
from chains.strict_json import NotStrictJson, parse
from chains.suggest import did_you_mean, shown

SAMPLING: Final = ("temperature", "top_p", "max_tokens", "seed", "stop")
"""Fields of a model that are edited as if they were the step's."""


@dataclass(slots=True)
class Edited:
    """An edited chain file: its text, for each step the names of what was edited, and the inputs' values."""

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
        editing.other_model(step_id, model)
    for target, value in edits.items():
        _apply(editing, target, value, from_text=from_text)
    editing.write_models()
    return Edited(editing.text.encode(), editing.steps, editing.inputs)


class _Editing:
    """A chain file's text on its way to the edited one."""

    def __init__(self, chain_file: ChainFile) -> None:
        self.chain_file = chain_file
        self.text = chain_file.source.decode("utf-8").removeprefix("\ufeff")
        self.steps: dict[str, list[str]] = {}
        self.inputs: dict[str, Any] = {}
        self._models: dict[str, Model] = {}
        self._named: dict[str, str] = {}

    @property
    def chain(self) -> Chain:
        return self.chain_file.chain

    def step(self, name: str, target: str) -> Step:
        if name not in self.chain.steps:
            hint = did_you_mean(name, ["inputs", *self.chain.steps])
            raise InputInvalid(f"{target!r}: the chain has no step {shown(name)}.", hint=hint)
        return self.chain.steps[name]

    def note(self, step_id: str, what: str) -> None:
        found = self.steps.setdefault(step_id, [])
        if what not in found:
            found.append(what)

    def put(self, path: YamlPath, value: Any) -> None:
        self.text = with_value(self.text, path, value)

    def other_model(self, step_id: str, model: Model | str) -> None:
        step = self.step(step_id, f"{step_id}.model")
        if "model" not in type(step).model_fields:
            raise InputInvalid(
                f"step {step_id!r} names no model that could be another.", hint="Edit its other fields."
            )
        now = self.model_name(step_id)
        if isinstance(model, Model):
            if now is None or self.chain.models.get(now) != model:
                self._models[step_id] = model
                self.note(step_id, "model")
        elif model not in self.chain.models:
            hint = did_you_mean(model, self.chain.models)
            raise InputInvalid(f"the chain has no model {shown(model)} for step {step_id!r}.", hint=hint)
        elif model != now:
            self._named[step_id] = model
            self.put(("steps", step_id, "model"), model)
            self.note(step_id, "model")

    def sampling(self, step_id: str, name: str, value: Any) -> None:
        model = self._models.get(step_id) or self.chain.models.get(self.model_name(step_id) or "")
        if model is None:
            raise InputInvalid(f"step {step_id!r} asks no model, so it has no {name!r}.")
        if getattr(model, name) != value:
            # Not validated here: whoever reads the edited chain does that, with all that is wrong at once.
            self._models[step_id] = model.model_copy(update={name: value})
            self.note(step_id, name)

    def model_name(self, step_id: str) -> str | None:
        if step_id in self._named:
            return self._named[step_id]
        names = models_of(self.chain.steps[step_id], self.chain)
        return names[0] if len(names) == 1 else None

    def write_models(self) -> None:
        """Write the models that steps have of their own."""
        for step_id, model in self._models.items():
            name = self._own_name(step_id)
            kept = model.model_dump(mode="json", exclude_defaults=True, warnings=False)
            self.put(("models", name), kept)
            self.put(("steps", step_id, "model"), name)

    def _own_name(self, step_id: str) -> str:
        """Return a name for the model of this step alone: one that it has already, else a free one."""
        users = [name for name, step in self.chain.steps.items() if self._uses(step, f"{step_id}_model")]
        if users == [step_id] and self.chain.defaults.model != f"{step_id}_model":
            return f"{step_id}_model"
        number, name = 1, f"{step_id[:50]}_model"
        while name in self.chain.models:
            number += 1
            name = f"{step_id[:50]}_model{number}"
        return name

    def _uses(self, step: Step, model: str) -> bool:
        return model in self.chain.models and model in models_of(step, self.chain)


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
    step = editing.step(root, target)
    known = type(step).model_fields
    if path[0] in SAMPLING and path[0] not in known and len(path) == 1:
        editing.sampling(root, path[0], _read(Model, path, value, target) if from_text else value)
    elif path[0] == "prompt" and isinstance(step, PromptStep):
        _edit_prompt(editing, root, path[1:], value)
    elif path == ["model"] and isinstance(value, str):
        editing.other_model(root, value)
    elif path[0] in known:
        _edit_field(editing, root, path, _read(type(step), path, value, target) if from_text else value)
    else:
        hint = did_you_mean(path[0], [*known, *SAMPLING])
        raise InputInvalid(f"{target!r}: step {root!r} has no field {shown(path[0])}.", hint=hint)


def _edit_prompt(editing: _Editing, step_id: str, path: list[str], value: Any) -> None:
    """Edit the whole prompt, or the text of the one message that has a role."""
    parts = prompt_parts(editing.chain_file, step_id)
    if not path:
        new = [("user", value)] if isinstance(value, str) else value
        if isinstance(value, str) and parts == new:
            return
        editing.put(("steps", step_id, "prompt"), value)
        editing.note(step_id, "prompt")
        return
    places = [place for place, (role, _) in enumerate(parts) if role == path[0] or str(place) == path[0]]
    if len(path) > 1 or len(places) != 1 or not isinstance(value, str):
        said = ", ".join(role for role, _ in parts)
        raise InputInvalid(
            f"step {step_id!r} has no one message {'.'.join(path)!r}: its messages are {said}.",
            hint=f"Write {step_id}.prompt.ROLE, or the message's number, from 0.",
        )
    if parts[places[0]][1] == value:
        return
    step = editing.chain.steps[step_id]
    whole = isinstance(step, PromptStep) and isinstance(step.prompt, str)
    role = parts[places[0]][0]
    editing.put(("steps", step_id, "prompt", *(() if whole else (places[0], role))), value)
    editing.note(step_id, "prompt")


def _edit_field(editing: _Editing, step_id: str, path: list[str], value: Any) -> None:
    now: Any = editing.chain.steps[step_id].model_dump(mode="json")
    for name in path:
        now = now.get(name) if isinstance(now, Mapping) else None
    if now == value:
        return
    try:
        editing.put(("steps", step_id, *path), value)
    except KeyError as error:
        place = ".".join((step_id, *path))
        raise InputInvalid(f"{place!r} is nothing that can be edited: {error} is not there.") from error
    editing.note(step_id, ".".join(path))


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
