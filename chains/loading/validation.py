"""From plain values to a `Chain`: each part is validated on its own, so that one wrong step hides no other.

Owns the words of schema errors. Knows nothing of references or files. What could be validated comes back
even when problems were found, so that later checks can go on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from chains.loading.explaining import Explainer, kind_of_value
from chains.source.findings import Findings
from chains.source.marks import YamlPath, step_at
from chains.spec import (
    KINDS,
    NAME_PATTERN,
    Chain,
    Collection,
    Defaults,
    Input,
    Model,
    PythonStep,
    RepeatStep,
    Schedule,
    StepBase,
    Variant,
)
from chains.suggest import closest, shown

_SECTIONS: dict[str, type[BaseModel]] = {
    "inputs": Input,
    "models": Model,
    "collections": Collection,
    "variants": Variant,
    "schedule": Schedule,
}


@dataclass(frozen=True, slots=True)
class Validated:
    """A chain of all parts that are right, and the names of all that are there, right or not."""

    chain: Chain
    names: Mapping[str, frozenset[str]]


def validate(raw: Mapping[str, Any], findings: Findings) -> Validated:
    """Validate a document's top level."""
    parts: dict[str, dict[str, Any]] = {}
    for section, model in _SECTIONS.items():
        parts[section] = {
            name: value
            for name, item in _entries(raw, section).items()
            if (value := _part(model, item, (section, name), findings)) is not None
        }
    parts["steps"] = {
        name: step
        for name, item in _entries(raw, "steps").items()
        if (step := _step(item, ("steps", name), findings)) is not None
    }
    names = {section: frozenset(_entries(raw, section)) for section in parts}
    return Validated(_top_level(raw, parts, findings), names)


def _entries(raw: Mapping[str, Any], section: str) -> dict[str, Any]:
    value = raw.get(section)
    return value if isinstance(value, dict) else {}


def _top_level(raw: Mapping[str, Any], parts: Mapping[str, dict[str, Any]], findings: Findings) -> Chain:
    values = {**raw, **{name: part for name, part in parts.items() if isinstance(raw.get(name), dict)}}
    try:
        return Chain.model_validate(values, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
    if isinstance(raw.get("steps"), dict) and raw["steps"]:
        # No step was right: each of them has its own problem already.
        details = [
            item for item in details if not (item["type"] == "too_short" and item["loc"] == ("steps",))
        ]
    Explainer(raw, (), Chain, findings).explain(details)
    return _right_parts(raw, parts)


def _right_parts(raw: Mapping[str, Any], parts: Mapping[str, dict[str, Any]]) -> Chain:
    """Return a chain of what is right, for the later checks: never to be run."""
    named = {
        section: {name: part for name, part in entries.items() if re.fullmatch(NAME_PATTERN, name)}
        for section, entries in parts.items()
    }
    try:
        defaults = Defaults.model_validate(raw.get("defaults", {}), strict=True)
    except ValidationError:
        defaults = Defaults()
    outputs = _entries(raw, "outputs")
    return Chain.model_construct(chain="unnamed", defaults=defaults, outputs=outputs, **named)  # type: ignore[arg-type]  # the parts are models


def _part(model: type[BaseModel], raw: Any, path: YamlPath, findings: Findings) -> BaseModel | None:
    if not isinstance(raw, dict):
        findings.at_value(
            path, f"{path[-1]!r} must be a mapping, not {kind_of_value(raw)}", _keys_hint(model)
        )
        return None
    try:
        return model.model_validate(raw, strict=True)
    except ValidationError as error:
        Explainer(raw, path, model, findings).explain(error.errors(include_url=False))
        return None


def _step(raw: Any, path: YamlPath, findings: Findings) -> StepBase | None:
    step_id = step_at(path)
    kinds = f"Write one of these as its key: {', '.join(KINDS)}."
    if not isinstance(raw, dict):
        findings.at_value(path, f"step {step_id!r} must be a mapping, not {kind_of_value(raw)}", kinds)
        return None
    found = [key for key in raw if key in KINDS]
    if len(found) == 1:
        model: type[BaseModel] = KINDS[found[0]]
        if model is RepeatStep and isinstance(raw.get("steps"), dict) and raw["steps"]:
            return _repeat(raw, path, findings)
        part = _part(model, raw, path, findings)
        return part if isinstance(part, StepBase) else None
    if len(found) > 1:
        verbs = " and ".join(repr(verb) for verb in found)
        findings.at_key(
            (*path, found[1]),
            f"step {step_id!r} is written with {verbs}",
            "A step has one kind: make two steps.",
        )
        return None
    known = {field.alias or name for kind in KINDS.values() for name, field in kind.model_fields.items()}
    for key in raw:
        if key not in known:
            meant = closest(key, KINDS)
            findings.at_key(
                (*path, key),
                f"step {step_id!r} has the unknown key {shown(key)}",
                f"Did you mean {meant!r}?" if meant else None,
            )
    findings.at_key(path, f"step {step_id!r} has no kind", kinds)
    return None


def _repeat(raw: dict[str, Any], path: YamlPath, findings: Findings) -> StepBase | None:
    """Validate the steps inside one by one, like those of the chain, and then what is around them."""
    inside = {
        name: step
        for name, item in raw["steps"].items()
        if (step := _step(item, (*path, "steps", name), findings)) is not None
    }
    complete = len(inside) == len(raw["steps"])
    part = _part(RepeatStep, {**raw, "steps": inside or {"nothing": _NOTHING}}, path, findings)
    return part if complete and isinstance(part, RepeatStep) else None


_NOTHING = PythonStep(python="nothing.py:nothing")
"""Stands for steps of which none is right, each of which has its own problem."""


def _keys_hint(model: type[BaseModel]) -> str:
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return (
        f"It needs {', '.join(repr(name) for name in required)}."
        if required
        else "Write its keys on indented lines."
    )
