"""The form of a deployed chain: its inputs as JSON Schema, and what a filled-in form asks for.

Owns the fields beside the inputs (`data`, `variants`, `options`) and what a caller may not decide: addresses
of models and files outside the chain's folder are for the machine's settings. Knows nothing of Prefect but
the shape that its server checks parameters by and its UI draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid, Refused
from chains.spec import Chain, Input

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings

DATA, VARIANTS, OPTIONS = "data", "variants", "options"
_OWN_FIELDS = (DATA, VARIANTS, OPTIONS)

_OPTIONS: dict[str, Any] = {
    "title": "Options",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "limit": {
            "title": "limit",
            "type": "integer",
            "minimum": 1,
            "description": "Run only the first rows of the data set.",
            "position": 0,
        },
        "skip_bad": {
            "title": "skip_bad",
            "type": "boolean",
            "default": False,
            "description": "Leave out bad rows of the data set.",
            "position": 1,
        },
        "map": {
            "title": "map",
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "The column that an input takes, where its name is another.",
            "position": 2,
        },
        "models": {
            "title": "models",
            "type": "array",
            "items": {"type": "string"},
            "description": "Other models to use, as [NAME=]PROVIDER:MODEL.",
            "position": 3,
        },
        "budget_usd": {
            "title": "budget_usd",
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "US dollars that the run may spend.",
            "position": 4,
        },
        "budget_tokens": {
            "title": "budget_tokens",
            "type": "integer",
            "minimum": 1,
            "description": "Tokens that the run may spend.",
            "position": 5,
        },
        "budget_calls": {
            "title": "budget_calls",
            "type": "integer",
            "minimum": 1,
            "description": "Calls that the run may make.",
            "position": 6,
        },
    },
}


def form_of(chain: Chain) -> dict[str, Any]:
    """Return the schema of a deployed chain's parameters.

    Inputs without a default are required, unless `data` is given. Raises InputInvalid for an input that has
    the name of a field of the form.
    """
    taken = [name for name in _OWN_FIELDS if name in chain.inputs]
    if taken:
        raise InputInvalid(
            f"the chain {chain.chain!r} has an input {taken[0]!r}, which is a field of every deployed chain.",
            hint="Give the input another name.",
        )
    fields = {name: _field(name, spec) for name, spec in chain.inputs.items()}
    fields[DATA] = {
        "title": DATA,
        "type": "string",
        "description": "Run over a data set: a JSONL, CSV or Parquet file on the worker's machine, relative "
        "to the chain's folder. Its columns fill the inputs.",
    }
    if chain.variants:
        fields[VARIANTS] = {
            "title": VARIANTS,
            "type": "array",
            "items": {"type": "string", "enum": list(chain.variants)},
            "uniqueItems": True,
            "description": "Variants to run after the chain as it is, each compared with it.",
        }
    fields[OPTIONS] = {"title": OPTIONS, "allOf": [{"$ref": "#/definitions/Options"}], "default": {}}
    for position, field in enumerate(fields.values()):
        field["position"] = position
    schema: dict[str, Any] = {
        "title": "Parameters",
        "type": "object",
        "properties": fields,
        "definitions": {"Options": _OPTIONS},
        "additionalProperties": False,
    }
    required = [name for name, spec in chain.inputs.items() if spec.is_required]
    if required:
        given = {name: {"not": {"type": "null"}} for name in required}
        schema["if"] = {"required": [DATA], "properties": {DATA: {"type": "string"}}}
        schema["else"] = {"required": required, "properties": given}
    return schema


def _field(name: str, spec: Input) -> dict[str, Any]:
    field: dict[str, Any] = {"title": name, "type": spec.type}
    words = spec.description
    if spec.is_required:
        words = f"{words} Required, unless `data` is given.".strip()
    if words:
        field["description"] = words
    if spec.enum is not None:
        field["enum"] = list(spec.enum)
    for key, bound in (("minimum", spec.minimum), ("maximum", spec.maximum)):
        if bound is not None:
            field[key] = int(bound) if bound == int(bound) else bound
    if spec.max_length is not None:
        field["maxItems" if spec.type == "array" else "maxLength"] = spec.max_length
    if spec.default is not None:
        field["default"] = spec.default
    return field


def asked_for(chain_file: ChainFile, parameters: Mapping[str, Any], *, settings: Settings) -> dict[str, Any]:
    """Return a filled-in form as arguments of `run_chain`.

    Over a data set, a value that is the input's default gives way to a column of that name: forms send
    defaults along. Raises InputInvalid for an unknown option, Refused for data or models outside the chain's
    folder.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    data, options = given.pop(DATA, None), dict(given.pop(OPTIONS, None) or {})
    if data is not None:
        data = str(_data_path(chain_file, data, settings))
        inputs = chain_file.chain.inputs
        given = {name: value for name, value in given.items() if value != inputs[name].default}
    budget = {
        unit: value for unit in ("usd", "tokens", "calls") if (value := options.pop(f"budget_{unit}", None))
    }
    asked = {name: options.pop(name, None) for name in ("limit", "skip_bad", "map", "models")}
    if options:
        raise InputInvalid(
            f"there is no option {next(iter(options))!r}.",
            hint=f"There are {', '.join(_OPTIONS['properties'])}.",
        )
    asked["skip_bad"] = bool(asked["skip_bad"])
    _refuse_folders(chain_file, asked["models"] or [], settings)
    return {"inputs": given, "data": data, "budget": budget or None, **asked}


def _data_path(chain_file: ChainFile, data: str, settings: Settings) -> Path:
    from chains.source.files import FileRefused, inside

    try:
        return inside(chain_file.folder, data, read_outside=settings.read_outside)
    except FileRefused as refusal:
        raise Refused(f"data: {refusal.message}", hint=refusal.hint) from refusal


def _refuse_folders(chain_file: ChainFile, models: Sequence[str], settings: Settings) -> None:
    """Refuse models of this machine that lie outside the chain's folder: naming one would allow it."""
    from chains.source.files import FileRefused, inside

    for text in models:
        provider, _, model = str(text).rpartition("=")[2].partition(":")
        if provider != "local" or not Path(model).expanduser().is_dir():
            continue
        try:
            inside(chain_file.folder, str(Path(model).expanduser()), read_outside=settings.read_outside)
        except FileRefused as refusal:
            raise Refused(f"options.models: {refusal.message}", hint=refusal.hint) from refusal
