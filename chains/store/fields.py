"""What one field of a row may hold, taken from its column.

Owns the checks that SQLite would not make (it stores any type in any column) and PostgreSQL would make only
at the commit, and the cleaning of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, String

from chains.errors import InputInvalid
from chains.store.names import checked_id, checked_step, is_id, is_step


@dataclass(frozen=True, slots=True)
class Rule:
    """The check of one field; `label` is `table.column`. `fits` lets usual values through cheaply."""

    label: str
    column: Column[Any]
    is_id: bool
    choices: frozenset[str]
    is_step: bool = False
    fits: Callable[[Any], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fits", _plain(self))

    def checked(self, value: Any) -> Any:
        """Return the value as it goes into the column, or raise InputInvalid."""
        if self.fits(value) or (value is None and self.column.nullable):
            return value
        if self.is_step:
            return checked_step(value, self.label)
        if self.is_id:
            return checked_id(value, self.label)
        match self.column.type:
            case Boolean():
                fits = isinstance(value, bool)
            case Integer() as kind:  # BigInteger is one
                limit = 1 << (63 if isinstance(kind, BigInteger) else 31)
                fits = isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit
            case Double():
                fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            case String() as kind:  # Text is one
                return self._text(value, kind.length)
            case _:
                fits = False
        return value if fits else self._refuse(value)

    def _text(self, value: Any, longest: int | None) -> str:
        if not isinstance(value, str) or (longest is not None and len(value) > longest):
            self._refuse(value)
        if self.choices and value not in self.choices:
            raise InputInvalid(
                f"{self.label} is {value[:200]!r}.", hint=f"Use one of {sorted(self.choices)}."
            )
        return _clean(value)

    def _refuse(self, value: Any) -> NoReturn:
        raise InputInvalid(
            f"{self.label} is {str(value)[:200]!r} of type {type(value).__name__}.",
            hint=f"Its column is {self.column.type!r}{'' if self.column.nullable else ', not null'}.",
        )


def _plain(rule: Rule) -> Callable[[Any], bool]:
    """Return a test for values that surely fit as they are."""
    if rule.is_step:
        return is_step
    if rule.is_id:
        return is_id
    if rule.choices:
        return lambda value: type(value) is str and value in rule.choices
    match rule.column.type:
        case Boolean():
            return lambda value: type(value) is bool
        case Integer() as kind:
            limit = 1 << (63 if isinstance(kind, BigInteger) else 31)
            return lambda value: type(value) is int and -limit <= value < limit
        case Double():
            return lambda value: type(value) is float and -math.inf < value < math.inf
        case String() as kind:
            longest = kind.length or math.inf
            return lambda value: (
                type(value) is str and len(value) <= longest and value.isascii() and "\0" not in value
            )
    return lambda value: False


def _clean(text: str) -> str:
    """Replace what no database text can hold: lone surrogates and NUL. Exact bytes belong in payloads."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "\ufffd")
