"""Read JSON that others wrote (models, data files, command lines) without surprises.

Owns the one strict parser. Python's `json` accepts duplicate keys, NaN, Infinity and 1e999, and lets lone
surrogates into texts that then cannot be written anywhere; all of these are caught here. Knows nothing of
schemas (chains.outputs) or rows (chains.data).
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 100
"""Deepest nesting of arrays and objects."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotStrictJson(ValueError):
    """A text that is no strict JSON; the message says why and where, and repeats little of the text."""


def parse(text: str, *, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of a JSON text.

    Rejected: duplicate keys, NaN, Infinity, numbers beyond a double, anything after the value, deep nesting.
    Lone surrogates (half of a pair, as in a cut text) become U+FFFD, since no encoder can write them.
    """
    try:
        value = _DECODER.decode(text)
    except NotStrictJson:
        raise
    except RecursionError as error:
        raise NotStrictJson(f"nested deeper than {max_depth} levels") from error
    except json.JSONDecodeError as error:
        raise NotStrictJson(_place(error)) from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise NotStrictJson("a number has too many digits") from error
    if text.count("[") + text.count("{") > max_depth:
        _check_depth(value, max_depth)
    if _ESCAPED_SURROGATE.search(text) or _LONE_SURROGATE.search(text):
        return _without_lone_surrogates(value)
    return value


def whole(text: str) -> str:
    """Return the text with U+FFFD in place of each lone surrogate."""
    return _LONE_SURROGATE.sub("�", text)


def _check_depth(value: Any, max_depth: int) -> None:
    layer = [value]
    for _ in range(max_depth + 1):
        layer = [
            item
            for part in layer
            if isinstance(part, dict | list)
            for item in (part.values() if isinstance(part, dict) else part)
        ]
        if not layer:
            return
    raise NotStrictJson(f"nested deeper than {max_depth} levels")


def _place(error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data":
        return f"something follows the JSON value at line {error.lineno}, column {error.colno}"
    if not error.doc.strip():
        return "empty, where a JSON value was expected"
    return f"{error.msg} at line {error.lineno}, column {error.colno}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise NotStrictJson(f"the key {key[:200]!r} occurs twice in one object")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise NotStrictJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise NotStrictJson(f"the number {text[:40]} is beyond what a double holds")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant, parse_float=_finite
)


def _without_lone_surrogates(value: Any) -> Any:
    match value:
        case str():
            return whole(value)
        case list():
            return [_without_lone_surrogates(item) for item in value]
        case dict():
            return _no_duplicates(
                [(whole(key), _without_lone_surrogates(item)) for key, item in value.items()]
            )
        case _:
            return value
