"""Rows of JSON Lines and CSV files, read as a stream from any row on.

Owns what a row of text is and which mistakes make one bad. A file is indexed while it is first read: every
256th row's place is kept, so that reading from a row in the middle does not parse what comes before it.
Knows nothing of inputs and their types.
"""

from __future__ import annotations

import bisect
import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from chains.errors import InputInvalid
from chains.row_errors import BadRow
from chains.strict_json import NotStrictJson, parse
from chains.suggest import shown

MAX_ROW = 32 * 1024 * 1024
"""Longest row, in bytes."""
MAX_CELL = 16 * 1024 * 1024
"""Longest CSV cell, in characters."""
MAX_COLUMNS = 10_000

_EVERY = 256
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class _Index:
    """Where some rows begin: row number, byte, line."""

    rows: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)

    def note(self, row: int, offset: int, line: int) -> None:
        if not self.rows or row >= self.rows[-1] + _EVERY:
            self.rows.append(row)
            self.places.append((offset, line))

    def before(self, row: int) -> tuple[int, int, int]:
        """Return row, byte and line of the last noted row that is not after `row`."""
        found = bisect.bisect_right(self.rows, row) - 1
        return (self.rows[found], *self.places[found])


class JsonLines:
    """A file with one JSON object per line; blank lines are no rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, None] = {}
        self._index = _Index()
        with path.open("rb") as stream:
            self._index.note(0, _skip_mark(stream, path), 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every key of the rows read so far, in the order of their first use."""
        return tuple(self._columns)

    def read(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        """Yield every row from number `start` on."""
        row, offset, line = self._index.before(start)
        with self._path.open("rb") as stream:
            stream.seek(offset)
            while content := stream.readline(MAX_ROW + 1):
                here, offset = offset, offset + len(content)
                too_long = len(content) > MAX_ROW
                if too_long:
                    offset += _skip_line(stream)
                if too_long or content.strip():
                    self._index.note(row, here, line)
                    if row >= start:
                        yield row, self._too_long(row, line) if too_long else self._row(content, row, line)
                    row += 1
                line += 1

    def _too_long(self, row: int, line: int) -> BadRow:
        return BadRow(row, f"the row is longer than {MAX_ROW} bytes.", line)

    def _row(self, content: bytes, row: int, line: int) -> dict[str, Any] | BadRow:
        try:
            value = parse(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            return BadRow(row, f"byte {error.start + 1} of the line is not UTF-8.", line)
        except NotStrictJson as error:
            return BadRow(row, f"{_without_line(str(error))}.", line)
        if not isinstance(value, dict):
            return BadRow(row, f"a line must be one JSON object, not {shown(value, 60)}.", line)
        self._columns.update(dict.fromkeys(value))
        if len(self._columns) > MAX_COLUMNS:
            raise InputInvalid(f"the data set {shown(str(self._path))} has more than {MAX_COLUMNS} columns.")
        return value


class CommaSeparated:
    """A CSV file with a header: commas, double quotes, any mixture of line ends, with or without a BOM."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = _Index()
        with path.open("rb") as stream:
            lines = _Lines(path, stream, _skip_mark(stream, path), 1)
            self.columns = self._header(lines)
            self._carriage_returns = lines.pending
            self._index.note(0, lines.offset, lines.line)

    def read(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        """Yield every row from number `start` on."""
        number, offset, line = self._index.before(start)
        with self._path.open("rb") as stream:
            stream.seek(offset)
            lines = _Lines(self._path, stream, offset, line)
            if number == 0:
                lines.give_back(self._carriage_returns)
            rows = _cells(lines)
            while True:
                lines.begin_row()
                here = None if lines.pending else (lines.offset, lines.line)
                first = lines.line
                cells = next(rows)
                if cells is None:
                    return
                if cells == []:
                    continue
                if here is not None:
                    self._index.note(number, *here)
                if number >= start:
                    yield number, self._row(cells, number, first)
                number += 1

    def _row(self, cells: list[str] | str, number: int, line: int) -> dict[str, Any] | BadRow:
        if isinstance(cells, str):
            return BadRow(number, cells, line)
        if len(cells) != len(self.columns):
            found = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
            message = f"the row has {found}, and the header has {len(self.columns)}."
            return BadRow(number, message, line)
        return dict(zip(self.columns, cells, strict=True))

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        where = f"the data set {shown(str(self._path))}"
        rows = _cells(lines)
        cells: list[str] | str | None = []
        while cells == []:
            lines.begin_row()
            cells = next(rows)
        if cells is None:
            raise InputInvalid(f"{where} is empty.", hint="Its first line names the columns.")
        if isinstance(cells, str):
            raise InputInvalid(f"{where}: the first line, which names the columns, is wrong: {cells}")
        names = [name.strip() for name in cells]
        if len(names) == 1 and re.search(r"[;\t|]", names[0]):
            raise InputInvalid(
                f"{where} has the one column {shown(names[0])}.", hint="Separate cells by commas."
            )
        return checked_columns(names, where)


def checked_columns(names: list[str], where: str) -> tuple[str, ...]:
    """Return the names of columns, or raise InputInvalid where one is missing or there twice."""
    if len(names) > MAX_COLUMNS:
        raise InputInvalid(f"{where} has more than {MAX_COLUMNS} columns.")
    for place, name in enumerate(names):
        if not name:
            raise InputInvalid(f"{where}: column {place + 1} has no name.", hint="Name it, or remove it.")
        if name in names[:place]:
            raise InputInvalid(f"{where} has two columns {shown(name)}.", hint="Rename one of them.")
    return tuple(names)


class _Lines:
    """The lines of a CSV file for `csv.reader`, each of bounded length, with the place of the next one."""

    def __init__(self, path: Path, stream: BinaryIO, offset: int, line: int) -> None:
        self._path = path
        self._stream = stream
        self._row_size = 0
        self._row_lines = 0
        self.offset = offset
        self.line = line
        self.pending: deque[str] = deque()
        """Lines after a lone carriage return, already read but not yet given."""

    def begin_row(self) -> None:
        """Note that the next line begins a row."""
        self._row_size = self._row_lines = 0

    def give_back(self, pending: deque[str]) -> None:
        """Begin with lines that were read with the ones before them."""
        self.pending = deque(pending)

    @property
    def in_the_middle(self) -> bool:
        """Whether the row goes over several lines, so that what follows cannot be told from it."""
        return self._row_lines > 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if not self.pending:
            self.pending.extend(self._read())
        self.line += 1
        self._row_lines += 1
        text = self.pending.popleft()
        self._row_size += len(text)
        if self._row_size > MAX_ROW:
            raise self.broken(f"a row is longer than {MAX_ROW} bytes")
        return text

    def _read(self) -> list[str]:
        content = self._stream.readline(MAX_ROW + 1)
        if not content:
            raise StopIteration
        self.offset += len(content)
        if len(content) > MAX_ROW:
            raise self.broken(f"a line is longer than {MAX_ROW} bytes")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            self.line += 1
            self._row_lines += 1
            raise
        # A lone carriage return ends a line too; csv.reader refuses it within one.
        return [part for part in re.split(r"(?<=\r)(?!\n)", text) if part] if "\r" in text else [text]

    def broken(self, what: str) -> InputInvalid:
        """Return the error for a file whose further rows cannot be told apart."""
        return InputInvalid(
            f"the data set {shown(str(self._path))}: {what}, near line {self.line}.",
            hint="Look for a quote that is not closed.",
        )


def _cells(lines: _Lines) -> Iterator[list[str] | str | None]:
    """Yield the cells of each row, what is wrong with it, or None at the end.

    Goes on after a bad row; raises InputInvalid where the rows after it cannot be told apart.
    """
    csv.field_size_limit(MAX_CELL)  # the limit is the whole process's; nothing else here reads CSV
    rows = csv.reader(lines, strict=True)
    while True:
        try:
            yield next(rows, None)
        except UnicodeDecodeError as error:
            if lines.in_the_middle:
                raise lines.broken("a quoted cell over several lines is not UTF-8") from error
            yield f"byte {error.start + 1} of the line is not UTF-8."
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise lines.broken("a quote is not closed") from error
            if "field limit" in str(error):
                raise lines.broken(f"a cell is longer than {MAX_CELL} characters") from error
            if lines.in_the_middle:
                raise lines.broken(f"a quoted cell over several lines is wrong ({error})") from error
            yield f"{error}; a quote inside a quoted cell is written twice."


def _skip_mark(stream: BinaryIO, path: Path) -> int:
    """Return where the text begins: after a BOM; refuse UTF-16."""
    head = stream.read(4)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputInvalid(f"the data set {shown(str(path))} is UTF-16.", hint="Save it as UTF-8.")
    start = len(_BOM) if head.startswith(_BOM) else 0
    stream.seek(start)
    return start


def _skip_line(stream: BinaryIO) -> int:
    """Read to the end of a line that is too long to keep; return how many bytes that was."""
    skipped = 0
    while part := stream.readline(1024 * 1024):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _without_line(message: str) -> str:
    return message.replace(" at line 1, column", " at column")
