"""What a plain YAML scalar means: the YAML 1.2 core schema, and refusals where it would surprise.

`no`, `on` and `12:30:45` are text; `0123`, `.nan` and integers beyond 64 bits are refused with a hint.
"""

from __future__ import annotations

import math
import re

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
TRUE = frozenset({"true", "True", "TRUE"})
FALSE = frozenset({"false", "False", "FALSE"})
_INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_DIGITS = 30


class ScalarRefused(ValueError):
    """A plain scalar that has no plain meaning; the message says why, `hint` what to write."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def plain_value(text: str) -> str | int | float | bool | None:
    """Return the value of a plain scalar; raise ScalarRefused where none would be right."""
    if text in NULLS:
        return None
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    if text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return _sized(int(text, 0)) if len(text) <= _MAX_DIGITS else _too_large()
    if _NOT_FINITE.fullmatch(text):
        raise ScalarRefused(
            f"{text!r} is no number that JSON can hold", "Write a finite number, or quote it for text."
        )
    if _FLOAT.fullmatch(text):
        return _float(text)
    return text


def _integer(text: str) -> int:
    digits = text.lstrip("-+").replace("_", "")
    if len(digits) > 1 and digits[0] == "0":
        raise ScalarRefused(
            f"{text[:40]!r} is ambiguous: YAML versions disagree on a leading zero",
            f"Quote it for text, or write {digits.lstrip('0')[:30] or '0'} for the number.",
        )
    if len(digits) > _MAX_DIGITS:
        return _too_large()
    return _sized(int(text.replace("_", "")))


def _sized(value: int) -> int:
    return value if -(2**63) <= value < 2**63 else _too_large()


def _too_large() -> int:
    raise ScalarRefused("the integer is larger than 64 bits", "Quote it for text.")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ScalarRefused(f"the number {text[:40]!r} is too large", "Quote it for text.")
    return value
