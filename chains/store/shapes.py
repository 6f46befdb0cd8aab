"""How each row class lies in its table, and the way between the two.

Owns which fields are payloads, ids and closed sets, and when a payload becomes a blob.
Knows nothing of transactions. Invariant: what `decode` gives is what `encode` was given, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar, get_args, get_type_hints

from sqlalchemy import Column, Table

from chains.errors import InputInvalid, StoreConflict
from chains.store import schema
from chains.store.blobs import Blobs
from chains.store.fields import Rule
from chains.store.rows import (
    UNREAD,
    AttemptRow,
    CollectionRow,
    ModelRow,
    RecordRow,
    Row,
    RunRow,
    StepRow,
)

SPILL_OVER: Final = 64 * 1024
"""A payload of more bytes than this is a blob."""

RowT = TypeVar("RowT", RunRow, StepRow, RecordRow, AttemptRow, ModelRow, CollectionRow)


@dataclass(frozen=True)
class Shape(Generic[RowT]):
    """One row class and its table."""

    row_type: type[RowT]
    table: Table
    ids: tuple[str, ...]
    step: str | None = None
    """The field that names a step."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All fields, in order."""
        return tuple(field.name for field in fields(self.row_type))

    @cached_property
    def payloads(self) -> tuple[str, ...]:
        """The fields that hold bytes."""
        return tuple(name for name in self.names if name + schema.BLOB_SUFFIX in self.table.c)

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The fields that do not."""
        return tuple(name for name in self.names if name not in self.payloads)

    @cached_property
    def required_payloads(self) -> frozenset[str]:
        """Payloads that may not be None; the table cannot say so, for either of their two columns may be."""
        hints = get_type_hints(self.row_type)
        return frozenset(name for name in self.payloads if hints[name] is bytes)

    @cached_property
    def choices(self) -> Mapping[str, frozenset[str]]:
        """The closed set of each field that has one."""
        hints = get_type_hints(self.row_type)
        # The arguments of `str | None` are types, those of a Literal are its values.
        return {
            name: frozenset(get_args(hints[name]))
            for name in self.plain
            if get_args(hints[name]) and all(isinstance(value, str) for value in get_args(hints[name]))
        }

    @cached_property
    def plain_values(self) -> Callable[[Any], tuple[Any, ...]]:
        """Return a row's fields that are no payloads, in order; each class has several of them."""
        return attrgetter(*self.plain)

    @cached_property
    def payload_columns(self) -> tuple[tuple[str, str, bool], ...]:
        """The two columns of each payload, and whether it may be None."""
        return tuple(
            (name, name + schema.BLOB_SUFFIX, name not in self.required_payloads) for name in self.payloads
        )

    @cached_property
    def rules(self) -> tuple[tuple[str, Rule, bool, Callable[[Any], bool]], ...]:
        """For each field that is no payload: its check, whether it may be None, and what surely fits."""
        rules = [
            Rule(
                f"{self.table.name}.{name}",
                self.table.c[name],
                is_id=name in self.ids,
                choices=self.choices.get(name, frozenset()),
                is_step=name == self.step,
            )
            for name in self.plain
        ]
        return tuple(
            (name, rule, bool(rule.column.nullable), rule.fits)
            for name, rule in zip(self.plain, rules, strict=True)
        )

    def columns(self, *, payloads: bool) -> list[Column[Any]]:
        """Return the columns that `decode` needs, in its order."""
        names = [*self.plain, *self.payloads, *(name + schema.BLOB_SUFFIX for name in self.payloads)]
        return [self.table.c[name] for name in (names if payloads else self.plain)]


RUNS: Final = Shape(RunRow, schema.runs, ids=("id",))
STEPS: Final = Shape(StepRow, schema.steps, ids=("run_id",), step="id")
RECORDS: Final = Shape(RecordRow, schema.records, ids=("id", "run_id"), step="step")
ATTEMPTS: Final = Shape(AttemptRow, schema.attempts, ids=("id", "record_id", "run_id"), step="step")
MODELS: Final = Shape(ModelRow, schema.models, ids=("name",))
COLLECTIONS: Final = Shape(CollectionRow, schema.collections, ids=("name",))

SHAPES: Final[Mapping[type, Shape[Any]]] = {
    shape.row_type: shape for shape in (RUNS, STEPS, RECORDS, ATTEMPTS, MODELS, COLLECTIONS)
}


def encode(row: Row) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the row's columns, and by sha256 the payloads that have to be blobs before it is written."""
    shape = SHAPES.get(type(row))
    if shape is None:
        raise InputInvalid(
            f"The store keeps no {type(row).__name__}.", hint="Give rows of chains.store.rows."
        )
    columns: dict[str, Any] = {}
    # Every field of every row comes by here: what is usual is let through without a call of ours.
    for (name, rule, optional, fits), value in zip(shape.rules, shape.plain_values(row), strict=False):
        plain = optional if value is None else fits(value)
        columns[name] = value if plain else rule.checked(value)
    return columns, _spill(shape, row, columns)


def decode(shape: Shape[RowT], values: Sequence[Any], blobs: Blobs, *, payloads: bool) -> RowT:
    """Build the row from the columns that `Shape.columns` names, fetching its blobs."""
    found: dict[str, Any] = dict(zip(shape.plain, values, strict=False))
    if not payloads:
        found.update(dict.fromkeys(shape.payloads, UNREAD))
        return shape.row_type(**found)
    rest = values[len(shape.plain) :]
    for name, inline, reference in zip(shape.payloads, rest, rest[len(shape.payloads) :], strict=False):
        found[name] = inline if reference is None else blobs.get(reference)
    return shape.row_type(**found)


def _spill(shape: Shape[Any], row: Row, columns: dict[str, Any]) -> dict[str, bytes]:
    """Put the payloads into `columns`, those that are too large as references."""
    spilled: dict[str, bytes] = {}
    for name, reference_name, optional in shape.payload_columns:
        value, reference = getattr(row, name), None
        if not (optional if value is None else type(value) is bytes and len(value) <= SPILL_OVER):
            _check_payload(shape, name, value)
            if len(value) > SPILL_OVER:
                reference = hashlib.sha256(value).hexdigest()
                spilled[reference] = value
                value = None
        columns[name] = value
        columns[reference_name] = reference
    return spilled


def _check_payload(shape: Shape[Any], name: str, value: Any) -> None:
    if value is UNREAD:
        raise StoreConflict(
            f"A row of {shape.table.name} was read with payloads=False and cannot be written back.",
            hint="Read it with its payloads first.",
        )
    if value is None:
        raise InputInvalid(f"{shape.table.name}.{name} is None.", hint="Give bytes.")
    if not isinstance(value, bytes):
        raise InputInvalid(
            f"{shape.table.name}.{name} is of type {type(value).__name__}.", hint="Give bytes."
        )
