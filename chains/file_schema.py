"""The JSON Schema of chain files, for editors.

Owns what pydantic's own schema leaves out: durations as they are written, names that are no others, one kind
per step, and the rules between keys of one part. What needs a second look at the file or at its folder
(references, cycles, templates, files, the short form of `output:`) no JSON Schema can say: `headrace check`
does. Invariant: every chain that loads is valid.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from chains.approvals import OWN_OUTPUTS
from chains.check import NOT_STEP_NAMES
from chains.spec import KINDS, NAME_PATTERN, Chain, parse_duration
from chains.spec.finetuning import METHODS_OF

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DURATION = r"^\s*\d+(\.\d+)?(ms|s|m|h|d)\s*$"

_TAKEN = sorted(NOT_STEP_NAMES)
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
"""What pydantic leaves as it found it behind a validator of ours, and the words of JSON Schema."""

_ONCE: JsonSchemaValue = {"properties": {"once": {"not": {"const": False}}}}
_MAPPED: list[JsonSchemaValue] = [
    {"dependentRequired": {"as": ["map"], "max_concurrency": ["map"], "on_error": ["map"]}},
    {"if": {"required": ["map"]}, "then": {"properties": {"once": {"not": {"const": True}}}}},
]
_RULES: dict[str, list[JsonSchemaValue]] = {
    "Budget": [{"minProperties": 1}],
    "Model": [
        {
            "if": {"properties": {"provider": {"enum": ["openai", "local"]}}},
            "then": {"required": ["model"]},
        },
        {"properties": {"headers": {"propertyNames": {"pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"}}}},
    ],
    "PythonStep": _MAPPED,
    "RepeatStep": _MAPPED,
    "ChainStep": _MAPPED,
    "RetrieveStep": _MAPPED,
    "PromptStep": [
        *_MAPPED,
        {
            "if": {"required": ["reask"], "properties": {"reask": {"minimum": 1}}},
            "then": {"required": ["output"]},
        },
        {
            "if": {"anyOf": [{"required": ["vote"]}, {"required": ["quorum"]}]},
            "then": {"required": ["samples"], "properties": {"samples": {"minimum": 2}}},
        },
    ],
    "EmbedStep": [
        *_MAPPED,
        {"not": {"required": ["into", "map"]}},
        {"oneOf": [{"required": ["into"]}, {"required": ["model"]}]},
        {"if": {"required": ["into"]}, "then": _ONCE},
    ],
    "ApproveStep": [
        {
            "dependentRequired": {"on_timeout": ["timeout"]},
            "properties": {"fields": {"propertyNames": {"not": {"enum": sorted(OWN_OUTPUTS)}}}},
        }
    ],
    "PrepareStep": [_ONCE, {"dependentRequired": {"like": ["completion"], "completion": ["like"]}}],
    "FinetuneStep": [
        _ONCE,
        {
            "if": {"properties": {"finetune": {"not": {"enum": ["distill", "scratch"]}}}},
            "then": {"required": ["base"]},
        },
        {"if": {"properties": {"finetune": {"const": "distill"}}}, "then": {"required": ["teacher"]}},
        *(
            {
                "if": {
                    "properties": {"task": {"const": task}},
                    "required": [] if task == "causal" else ["task"],
                },
                "then": {"properties": {"finetune": {"enum": sorted(methods)}}},
            }
            for task, methods in METHODS_OF.items()
        ),
    ],
    "EvaluateStep": [_ONCE],
}
"""Rules between the keys of a part, by the part's name."""


def file_schema() -> JsonSchemaValue:
    """Return the JSON Schema that every chain file fits."""
    schema = Chain.model_json_schema(schema_generator=_Generator)
    parts = schema["$defs"]
    for name, rule in _RULES.items():
        parts[name]["allOf"] = rule
    roles = parts["PromptStep"]["properties"]["prompt"]["anyOf"][1]
    roles |= {"minItems": 1, "items": roles["items"] | {"minProperties": 1, "maxProperties": 1}}
    for steps in (schema["properties"]["steps"], parts["RepeatStep"]["properties"]["steps"]):
        steps |= {"patternProperties": {NAME_PATTERN: _step()}, "propertyNames": {"not": {"enum": _TAKEN}}}
    _plain(schema)
    return {"$schema": DIALECT, **schema, "title": "Headrace chain"}


def _step() -> JsonSchemaValue:
    """Return the schema of a step; its verb decides which kind's keys an editor offers and complains of."""
    kinds = [
        {"if": {"required": [verb]}, "then": {"$ref": f"#/$defs/{kind.__name__}"}}
        for verb, kind in KINDS.items()
    ]
    return {"type": "object", "oneOf": [{"required": [verb]} for verb in KINDS], "allOf": kinds}


def _plain(schema: Any) -> None:
    """Close objects whose names have a pattern, drop titles that only repeat the key, and name bounds."""
    if isinstance(schema, list):
        for item in schema:
            _plain(item)
    elif isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for ours, theirs in _BOUNDS.items():
            if isinstance(schema.get(ours), int | float):
                schema[theirs] = schema.pop(ours)
        for name, part in (schema.get("properties") or {}).items():
            if isinstance(part, dict) and part.get("title", "").lower().replace(" ", "_") == name:
                del part["title"]
        for item in schema.values():
            _plain(item)


class _Generator(GenerateJsonSchema):
    """Writes durations as the file may: a number of seconds, or `60s`."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        if schema["function"]["function"] is parse_duration:
            return {"type": ["number", "string"], "pattern": _DURATION}
        return super().function_before_schema(schema)
