"""Metrics of structured answers: is it JSON, and which fields are right?

Owns how an answer is read as an object and what makes two fields equal. A text that is no JSON has no
fields. Knows nothing of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chains.strict_json import NotStrictJson, parse
from tasks.metrics.estimate import Estimate, wilson
from tasks.metrics.text import canonical_text


def json_valid(prediction: Any) -> float:
    """Score 1 where the prediction is JSON: an object or list already, or a text that holds nothing else."""
    return float(not isinstance(prediction, str) or _parsed(prediction) is not _NO_JSON)


def fields_right(prediction: Any, reference: Any) -> float:
    """Score the share of the reference's fields that the prediction has with the same canonical text."""
    right, said = fields_of(reference), fields_of(prediction)
    if not right:
        return float(not said)
    return sum(_same(said, name, value) for name, value in right.items()) / len(right)


def by_field(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Estimate]:
    """Estimate for each field how often it is right, over the rows whose reference has it."""
    seen: dict[str, list[bool]] = {}
    for prediction, reference in pairs:
        said = fields_of(prediction)
        for name, value in fields_of(reference).items():
            seen.setdefault(name, []).append(_same(said, name, value))
    return {name: wilson(sum(right), len(right)) for name, right in sorted(seen.items())}


def fields_of(value: Any) -> Mapping[str, Any]:
    """Return the fields of an object or of its JSON; anything else is one field without a name."""
    found = _parsed(value) if isinstance(value, str) else value
    if isinstance(found, Mapping):
        return found
    if value is None or (found is _NO_JSON and not canonical_text(value)):
        return {}
    return {"": value if found is _NO_JSON else found}


def _same(said: Mapping[str, Any], name: str, value: Any) -> bool:
    return name in said and canonical_text(said[name]) == canonical_text(value)


_NO_JSON: Any = object()


def _parsed(text: str) -> Any:
    try:
        return parse(text)
    except NotStrictJson:
        return _NO_JSON
