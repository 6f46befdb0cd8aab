"""What an answer must look like: `output:` as a JSON Schema, and an answer's text as checked values.

Owns the strict form that endpoints take and the check of answers. The short form is read by
chains.output_forms. Knows nothing of models, of asking again, or of Python classes (`module:Class` is
resolved when a step runs). Never opens the network: a schema refers only to itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid, OutputInvalid
from chains.output_forms import SchemaProblem, read_short_form
from chains.patterns import TooSlow
from chains.schema_files import read_file
from chains.strict_json import NotStrictJson, parse, whole
from chains.suggest import shown

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

__all__ = ["SchemaProblem", "parse_output", "schema_of", "schema_problems", "step_output", "strict_schema"]

MAX_OUTPUT_CHARS = 4 * 1024 * 1024
MAX_PROBLEMS = 10

_CLASS = re.compile(r"^[A-Za-z_][\w./-]*:[A-Za-z_]\w*$")
_FENCE = re.compile(r"\A```(?:json|JSON)?[ \t]*\r?\n(.*?)\r?\n?```\Z", re.DOTALL)


def schema_of(output: Mapping[str, Any] | str, files: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Return the JSON Schema that `output:` stands for; None for `module:Class`, which only a run resolves.

    `files` are the chain's files by path. Raises InputInvalid with all of `schema_problems`.
    """
    schema, problems = _read(output, files)
    if problems:
        raise InputInvalid("; ".join(f"output: {problem}" for problem in problems))
    return schema


def schema_problems(output: Mapping[str, Any] | str, files: Mapping[str, bytes]) -> list[SchemaProblem]:
    """Return everything that is wrong with an `output:`, each with its path below that key."""
    return _read(output, files)[1]


def _read(
    output: Mapping[str, Any] | str, files: Mapping[str, bytes]
) -> tuple[dict[str, Any] | None, list[SchemaProblem]]:
    if not isinstance(output, str):
        return read_short_form(output)
    if output.endswith(".json"):
        return read_file(output, files)
    if _CLASS.match(output):
        return None, []
    hint = "Write the fields as a mapping, name a .json file with a JSON Schema, or `module:Class`."
    return None, [SchemaProblem((), f"{shown(output)} is no form of output", hint)]


