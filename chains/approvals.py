"""What an answer to an approve step must look like.

Owns the schema of an answer, its check, and the output that it becomes. Knows nothing of who gives it, where
or when.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chains.errors import InputInvalid, OutputInvalid
from chains.output_forms import read_short_form
from chains.outputs import parse_output
from chains.spec import ApproveStep
from chains.suggest import did_you_mean

OWN_OUTPUTS = ("approved", "by", "at")
_WORDS = {"yes": True, "no": False, "true": True, "false": False}


def answer_schema(step: ApproveStep) -> dict[str, Any]:
    """Return the JSON Schema of an answer: `approved`, and the step's fields, which a yes must have."""
    fields = _fields(step)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"approved": {"type": "boolean"}, **fields["properties"]},
        "required": ["approved"],
        "additionalProperties": False,
    }
    if fields["required"]:
        schema["if"] = {"required": ["approved"], "properties": {"approved": {"const": True}}}
        schema["then"] = {"required": fields["required"]}
    return schema


def read_answer(step_id: str, step: ApproveStep, given: Any) -> dict[str, Any]:
    """Return an answer of the step: from yes or no, from true or false, or from an object with its fields.

    Raises InputInvalid for what does not fit, with what is missing.
    """
    value = _WORDS.get(given.strip().lower()) if isinstance(given, str) else given
    if isinstance(value, bool):
        value = {"approved": value}
    if not isinstance(value, Mapping):
        raise InputInvalid(
            f"{str(given)[:200]!r} is no answer for step {step_id!r}.",
            hint='Write yes, no, or JSON such as {"approved": true}.',
        )
    fields = _fields(step)
    for name in value:
        if name != "approved" and name not in fields["properties"]:
            raise InputInvalid(
                f"step {step_id!r} asks for no field {name!r}.", hint=did_you_mean(name, fields["properties"])
            )
    approved = value.get("approved")
    if not isinstance(approved, bool):
        raise InputInvalid(f"the answer for step {step_id!r} says neither yes nor no under 'approved'.")
    wanted = fields if approved else fields | {"required": []}
    rest = {name: item for name, item in value.items() if name != "approved"}
    try:
        checked = parse_output(json.dumps(rest), wanted)
    except OutputInvalid as error:
        message = error.message.removeprefix("The answer ")
        raise InputInvalid(
            f"the answer for step {step_id!r} {message}", hint="Its fields are " + _listed(fields) + "."
        ) from error
    return {"approved": approved, **dict.fromkeys(fields["properties"]), **checked}


def value_of_text(step: ApproveStep, name: str, text: str) -> Any:
    """Return the value of a field that a person has typed: JSON, unless the field is a text."""
    kinds = _fields(step)["properties"].get(name, {}).get("type", "string")
    if "string" in ([kinds] if isinstance(kinds, str) else kinds):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # the check says what is wrong with it


def output_of(answer: Mapping[str, Any], *, by: str, at: str) -> dict[str, Any]:
    """Return what the step gives for an answer."""
    return {**answer, "by": by, "at": at}


def _fields(step: ApproveStep) -> dict[str, Any]:
    schema = read_short_form(step.fields)[0] if step.fields else None
    return schema or {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def _listed(fields: Mapping[str, Any]) -> str:
    needed = set(fields["required"])
    names = [name if name in needed else f"{name} (may be left out)" for name in fields["properties"]]
    return ", ".join(names) or "none"
