"""Full-text search over prompts and answers: an index of the inspector's own, beside the store.

Owns `search/text.db` in the store's folder, an SQLite file with words and record ids and no text. It is a
cache: whoever removes it loses nothing, and a run costs no write to it. Runs that have changed are read when
somebody searches, for at most a moment each time; what is still missing is said. Invariant: what is found is
looked up in the store before it is shown.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chains.clock import Clock

if TYPE_CHECKING:
    from chains.store import RecordRow, Store

_VERSION: Final = 1
_AT_ONCE: Final = 200
_LONGEST: Final = 200_000
"""Characters of a record that can be found."""
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS places (id INTEGER PRIMARY KEY, record TEXT, ended REAL, run TEXT,
    UNIQUE (record, ended));
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, state TEXT);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, content='', tokenize='unicode61');
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The newest records that hold all words, and how many runs are not searched yet."""

    records: list[str]
    runs: list[str]
    runs_left: int


class Search:
    """The index of one store."""

    def __init__(self, store: Store, path: Path | None = None) -> None:
        self._store = store
        self._path = path if path is not None else store.folder("search") / f"text-{_VERSION}.db"
        self._lock = threading.Lock()
        self._clock = Clock()
        with closing(self._connect()) as connection:
            connection.executescript(_TABLES)

    def find(self, text: str, *, limit: int = 50, patience: float = 0.1) -> Found:
        """Return the records with all words of a text; index for at most `patience` seconds before."""
        left = self.refresh(patience)
        query = _query(text)
        if not query:
            return Found([], [], left)
        with closing(self._connect()) as connection:
            ids = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?"
            rows = connection.execute(
                f"SELECT record, run FROM places WHERE id IN ({ids}) ORDER BY id DESC", (query, limit)
            ).fetchall()
        return Found(
            list(dict.fromkeys(record for record, _ in rows)),
            list(dict.fromkeys(run for _, run in rows)),
            left,
        )

    def refresh(self, patience: float) -> int:
        """Index changed runs, newest first, for at most so many seconds; return how many are left."""
        until = self._clock.monotonic() + patience
        with self._lock, closing(self._connect()) as connection:
            known = dict(connection.execute("SELECT id, state FROM runs").fetchall())
            stale = [found for found in self._store.states_of_runs() if known.get(found[0]) != found[1]]
            for place, (run_id, state) in enumerate(stale):
                if self._clock.monotonic() >= until:
                    return len(stale) - place
                self._index(connection, run_id, state, until)
            return 0

    def _index(self, connection: sqlite3.Connection, run_id: str, state: str, until: float) -> None:
        """Index a run's records that have ended; the run itself is done with when none is left."""
        rows = connection.execute("SELECT record, ended FROM places WHERE run = ?", (run_id,))
        known = set(rows.fetchall())
        new = [record for record in self._store.ended(run_id) if record not in known]
        for start in range(0, len(new), _AT_ONCE):
            if start and self._clock.monotonic() >= until:
                connection.commit()
                return
            for record in self._store.records_by_id([name for name, _ in new[start : start + _AT_ONCE]]):
                self._add(connection, record)
        # A run that goes on has another state the next time.
        connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", (run_id, state))
        connection.commit()

    def _add(self, connection: sqlite3.Connection, record: RecordRow) -> None:
        place = connection.execute(
            "INSERT OR IGNORE INTO places (record, ended, run) VALUES (?, ?, ?)",
            (record.id, record.finished_at, record.run_id),
        )
        if place.rowcount == 1:
            text = "\n".join(_texts(record))[:_LONGEST]
            connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (place.lastrowid, text))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=5)
        # A cache that is lost in a power cut is made again.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = WAL")
        return connection


def _query(text: str) -> str:
    """Return the query that wants every word, or beginning of one; nothing in it is an operator."""
    words = "".join(char if char.isalnum() else " " for char in text).split()
    return " ".join(f'"{word}"*' for word in words[:20])


def _texts(record: RecordRow) -> Iterator[str]:
    for payload in (record.messages, record.output, record.error):
        if payload is not None:
            yield from _strings(json.loads(payload))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "role":
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
