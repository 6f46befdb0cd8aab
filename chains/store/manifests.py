"""Manifests: a run's rows as compressed JSON lines beside the blobs, to make a lost database again.

Owns their names and their form: a line with the versions, then for each table a line with its columns and a
line for each row. A manifest holds the run, its steps, their records with their payloads, and the attempts
without the bytes that went out and came back. Knows nothing of when one is written.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

import orjson
import zstandard
from sqlalchemy import ColumnElement, Connection, LargeBinary, Table, select

from chains.errors import StoreDamaged, StoreVersion
from chains.store import schema
from chains.store.connecting import upsert
from chains.store.migrations import MIGRATIONS
from chains.store.names import checked_id
from chains.store.places import Place

_SUFFIX: Final = ".jsonl.zst"
_SHARED: Final = ".shared" + _SUFFIX  # no run id begins with a dot
_FORM: Final = 1
_ROWS_AT_ONCE: Final = 500
# What went over the wire is told again by the record's messages and output, and is most of the bytes.
_LEFT_OUT: Final = {"request", "request_blob", "response", "response_blob"}


def run_rows(connection: Connection, run_id: str) -> Iterator[list[Any]]:
    """Yield the lines of a run and of all below it."""
    yield from _lines_of(connection, schema.runs, schema.runs.c.id == run_id)
    for table in (schema.steps, schema.records, schema.attempts):
        yield from _lines_of(connection, table, table.c.run_id == run_id)


def shared_rows(connection: Connection) -> Iterator[list[Any]]:
    """Yield the lines of what belongs to no run: models and collections."""
    for table in (schema.models, schema.collections):
        yield from _lines_of(connection, table)


def name_of(run_id: str | None) -> str:
    """Return the name of the manifest of a run, or of what belongs to no run."""
    return _SHARED if run_id is None else checked_id(run_id, "run id") + _SUFFIX


def names(place: Place) -> dict[str, str | None]:
    """Return all manifests, with the run that each is of."""
    found = sorted(name for name, _ in place.names() if name.endswith(_SUFFIX) and "/" not in name)
    return {name: None if name == _SHARED else name.removesuffix(_SUFFIX) for name in found}


def write(place: Place, name: str, lines: Iterable[list[Any]]) -> None:
    """Make or replace a manifest. It is a second copy: it need not be on disk when this returns."""

    def fill(file: IO[bytes]) -> None:
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as writer:
            writer.write(_encoded([_FORM, MIGRATIONS[-1].version]))
            for line in lines:
                writer.write(_encoded(line))

    with place.errors():
        place.write(name, fill, synced=False)


def load(connection: Connection, place: Place, name: str) -> int:
    """Put the rows of a manifest into the database; return how many records it has."""
    records = 0
    for table, columns, rows in _groups(place, name):
        binary = [isinstance(table.c[column].type, LargeBinary) for column in columns]
        found = [_row(table, columns, binary, row) for row in rows]
        connection.execute(upsert(table, connection.dialect.name), found)
        records += len(found) if table is schema.records else 0
    return records


def _lines_of(connection: Connection, table: Table, *where: ColumnElement[bool]) -> Iterator[list[Any]]:
    columns = [column for column in table.columns if column.name not in _LEFT_OUT]
    binary = [index for index, column in enumerate(columns) if isinstance(column.type, LargeBinary)]
    query = select(*columns).where(*where).order_by(*table.primary_key.columns)
    with connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query) as found:
        yield [table.name, *(column.name for column in columns)]
        for row in found:
            values: list[Any] = [None, *row]
            for index in binary:
                values[index + 1] = _packed(values[index + 1])
            yield values


def _encoded(line: list[Any]) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _packed(value: bytes | None) -> Any:
    """Return bytes as text where they are text."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _row(table: Table, columns: list[str], binary: list[bool], values: list[Any]) -> dict[str, Any]:
    # A manifest of an older schema lacks columns: those with a default get it.
    row: dict[str, Any] = {column.name: None for column in table.columns if column.server_default is None}
    for name, is_bytes, value in zip(columns, binary, values, strict=True):
        if is_bytes and isinstance(value, str):
            row[name] = value.encode()
        elif isinstance(value, dict):
            row[name] = base64.b64decode(value["base64"])
        else:
            row[name] = value
    return row


def _groups(place: Place, name: str) -> Iterator[tuple[Table, list[str], list[list[Any]]]]:
    """Yield the rows of a manifest, some at a time; a line that begins with a name begins a table."""
    table: Table | None = None
    columns: list[str] = []
    rows: list[list[Any]] = []
    for first, *rest in _lines(place, name):
        if rows and (first is not None or len(rows) == _ROWS_AT_ONCE):
            assert table is not None  # rows come below a name
            yield table, columns, rows
            rows = []
        if first is not None:
            table, columns = schema.metadata.tables[first], rest
        else:
            rows.append(rest)
    if table is not None and rows:
        yield table, columns, rows


def _lines(place: Place, name: str) -> Iterator[list[Any]]:
    try:
        with place.errors(), place.open(name) as file:
            lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
            form, version = orjson.loads(lines.readline())
            if form > _FORM or version > MIGRATIONS[-1].version:
                raise StoreVersion(
                    f"The manifest {name!r} was written by a newer Headrace.", hint="Use that one, or newer."
                )
            for line in lines:
                yield orjson.loads(line)
    except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise StoreDamaged(f"The manifest {name!r} is damaged: {error}.") from error
