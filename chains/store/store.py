"""The store: everything that runs leave behind, in one folder.

Owns the public methods. Rows are encoded in .shapes, written by .writer, read by .reading and checked by
.verifying. Invariant: what `put` has returned from is on disk, with its blobs.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, func, select, update

from chains.clock import Clock
from chains.errors import StoreDamaged
from chains.store import leasing, schema
from chains.store.admitting import Admission, Condition
from chains.store.batches import Batch, BlobNote, batch_of, write_batches
from chains.store.blobs import Blobs
from chains.store.collecting import GRACE_S, orphan_candidates, remove_orphans, remove_temporaries
from chains.store.connecting import Database
from chains.store.files import disk_errors, make_folder
from chains.store.folders import materialise
from chains.store.handles import Handles, HandlesByProcess
from chains.store.migrating import refuse_newer_within
from chains.store.names import checked_id
from chains.store.promises import Promises
from chains.store.rows import ModelRow, Row, RunStatus
from chains.store.verifying import (
    VerifyReport,
    blob_problems,
    database_problems,
    listed_files,
    payload_blobs,
)
from chains.store.writer import Work, Writer

_COLLECTIONS = "collections"


class Store(Promises):
    """A folder with `headrace.db`, `blobs/` and what others keep beside them. Made by `open_store`."""

    def __init__(self, path: Path, database: Database, blobs: Blobs, *, clock: Clock) -> None:
        self.path = path
        self.database = database
        self.blobs = blobs
        self._clock = clock
        self._handles = HandlesByProcess(self._open_handles)
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

    def publish(self, row: ModelRow) -> ModelRow:
        """Write a model as the next version of its name, which with `is_latest` becomes `@latest`."""

        def assign(connection: Connection) -> ModelRow:
            self.database.lock(connection, "models")
            table = schema.models
            newest = connection.execute(select(func.max(table.c.version)).where(table.c.name == row.name))
            if row.is_latest:
                connection.execute(update(table).where(table.c.name == row.name).values(is_latest=False))
            published = dataclasses.replace(row, version=(newest.scalar_one() or 0) + 1)
            write_batches(connection, [batch_of([published])], self.blobs, self._clock.now())
            return published

        published: ModelRow = self._writer().do_blocking(assign)
        return published

    def close_lost(self, run_id: str, state: RunStatus) -> int:
        """End what a process that is gone left open in a run, and give the run `state`.

        Attempts in `intent` become `ambiguous`: their calls may have been paid. Running records and steps
        become `cancelled`; its lease and the claims of its holder end. Return the number of attempts. The
        caller knows that nobody works on the run.
        """

        def close(connection: Connection) -> int:
            now = self._clock.now()
            lost = _closing(schema.attempts, run_id, now, state=("intent", "ambiguous"))
            number = connection.execute(lost).rowcount
            connection.execute(_closing(schema.records, run_id, now, status=("running", "cancelled")))
            connection.execute(_closing(schema.steps, run_id, now, status=("running", "cancelled")))
            if run_id not in self._leased:  # who takes a run over keeps its own lease
                leasing.release(connection, run_id)
            ended = {"finished_at": now} if state != "running" else {}
            runs = schema.runs
            connection.execute(update(runs).where(runs.c.id == run_id).values(status=state, **ended))
            return number

        number: int = self._writer().do_blocking(close)
        return number

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

    def verify(self, *, grace: float = GRACE_S) -> list[str]:
        """Return what is wrong with the store; an empty list means that every promise holds."""
        return self.verify_report(grace=grace).problems

    def verify_report(self, *, grace: float = GRACE_S) -> VerifyReport:
        """Check everything, and remove what a crash left behind that is older than `grace` seconds."""
        report = VerifyReport()
        try:
            candidates, before = self._check(report, grace)
        except StoreDamaged as damage:
            report.problems.append(str(damage))
            return report
        with disk_errors(self.path):
            report.temporaries_removed = remove_temporaries(self.path, skip={_COLLECTIONS}, grace=grace)
        # In a damaged store a missing reference may be the damage: nothing is removed.
        if candidates and not report.problems:
            report.orphans_removed = self._remove_orphans(candidates, before)
        return report

    def close(self) -> None:
        """Write what is waiting and close every connection. Closing twice is fine."""
        self._handles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, report: VerifyReport, grace: float) -> tuple[list[str], float]:
        before = self._clock.now() - max(grace, 0.0)
        with self.database.errors(), self.database.snapshot(self._reading_engine()) as connection:
            report.problems += [*self.database.problems(connection), *database_problems(connection)]
            listed, problems = listed_files(connection, self.blobs)
            report.problems += problems
            places = payload_blobs(connection) | listed
            candidates = orphan_candidates(connection, self.blobs, places, before)
        report.problems += blob_problems(self.blobs, places)
        report.blobs_checked = len(places)
        report.strangers = list(self.blobs.strangers())
        return candidates, before

    def _remove_orphans(self, candidates: list[str], before: float) -> list[str]:
        def remove(connection: Connection) -> list[str]:
            self.database.lock(connection, "blobs")
            return remove_orphans(connection, self.blobs, candidates, before)

        removed: list[str] = self._writer().do_blocking(remove)
        return removed

    def _write_blobs(self, batch: Batch) -> None:
        for note in batch.notes:
            if note.data is not None:
                self.blobs.put(note.data)

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
        refuse_newer_within(connection, self.database.label)
        results: list[Any] = []
        batches: list[Batch] = []
        for piece in work:
            if isinstance(piece, Batch):
                batches.append(piece)
            else:
                results += self._write_allowed(connection, batches)
                batches = []
                results.append(piece(connection))
        return results + self._write_allowed(connection, batches)

    def _write_allowed(self, connection: Connection, batches: Sequence[Batch]) -> list[Any]:
        admission = Admission(connection, [(batch.rows, batch.condition) for batch in batches])
        answers = admission.decide(self._leased, lambda: self._lease_now(connection))
        allowed = [batch for index, batch in enumerate(batches) if admission.written(index)]
        if any(batch.notes for batch in allowed):
            self.database.lock(connection, "blobs", shared=True)
        write_batches(connection, allowed, self.blobs, self._clock.now())
        return list(answers)


def _closing(table: Any, run_id: str, now: float, **change: tuple[str, str]) -> Any:
    """Return the update of one column of a run's rows from one value to another, with the time."""
    [(name, (old, new))] = change.items()
    values = {name: new, "finished_at": now}
    return update(table).where(table.c.run_id == run_id, table.c[name] == old).values(values)
