"""Data sets: rows in JSONL, CSV or Parquet, read as a stream and checked before anything runs.

Owns opening, counting, row numbers and the binding of rows to a chain's inputs. How each format is read is
in chains.data_text and chains.data_parquet. Invariants: memory does not grow with the number of rows; a row
has one number for ever, its place among the file's rows from 0, whether or not rows before it are bad.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from chains.errors import InputInvalid
from chains.inputs import WrongValue, value_of
from chains.row_errors import MAX_LISTED, BadRow, listed
from chains.spec import Chain
from chains.suggest import did_you_mean, shown

__all__ = ["BadRow", "BoundRow", "BoundRows", "Dataset", "map_columns", "open_dataset", "validate_rows"]

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: Mapping[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


class Reader(Protocol):
    """What a format brings: its columns, and its rows from any row on, good and bad."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; of JSON Lines, those of the rows read so far."""

    def read(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        """Yield every row from number `start` on."""


@dataclass(slots=True)
class Dataset:
    """A data file that was read once from end to end. `count` counts its rows, the bad ones included."""

    path: Path
    format: Format
    columns: tuple[str, ...]
    count: int
    sha256: str
    bad: list[BadRow]
    bad_count: int
    _reader: Reader = field(repr=False)
    _stamp: tuple[int, int] = field(repr=False)

    @property
    def is_text(self) -> bool:
        """Whether every value is a text, to be read as the type of its input."""
        return self.format == "csv"

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number and the columns of each good row from `start` up to `stop`.

        A file that was changed since it was opened is an InputInvalid, not a mixture of two data sets.
        """
        _require_unchanged(self.path, self._stamp)
        for number, row in self._reader.read(start):
            if stop is not None and number >= stop:
                break
            if isinstance(row, dict):
                yield number, row
        _require_unchanged(self.path, self._stamp)


def open_dataset(path: str | Path, *, skip_bad: bool = False) -> Dataset:
    """Read a data set once: its columns, the number of its rows, its hash, and which rows are bad.

    Raises InputInvalid that lists the first bad rows, unless `skip_bad`; then they are in `bad` (the first
    of them) and `bad_count`.
    """
    path = Path(path)
    kind = _format_of(path)
    _require_file(path)
    stamp = _stamp_of(path)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    reader = _reader_of(path, kind)
    bad: list[BadRow] = []
    bad_count = count = 0
    for number, row in reader.read():
        count = number + 1
        if isinstance(row, BadRow):
            bad_count += 1
            if len(bad) < MAX_LISTED:
                bad.append(row)
            elif not skip_bad:
                break
    if bad and not skip_bad:
        raise listed(path, bad, bad_count)
    if count == bad_count:
        raise _no_rows(path, bad, bad_count)
    dataset = Dataset(path, kind, reader.columns, count, sha256, bad, bad_count, reader, stamp)
    _require_unchanged(path, stamp)
    return dataset


def _no_rows(path: Path, bad: list[BadRow], bad_count: int) -> InputInvalid:
    if bad:
        return listed(path, bad, bad_count)
    return InputInvalid(f"the data set {shown(str(path))} has no rows.", hint="Give it at least one row.")


def _format_of(path: Path) -> Format:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        packed = path.suffix.lower() in (".gz", ".zst", ".bz2", ".xz", ".zip")
        hint = "Unpack it first." if packed else "Name it after its format."
        names = ", ".join(FORMATS)
        raise InputInvalid(f"{shown(str(path))} is no data set: its name must end in {names}.", hint=hint)
    return found


def _require_file(path: Path) -> None:
    if not path.is_file():
        names = [name for name in _names_beside(path) if Path(name).suffix.lower() in FORMATS]
        what = "is no file" if path.exists() else "does not exist"
        raise InputInvalid(f"the data set {shown(str(path))} {what}.", hint=did_you_mean(path.name, names))
    if path.stat().st_size == 0:
        raise InputInvalid(f"the data set {shown(str(path))} is empty.", hint="Give it at least one row.")
    if not os.access(path, os.R_OK):
        raise InputInvalid(f"the data set {shown(str(path))} may not be read.", hint="Check its permissions.")


def _names_beside(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path.parent))[:10_000]
    except OSError:
        return []


def _stamp_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _require_unchanged(path: Path, stamp: tuple[int, int]) -> None:
    try:
        now = _stamp_of(path)
    except OSError as error:
        raise InputInvalid(f"the data set {shown(str(path))} cannot be read any more: {error}.") from error
    if now != stamp:
        raise InputInvalid(
            f"the data set {shown(str(path))} was changed while it was read.", hint="Start a new run."
        )


def _reader_of(path: Path, kind: Format) -> Reader:
    # Each format's reader is loaded by the data sets that need it; pyarrow is heavy.
    match kind:
        case "jsonl":
            from chains.data_text import JsonLines

            return JsonLines(path)
        case "csv":
            from chains.data_text import CommaSeparated

            return CommaSeparated(path)
        case "parquet":
            from chains.data_parquet import Parquet

            return Parquet(path)


def map_columns(chain: Chain, dataset_columns: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return which column each input comes from: as `mapping` says, else the column of the input's name.

    Inputs without a column are left out; they may have a value for all rows, or a default.
    """
    mistakes = []
    for name, column in mapping.items():
        if name not in chain.inputs:
            hint = did_you_mean(name, chain.inputs) or "It has none."
            mistakes.append(f"--map {name}={column}: the chain has no input {shown(name)}. {hint}")
        if column not in dataset_columns:
            hint = did_you_mean(column, dataset_columns) or f"It has {len(dataset_columns)} others."
            mistakes.append(f"--map {name}={column}: the data set has no column {shown(column)}. {hint}")
    if mistakes:
        raise InputInvalid("\n".join(mistakes))
    same = {name: name for name in chain.inputs if name in dataset_columns}
    return {**same, **mapping}


@dataclass(frozen=True, slots=True)
class BoundRow:
    """One row with its typed inputs, those that come from the data set, and all its columns."""

    row: int
    inputs: dict[str, Any]
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BoundRows:
    """The good rows of a data set for one chain. `bad`: the first of the rows left out; `bad_count`: all."""

    chain: Chain
    dataset: Dataset
    mapping: Mapping[str, str]
    count: int
    bad: list[BadRow]
    bad_count: int

    @property
    def rows(self) -> Iterator[BoundRow]:
        """Yield the good rows, read anew as a stream."""
        return self.read()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[BoundRow]:
        """Yield the good rows whose numbers are from `start` up to `stop`, without reading those before."""
        for found in _bind(self.chain, self.dataset, self.mapping, start=start, stop=stop):
            if isinstance(found, BoundRow):
                yield found


def validate_rows(
    chain: Chain, dataset: Dataset, mapping: Mapping[str, str], *, skip_bad: bool = False
) -> BoundRows:
    """Check every row against the inputs that come from the data set, before anything runs.

    Raises InputInvalid that lists the first bad rows, unless `skip_bad`.
    """
    bad, bad_count, count = list(dataset.bad), dataset.bad_count, 0
    for found in _bind(chain, dataset, mapping):
        if isinstance(found, BoundRow):
            count += 1
            continue
        bad_count += 1
        if len(bad) < MAX_LISTED:
            bad.append(found)
        elif not skip_bad:
            break
    if bad and (not skip_bad or count == 0):
        raise listed(dataset.path, bad, bad_count)
    return BoundRows(chain, dataset, dict(mapping), count, sorted(bad), bad_count)


def _bind(
    chain: Chain, dataset: Dataset, mapping: Mapping[str, str], *, start: int = 0, stop: int | None = None
) -> Iterator[BoundRow | BadRow]:
    for number, columns in dataset.rows(start, stop):
        inputs: dict[str, Any] = {}
        mistakes = []
        for name, column in mapping.items():
            try:
                inputs[name] = value_of(chain.inputs[name], columns.get(column), from_text=dataset.is_text)
            except WrongValue as error:
                origin = (
                    f"input {name!r}" if column == name else f"input {name!r} (column {shown(column, 60)})"
                )
                mistakes.append(f"{origin} {error}")
        if mistakes:
            yield BadRow(number, " ".join(mistakes))
        else:
            yield BoundRow(number, inputs, columns)
