"""Rows of Parquet files, read in batches whose decoded size is bounded.

Owns which column types are rows' values and what a row may weigh. A few megabytes of Parquet can hold
gigabytes of text (a dictionary with one long value), and a footer can say anything: so texts stay as
dictionaries until a row's size is known, and sizes are measured, not believed. Knows nothing of inputs.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chains.data_text import MAX_ROW, checked_columns
from chains.errors import InputInvalid
from chains.row_errors import BadRow
from chains.suggest import shown

MAX_COLUMN_CHUNK = 1024 * 1024 * 1024
"""Largest column of one row group, decoded, that is opened at all."""
BATCH_BYTES = 8 * 1024 * 1024
"""What a batch of rows should weigh by the footer's word."""
MAX_BATCH_ROWS = 1024
_ROWS_AT_ONCE = 64
"""Rows that become Python objects together; who stops reading has made few in vain."""
_PLACES = 8
"""Places that are kept: one for each step that reads the rows, where there are not many steps."""


class Parquet:
    """A Parquet file; each batch of rows is decoded only as far as its size is known to be small."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            metadata = pq.read_metadata(path)
            schema = metadata.schema.to_arrow_schema()
        where = f"the data set {shown(str(path))}"
        self.columns = checked_columns(list(schema.names), where)
        for column in schema:
            if not _is_plain(column.type):
                raise InputInvalid(
                    f"{where}: column {shown(column.name)} is of type {column.type}.",
                    hint="Text, numbers, booleans, dates, lists and structs are read; leave the column out.",
                )
        self._groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._batch_rows = _batch_rows(metadata, where)
        self._places: list[_Place] = []
        self._texts = [
            metadata.schema.column(index).path
            for index in range(len(metadata.schema))
            if _is_text(metadata.schema.column(index))
        ]

    def read(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        """Yield every row from number `start` on."""
        place = self._place_before(start)
        try:
            while (batch := place.batch) is not None:
                skipped = max(0, start - place.number)
                for offset in range(skipped, batch.num_rows, _ROWS_AT_ONCE):
                    yield from _rows(batch.slice(offset, _ROWS_AT_ONCE), place.number + offset)
                place.move()
        finally:
            self._keep(place)

    def _place_before(self, start: int) -> _Place:
        """Return a place from which `start` is near: one that an earlier read has left, else its row group.

        A run reads its rows shard by shard. Without these places each shard would decode its row group from
        the beginning, which with one large group is the square of the file.
        """
        first, group = 0, 0
        while group < len(self._groups) and first + self._groups[group] <= start:
            first += self._groups[group]
            group += 1
        near = [place for place in self._places if first <= place.number <= start and place.batch is not None]
        if near:
            place = max(near, key=lambda place: place.number)
            self._places.remove(place)  # while it is read from, nobody else moves it
        else:
            place = _Place(first, self._batches(group))
            place.move()
        while place.batch is not None and place.number + place.batch.num_rows <= start:
            place.move()
        return place

    def _keep(self, place: _Place) -> None:
        if place.batch is None or place.batch.get_total_buffer_size() > BATCH_BYTES:
            place.close()
            return
        self._places.append(place)
        for old in self._places[:-_PLACES]:
            old.close()
        del self._places[:-_PLACES]

    def _batches(self, group: int) -> Generator[Any]:
        with self._errors():
            file = pq.ParquetFile(self._path, read_dictionary=self._texts, memory_map=True, pre_buffer=False)
            with file:
                groups = list(range(group, len(self._groups)))
                rows = self._batch_rows
                for batch in file.iter_batches(batch_size=rows, row_groups=groups, use_threads=False):
                    yield _in_microseconds(batch)

    def _errors(self) -> _ParquetErrors:
        return _ParquetErrors(self._path)


class _Place:
    """How far a file was read: a batch, the number of its first row, and the batches behind it."""

    def __init__(self, number: int, batches: Generator[Any]) -> None:
        self.number = number
        self.batch: Any = None
        self._batches = batches

    def move(self) -> None:
        """Go to the next batch; None at the end."""
        if self.batch is not None:
            self.number += self.batch.num_rows
        self.batch = None  # also where the next one cannot be read
        self.batch = next(self._batches, None)

    def close(self) -> None:
        """Let go of the file."""
        self.batch = None
        self._batches.close()


class _ParquetErrors:
    """Turns pyarrow's errors into one that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowException | OSError):
            message = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise InputInvalid(
                f"the data set {shown(str(self._path))} is no readable Parquet file: {message}",
                hint="Write it anew.",
            ) from error


