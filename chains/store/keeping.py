"""The part of the store that looks after what is kept: verify, prune, manifests, rebuild, export.

Owns the public methods; what they do is in .verifying, .collecting, .pruning and .manifests. Invariant: in a
store with a problem nothing is removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, select, tuple_

from chains.errors import HeadraceError, StoreDamaged
from chains.store import manifests, pruning, schema, unpinning
from chains.store.aside import Aside
from chains.store.collecting import GRACE_S, orphan_candidates, remove_orphans, remove_temporaries
from chains.store.connecting import upsert
from chains.store.files import disk_errors
from chains.store.linking import WITH_LINKED, record_columns
from chains.store.places import Place
from chains.store.promises import Promises
from chains.store.pruning import PruneReport
from chains.store.rows import RecordRow
from chains.store.shapes import RECORDS, decode
from chains.store.verifying import (
    VerifyReport,
    blob_problems,
    database_problems,
    listed_files,
    payload_blobs,
)

_COLLECTIONS = "collections"
_ROWS_AT_ONCE = 500
_JSON_FIELDS = ("inputs", "messages", "output", "error")
_FIELDS = (
    "run_id", "step", "row", "path", "item", "turn", "sample", "status", "tokens_in", "tokens_out",
    "cost_micro", "attempts", "value_key", "reused_from", "started_at", "finished_at",
)  # fmt: skip


class Keeping(Promises):
    """Looking after a store; `Store` adds writing."""

    manifests: Place
    _aside: Aside

    def verify(self, *, grace: float = GRACE_S, rebuild: bool = False) -> list[str]:
        """Return what is wrong with the store; an empty list means that every promise holds."""
        return self.verify_report(grace=grace, rebuild=rebuild).problems

    def verify_report(self, *, grace: float = GRACE_S, rebuild: bool = False) -> VerifyReport:
        """Check everything, and remove what a crash left behind that is older than `grace` seconds.

        With `rebuild`, runs that the database has lost are first put back from their manifests.
        """
        self._aside.drain()
        report = VerifyReport()
        try:
            if rebuild:
                self._rebuild(report)
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

    def prune(
        self,
        before: float | None = None,
        runs: Sequence[str] = (),
        *,
        dry_run: bool = False,
        grace: float = GRACE_S,
    ) -> PruneReport:
        """Remove the runs that ended before a time and those that are named, with what only they need.

        Answers that other runs reused stay with those; models and collections stay. A store with a problem
        is left alone.
        """
        self._aside.drain()
        report = PruneReport()
        with self.database.errors(), self._reading_engine().connect() as connection:
            doomed = pruning.candidates(connection, before, runs)
            pruning.count(connection, doomed, report)
            named = unpinning.named_by(connection, self.blobs, doomed)
        if dry_run or not doomed:
            return report
        for run_id in doomed:
            with self.database.errors(), self._reading_engine().connect() as connection:
                forks = pruning.forks_of(connection, run_id)
            self._write(partial(pruning.remove_run, run_id=run_id))
            for fork in forks:  # their manifests must not lead to what is gone
                self.write_manifest(fork)
            with self.manifests.errors():
                self.manifests.remove(manifests.name_of(run_id))
        before_grace = self._clock.now() - max(grace, 0.0)
        self._write(partial(unpinning.unpin, blobs=self.blobs, shas=named, before=before_grace))
        report.blobs = len(self._collect(grace))
        return report

    def export_rows(self, run_id: str, step: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield each record of a run as plain data, by step and row, a few at a time."""
        table = schema.records.c
        place = tuple_(table.step, table.row, table.path, table.item, table.turn, table.sample)
        query = select(*record_columns()).select_from(WITH_LINKED).where(table.run_id == run_id)
        if step is not None:
            query = query.where(table.step == step)
        query = query.order_by(table.step, table.row, table.path, table.item, table.turn, table.sample)
        after: RecordRow | None = None
        while True:
            part = query.limit(_ROWS_AT_ONCE)
            if after is not None:
                last = (after.step, after.row, after.path, after.item, after.turn, after.sample)
                part = part.where(place > last)
            found = [decode(RECORDS, values, self.blobs, payloads=True) for values in self._values(part)]
            yield from (_plain(record) for record in found)
            if len(found) < _ROWS_AT_ONCE:
                return
            after = found[-1]

    def write_manifest(self, run_id: str) -> None:
        """Write the rows of a run beside the blobs, so that a lost database can be made again from them.

        Models and collections have a manifest of their own, which is written with it.
        """
        with self.database.errors(), self.database.snapshot(self._reading_engine()) as connection:
            manifests.write(self.manifests, manifests.name_of(run_id), manifests.run_rows(connection, run_id))
            manifests.write(self.manifests, manifests.name_of(None), manifests.shared_rows(connection))

    def write_manifest_aside(self, run_id: str) -> None:
        """Have the manifest of a run written soon, and before the store is closed or looked after.

        It is a second copy: a run whose rows are safe does not wait for it, nor fail for want of it.
        """
        what = f"The manifest of run {run_id} could not be written"
        self._aside.do(partial(self.write_manifest, run_id), what)

    def _rebuild(self, report: VerifyReport) -> None:
        with self.manifests.errors():
            names = manifests.names(self.manifests)
        there = {run.id for run in self.runs(limit=1_000_000, payloads=False)}
        lost: set[str] = set()
        for name, run_id in names.items():
            if run_id in there or (run_id is None and there):
                continue
            try:
                number = self._write(partial(manifests.load, place=self.manifests, name=name))
            except (HeadraceError, KeyError) as error:
                report.problems.append(f"The manifest {name!r} could not be loaded: {error}")
                continue
            report.records_rebuilt += number
            if run_id is not None:
                lost.add(run_id)
        for run_id in sorted(lost):
            found = self.run(run_id)
            if found is not None and found.status == "running":
                self.close_lost(run_id, "interrupted")
        report.runs_rebuilt = sorted(lost)
        if lost or not there:
            self._write(self._pin_everything)

    def _pin_everything(self, connection: Connection) -> None:
        """Keep every blob that is there: what referred to it may be what was lost."""
        noted = set(connection.execute(select(schema.blobs.c.sha256)).scalars())
        held = payload_blobs(connection)
        now = self._clock.now()
        for sha256, _ in self.blobs.listed():
            if sha256 not in noted and self.blobs.problem(sha256) is None:
                note = {
                    "sha256": sha256,
                    "size": self.blobs.size(sha256),
                    "pinned": sha256 not in held,
                    "touched_at": now,
                }
                connection.execute(upsert(schema.blobs, connection.dialect.name), [note])

    def _collect(self, grace: float) -> list[str]:
        """Remove blobs that nothing refers to, unless something is wrong with the rows that would."""
        before = self._clock.now() - max(grace, 0.0)
        with self.database.errors(), self.database.snapshot(self._reading_engine()) as connection:
            listed, problems = listed_files(connection, self.blobs)
            if problems or database_problems(connection):
                return []
            places = payload_blobs(connection) | listed
            found = orphan_candidates(connection, self.blobs, places, before)
        return self._remove_orphans(found, before) if found else []

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

        removed: list[str] = self._write(remove)
        return removed


def _plain(record: RecordRow) -> dict[str, Any]:
    """Return a record's fields; payloads that are JSON are read, others are text."""
    found: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS}
    for name in _JSON_FIELDS:
        value = getattr(record, name)
        try:
            found[name] = None if value is None else json.loads(value)
        except ValueError:
            found[name] = value.decode("utf-8", "replace")
    return found
