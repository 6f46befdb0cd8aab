"""The store: everything that runs leave behind, in a folder or on servers.

Owns writing. Rows are encoded in .shapes, written by .writer and read by .reading; .promises and .keeping are
the parts about paid calls and about what is kept. Invariant: what `put` has returned from is on disk, with
its blobs.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, func, select, update

from chains.clock import Clock
from chains.store import leasing, linking, run_life, schema
from chains.store.admitting import Admission, Condition
from chains.store.aside import Aside
from chains.store.batches import Batch, BlobNote, batch_of, write_batches
from chains.store.blobs import Blobs
from chains.store.claiming import LEASE_S, checked_lease
from chains.store.connecting import Database
from chains.store.files import disk_errors, make_folder
from chains.store.folders import materialise
from chains.store.handles import Handles, HandlesByProcess
from chains.store.keeping import Keeping
from chains.store.leasing import run_of
from chains.store.linking import Link
from chains.store.migrating import refuse_newer
from chains.store.names import checked_id
from chains.store.places import Place
from chains.store.rows import ModelRow, Row, RunRow, StepRow
from chains.store.run_life import Counts
from chains.store.standing import standing
from chains.store.writer import Work, Writer


class Store(Keeping):
    """A folder with `headrace.db`, `blobs/` and what others keep beside them. Made by `open_store`."""

    def __init__(
        self, path: Path, database: Database, blobs: Blobs, *, manifests: Place, clock: Clock
    ) -> None:
        self.path = path
        self.database = database
        self.blobs = blobs
        self.manifests = manifests
        self._clock = clock
        self._handles = HandlesByProcess(self._open_handles)
        self._aside = Aside()
        self._leased = {}

    async def aput(self, *rows: Row, fence: int | None = None) -> None:
        """Write the rows in one transaction; return when they are on disk. Others' rows may share it.

        With the `fence` of a claim, the records among them are refused once the claim has passed to somebody
        else, and a final one gives the claim back.
        """
        if rows:
            await self._awrite(batch_of(rows, None if fence is None else Condition(fence=fence)))

    def put(self, *rows: Row) -> None:
        """Write the rows in one transaction, blocking until they are on disk."""
        batch = batch_of(rows)
        self._write_blobs(batch)
        if rows:
            self._writer().do_blocking(batch)

    @property
    def transactions(self) -> int:
        """How many transactions this process has committed through this store."""
        return self._handles.mine().writer.transactions

    def begin_run(
        self,
        run: RunRow,
        steps: Iterable[StepRow],
        *,
        holder: str,
        files: Mapping[str, bytes],
        lease: float = LEASE_S,
        links: Sequence[Link] = (),
    ) -> bool:
        """Write a new run with its steps and files, and lease it, in one transaction; False if it is leased.

        `run` says in its `files` which of `files` (by sha256) it needs. `links` are what a fork takes over
        from the run that it was made from.
        """
        checked_id(run.id, "run id"), checked_id(holder, "holder")
        batch = batch_of([run, *steps])
        for sha256, content in files.items():
            batch.notes.append(BlobNote(sha256, len(content), content, pinned=True))
        self._write_blobs(batch)
        seconds = checked_lease(lease)

        def begin(connection: Connection) -> int | None:
            now = self._lease_now(connection)
            fence = leasing.take(connection, run.id, holder, until=now + seconds, now=now)
            if fence is not None:
                self._write_batch(connection, batch)
                if run.forked_from is not None and links:
                    linking.link(
                        connection, source=run.forked_from, fork=run.id, links=links, clock=self._clock
                    )
            return fence

        fence = self._write(begin)
        if fence is not None:
            self._leased[run.id] = fence
        return fence is not None

    def part_from_forks(self, run_id: str) -> None:
        """Let the forks of a run keep what they are linked to, before its records are written again."""
        self._write(partial(linking.part, run_id=run_id))

    def end_run(self, run_id: str, holder: str, row: Callable[[Counts], RunRow]) -> bool:
        """Write how a run ended and end its lease, in one transaction; False if it is not the holder's.

        `row` is called in the transaction, with the counts that `counts` would give. What the run left open
        ends as with `close_lost`.
        """

        def end(connection: Connection) -> bool:
            def write(counts: Counts) -> None:
                batch = batch_of([row(counts)])
                self._write_blobs(batch)
                self._write_batch(connection, batch)

            return run_life.end(connection, run_id, holder, now=self._clock.now(), write=write)

        ended: bool = self._write(end)
        if ended:
            self._leased.pop(run_id, None)
        return ended

    def publish(self, row: ModelRow) -> ModelRow:
        """Write a model as the next version of its name, which with `is_latest` becomes `@latest`."""

        def assign(connection: Connection) -> ModelRow:
            self.database.lock(connection, "models")
            table = schema.models
            newest = connection.execute(select(func.max(table.c.version)).where(table.c.name == row.name))
            if row.is_latest:
                connection.execute(update(table).where(table.c.name == row.name).values(is_latest=False))
            published = dataclasses.replace(row, version=(newest.scalar_one() or 0) + 1)
            self._write_batch(connection, batch_of([published]))
            return published

        published: ModelRow = self._writer().do_blocking(assign)
        return published

    def promote(self, name: str, version: int) -> bool:
        """Make a version of a model its `@latest`; False where there is no such version."""

        def move(connection: Connection) -> bool:
            self.database.lock(connection, "models")
            table = schema.models
            of_name = table.c.name == name
            if connection.execute(select(table.c.version).where(of_name, table.c.version == version)).first():
                latest = table.c.version == version
                connection.execute(update(table).where(of_name).values(is_latest=latest))
                return True
            return False

        return bool(self._writer().do_blocking(move))

    def put_blob(self, data: bytes) -> str:
        """Keep bytes that no row carries, such as a file of a chain; return their sha256."""
        sha256 = self.blobs.put(data)
        self._pin(BlobNote(sha256, len(data), data, pinned=True))
        return sha256

    def put_file(self, path: str | Path) -> str:
        """Keep the content of a file without loading it; return its sha256."""
        sha256, size = self.blobs.put_file(Path(path))
        self._pin(BlobNote(sha256, size, pinned=True))
        return sha256

    def get_blob(self, sha256: str) -> bytes:
        """Return a blob's content; StoreDamaged if it is missing or not what its name says."""
        return self.blobs.get(sha256)

    def materialise(self, files: Mapping[str, str], into: Path) -> None:
        """Make the folder `into` hold `files` (relative path to sha256), whole or not at all.

        A folder that holds them already is left as it is. One that does not is replaced inside the store,
        and is a StoreConflict elsewhere.
        """
        inside = into.resolve().is_relative_to(self.path.resolve())
        materialise(self.blobs, files, into, replace=inside)

    def folder(self, name: str) -> Path:
        """Return the store's folder of this name, made if needed."""
        folder = self.path / checked_id(name, "folder name")
        with disk_errors(self.path):
            make_folder(folder)
        return folder

    def close(self) -> None:
        """Write what is waiting and close every connection. Closing twice is fine."""
        self._aside.drain()
        self._handles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_blobs(self, batch: Batch) -> None:
        for note in batch.notes:
            if note.data is not None:
                self.blobs.put(note.data)

    def _write_batch(self, connection: Connection, batch: Batch) -> None:
        if batch.notes:
            self.database.lock(connection, "blobs", shared=True)
        write_batches(connection, [batch], self.blobs, self._clock.now())

    def _pin(self, note: BlobNote) -> None:
        self._writer().do_blocking(Batch(notes=[note]))

    async def _awrite(self, batch: Batch) -> Any:
        if batch.notes:
            await asyncio.to_thread(self._write_blobs, batch)
        return await self._writer().do(batch)

    def _writer(self) -> Writer:
        return self._handles.mine().writer

    def _reading_engine(self) -> Engine:
        return self._handles.mine().reader

    def _open_handles(self) -> Handles:
        writer = Writer(self.database, self._perform, folder=self.path)
        return Handles(self.database.reading_engine(), writer)

    def _perform(self, connection: Connection, work: Sequence[Work]) -> list[Any]:
        """Do a group's work in the order of arrival; neighbouring batches of rows become one."""
        lost: list[str] | None = self._lost(connection)
        results: list[Any] = []
        batches: list[Batch] = []
        for piece in work:
            if isinstance(piece, Batch):
                batches.append(piece)
                continue
            results += self._write_allowed(connection, batches, lost)
            batches = []
            results.append(piece(connection))
            lost = None  # it may have ended a lease
        return results + self._write_allowed(connection, batches, lost)

    def _lost(self, connection: Connection) -> list[str]:
        """Return the runs leased here that another process has taken over; refuse a store of a newer form."""
        leased = dict(self._leased)  # other threads lease and release
        found = standing(connection, list(leased))
        refuse_newer(frozenset({found.version}), self.database.label)
        return [run_of(name) for name, fence in leased.items() if found.fences[name] != fence]

    def _write_allowed(
        self, connection: Connection, batches: Sequence[Batch], lost: list[str] | None
    ) -> list[Any]:
        if not batches:
            return []
        admission = Admission(connection, [(batch.rows, batch.condition) for batch in batches])
        lost = self._lost(connection) if lost is None else lost
        answers = admission.decide(lost, lambda: self._lease_now(connection))
        allowed = [batch for index, batch in enumerate(batches) if admission.written(index)]
        if any(batch.notes for batch in allowed):
            self.database.lock(connection, "blobs", shared=True)
        write_batches(connection, allowed, self.blobs, self._clock.now())
        return list(answers)
