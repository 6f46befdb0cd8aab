"""The connections of one process to a store.

Owns that a forked child opens its own: SQLite forbids using, and even closing, a connection across a fork.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from chains.errors import Cancelled
from chains.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Handles:
    """What a process reads through and writes through."""

    reader: Engine
    writer: Writer

    def close(self) -> None:
        """Write what is waiting, then close every connection."""
        self.writer.stop()
        self.reader.dispose()


class HandlesByProcess:
    """Gives each process its own handles, made when it first asks."""

    def __init__(self, make: Callable[[], Handles]) -> None:
        self._make = make
        self._by_pid: dict[int, Handles] = {}
        self._closed = False

    def mine(self) -> Handles:
        """Return the handles of this process."""
        if self._closed:
            raise Cancelled("The store has been closed.", hint="Open it again.")
        handles = self._by_pid.get(os.getpid())
        if handles is None:
            for inherited in self._by_pid.values():
                # Never freed, not even when the interpreter ends: that would close the parent's connections.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
            # setdefault is atomic: of two threads that come here at once, both get the same.
            handles = self._by_pid.setdefault(os.getpid(), self._make())
        return handles

    def close(self) -> None:
        """Close the handles of this process; those of a parent are left alone."""
        self._closed = True
        handles = self._by_pid.get(os.getpid())
        if handles is not None:
            handles.close()
