"""Read the short form of `output:`, a mapping of field names to types, as JSON Schema.

Owns the grammar of the short form. Collects every problem with its path below `output:`. Knows nothing of
schema files (chains.schema_files), of answers (chains.outputs) and of line numbers (chains.check).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chains.suggest import did_you_mean, shown

MAX_DEPTH = 8
"""Deepest nesting of the short form."""

_FIELD = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
_TYPES = ("string", "integer", "number", "boolean", "array", "object")
_COMMON = frozenset({"type", "required", "description"})
_KEYS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"enum", "min_length", "max_length", "pattern"}),
    "integer": frozenset({"enum", "minimum", "maximum"}),
    "number": frozenset({"enum", "minimum", "maximum"}),
    "boolean": frozenset({"enum"}),
    "array": frozenset({"items", "min_items", "max_items"}),
    "object": frozenset({"properties"}),
}
_SCHEMA_NAME = {
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_items": "minItems",
    "max_items": "maxItems",
}


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """One mistake in an `output:`; `path` leads to it from there."""

    path: tuple[str | int, ...]
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}. {self.hint}" if self.hint else text


def read_short_form(fields: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[SchemaProblem]]:
    """Return the JSON Schema of a mapping of field names to types, with all problems."""
    reader = _Reader()
    schema = reader.object_of(fields, ())
    return (None if reader.problems else schema), reader.problems


@dataclass(slots=True)
class _Reader:
    """Turns the short form into JSON Schema; notes what is wrong and goes on."""

    problems: list[SchemaProblem] = field(default_factory=list)

    def object_of(self, fields: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        """Return the schema of an object with these fields."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        if not isinstance(fields, Mapping) or not fields:
            self._note(
                path, "an object needs at least one field", "Write {name: type}, as in {intent: string}."
            )
            fields = {}
        for name, form in fields.items():
            if not isinstance(name, str) or not _FIELD.match(name):
                self._note(
                    (*path, str(name)),
                    f"{shown(name)} is no name of a field",
                    "Use letters, digits, _ and -.",
                )
                continue
            schema = self._field(form, (*path, name))
            optional = isinstance(form, Mapping) and form.get("required") is False
            properties[name] = _nullable(schema) if optional else schema
            if not optional:
                required.append(name)
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _field(self, form: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        if len(path) > 2 * MAX_DEPTH:
            self._note(path, f"nested deeper than {MAX_DEPTH} levels")
            return {}
        match form:
            case str():
                return self._described({"type": form}, path)
            case [item]:
                return {"type": "array", "items": self._field(item, (*path, 0))}
            case list():
                self._note(path, "a list is written with the one type of its items", "Write [string].")
            case Mapping():
                return self._described(form, path)
            case _:
                self._note(path, f"{shown(form)} is no type", f"Use {', '.join(_TYPES)}.")
        return {}

    def _described(self, form: Mapping[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
        """Read a field that is written with its keys, such as `{type: integer, minimum: 0}`."""
        kind = self._kind(form, path)
        if kind is None:
            return {}
        schema: dict[str, Any] = {"type": kind}
        allowed = _COMMON | _KEYS[kind]
        for key, value in form.items():
            if key not in allowed:
                self._unknown_key(key, kind, (*path, str(key)))
            elif key == "properties":
                schema = {**schema, **self.object_of(value, (*path, "properties"))}
            elif key == "items":
                schema["items"] = self._field(value, (*path, "items"))
            elif key not in ("type", "required") and self._fits(key, value, kind, (*path, key)):
                schema[_SCHEMA_NAME.get(key, key)] = value
            elif key == "required" and not isinstance(value, bool):
                self._note((*path, key), f"{shown(value)} is neither true nor false")
        self._ranges(form, path)
        if kind == "array" and "items" not in form:
            self._note(path, "an array needs 'items'", "Write [string], or {type: array, items: string}.")
        if kind == "object" and "properties" not in form:
            self._note(path, "an object needs 'properties'", "Write {properties: {name: string}}.")
        return schema

    def _kind(self, form: Mapping[str, Any], path: tuple[str | int, ...]) -> str | None:
        """Return the type of a field, said or seen from its other keys."""
        kind = form.get("type")
        if kind is None:
            kind = "object" if "properties" in form else "array" if "items" in form else None
            if kind is None and "enum" in form:
                kind = _type_of_values(form["enum"])
                if kind is None:
                    self._note((*path, "enum"), "the allowed values are not of one type", "Give a list.")
                    return None
            if kind is None:
                self._note(path, "the field has no type", "Give it 'type', 'enum', 'items' or 'properties'.")
        elif kind not in _TYPES:
            where = path if len(form) == 1 else (*path, "type")
            self._note(where, f"{shown(kind)} is no type", did_you_mean(str(kind), _TYPES))
            return None
        return kind

    def _unknown_key(self, key: Any, kind: str, path: tuple[str | int, ...]) -> None:
        allowed = sorted(_COMMON | _KEYS[kind])
        self._note(
            path, f"a field of type {kind} has no key {shown(key)}", did_you_mean(_snake(str(key)), allowed)
        )

    def _fits(self, key: str, value: Any, kind: str, path: tuple[str | int, ...]) -> bool:
        """Check the value of one key."""
        if key == "enum":
            return self._enum_fits(value, kind, path)
        if key == "description":
            right, wanted = isinstance(value, str), "a text"
        elif key == "pattern":
            right, wanted = is_pattern(value), "a regular expression"
        elif key in ("minimum", "maximum"):
            right, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        else:
            right, wanted = type(value) is int and value >= 0, "a whole number from 0"
        if not right:
            self._note(path, f"{shown(value)} is not {wanted}")
        return right

    def _enum_fits(self, values: Any, kind: str, path: tuple[str | int, ...]) -> bool:
        found = _type_of_values(values)
        if found is None or not (found == kind or (found, kind) == ("integer", "number")):
            self._note(path, f"the allowed values are not all of type {kind}", "Give a list of such values.")
            return False
        if len({repr(value) for value in values}) != len(values):
            self._note(path, "an allowed value occurs twice")
            return False
        return True

    def _ranges(self, form: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        for low, high in (("minimum", "maximum"), ("min_length", "max_length"), ("min_items", "max_items")):
            least, most = form.get(low), form.get(high)
            if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
                self._note(path, f"{low} ({least}) is above {high} ({most})")

    def _note(self, path: tuple[str | int, ...], message: str, hint: str | None = None) -> None:
        self.problems.append(SchemaProblem(path, message, hint))


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Let an optional field be null: strict endpoints answer null where others leave the field out."""
    if "type" not in schema:
        return schema
    result = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        result["enum"] = [*schema["enum"], None]
    return result


def _type_of_values(values: Any) -> str | None:
    if not isinstance(values, list) or not values:
        return None
    types = {type(value) for value in values}
    if types == {str}:
        return "string"
    if types == {bool}:
        return "boolean"
    if types == {int}:
        return "integer"
    return "number" if types <= {int, float} else None


def is_pattern(value: Any) -> bool:
    """Whether a value is a regular expression."""
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()