def _batch_rows(metadata: Any, where: str) -> int:
    """Return how many rows make a batch; refuse columns that are too large to open."""
    heaviest = 0.0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        size = 0
        for column in range(group.num_columns):
            chunk = group.column(column).total_uncompressed_size
            if chunk > MAX_COLUMN_CHUNK:
                raise InputInvalid(
                    f"{where}: a column of row group {index} has {chunk} bytes.",
                    hint="Write smaller row groups.",
                )
            size += chunk
        heaviest = max(heaviest, size / max(group.num_rows, 1))
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / max(heaviest, 1.0))))


def _is_text(column: Any) -> bool:
    return bool(column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL")


def _in_microseconds(batch: Any) -> Any:
    """Cut times to microseconds, the finest that Python's have."""
    for index, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            finest = pa.timestamp("us", column.type.tz)
        elif pa.types.is_time(column.type) and column.type == pa.time64("ns"):
            finest = pa.time64("us")
        else:
            continue
        batch = batch.set_column(index, column.name, batch.column(index).cast(finest, safe=False))
    return batch


def _is_plain(kind: Any, *, inside: bool = False) -> bool:
    """Whether values of a column type have a form in JSON; times `inside` others cannot be cut."""
    types = pa.types
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type, inside=True)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type, inside=True)
    if types.is_struct(kind):
        return all(_is_plain(field.type, inside=True) for field in kind)
    if inside and (kind == pa.time64("ns") or (types.is_timestamp(kind) and kind.unit == "ns")):
        return False
    scalar = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_boolean,
        types.is_date,
        types.is_timestamp,
        types.is_time,
        types.is_null,
    )
    return any(fits(kind) for fits in scalar)


def _rows(batch: Any, first: int) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    if _decoded_size(batch) <= MAX_ROW:
        for offset, row in enumerate(batch.to_pylist()):
            yield first + offset, _json_row(row, first + offset)
        return
    for offset in range(batch.num_rows):
        one = batch.slice(offset, 1)
        size = _decoded_size(one)
        if size > MAX_ROW:
            yield first + offset, BadRow(first + offset, f"the row has {size} bytes, more than {MAX_ROW}.")
        else:
            yield first + offset, _json_row(one.to_pylist()[0], first + offset)


def _decoded_size(batch: Any) -> int:
    return sum(_array_size(column) for column in batch.columns)


def _array_size(array: Any) -> int:
    """Return the bytes of an array's values, each dictionary value counted as often as it is used."""
    types = pa.types
    kind = array.type
    if types.is_dictionary(kind):
        lengths = pc.take(_lengths(array.dictionary), array.indices)
        return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0) + 8 * len(array)
    if types.is_struct(kind):
        return sum(_array_size(part) for part in array.flatten())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _array_size(array.flatten()) + 8 * len(array)
    return int(array.nbytes) + 8 * len(array)


def _lengths(values: Any) -> Any:
    """Return the bytes of each value of a dictionary."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return pc.binary_length(values)
    return pa.array([8] * len(values), pa.int32())


class _NotJson(ValueError):
    """A value without a form in JSON."""


def _json_row(row: dict[str, Any], number: int) -> dict[str, Any] | BadRow:
    plain: dict[str, Any] = {}
    for name, value in row.items():
        try:
            plain[name] = _json_value(value)
        except _NotJson as error:
            return BadRow(number, f"column {shown(name)} holds {error}, which JSON does not have.")
    return plain


def _json_value(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise _NotJson(repr(value))
            return value
        case decimal.Decimal():
            return _decimal(value)
        case datetime.date() | datetime.time():  # a datetime is a date
            return value.isoformat()
        case list():
            return [_json_value(item) for item in value]
        case dict():
            return {key: _json_value(item) for key, item in value.items()}
        case _:
            raise _NotJson(f"a {type(value).__name__}")


def _decimal(value: decimal.Decimal) -> int | float:
    """Return the number as JSON has it: whole where it is whole, else the nearest double."""
    if not value.is_finite():
        raise _NotJson(str(value))
    whole = value.to_integral_value()
    return int(whole) if whole == value else float(value)