def parse_output(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value that an answer holds, or raise OutputInvalid in words that a model can act on.

    Strict JSON only: one fence around the whole answer is taken off, prose beside it is not. A field that
    may be null and is absent comes out as null, so that templates can always refer to it. A field that may be
    absent but not null, and is null, is left out: the strict form makes endpoints answer so.
    """
    if len(text) > MAX_OUTPUT_CHARS:
        raise OutputInvalid(f"The answer is longer than {MAX_OUTPUT_CHARS} characters.")
    stripped = whole(text).strip().removeprefix("\ufeff").strip()
    fenced = _FENCE.match(stripped)
    try:
        value = parse(fenced[1] if fenced else stripped)
    except NotStrictJson as error:
        raise OutputInvalid(
            f"The answer is not a single valid JSON value: {error}.", hint="Answer with the JSON only."
        ) from error
    value = _without_nulls(value, schema, schema)
    problems = _misfits(value, schema)
    if problems:
        raise OutputInvalid(f"The answer does not fit the schema: {'; '.join(problems)}.")
    return _with_nulls(value, schema)


def step_output(text: str, finish_reason: str | None, parsed: Any) -> dict[str, Any]:
    """Return a prompt step's output: the text, the reason it ended, the checked value and its fields.

    A field wins over the step's own name: `{{ step.text }}` is the schema's `text` where it has one.
    """
    fields = parsed if isinstance(parsed, dict) else {}
    return {"text": text, "finish_reason": finish_reason, "output": parsed, **fields}


def _misfits(value: Any, schema: Mapping[str, Any]) -> list[str]:
    # jsonschema is loaded by the first answer, so that `headrace check` need not.
    from chains.schema_checker import check_names, checker_of

    problems = []
    try:
        check_names(value, schema)
        validator = checker_of(schema)
        for error in validator.iter_errors(value):
            problems.append(_say(error))
            if len(problems) == MAX_PROBLEMS:
                break
    except re.error as error:  # of a class: the patterns of files and short forms are compiled when read
        raise InputInvalid(f"output: a pattern of the schema is no regular expression: {error}.") from error
    except TooSlow as error:
        raise OutputInvalid(f"The answer cannot be checked: {error}") from error
    except (RecursionError, ArithmeticError) as error:
        raise OutputInvalid(f"The answer cannot be checked: {type(error).__name__}.") from error
    return problems


def _say(error: ValidationError) -> str:
    place, found = error.json_path[:200], shown(error.instance, 100)
    wanted: Any = error.validator_value
    match error.validator:
        case "type":
            names = wanted if isinstance(wanted, list) else [wanted]
            return f"{place} must be of type {' or '.join(names)}, not {found}"
        case "enum":
            return f"{place} must be one of {', '.join(map(repr, wanted))[:500]}, not {found}"
        case "required":
            # jsonschema makes one error per missing field and repeats the whole list in each.
            return f"{place}: {error.message[:200]}"
        case "anyOf" | "oneOf" if error.context:
            return _say(max(error.context, key=lambda inner: len(inner.absolute_path)))
        case _ if len(error.message) <= 200:
            return f"{place}: {error.message}"
        case _:
            return f"{place} fails {error.validator!r}: {found}"


def _without_nulls(value: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    """Leave out fields that are null where they may only be absent."""
    schema = _resolved(schema, root)
    if isinstance(value, list):
        return [_without_nulls(item, schema.get("items"), root) for item in value]
    if not isinstance(value, dict):
        return value
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return {
        name: _without_nulls(item, properties.get(name), root)
        for name, item in value.items()
        if not (
            item is None
            and name in properties
            and name not in required
            and _refuses_null(properties[name], root)
        )
    }


def _refuses_null(schema: Any, root: Mapping[str, Any]) -> bool:
    """Whether a schema surely takes no null; where it is not plain to see, it may."""
    schema = _resolved(schema, root)
    if "type" in schema:
        return "null" not in _types(schema)
    if "enum" in schema:
        return None not in schema["enum"]
    if "const" in schema:
        return schema["const"] is not None
    parts = schema.get("anyOf") or schema.get("oneOf") or ()
    return bool(parts) and all(_refuses_null(part, root) for part in parts)


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema, or the one in `$defs` that it refers to."""
    for _ in range(20):  # a longer way is a circle
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        section, _, name = str(reference).removeprefix("#/").partition("/")
        if reference is None or section not in ("$defs", "definitions"):
            break
        schema = root.get(section, {}).get(name)
    return schema if isinstance(schema, Mapping) else {}


def _with_nulls(value: Any, schema: Any) -> Any:
    """Fill absent fields that may be null; subschemas behind references are left as they are."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_with_nulls(item, schema.get("items")) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    filled = {name: _with_nulls(item, properties.get(name)) for name, item in value.items()}
    for name, inner in properties.items():
        if name not in filled and _allows_null(inner):
            filled[name] = None
    return filled


def _allows_null(schema: Any) -> bool:
    return isinstance(schema, dict) and isinstance(schema.get("type"), list) and "null" in schema["type"]


_KEPT = frozenset(
    {
        *("type", "title", "description", "enum", "const", "required", "$ref", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"),
    }
)
_DROPPED = frozenset(
    {
        *("$schema", "$id", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("minLength", "maxLength", "uniqueItems"),
    }
)


class _NotStrict(Exception):
    """The schema says something that the strict form cannot."""


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema in the strict form of OpenAI's structured outputs, or None where it has none.

    There every field is required and the optional ones may be null, no other fields are allowed, and a few
    keywords are unknown; those that only narrow an answer are left out here, since answers are checked
    against the whole schema anyway.
    """
    try:
        strict = _strict(schema)
    except _NotStrict:
        return None
    return strict if strict.get("type") == "object" else None


def _strict(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise _NotStrict
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _KEPT:
            result[keyword] = value
        elif keyword == "items":
            result[keyword] = _strict(value)
        elif keyword == "anyOf":
            result[keyword] = [_strict(part) for part in value]
        elif keyword in ("$defs", "definitions"):
            result[keyword] = {name: _strict(part) for name, part in value.items()}
        elif keyword not in (*_DROPPED, "properties", "additionalProperties"):
            raise _NotStrict
    if "properties" in schema or "object" in _types(schema):
        _close(schema, result)
    return result


def _close(schema: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Make every field of an object required, and null where it was optional."""
    if schema.get("additionalProperties") is not False:
        raise _NotStrict
    required = schema.get("required", [])
    fields = {name: _strict(part) for name, part in schema.get("properties", {}).items()}
    result["properties"] = {
        name: part if name in required else _nullable(part) for name, part in fields.items()
    }
    result["required"] = list(fields)
    result["additionalProperties"] = False


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    types = list(_types(schema))
    if not types:
        return {"anyOf": [schema, {"type": "null"}]}
    if "null" in types:
        return schema
    result = {**schema, "type": [*types, "null"]}
    if "enum" in schema:
        result["enum"] = [*schema["enum"], None]
    return result


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    types = schema.get("type", [])
    return iter([types] if isinstance(types, str) else types)
