"""Proves that a store is whole, or says where it is not.

Owns the promises that a reader may rely on: every blob that a row refers to is there and is what its name
says, every row has its parent, a position holds one record, what a fork is linked to is there, and nothing is
`running` in a run that ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, func, or_, select

from chains.errors import StoreDamaged
from chains.store import schema
from chains.store.blobs import Blobs
from chains.store.names import is_sha256

_PARENTS: Final[tuple[tuple[Table, Table, tuple[tuple[str, str], ...]], ...]] = (
    (schema.steps, schema.runs, (("run_id", "id"),)),
    (schema.records, schema.runs, (("run_id", "id"),)),
    (schema.records, schema.steps, (("run_id", "run_id"), ("step", "id"))),
    (schema.attempts, schema.runs, (("run_id", "id"),)),
    (schema.attempts, schema.records, (("record_id", "id"), ("run_id", "run_id"), ("step", "step"))),
)
_OPEN: Final = (
    (schema.records, schema.records.c.status, "running"),
    (schema.steps, schema.steps.c.status, "running"),
    (schema.attempts, schema.attempts.c.state, "intent"),
)
_POSITION: Final = ("run_id", "step", "row", "path", "item", "turn", "sample")
_SHOWN: Final = 20


@dataclass(slots=True)
class VerifyReport:
    """What verifying found. Only `problems` are wrong; the rest is what a crash may leave and was removed."""

    problems: list[str] = field(default_factory=list)
    blobs_checked: int = 0
    temporaries_removed: list[str] = field(default_factory=list)
    orphans_removed: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    runs_rebuilt: list[str] = field(default_factory=list)
    records_rebuilt: int = 0


def database_problems(connection: Connection) -> list[str]:
    """Check the rows against each other."""
    checks: tuple[Callable[[Connection], list[str]], ...] = (
        _missing_parents,
        _open_in_ended_runs,
        _shared_positions,
        _several_latest,
        _broken_links,
    )
    return [problem for check in checks for problem in check(connection)]


def payload_blobs(connection: Connection) -> dict[str, str]:
    """Return every blob that a payload column refers to or that is pinned, with one place that does."""
    pinned = connection.execute(select(schema.blobs.c.sha256).where(schema.blobs.c.pinned)).scalars()
    places = dict.fromkeys(pinned, "blobs")
    for column in _references():
        found = connection.execute(select(column).where(column.is_not(None)).distinct()).scalars()
        places.update(dict.fromkeys(found, f"{column.table.name}.{column.name}"))
    return places


def referred_to(connection: Connection, shas: Sequence[str]) -> set[str]:
    """Return those of `shas` that a payload column refers to now."""
    queries = (select(column).where(column.in_(list(shas))) for column in _references())
    return {sha for query in queries for sha in connection.execute(query).scalars()}


def _references() -> Iterator[Column[Any]]:
    for table in schema.metadata.sorted_tables:
        yield from (column for column in table.columns if column.name.endswith(schema.BLOB_SUFFIX))


def listed_files(connection: Connection, blobs: Blobs) -> tuple[dict[str, str], list[str]]:
    """Return the blobs that the `files` of runs and models name, and which `files` cannot be read."""
    places: dict[str, str] = {}
    problems: list[str] = []
    for table, label in ((schema.runs, ("id",)), (schema.models, ("name", "version"))):
        keys = [table.c[name] for name in label]
        for *key, inline, reference in connection.execute(select(*keys, table.c.files, table.c.files_blob)):
            where = f"{table.name} {' '.join(map(str, key))}: files"
            try:
                files = json.loads(inline if reference is None else blobs.get(reference))
                shas = list(files.values())
            except StoreDamaged:
                continue  # the blob is one of `payload_blobs`, and is reported there
            except (ValueError, AttributeError, TypeError):
                problems.append(f"{where} is not JSON of the form {{path: sha256}}.")
                continue
            problems.extend(
                f"{where} names {str(sha)[:80]!r}, which is no blob." for sha in shas if not is_sha256(sha)
            )
            places.update({sha: where for sha in shas if is_sha256(sha)})
    return places, problems


def blob_problems(blobs: Blobs, places: dict[str, str]) -> list[str]:
    """Read every blob that is referred to."""
    found = ((sha256, blobs.problem(sha256)) for sha256 in sorted(places))
    return [f"{places[sha256]}: {problem}" for sha256, problem in found if problem is not None]


def _missing_parents(connection: Connection) -> list[str]:
    problems = []
    for child, parent, pairs in _PARENTS:
        link = and_(*(child.c[own] == parent.c[other] for own, other in pairs))
        orphans = select(child.c.id, child.c.run_id).outerjoin(parent, link).where(parent.c.id.is_(None))
        problems += [
            f"{child.name} {key} of run {run_id} has no row in {parent.name}."
            for key, run_id in connection.execute(orphans.limit(_SHOWN))
        ]
    return problems


def _open_in_ended_runs(connection: Connection) -> list[str]:
    problems = []
    for table, column, state in _OPEN:
        ended: ColumnElement[bool] = and_(
            schema.runs.c.id == table.c.run_id, schema.runs.c.status != "running"
        )
        query = select(table.c.id, table.c.run_id).join(schema.runs, ended).where(column == state)
        problems += [
            f"{table.name} {key} is {state!r}, and its run {run_id} has ended."
            for key, run_id in connection.execute(query.limit(_SHOWN))
        ]
    return problems


def _shared_positions(connection: Connection) -> list[str]:
    position = [schema.records.c[name] for name in _POSITION]
    query = select(*position).group_by(*position).having(func.count() > 1).limit(_SHOWN)
    return [f"Several records share the position {tuple(found)}." for found in connection.execute(query)]


def _broken_links(connection: Connection) -> list[str]:
    table, origin = schema.records, schema.records.alias("origin")
    query = select(table.c.id, table.c.run_id, table.c.reused_from).where(table.c.linked)
    query = query.outerjoin(origin, origin.c.id == table.c.reused_from)
    query = query.where(or_(origin.c.id.is_(None), origin.c.linked))
    return [
        f"records {key} of run {run_id} is read from record {name}, which is not there or is linked itself."
        for key, run_id, name in connection.execute(query.limit(_SHOWN))
    ]


def _several_latest(connection: Connection) -> list[str]:
    name, latest = schema.models.c.name, schema.models.c.is_latest
    query = select(name).where(latest).group_by(name).having(func.count() > 1)
    return [
        f"The model {found!r} has several latest versions." for found in connection.execute(query).scalars()
    ]
