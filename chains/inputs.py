"""Give a chain's inputs their values: types, allowed values, ranges, defaults.

Owns the one check of input values, whether they come from a program (JSON values) or as text (the command
line, CSV cells). Collects every mistake before it raises. Knows nothing of data files (chains.data).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from chains.errors import InputInvalid
from chains.spec import Chain, Input
from chains.strict_json import NotStrictJson, parse
from chains.suggest import closest, did_you_mean, shown

_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


class WrongValue(ValueError):
    """A value that an input does not take; the message completes "input 'x' ...". Stays inside chains."""


def bind_inputs(chain: Chain, values: Mapping[str, Any], *, from_text: bool) -> dict[str, Any]:
    """Return a value for every input of the chain; an optional one without a value and default is None.

    With `from_text`, texts are read as the input's type: `3`, `true`, JSON for an array or object. Raises
    InputInvalid with all mistakes at once.
    """
    mistakes = []
    for name in values:
        if name not in chain.inputs:
            hint = did_you_mean(name, chain.inputs)
            mistakes.append(f"the chain has no input {shown(name)}. {hint or 'It has none.'}")
    bound: dict[str, Any] = {}
    for name, spec in chain.inputs.items():
        try:
            bound[name] = value_of(spec, values.get(name), from_text=from_text)
        except WrongValue as error:
            mistakes.append(f"input {name!r} {error}")
    if mistakes:
        raise InputInvalid("\n".join(mistakes))
    return bound


def value_of(spec: Input, value: Any, *, from_text: bool = False) -> Any:
    """Return the checked value of one input, its default when None is given, or raise WrongValue."""
    if from_text and isinstance(value, str):
        value = _read_text(spec, value)
    if value is None:
        if spec.is_required:
            raise WrongValue(f"is required and has no value ({_described(spec)}).")
        return spec.default
    value = _typed(spec, value)
    _check(spec, value)
    return value


def _described(spec: Input) -> str:
    return f"{spec.type}: {spec.description}" if spec.description else spec.type


def _read_text(spec: Input, text: str) -> Any:
    """Turn a text into the input's type; an empty text is no value, except for an input of type string."""
    if spec.type == "string":
        return text
    text = text.strip()
    if not text:
        return None
    if spec.type == "boolean" and text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    if spec.type == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if spec.type == "number" and _INTEGER.fullmatch(text):
        return int(text)
    if spec.type == "number" and _NUMBER.fullmatch(text):
        return float(text)
    if spec.type in ("array", "object"):
        try:
            return parse(text)
        except NotStrictJson as error:
            raise WrongValue(f"is of type {spec.type}, and {shown(text)} is no JSON: {error}.") from error
    forms = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}
    raise WrongValue(f"must be {forms[spec.type]}, not {shown(text)}.")


def _typed(spec: Input, value: Any) -> Any:
    """Return the value in its input's type, or raise WrongValue; nothing but 3.0 for 3 is converted."""
    match spec.type:
        case "string":
            right = isinstance(value, str)
        case "boolean":
            right = isinstance(value, bool)
        case "integer":
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # data files without integers write 3.0
            right = isinstance(value, int) and not isinstance(value, bool)
        case "number":
            right = type(value) is int or (isinstance(value, float) and math.isfinite(value))
        case "array":
            right = isinstance(value, list)
        case "object":
            right = isinstance(value, dict)
    if not right:
        raise WrongValue(f"must be of type {spec.type}, not {shown(value)}.")
    if (number := _not_finite(value)) is not None:
        raise WrongValue(f"must hold numbers that JSON has, not {number}.")
    return value


def _not_finite(value: Any) -> float | None:
    """Return an infinite number, or one that is none, from anywhere inside a list or an object."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, float) and not math.isfinite(part):
            return part
        if isinstance(part, list | dict):
            left.extend(part.values() if isinstance(part, dict) else part)
    return None


def _check(spec: Input, value: Any) -> None:
    if spec.enum is not None and not any(_same(value, allowed) for allowed in spec.enum):
        near = closest(str(value), [item for item in spec.enum if isinstance(item, str)])
        listed = ", ".join(shown(item, 60) for item in spec.enum)[:500]
        hint = f" Did you mean {near!r}?" if near else ""
        raise WrongValue(f"must be one of {listed}, not {shown(value)}.{hint}")
    if spec.minimum is not None and isinstance(value, int | float) and value < spec.minimum:
        raise WrongValue(f"must be at least {spec.minimum:g}, not {shown(value)}.")
    if spec.maximum is not None and isinstance(value, int | float) and value > spec.maximum:
        raise WrongValue(f"must be at most {spec.maximum:g}, not {shown(value)}.")
    if spec.max_length is not None and isinstance(value, str | list) and len(value) > spec.max_length:
        unit = "characters" if isinstance(value, str) else "items"
        raise WrongValue(f"has {len(value)} {unit}, and at most {spec.max_length} are allowed.")


def _same(value: Any, allowed: Any) -> bool:
    """Compare without taking true for 1."""
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)
