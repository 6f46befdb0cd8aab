"""One thread that writes: what callers hand in at about the same time shares one transaction.

Owns the queue, the grouping and the delivery of results. Knows nothing of what is written. Invariants: a
caller is answered after the commit that holds its work; an error of one caller's work is that caller's
alone; no error ends the thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection

from chains import failpoints
from chains.errors import Cancelled, EnvironmentLacks, HeadraceError, StoreBusy, StoreVersion
from chains.store.batches import Batch
from chains.store.connecting import Database, TryAgain
from chains.store.files import disk_errors

LARGEST_GROUP: Final = 1024
CROWD: Final = 4
GATHER_S: Final = 0.002
"""How long a group is waited for after one of at least CROWD; a caller that is alone never waits."""
_PAUSES_S: Final = (0.02, 0.1, 0.5, 2.0, 5.0)
_LOG: Final = logging.getLogger(__name__)

Work: TypeAlias = Batch | Callable[[Connection], Any]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    future: asyncio.Future[Any] | concurrent.futures.Future[Any] | None
    loop: asyncio.AbstractEventLoop | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: Any = None
    error: BaseException | None = None


class Writer:
    """The only writer of this process; `perform` does a group's work on the connection."""

    def __init__(
        self,
        database: Database,
        perform: Callable[[Connection, Sequence[Work]], list[Any]],
        *,
        folder: Path,
    ) -> None:
        self.transactions = 0
        self._engine = database.writing_engine()
        self._database = database
        self._folder = folder
        self._perform = perform
        self._connection: Connection | None = None
        self._jobs: deque[_Job] = deque()
        self._gathering: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._committing = False
        self._latest = 0

    async def do(self, work: Work) -> Any:
        """Have the work committed and return its result, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._gather(_Job(work, future, loop), loop)
        return await future

    def do_blocking(self, work: Work) -> Any:
        """Have the work committed and return its result."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._hand_in([_Job(work, future, None)])
        return future.result()

    def hand_over(self, work: Work) -> None:
        """Have the work committed before anything that is asked for later, and return at once.

        Nobody is told of its error; it is logged.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._hand_in([_Job(work, None, None)])
            return
        # By way of the loop too, so that it keeps its place among what the loop's callers ask for.
        self._gather(_Job(work, None, loop), loop)

    def stop(self) -> None:
        """Write what has been handed in, then end the thread."""
        for loop in list(self._gathering):
            self._hand_over(loop)
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._disconnect()

    def _gather(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._gathering.get(loop)
        if waiting is None:
            # Handed over in the loop's next round: by then every caller that the last commit woke has asked.
            self._gathering[loop] = [job]
            loop.call_soon(self._hand_over, loop)
        else:
            waiting.append(job)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        jobs = self._gathering.pop(loop, None)
        if jobs is None:  # handed over by `stop`
            return
        try:
            self._hand_in(jobs)
        except Cancelled as error:
            _settle([(job, _Outcome(error=_own_copy(error))) for job in jobs])

    def _hand_in(self, jobs: Sequence[_Job]) -> None:
        with self._changed:
            if self._stopped:
                raise Cancelled("The store has been closed.", hint="Open it again to write.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="headrace-store", daemon=True)
                self._thread.start()
            self._jobs.extend(jobs)
            self._changed.notify()

    def _run(self) -> None:
        while group := self._next_group():
            _deliver(group, self._write(group))

    def _next_group(self) -> list[_Job]:
        with self._changed:
            while not self._jobs and not self._stopped:
                self._changed.wait()
        if self._latest >= CROWD:
            # Where several came together, more are on their way: a commit costs the same for all of them.
            time.sleep(GATHER_S)
        with self._changed:
            group = [self._jobs.popleft() for _ in range(min(len(self._jobs), LARGEST_GROUP))]
        self._latest = len(group)
        return group

    def _write(self, group: Sequence[_Job]) -> list[_Outcome]:
        try:
            return [_outcome(result) for result in self._retried([job.work for job in group])]
        except (StoreBusy, EnvironmentLacks, StoreVersion) as error:
            # The store itself cannot be written now: one answer for all.
            return [_Outcome(error=_own_copy(error)) for _ in group]
        except BaseException as error:  # noqa: BLE001 - the border to the callers: each gets its error
            if len(group) == 1:
                return [_Outcome(error=error)]
            return [self._write([job])[0] for job in group]

    def _retried(self, work: Sequence[Work]) -> list[Any]:
        """Do the transaction again where the server undid it; not where nobody knows whether it did."""
        for pause in _PAUSES_S:
            try:
                return self._transaction(work)
            except TryAgain:
                if self._committing:
                    raise
                time.sleep(pause)
        return self._transaction(work)

    def _transaction(self, work: Sequence[Work]) -> list[Any]:
        self._committing = False
        try:
            with self._database.errors(), disk_errors(self._folder):
                failpoints.hit("store.group.before_begin")
                with self._connected().begin():
                    results = self._perform(self._connected(), work)
                    failpoints.hit("store.group.before_commit")
                    self._committing = True
                self.transactions += 1
                failpoints.hit("store.group.after_commit")
        except BaseException:
            # After a failed write nothing is assumed about the connection.
            self._disconnect()
            raise
        return results

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _outcome(result: Any) -> _Outcome:
    """A refusal is returned and not raised, so that it disturbs nobody else in the transaction."""
    return _Outcome(error=result) if isinstance(result, HeadraceError) else _Outcome(result)


def _own_copy(error: BaseException) -> BaseException:
    """Give each waiter an error of its own, for what a waiter notes on it concerns that waiter only."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


def _deliver(group: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
    """Answer all callers; those of one event loop are woken by one call into it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, _Outcome]]] = {}
    for job, outcome in zip(group, outcomes, strict=True):
        if job.loop is None or job.future is None:
            _settle([(job, outcome)])
        else:
            by_loop.setdefault(job.loop, []).append((job, outcome))
    for loop, answers in by_loop.items():
        # A loop that has been closed meanwhile has nobody waiting in it.
        if not loop.is_closed():
            _call(loop, answers)


def _call(loop: asyncio.AbstractEventLoop, answers: list[tuple[_Job, _Outcome]]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, answers)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _settle(answers: Sequence[tuple[_Job, _Outcome]]) -> None:
    for job, outcome in answers:
        if job.future is None:  # handed over: nobody waits
            if outcome.error is not None:
                _LOG.error("Rows that were handed over to the store could not be written: %s", outcome.error)
        elif job.future.done():  # a cancelled caller; its rows are written all the same
            continue
        elif outcome.error is None:
            job.future.set_result(outcome.result)
        else:
            job.future.set_exception(outcome.error)
