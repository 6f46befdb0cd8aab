"""Rows on their way into one transaction.

Owns the order of tables (parents first) and the rule that a row is never committed without its blobs: their
files are looked for under the write lock, which is the lock under which files are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Table

from chains import failpoints
from chains.errors import StoreBusy
from chains.store import schema
from chains.store.admitting import Condition
from chains.store.blobs import Blobs
from chains.store.connecting import driver_text, upsert
from chains.store.rows import Row
from chains.store.shapes import SHAPES, encode

_ORDER: Final = (
    schema.blobs,
    schema.runs,
    schema.steps,
    schema.records,
    schema.attempts,
    schema.models,
    schema.collections,
)


@dataclass(frozen=True, slots=True)
class BlobNote:
    """A blob that the transaction refers to. `data` is None where the caller does not hold the content."""

    sha256: str
    size: int
    data: bytes | None = None
    pinned: bool = False


@dataclass(slots=True)
class Batch:
    """What one caller's `put` writes, and on what condition."""

    rows: list[tuple[Table, dict[str, Any]]] = field(default_factory=list)
    notes: list[BlobNote] = field(default_factory=list)
    condition: Condition | None = None


def batch_of(rows: Iterable[Row], condition: Condition | None = None) -> Batch:
    """Encode rows; the blobs that they need are noted and not yet written."""
    batch = Batch(condition=condition)
    for row in rows:
        columns, spilled = encode(row)
        batch.rows.append((SHAPES[type(row)].table, columns))
        batch.notes.extend(BlobNote(sha256, len(data), data) for sha256, data in spilled.items())
    return batch


def write_batches(connection: Connection, batches: Iterable[Batch], blobs: Blobs, now: float) -> None:
    """Upsert the rows of all batches, one statement per table; of two writes of one row the later stays."""
    by_table: dict[Table, list[dict[str, Any]]] = {}
    notes: dict[str, dict[str, Any]] = {}
    for batch in batches:
        for note in batch.notes:
            _ensure(blobs, note)
            pinned = note.pinned or notes.get(note.sha256, {}).get("pinned", False)
            notes[note.sha256] = {
                "sha256": note.sha256,
                "size": note.size,
                "pinned": pinned,
                "touched_at": now,
            }
        for table, columns in batch.rows:
            by_table.setdefault(table, []).append(columns)
    if notes:
        # In the order of names: of two processes that note the same blobs, neither waits for the other's.
        by_table[schema.blobs] = [notes[sha256] for sha256 in sorted(notes)]
    for table in _ORDER:
        if table in by_table:
            _upsert(connection, table, _last_of_each(table, by_table[table]))
            failpoints.hit("store.group.between_tables")


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Hand the rows to the driver as they are: `encode` has checked every value against its column."""
    statement = upsert(table, connection.dialect.name)
    text, order = driver_text(statement, connection.dialect, _names(table))
    if order is None:
        connection.exec_driver_sql(text, list(rows))
    else:
        values = itemgetter(*order)
        connection.exec_driver_sql(text, [values(row) for row in rows])


@cache
def _names(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


def _last_of_each(table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out rows that a later one replaces: a server takes no row twice in one statement."""
    keys = [column.name for column in table.primary_key]
    last = {tuple(row[key] for key in keys): row for row in rows}
    return rows if len(last) == len(rows) else list(last.values())


def _ensure(blobs: Blobs, note: BlobNote) -> None:
    """Write the blob again if collecting removed it between the caller's write and this lock."""
    if blobs.exists(note.sha256):
        return
    if note.data is None:
        raise StoreBusy(f"The blob {note.sha256} was removed while it was put.", hint="Put it again.")
    blobs.put(note.data)
