"""Rates that all processes on a store share: requests and tokens per minute.

Owns the table `slots`, one bucket per name. A bucket fills at the rate and holds a hundredth of a minute's
worth, so that no minute has more than 1 % over it. Callers take a few slots at a time and hand them out
themselves. Knows nothing of models or endpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, update

from chains.store import schema
from chains.store.connecting import insert_into

_MINUTE_S: Final = 60.0
_DEPTH: Final = 0.01


@dataclass(frozen=True, slots=True)
class Slots:
    """What may be sent now. Where that is nothing, `wait_s` is when to ask again."""

    requests: int
    tokens: int
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What one minute may see; None is no limit."""

    requests: int | None
    tokens: int | None


def take(connection: Connection, name: str, *, requests: int, tokens: int, rates: Rates, now: float) -> Slots:
    """Take up to `requests` slots, and with them all `tokens`, out of the bucket of this name."""
    table = schema.slots
    found = _bucket(connection, name, rates, now)
    passed = max(0.0, now - found.updated_at)
    level = _filled(found.requests, rates.requests, passed, least=1.0)
    token_level = _filled(found.tokens, rates.tokens, passed, least=1.0)
    granted = requests if rates.requests is None else min(requests, int(level))
    if rates.tokens is not None and token_level < 1.0:
        granted = 0
    taken = Slots(granted, tokens) if granted else Slots(0, 0, _wait(level, token_level, rates))
    values = {
        "requests": level - (granted if rates.requests is not None else 0),
        # A call of more tokens than the bucket holds must pass some time; the bucket then owes them.
        "tokens": token_level - (taken.tokens if rates.tokens is not None else 0),
        "updated_at": now,
    }
    connection.execute(update(table).where(table.c.name == name).values(**values))
    return taken


def _bucket(connection: Connection, name: str, rates: Rates, now: float) -> Any:
    table = schema.slots
    full = {"requests": _depth(rates.requests, 1.0), "tokens": _depth(rates.tokens, 1.0), "updated_at": now}
    connection.execute(insert_into(connection, table).values(name=name, **full).on_conflict_do_nothing())
    return connection.execute(select(table).where(table.c.name == name).with_for_update()).one()


def _depth(per_minute: int | None, least: float) -> float:
    return least if per_minute is None else max(least, per_minute * _DEPTH)


def _filled(level: float, per_minute: int | None, passed: float, *, least: float) -> float:
    if per_minute is None:
        return least
    return min(_depth(per_minute, least), level + passed * per_minute / _MINUTE_S)


def _wait(level: float, token_level: float, rates: Rates) -> float:
    """Return how long until one request may go."""
    waits = [0.001]
    for there, per_minute in ((level, rates.requests), (token_level, rates.tokens)):
        if per_minute is not None and there < 1.0:
            waits.append((1.0 - there) * _MINUTE_S / per_minute)
    return max(waits)
