"""Lets go of the files that only removed runs named: chain files, and what once steps wrote.

A blob that no payload column refers to is kept by its pin. Owns where such blobs are named: in `files` of
runs and models, and under `files` in the output of a record of a once step.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, select, update

from chains.errors import StoreDamaged
from chains.store import schema
from chains.store.blobs import Blobs
from chains.store.names import is_sha256
from chains.store.verifying import listed_files

_PER_STATEMENT: Final = 500


def named_by(connection: Connection, blobs: Blobs, run_ids: Sequence[str]) -> set[str]:
    """Return the blobs that these runs name; what cannot be read names none."""
    found: set[str] = set()
    for run_id in run_ids:
        table = schema.runs.c
        query = select(table.files, table.files_blob).where(table.id == run_id)
        for inline, reference in connection.execute(query):
            found |= _shas(_read(inline, reference, blobs))
        found |= _written(connection, blobs, schema.records.c.run_id == run_id) or set()
    return found


def unpin(connection: Connection, blobs: Blobs, shas: Collection[str], before: float) -> int:
    """Take the pin off those of `shas` that nothing names any more; return how many.

    Runs inside a write transaction. A blob that was put again since `before` keeps its pin: the row that
    will name it may still be on its way. Where a row cannot be read, every pin stays.
    """
    named, problems = listed_files(connection, blobs)
    written = _written(connection, blobs)
    if problems or written is None:
        return 0
    table, unpinned = schema.blobs, 0
    unwanted = sorted(set(shas) - set(named) - written)
    for start in range(0, len(unwanted), _PER_STATEMENT):
        part = unwanted[start : start + _PER_STATEMENT]
        changed = update(table).where(table.c.sha256.in_(part), table.c.pinned, table.c.touched_at < before)
        unpinned += connection.execute(changed.values(pinned=False)).rowcount
    return unpinned


def _written(connection: Connection, blobs: Blobs, *where: ColumnElement[bool]) -> set[str] | None:
    """Return the blobs that records of once steps name as files, or None where one cannot be read.

    Also of those that failed: an evaluation whose gate is not met keeps its figures and its pictures.
    """
    table = schema.records.c
    found: set[str] = set()
    query = select(table.output, table.output_blob).where(table.row < 0, *where)
    for inline, reference in connection.execute(query):
        output = _read(inline, reference, blobs)
        if output is None:
            return None
        found |= _shas(output.get("files") if isinstance(output, dict) else None)
    return found


def _read(inline: bytes | None, reference: str | None, blobs: Blobs) -> Any:
    """Return a JSON payload, or None where it is lost; an empty one is an empty object."""
    try:
        return json.loads((inline or b"{}") if reference is None else blobs.get(reference))
    except (StoreDamaged, ValueError):
        return None


def _shas(files: Any) -> set[str]:
    values: Iterator[Any] = iter(files.values()) if isinstance(files, dict) else iter(())
    return {value for value in values if isinstance(value, str) and is_sha256(value)}
