"""Answers that are used again: which question an earlier record answers, and who answers a new one.

Owns what `cache:` means, the claim on a question that several rows, runs or processes ask at once, and the
wait of those that did not get it. Knows nothing of how a question is asked. Invariant: a claim that this
process takes is renewed until its record is written or it is given back.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chains.errors import Cancelled, HeadraceError
from chains.keys import key_of
from chains.spec import CacheMode
from chains.store import Claim
from tasks.attempts import Taken
from tasks.context import RowResult, StepContext

if TYPE_CHECKING:
    from chains.store import RecordRow, Store

_LOG = logging.getLogger(__name__)

LEASE_S = 30.0
RENEW_S = 10.0
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 2.0
"""How soon, and at the latest how often, a waiting row looks whether the answer is there."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a row asks: `key` None is asked for this row alone; `anew` does not look for earlier answers."""

    key: str | None
    anew: bool = False


def question(ctx: StepContext, kind: str, parts: Mapping[str, Any], *, same: bool = True) -> Question:
    """Return the question of a row; `same` says whether the model answers it the same each time."""
    mode: CacheMode = getattr(ctx.step, "cache", None) or ("always" if same else "never")
    if mode == "never":
        return Question(None)
    if mode == "run":
        return Question(key_of(kind, {**parts, "run": ctx.run_id}))
    return Question(key_of(kind, parts), anew=mode == "refresh")


def found(ctx: StepContext, asked: Question) -> RecordRow | None:
    """Return the record that has the answer already."""
    if asked.key is None or asked.anew:
        return None
    record = ctx.store.reusable([asked.key]).get(asked.key)
    return record if record is not None and record.output is not None else None


class _Looks:
    """Rows that look for their answers in the same round of the event loop share one query."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, list[asyncio.Future[RecordRow | None]]] = {}

    async def look(self, key: str) -> RecordRow | None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[RecordRow | None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._ask)
        self._waiting.setdefault(key, []).append(waiting)
        return await waiting

    def _ask(self) -> None:
        waiting, self._waiting = self._waiting, {}
        records: dict[str, RecordRow] = {}
        failure: Exception | None = None
        try:
            records = self._store.reusable(list(waiting))
        except Exception as error:  # noqa: BLE001 - the border to the rows: none may be left waiting
            failure = error
        for key, futures in waiting.items():
            for future in futures:
                if future.done():  # a cancelled row
                    continue
                if failure is not None:
                    future.set_exception(copy.copy(failure))
                else:
                    future.set_result(records.get(key))


async def _look(ctx: StepContext, asked: Question) -> RecordRow | None:
    """Return the record that has the answer already, as `found` does."""
    if asked.key is None or asked.anew:
        return None
    looks: _Looks | None = ctx.memo.get("looks")
    if looks is None:
        looks = ctx.memo["looks"] = _Looks(ctx.store)
    record = await looks.look(asked.key)
    return record if record is not None and record.output is not None else None


def linked(record: RecordRow, key: str | None) -> RowResult:
    """Return a result that is another record's."""
    messages = json.loads(record.messages) if record.messages is not None else None
    return RowResult(
        output=json.loads(record.output or b"{}"), value_key=key, reused_from=record.id, messages=messages
    )


async def answer(
    ctx: StepContext, asked: Question, ask: Callable[[Claim | None], Awaitable[RowResult]]
) -> RowResult:
    """Return the answer that is there, or ask under a claim; whoever asks the same meanwhile waits for it."""
    record = await _look(ctx, asked)
    if record is not None:
        return linked(record, asked.key)
    if asked.key is None or asked.anew:
        result = await ask(None)
        result.value_key = asked.key
        return result
    holder = _holder(ctx)
    claim = Claim(asked.key, holder.name, LEASE_S)
    while True:
        try:
            with holder.working():
                result = await ask(claim)
        except Taken:
            record = await _wait(ctx, asked)
            if record is not None:
                return linked(record, asked.key)
        except BaseException:
            # The claim may be ours and its record will not be written: the next one may try at once.
            await asyncio.shield(_release(ctx, asked.key, holder.name))
            raise
        else:
            result.value_key = asked.key
            return result


async def _wait(ctx: StepContext, asked: Question) -> RecordRow | None:
    """Return the record when it is there, or None when nobody works on it any more."""
    pause = FIRST_LOOK_S
    while True:
        record = await _look(ctx, asked)
        if record is not None or ctx.store.claimed_by(asked.key or "") is None:
            # Looked once more: the claim ends in the transaction that writes the record.
            return record or await _look(ctx, asked)
        await asyncio.sleep(pause)
        pause = min(LAST_LOOK_S, pause * 1.5)


async def _release(ctx: StepContext, key: str, holder: str) -> None:
    try:
        await ctx.store.release([key], holder)
    except HeadraceError as error:  # its lease ends by itself
        _LOG.warning("A claim could not be given back: %s", error)


class _Holder:
    """In whose name this process claims, and the thread that keeps its claims while there is work."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = weakref.ref(store)
        self._working = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._idle = threading.Event()

    def working(self) -> _Holder:
        """Keep claims alive for the length of a `with` block."""
        return self

    def __enter__(self) -> None:
        with self._lock:
            self._working += 1
            if self._thread is None:
                self._idle.clear()
                self._thread = threading.Thread(target=self._renew, name="headrace-claims", daemon=True)
                self._thread.start()

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._working -= 1

    def _renew(self) -> None:
        while True:
            self._idle.wait(RENEW_S)
            store = self._store()
            with self._lock:
                if store is None or not self._working:
                    self._thread = None
                    return
            try:
                store.renew(self.name, LEASE_S)
            except Cancelled:  # the store has been closed
                pass
            except HeadraceError as error:
                _LOG.warning("Claims could not be renewed: %s", error)
            del store


_holders: weakref.WeakKeyDictionary[Store, dict[tuple[int, str], _Holder]] = weakref.WeakKeyDictionary()


def _holder(ctx: StepContext) -> _Holder:
    of_store = _holders.setdefault(ctx.store, {})
    whose = (os.getpid(), ctx.holder)  # a forked process is somebody else
    if whose not in of_store:
        of_store[whose] = _Holder(ctx.store, ctx.holder or f"process-{ctx.clock.new_id()}")
    return of_store[whose]
