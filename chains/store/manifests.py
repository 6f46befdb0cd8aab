"""Manifests: a step's rows as compressed JSON lines beside the blobs, to make a lost database again.

Owns their names and their form: a first line with the schema's version, then a line for each row with its
columns. A manifest holds the run, the step, its records with their payloads, and its attempts without the
bytes that went out and came back. Knows nothing of when one is written.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

import zstandard
from sqlalchemy import Connection, Table, select

from chains.errors import StoreDamaged, StoreVersion
from chains.store import schema
from chains.store.connecting import upsert
from chains.store.migrations import MIGRATIONS
from chains.store.names import checked_id
from chains.store.places import Place

_SUFFIX: Final = ".jsonl.zst"
_SHARED: Final = "shared"
_FORM: Final = 1
_ROWS_AT_ONCE: Final = 500
# What went over the wire is told again by the record's messages and output, and is most of the bytes.
_LEFT_OUT: Final = {"request", "request_blob", "response", "response_blob"}


def step_rows(connection: Connection, run_id: str, step: str) -> Iterator[tuple[Table, dict[str, Any]]]:
    """Yield the rows of a step, its run first."""
    yield from run_rows(connection, run_id)
    table = schema.steps
    yield from _rows(connection, table, table.c.run_id == run_id, table.c.id == step)
    for table in (schema.records, schema.attempts):
        yield from _rows(connection, table, table.c.run_id == run_id, table.c.step == step)


def run_rows(connection: Connection, run_id: str) -> Iterator[tuple[Table, dict[str, Any]]]:
    """Yield the row of a run."""
    yield from _rows(connection, schema.runs, schema.runs.c.id == run_id)


def shared_rows(connection: Connection) -> Iterator[tuple[Table, dict[str, Any]]]:
    """Yield what belongs to no run: models and collections."""
    for table in (schema.models, schema.collections):
        yield from _rows(connection, table)


def name_of(run_id: str | None, step: str | None = None) -> str:
    """Return the name of the manifest of a step, of a run, or of what belongs to no run."""
    if run_id is None:
        return _SHARED + _SUFFIX
    run = checked_id(run_id, "run id")
    return f"{run}/run{_SUFFIX}" if step is None else f"{run}/steps/{checked_id(step, 'step')}{_SUFFIX}"


def names(place: Place) -> list[str]:
    """Return all manifests in the order in which they are loaded: a run's own after those of its steps."""
    found = [name for name, _ in place.names() if name.endswith(_SUFFIX)]
    return sorted(found, key=lambda name: (name.partition("/")[0], name.endswith("/run" + _SUFFIX), name))


def write(place: Place, name: str, rows: Iterable[tuple[Table, dict[str, Any]]]) -> None:
    """Make or replace a manifest."""

    def fill(file: IO[bytes]) -> None:
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as writer:
            writer.write(_line({"form": _FORM, "schema": MIGRATIONS[-1].version}))
            for table, columns in rows:
                writer.write(_line({"table": table.name, "row": _packed(columns)}))

    with place.errors():
        place.write(name, fill)


def load(connection: Connection, place: Place, name: str) -> int:
    """Put the rows of a manifest into the database; return how many records it has."""
    records = 0
    waiting: list[dict[str, Any]] = []
    table: Table | None = None
    for line in _lines(place, name):
        following = schema.metadata.tables[line["table"]]
        if table is not None and (following is not table or len(waiting) >= _ROWS_AT_ONCE):
            connection.execute(upsert(table, connection.dialect.name), waiting)
            waiting = []
        table = following
        waiting.append(_unpacked(table, line["row"]))
        records += table is schema.records
    if table is not None and waiting:
        connection.execute(upsert(table, connection.dialect.name), waiting)
    return records


def remove(place: Place, run_id: str) -> None:
    """Remove the manifests of a run."""
    for name, _ in list(place.names()):
        if name.startswith(f"{run_id}/"):
            place.remove(name)


def _rows(connection: Connection, table: Table, *where: Any) -> Iterator[tuple[Table, dict[str, Any]]]:
    columns = [column for column in table.columns if column.name not in _LEFT_OUT]
    query = select(*columns).where(*where).order_by(*table.primary_key.columns)
    with connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query) as found:
        for row in found:
            yield table, dict(row._mapping)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _packed(columns: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is null; bytes are text where they can be."""
    return {
        name: _packed_bytes(value) if isinstance(value, bytes) else value
        for name, value in columns.items()
        if value is not None
    }


def _packed_bytes(value: bytes) -> dict[str, str]:
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _unpacked(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    columns = dict.fromkeys((column.name for column in table.columns), None)
    for name, value in row.items():
        if isinstance(value, dict):
            value = value["text"].encode() if "text" in value else base64.b64decode(value["base64"])
        columns[name] = value
    return columns


def _lines(place: Place, name: str) -> Iterator[dict[str, Any]]:
    try:
        with place.errors(), place.open(name) as file:
            text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
            head = json.loads(text.readline())
            if head["form"] > _FORM or head["schema"] > MIGRATIONS[-1].version:
                raise StoreVersion(
                    f"The manifest {name!r} was written by a newer Headrace.", hint="Use that one, or newer."
                )
            for line in text:
                yield json.loads(line)
    except (ValueError, KeyError, zstandard.ZstdError) as error:
        raise StoreDamaged(f"The manifest {name!r} is damaged: {error}.") from error
