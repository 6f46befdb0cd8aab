"""Schema errors in words: pydantic's findings as problems at their place, with a did-you-mean.

Owns the wording. Values of `api_key` and of headers are never shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from chains.source.findings import Findings
from chains.source.marks import YamlPath, step_at
from chains.source.scalars import ScalarRefused, plain_value
from chains.suggest import did_you_mean, shown

_TYPE_WORDS = {
    "string_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_NAME_HINT = "Use lower-case letters, digits and '_', starting with a letter; at most 64 characters."
_DASHED_NAME_HINT = "Use lower-case letters, digits, '_' and '-', at most 64 characters."
_PYTHON_HINT = "Write file.py:function or package.module:function."


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains the errors of one part of a chain file: its raw value, its place and the model it must fit."""

    raw: Any
    path: YamlPath
    model: type[BaseModel]
    findings: Findings

    def explain(self, details: list[ErrorDetails]) -> None:
        """Note one problem for each error, and one for all branches of a union together."""
        unions: dict[YamlPath, list[tuple[YamlPath, ErrorDetails]]] = {}
        for item in details:
            branch, inner = _split(item, self.raw)
            if branch is None:
                self._note(item, inner)
            else:
                unions.setdefault(branch, []).append((inner, item))
        for branch, members in unions.items():
            self._explain_union(branch, members)

    def _explain_union(self, branch: YamlPath, members: list[tuple[YamlPath, ErrorDetails]]) -> None:
        value = _at(self.raw, branch)
        deeper = [(inner, item) for inner, item in members if inner != branch]
        fitting = [(inner, item) for inner, item in members if _branch_fits(item, value)]
        for inner, item in deeper or fitting:
            self._note(item, inner)
        if not deeper and not fitting:
            wanted = " or ".join(dict.fromkeys(_wanted(item) for _, item in members))
            message = f"{self._owner}{self._named(branch)} must be {wanted}, not {kind_of_value(value)}"
            self.findings.at_value((*self.path, *branch), message)

    @property
    def _owner(self) -> str:
        match self.path:
            case ("steps", _, *_):
                return f"step {step_at(self.path)!r}: "
            case (section, name, *_):
                return f"{str(section).removesuffix('s')} {name!r}: "
            case _:
                return ""

    def _named(self, inner: YamlPath) -> str:
        whole = (*self.path, *inner)
        if whole and isinstance(whole[-1], int):
            return f"item {whole[-1] + 1} of {whole[-2]!r}"
        return repr(whole[-1]) if whole else "the file"

    def _note(self, item: ErrorDetails, inner: YamlPath) -> None:
        whole = (*self.path, *inner)
        if item["loc"] and item["loc"][-1] == "[key]":
            self.findings.at_key(whole, *self._key_words(item, whole))
        elif item["type"] == "extra_forbidden":
            known = _fields_at(self.model, inner[:-1])
            hint = did_you_mean(str(whole[-1]), known)
            self.findings.at_key(whole, f"{self._owner}unknown key {self._named(inner)}", hint)
        elif item["type"] == "missing":
            hint = f"Add {self._named(inner)} below it." if whole[:-1] else None
            self.findings.at_key(whole[:-1], f"{self._owner}the key {self._named(inner)} is missing", hint)
        else:
            message, hint = self._value_words(item, inner)
            self.findings.at_value(whole, self._owner + message, hint)

    def _key_words(self, item: ErrorDetails, whole: YamlPath) -> tuple[str, str | None]:
        name = str(whole[-1])
        if item["type"] == "literal_error":
            allowed = _quoted(item["ctx"]["expected"])
            return f"{self._owner}{shown(name)} is none of {', '.join(allowed)}", did_you_mean(name, allowed)
        return f"{self._owner}{shown(name)} is no name", _NAME_HINT

    def _value_words(self, item: ErrorDetails, inner: YamlPath) -> tuple[str, str | None]:
        name, value = self._named(inner), _at(self.raw, inner)
        secret = not {"api_key", "headers"}.isdisjoint((*self.path, *inner))
        seen = "this value" if secret else shown(value)
        context: Mapping[str, Any] = item.get("ctx", {})
        match item["type"]:
            case "literal_error":
                allowed = _quoted(context["expected"])
                near = did_you_mean(value, allowed) if isinstance(value, str) else None
                hint = near if near and near.startswith("Did") else f"Choose one of {', '.join(allowed)}."
                return f"{name} cannot be {seen}", hint
            case "string_pattern_mismatch" if "{0,63}" in context["pattern"]:
                dashed = "_-]" in context["pattern"]
                return f"{seen} is no name", _DASHED_NAME_HINT if dashed else _NAME_HINT
            case "string_pattern_mismatch" if inner[-1] == "python":
                return f"{seen} names no function", _PYTHON_HINT
            case "value_error":
                return str(context["error"]), None
            case kind if kind in _TYPE_WORDS:
                what = "this value" if secret else kind_of_value(value)
                return f"{name} must be {_TYPE_WORDS[kind]}, not {what}", _type_hint(kind, value)
            case _:
                rule = item["msg"].replace("Input should", "it should")
                return f"{name} is {seen}: {rule[0].lower()}{rule[1:]}", None


def _split(item: ErrorDetails, raw: Any) -> tuple[YamlPath | None, YamlPath]:
    """Take names of union branches out of an error's location; return where the union is, and the rest."""
    branch: YamlPath | None = None
    inner: list[str | int] = []
    value = raw
    places = item["loc"]
    for index, name in enumerate(places):
        last = index == len(places) - 1
        if _has(value, name):
            value = value[name]
        elif name == "[key]" or (last and item["type"] == "missing"):
            if name != "[key]":
                inner.append(name)
            continue
        else:
            branch = tuple(inner)
            continue
        inner.append(name)
    return branch, tuple(inner)


def _has(value: Any, name: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(name, int) and name < len(value)
    return isinstance(value, dict) and name in value


def _branch_fits(item: ErrorDetails, value: Any) -> bool:
    """Whether an error belongs to the branch that was meant: right type, wrong value."""
    return item["type"] == "literal_error" and isinstance(value, str)


def _at(raw: Any, path: YamlPath) -> Any:
    for name in path:
        raw = raw[name]
    return raw


def _wanted(item: ErrorDetails) -> str:
    return _TYPE_WORDS.get(item["type"], item["msg"].removeprefix("Input should be "))


def kind_of_value(value: Any) -> str:
    """Return a YAML value in words: `the text 'x'`, `a list`, `empty`."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return f"the text {shown(value)}"
        case _:
            return f"the number {shown(value)}"


def _type_hint(kind: str, value: Any) -> str | None:
    if kind == "bool_type" and isinstance(value, str):
        return "Write true or false; yes, no, on and off are text."
    if kind == "string_type" and isinstance(value, int | float):
        return "Quote it."
    if kind == "list_type" and isinstance(value, str):
        return f"Write [{value[:60]}]."
    if (
        kind in ("int_type", "float_type")
        and isinstance(value, str)
        and isinstance(_plain(value), int | float)
    ):
        return "Write the number without quotes."
    return None


def _plain(text: str) -> object:
    try:
        return plain_value(text)
    except ScalarRefused:
        return None


def _quoted(expected: str) -> list[str]:
    return re.findall(r"'([^']*)'", expected)


def _fields_at(model: type[BaseModel], inner: YamlPath) -> list[str]:
    """Return the known keys of the model that stands at a path below `model`."""
    for name in inner:
        field = model.model_fields.get(str(name))
        nested = _models_in(field.annotation) if field else []
        if not nested:
            return []
        model = nested[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
