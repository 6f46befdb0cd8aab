"""Read a JSON Schema file that an `output:` names, and check it before anything is paid for.

Owns what a schema file may hold: a known dialect, valid keywords, references into itself only. Nothing here
opens the network. Knows nothing of answers (chains.outputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chains.output_forms import SchemaProblem, is_pattern
from chains.patterns import is_quick
from chains.strict_json import NotStrictJson, parse
from chains.suggest import closest, shown

MAX_NAME = 128
"""Longest name of a field where a schema tells fields by patterns."""
_DRAFTS = frozenset(
    f"http{s}://json-schema.org/{draft}"
    for s in ("", "s")
    for draft in ("draft-07/schema", "draft/2019-09/schema", "draft/2020-12/schema")
)


def read_file(path: str, files: Mapping[str, bytes]) -> tuple[dict[str, Any] | None, list[SchemaProblem]]:
    """Return the JSON Schema in one of the chain's files, with all problems."""
    content = files.get(path)
    if content is None:
        near = closest(path, files)
        return None, [_file_problem(path, "no such file", f"Did you mean {near!r}?" if near else None)]
    try:
        schema = parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, [_file_problem(path, "the file is not UTF-8")]
    except NotStrictJson as error:
        return None, [_file_problem(path, f"the file is not JSON: {error}")]
    if not isinstance(schema, dict):
        return None, [_file_problem(path, "a JSON Schema is an object")]
    problems = [_file_problem(path, message) for message in _schema_messages(schema)]
    return (None if problems else schema), problems


def _file_problem(path: str, message: str, hint: str | None = None) -> SchemaProblem:
    return SchemaProblem((), f"{shown(path)}: {message}", hint)


def _schema_messages(schema: dict[str, Any]) -> list[str]:
    """Return what is wrong with a schema: its dialect, its references, its keywords."""
    # jsonschema is loaded only by chains that have a schema file.
    from jsonschema.validators import Draft202012Validator, validator_for

    dialect = schema.get("$schema")
    if dialect is not None and str(dialect).rstrip("#") not in _DRAFTS:
        return [f"$schema {shown(dialect)} is unknown; use https://json-schema.org/draft/2020-12/schema"]
    checker = validator_for(schema, default=Draft202012Validator)
    faults = checker(checker.META_SCHEMA).iter_errors(schema)
    messages = [f"{fault.json_path[:200]}: {fault.message[:200]}" for fault in faults][:20]
    return messages or _content_messages(schema) or _loop_messages(schema)


def _content_messages(schema: dict[str, Any]) -> list[str]:
    messages = []
    for path, keyword, value in _walk(schema, "$"):
        if keyword == "$id" and path != "$":
            messages.append(f"{path}: a nested $id is not supported")
        elif keyword in ("$dynamicRef", "$recursiveRef"):
            messages.append(f"{path}: {keyword} is not supported; use $ref")
        elif keyword == "pattern" and isinstance(value, str) and not is_pattern(value):
            messages.append(f"{path}: pattern {shown(value)} is no regular expression")
        elif keyword == "patternProperties" and isinstance(value, dict) and not all(map(is_pattern, value)):
            messages.append(f"{path}: a key of patternProperties is no regular expression")
        elif keyword == "patternProperties" and isinstance(value, dict) and not _are_quick(value):
            messages.append(f"{path}: a key of patternProperties can take very long; use fewer repeats")
        elif keyword == "$ref" and not (isinstance(value, str) and value.startswith("#")):
            messages.append(f"{path}: $ref {shown(value)} leads out of the file; use #/$defs/NAME")
        elif keyword == "$ref" and not _leads_somewhere(schema, value):
            messages.append(f"{path}: $ref {shown(value)} leads nowhere in this file")
    return messages


def _are_quick(patterns: dict[str, Any]) -> bool:
    return all(is_quick(pattern, MAX_NAME) for pattern in patterns)


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every object inside a schema that may be a schema, the whole one first."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key not in ("enum", "const", "default", "examples"):  # data, not schemas
                yield from subschemas(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from subschemas(item)


def _walk(schema: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            yield path, key, value
            if key not in ("enum", "const", "default", "examples"):  # data, not schemas
                yield from _walk(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _walk(item, f"{path}[{index}]")


def _leads_somewhere(schema: dict[str, Any], reference: str) -> bool:
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    try:
        Registry().resolver_with_root(root).lookup(reference)
    except Unresolvable:
        return False
    return True


def _loop_messages(schema: dict[str, Any]) -> list[str]:
    """Find references that only lead to each other by trying the schema on small values."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    checker = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    try:
        samples: tuple[Any, ...] = ({}, [], "", 0, None)
        for value in samples:
            next(checker.iter_errors(value), None)
    except RecursionError:
        return ["its references lead round in a circle"]
    return []
