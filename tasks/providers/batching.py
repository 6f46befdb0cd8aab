"""Gather concurrent calls of local models into batches, run in one worker thread of the process.

One thread, because torch already spreads one batch over the machine's cores; two models at once would only
slow each other down. Futures are those of `concurrent.futures`, so callers may live on any event loop.
Knows nothing of models: a batcher is given how to choose a batch from what waits, and how to run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from chains.errors import Cancelled, HeadraceError, StepFailed

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

# Long enough for the rows of one step to arrive together, far below what one forward pass takes.
WINDOW_S = 0.005


@dataclass(slots=True, eq=False)
class Job(Generic[Asked, Answer]):
    """One call that waits for its batch."""

    asked: Asked
    future: Future[Answer] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0

    def answer(self, value: Answer) -> None:
        """Hand the result to the caller, who may be gone."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Hand an error to the caller, who may be gone."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


@functools.cache
def worker() -> ThreadPoolExecutor:
    """Return the process's one thread for local models."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="headrace-local")


class Batcher(Generic[Asked, Answer]):
    """Collects calls and runs them in batches.

    `choose` is given everything that waits, oldest first, and returns the indexes of the next batch; `run`
    answers or fails each of its jobs. An error that `run` raises goes to every job of that batch.
    """

    def __init__(
        self,
        choose: Callable[[Sequence[Asked]], list[int]],
        run: Callable[[Sequence[Job[Asked, Answer]]], None],
    ) -> None:
        self._choose = choose
        self._run = run
        self._waiting: list[Job[Asked, Answer]] = []
        self._lock = threading.Lock()
        self._scheduled = False
        self._closed = False

    async def submit(self, asked: Asked) -> Answer:
        """Wait for the answer; cancelling the wait withdraws the call."""
        return (await self.submit_timed(asked))[0]

    async def submit_timed(self, asked: Asked) -> tuple[Answer, float]:
        """Return the answer, and the seconds that the call waited for its batch to begin."""
        job: Job[Asked, Answer] = Job(asked)
        with self._lock:
            if self._closed:
                raise Cancelled("The model has been closed.")
            self._waiting.append(job)
            schedule, self._scheduled = not self._scheduled, True
        if schedule:
            worker().submit(self._drain, window=True)
        return await asyncio.wrap_future(job.future), job.waited_s

    def close(self) -> None:
        """Take no more calls and cancel those that wait."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for job in waiting:
            job.fail(Cancelled("The model was closed before the call was made."))

    def _drain(self, *, window: bool) -> None:
        """Run one batch, then queue up again behind the other models."""
        if window:
            time.sleep(WINDOW_S)
        try:
            batch = self._next_batch()
            if batch:
                self._run_batch(batch)
        finally:
            with self._lock:
                self._scheduled = bool(self._waiting)
            if self._scheduled:
                # No window: whoever came while the batch ran has waited long enough.
                worker().submit(self._drain, window=False)

    def _next_batch(self) -> list[Job[Asked, Answer]]:
        with self._lock:
            self._waiting = [job for job in self._waiting if not job.future.cancelled()]
            if not self._waiting:
                return []
            chosen = self._choose([job.asked for job in self._waiting])
            batch = [self._waiting[index] for index in chosen]
            for job in batch:
                job.waited_s = time.monotonic() - job.since
            taken = set(chosen)
            self._waiting = [job for index, job in enumerate(self._waiting) if index not in taken]
            return batch

    def _run_batch(self, batch: Sequence[Job[Asked, Answer]]) -> None:
        try:
            self._run(batch)
        except HeadraceError as error:
            _fail_all(batch, error)
        except Exception as error:
            # Whatever it was, the callers must not wait for ever; nobody looks at what this thread raises.
            what = f"{type(error).__name__}: {str(error)[:200]}"
            failure = StepFailed(f"The local model failed on a batch of {len(batch)}: {what}")
            failure.__cause__ = error
            _fail_all(batch, failure)
            raise


def _fail_all(batch: Sequence[Job[Asked, Answer]], error: HeadraceError) -> None:
    for job in batch:
        job.fail(error)


def by_length(lengths: Sequence[int], *, budget: int, rows: int) -> list[int]:
    """Choose the oldest call and those nearest to it in length, shortest first.

    `budget` bounds the padded size of the batch: its longest length times its rows.
    """
    order = sorted(range(len(lengths)), key=lambda index: (abs(lengths[index] - lengths[0]), index))
    chosen: list[int] = []
    widest = 0
    for index in order:
        grown = max(widest, lengths[index])
        if chosen and (len(chosen) == rows or grown * (len(chosen) + 1) > budget):
            break
        chosen.append(index)
        widest = grown
    return sorted(chosen, key=lambda index: lengths[index])
