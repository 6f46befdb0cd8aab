"""What calls have used of a budget, kept per scope: a run, a step of a run, a day.

Owns the table `spend`, in which a call counts with its estimate from before it is sent until it is settled
with what it came to. A call that is never settled keeps its estimate: it may have been paid. Knows nothing
of prices. A scope is followed from the first call that has a limit on it; what was used before is taken from
the attempts.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import ColumnElement, Connection, case, func, or_, select, update

from chains.errors import InputInvalid
from chains.store import schema
from chains.store.connecting import insert_into

Unit: TypeAlias = Literal["usd_micro", "tokens", "calls"]
_UNITS: Final[tuple[Unit, ...]] = ("usd_micro", "tokens", "calls")
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call uses, estimated before it or counted after it; None is unknown, not 0."""

    calls: int = 1
    tokens: int | None = None
    cost_micro: int | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a scope may use: `run:<id>`, `step:<run>/<step>` or `day:2026-01-31` (UTC)."""

    scope: str
    usd_micro: int | None = None
    tokens: int | None = None
    calls: int | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call that was let through under `limits` with `estimate` came to."""

    limits: Sequence[Limit]
    estimate: Usage
    actual: Usage


@dataclass(frozen=True, slots=True)
class Excess:
    """Which limit a call would pass, and what its scope has used, calls under way included."""

    scope: str
    unit: Unit
    limit: int
    spent: int


@dataclass(slots=True)
class _Sum:
    usd_micro: int
    tokens: int
    calls: int
    unknown_calls: int


class Ledger:
    """The sums of some scopes inside one write transaction; `write` puts back those that changed."""

    def __init__(self, connection: Connection, scopes: Iterable[str]) -> None:
        self._connection = connection
        wanted = sorted(set(scopes))
        self._sums = self._read(wanted)
        missing = [scope for scope in wanted if scope not in self._sums]
        if missing:
            self._begin(missing)
            self._sums = self._read(wanted)
        self._changed: set[str] = set()

    def excess(self, limits: Sequence[Limit], estimate: Usage) -> Excess | None:
        """Return the first limit that a call of this estimate would pass."""
        more = {"usd_micro": estimate.cost_micro, "tokens": estimate.tokens, "calls": estimate.calls}
        for limit in limits:
            for unit in _UNITS:
                most, spent = getattr(limit, unit), getattr(self._sums[limit.scope], unit)
                if most is not None and spent + (more[unit] or 0) > most:
                    return Excess(limit.scope, unit, most, spent)
        return None

    def reserve(self, limits: Sequence[Limit], estimate: Usage) -> None:
        """Count a call that is about to be sent."""
        for scope in {limit.scope for limit in limits}:
            total = self._change(scope)
            total.calls += estimate.calls
            total.tokens += estimate.tokens or 0
            total.usd_micro += estimate.cost_micro or 0

    def settle(self, settlement: Settlement) -> None:
        """Put what a call came to in the place of its estimate; what is unknown keeps the estimate."""
        estimate, actual = settlement.estimate, settlement.actual
        for scope in {limit.scope for limit in settlement.limits}:
            total = self._change(scope)
            total.calls += actual.calls - estimate.calls
            if actual.tokens is not None:
                total.tokens += actual.tokens - (estimate.tokens or 0)
            if actual.cost_micro is None:
                total.unknown_calls += actual.calls
            else:
                total.usd_micro += actual.cost_micro - (estimate.cost_micro or 0)

    def write(self) -> None:
        """Write the sums that changed."""
        table = schema.spend
        for scope in sorted(self._changed):
            total = self._sums[scope]
            self._connection.execute(
                update(table)
                .where(table.c.scope == scope)
                .values(
                    calls=total.calls,
                    tokens=total.tokens,
                    cost_micro=total.usd_micro,
                    unknown_calls=total.unknown_calls,
                )
            )

    def _change(self, scope: str) -> _Sum:
        self._changed.add(scope)
        return self._sums[scope]

    def _read(self, scopes: Sequence[str]) -> dict[str, _Sum]:
        # Where other processes write at the same time, the rows stay theirs or ours until the commit.
        found = self._connection.execute(_sums_of(scopes).with_for_update())
        return {row.scope: _Sum(row.cost_micro, row.tokens, row.calls, row.unknown_calls) for row in found}

    def _begin(self, scopes: Sequence[str]) -> None:
        rows = [{"scope": scope, **_used_so_far(self._connection, scope)} for scope in scopes]
        statement = insert_into(self._connection, schema.spend).on_conflict_do_nothing()
        self._connection.execute(statement, rows)


def spent(connection: Connection, scope: str) -> Usage:
    """Return what a scope has used, calls under way included, whether or not it has ever had a limit."""
    row = connection.execute(_sums_of([scope])).first()
    found = row._asdict() if row is not None else _used_so_far(connection, scope)
    return Usage(found["calls"], found["tokens"], found["cost_micro"])


def forget(connection: Connection, run_ids: Sequence[str]) -> None:
    """Remove the sums of runs that are removed; days keep theirs."""
    table = schema.spend
    for run_id in run_ids:
        of_steps = table.c.scope.startswith(f"step:{run_id}/", autoescape=True)
        connection.execute(table.delete().where(or_(table.c.scope == f"run:{run_id}", of_steps)))


def _sums_of(scopes: Sequence[str]) -> Any:
    table = schema.spend
    return select(table).where(table.c.scope.in_(scopes)).order_by(table.c.scope)


def _used_so_far(connection: Connection, scope: str) -> dict[str, int]:
    """Add up the attempts of a scope that nobody had a limit on until now."""
    table = schema.attempts.c
    tokens = func.coalesce(table.tokens_in, 0) + func.coalesce(table.tokens_out, 0)
    query = select(
        func.count(),
        func.sum(tokens),
        func.sum(table.cost_micro),
        func.sum(case((table.cost_micro.is_(None), 1), else_=0)),
    ).where(*_attempts_in(scope))
    calls, tokens_sum, cost, unknown = connection.execute(query).one()
    return {
        "calls": int(calls),
        "tokens": int(tokens_sum or 0),
        "cost_micro": int(cost or 0),
        "unknown_calls": int(unknown or 0),
    }


def _attempts_in(scope: str) -> list[ColumnElement[bool]]:
    kind, _, name = scope.partition(":")
    attempts, runs = schema.attempts.c, schema.runs.c
    match kind:
        case "run":
            return [attempts.run_id == name]
        case "step":
            run_id, _, step = name.partition("/")
            return [attempts.run_id == run_id, attempts.step == step]
        case "day":
            start = datetime.datetime.fromisoformat(name).replace(tzinfo=datetime.UTC).timestamp()
            # The attempts of a run are found by an index; by their own time they are not.
            active = select(runs.id).where(or_(runs.finished_at.is_(None), runs.finished_at >= start))
            return [
                attempts.run_id.in_(active),
                attempts.started_at >= start,
                attempts.started_at < start + _DAY_S,
            ]
    raise InputInvalid(f"{scope[:200]!r} is no scope of a budget.", hint="Use run:, step: or day:.")
