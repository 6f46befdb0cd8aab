"""Answers of the test server: functions of the request alone, so that a test can say what must come back.

Knows nothing of HTTP or of faults.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

# A rough classifier: enough for a chain to reach a believable accuracy on support tickets.
CUES: dict[str, tuple[str, ...]] = {
    "refund": ("refund", "money back", "reimburse", "return it", "send it back"),
    "delivery": ("deliver", "parcel", "package", "shipping", "arrive", "courier", "track"),
    "cancel": ("cancel", "stop my order", "do not want it any more"),
    "damaged": ("broken", "damaged", "crack", "smashed", "defect", "faulty"),
    "invoice": ("invoice", "receipt", "bill", "vat"),
    "account": ("password", "login", "log in", "account", "email address"),
    "question": ("how do", "can i", "is it", "do you", "what is", "which"),
}
ORDER = re.compile(r"\b(?:[A-Z]{1,4}-?)?\d{4,10}\b")
DIMENSION = 64


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:6], "big")


def count(text: str) -> int:
    """Return a token count: one token for four bytes."""
    return len(text.encode("utf-8", "replace")) // 4 + 1


def instance(schema: dict[str, Any], text: str, name: str = "", root: dict[str, Any] | None = None) -> Any:
    """Return a value that is valid for the schema, chosen by the text."""
    root = root or schema
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], text, name, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _choice(schema["enum"], text)
    for variant in ("anyOf", "oneOf"):
        if variant in schema:
            return instance(schema[variant][0], text, name, root)
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = kind[0]
    match kind:
        case "object":
            return _object(schema, text, root)
        case "array":
            size = max(schema.get("minItems", 0), min(1, schema.get("maxItems", 1)))
            return [instance(schema.get("items", {}), f"{text}{i}", name, root) for i in range(size)]
        case "integer" | "number":
            low, high = schema.get("minimum", 0), schema.get("maximum", schema.get("minimum", 0) + 10)
            return low + _number(text + name) % (int(high - low) + 1)
        case "boolean":
            return _number(text + name) % 2 == 0
        case "null":
            return None
        case _:
            return _text(schema, text, name)


def _object(schema: dict[str, Any], text: str, root: dict[str, Any]) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    found = {}
    for key, part in schema.get("properties", {}).items():
        value = instance(part, text, key, root)
        if key in required or value != "":
            found[key] = value
    return found


def _text(schema: dict[str, Any], text: str, name: str) -> str:
    if "order" in name:
        match = ORDER.search(text)
        value = match[0] if match else ""
    else:
        value = f"{name} {_number(text + name) % 1000}"
    return value.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", 10_000)]


def _choice(values: list[Any], text: str) -> Any:
    low = text.lower()
    for value in values:
        if any(cue in low for cue in CUES.get(str(value).split("_")[0], ())):
            return value
    for value in values:
        if str(value).lower().replace("_", " ") in low:
            return value
    return values[_number(text) % len(values)]


def echo(text: str) -> str:
    """Return a reply that differs for every text and can be recognised."""
    return f"[{_number(text):012x}] {text[:400]}"


def vector(text: str, dimension: int = DIMENSION) -> list[float]:
    """Return a unit vector: hashed words, so that texts that share words are near."""
    found = [0.0] * dimension
    for word in re.findall(r"\w+", text.lower()) or [""]:
        number = _number(word)
        found[number % dimension] += 1.0 if number & (1 << 40) else -1.0
    length = math.sqrt(sum(value * value for value in found))
    if length == 0:
        found[0] = length = 1.0
    return [value / length for value in found]
