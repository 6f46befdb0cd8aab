"""The checker of answers: JSON Schema as jsonschema has it, with patterns that cannot hang the process.

Knows nothing of how an answer is read or of what is said about its mistakes (chains.outputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from referencing import Registry

from chains.errors import InputInvalid, OutputInvalid
from chains.patterns import is_quick, search
from chains.schema_files import MAX_NAME, subschemas


def checker_of(schema: Mapping[str, Any]) -> Validator:
    """Return a checker for values of a schema; it opens no network."""
    return _class_of(validator_for(schema, default=Draft202012Validator))(schema, registry=Registry())


def check_names(value: Any, schema: Mapping[str, Any]) -> None:
    """Raise where `patternProperties` could take long: the library joins its patterns and searches itself."""
    patterns = [name for part in subschemas(schema) for name in part.get("patternProperties", {})]
    if not patterns:
        return
    if not all(is_quick(pattern, MAX_NAME) for pattern in patterns):
        raise InputInvalid(
            "output: patternProperties has patterns that can take very long.",
            hint="Use fewer repeats, and no repeated group.",
        )
    if (longest := max(map(len, _names(value)), default=0)) > MAX_NAME:
        raise OutputInvalid(f"The answer has a field with a name of {longest} characters.")


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


@lru_cache(maxsize=8)
def _class_of(base: type[Validator]) -> type[Validator]:
    # The library's own types leave this function out.
    extended: type[Validator] = extend(base, {"pattern": _pattern})  # type: ignore[no-untyped-call]
    return extended


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")
