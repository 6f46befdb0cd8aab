"""The numbered steps that lead from an empty store to the schema of chains.store.schema.

Owns the order. A migration that has been released is never edited: it does not import the current schema,
and a change of the schema is a new migration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from chains.store.migrations import (
    m0001_initial,
    m0002_promises,
    m0003_workers,
    m0004_forks,
    m0005_nesting,
    m0006_device_waits,
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; `apply` runs inside the transaction that also records `version`."""

    version: int
    name: str
    apply: Callable[[Connection], None]


MIGRATIONS: Final = (
    Migration(1, "initial", m0001_initial.apply),
    Migration(2, "promises", m0002_promises.apply),
    Migration(3, "workers", m0003_workers.apply),
    Migration(4, "forks", m0004_forks.apply),
    Migration(5, "nesting", m0005_nesting.apply),
    Migration(6, "device waits", m0006_device_waits.apply),
)
