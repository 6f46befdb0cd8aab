"""The one place that calls out, and the one retry loop.

Owns the life of an attempt: its intent is in the store before the first byte is sent, its outcome and the
bytes that came back are there before the caller sees them. Knows nothing of what is asked or of whom: a
call is some bytes, a function that sends them once and one that reads the reply. Invariant: calls per record
never exceed `retry.attempts` and the re-asked ones, across processes, because attempts of earlier processes
count (`first_number`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from chains import failpoints
from chains.clock import Clock
from chains.errors import HeadraceError, RateLimited, StepFailed, Transient
from chains.spec import Retry
from chains.store import AttemptRow, RecordRow
from tasks.context import OnceJob, Progress, RowJob, RowResult, StepContext
from tasks.providers.gate import Gate
from tasks.providers.reply import Reply

if TYPE_CHECKING:
    from chains.store import Store
    from chains.store.rows import AttemptState

T = TypeVar("T")


@dataclass(slots=True)
class Tally:
    """What the calls of one record came to in this process; a count is None once one of them is unknown."""

    attempts: int = 0
    tokens_in: int | None = 0
    tokens_out: int | None = 0

    def add(self, reply: Reply) -> None:
        """Add the tokens of one reply; an error reply that tells none has none."""
        answered = reply.status is None or 200 <= reply.status < 300
        self.tokens_in = _sum(self.tokens_in, reply.tokens_in, answered)
        self.tokens_out = _sum(self.tokens_out, reply.tokens_out, answered)


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made, how often it may be tried, and who else calls the same model.

    `first_number` is one more than the attempts that the store has for this record; `granted` of those do
    not count. `opening` is the record as `running`; it is committed together with the first intent. One
    Caller serves one record.
    """

    store: Store
    clock: Clock
    retry: Retry
    timeout: float
    gate: Gate
    free: bool
    run_id: str
    step: str
    record_id: str
    first_number: int = 1
    granted: int = 0
    row: int = -1
    opening: RecordRow | None = None
    report: Callable[[Progress], None] = lambda _: None
    jitter: Callable[[], float] = random.random
    tally: Tally = field(default_factory=Tally)

    @property
    def made(self) -> int:
        """How many attempts the record has, those of earlier processes included."""
        return self.first_number - 1 + self.tally.attempts

    def charge(self, result: RowResult) -> RowResult:
        """Write on a result what its calls came to; a price that is not known stays unknown."""
        result.attempts = self.made
        result.tokens_in, result.tokens_out = self.tally.tokens_in, self.tally.tokens_out
        result.cost_micro = 0 if self.free else None
        return result


def caller_for(ctx: StepContext, job: RowJob | OnceJob, model: str) -> Caller:
    """Return the caller for one record's calls to the model of this name."""
    return Caller(
        store=ctx.store,
        clock=ctx.clock,
        retry=ctx.retry,
        timeout=ctx.timeout,
        gate=ctx.providers.gate(model),
        free=ctx.providers.get(model).free,
        run_id=ctx.run_id,
        step=ctx.step_id,
        record_id=job.record_id,
        first_number=job.attempts_before + 1,
        granted=job.attempts_granted,
        row=job.row if isinstance(job, RowJob) else -1,
        opening=job.opening,
        report=ctx.report,
    )


async def call(
    caller: Caller,
    request: bytes,
    send: Callable[..., Awaitable[Reply]],
    read: Callable[[Reply], T],
    *,
    granted: int = 0,
) -> T:
    """Send until `read` accepts the reply, the attempts are used up or an error is terminal.

    `granted` adds to the bound: one for each answer that was asked for again. The error that is raised
    carries how each attempt of this call ended in `history`.
    """
    history: list[str] = []
    bound = caller.retry.attempts + caller.granted + granted
    backoff = 0.0
    while True:
        number = caller.made + 1
        if number > bound:
            raise _used_up(caller, bound)
        attempt = _Attempt(caller, number, request, tries=len(history))
        try:
            value, failure = await attempt.run(send, read, backoff)
        except HeadraceError as error:  # the gate turned this caller away, or the store took no row
            error.history = history
            raise
        if failure is None:
            return cast(T, value)
        history.append(f"attempt {number}: {type(failure).__name__}: {failure.message}")
        if not isinstance(failure, Transient) or number >= bound:
            raise _with_history(failure, history)
        backoff = _backoff(caller, failure, len(history))
        _report_retry(caller, failure, f"attempt {number} of {bound}", backoff)


class _Attempt:
    """One try: its row in the store, from intent to outcome."""

    def __init__(self, caller: Caller, number: int, request: bytes, *, tries: int) -> None:
        self._caller = caller
        self._number = number
        self._request = request
        self._tries = tries
        self._row: AttemptRow | None = None
        self._reply: Reply | None = None

    async def run(
        self, send: Callable[..., Awaitable[Reply]], read: Callable[[Reply], T], backoff: float
    ) -> tuple[T | None, HeadraceError | None]:
        """Wait for a place, send, keep what happened; return what was read, or why nothing was.

        What is raised is no outcome of the call: the gate's refusal, the store's, or a cancellation.
        """
        caller = self._caller
        since = caller.clock.monotonic()
        if backoff > 0:
            await asyncio.sleep(backoff)
        async with caller.gate.enter(tries=self._number):
            await self._begin(caller.clock.monotonic() - since)
            failpoints.hit("attempt.after_intent")
            value, failure = await self._send(send, read)
            self._tell_gate(failure)
        failpoints.hit("attempt.before_outcome")
        if failure is not None:
            await self._end("error", type(failure).__name__, failure.message)
        else:
            await self._end("ok")
        return value, failure

    async def _begin(self, waited: float) -> None:
        caller = self._caller
        self._row = AttemptRow(
            id=caller.clock.new_id(),
            record_id=caller.record_id,
            run_id=caller.run_id,
            step=caller.step,
            number=self._number,
            state="intent",
            request=self._request,
            started_at=caller.clock.now(),
            wait_s=round(waited, 6),
        )
        caller.tally.attempts += 1
        opening = [caller.opening] if caller.opening is not None and caller.tally.attempts == 1 else []
        try:
            await caller.store.aput(*opening, self._row)
        except asyncio.CancelledError:
            await self._end("error", "Cancelled", "stopped before it was sent")
            raise

    async def _send(
        self, send: Callable[..., Awaitable[Reply]], read: Callable[[Reply], T]
    ) -> tuple[T | None, HeadraceError | None]:
        try:
            reply = await send(self._request, timeout=self._caller.timeout)
            self._reply = reply
            self._caller.tally.add(reply)
            return (read(reply), None) if reply.failure is None else (None, reply.failure)
        except asyncio.CancelledError:
            # It may have been paid, and nobody will learn what became of it.
            await self._end("ambiguous", "Cancelled", "stopped while it was under way")
            raise
        except HeadraceError as error:
            return None, error
        except Exception as error:
            failure = StepFailed(f"an unexpected {type(error).__name__} in a call: {str(error)[:200]}")
            failure.__cause__ = error
            return None, failure

    async def _end(
        self, state: AttemptState, error_type: str | None = None, error_message: str | None = None
    ) -> None:
        """Commit the outcome; a cancellation that comes now does not lose it."""
        assert self._row is not None
        row = replace(
            self._row,
            state=state,
            error_type=error_type,
            error_message=error_message,
            finished_at=self._caller.clock.now(),
        )
        if self._reply is not None:
            row = replace(row, **_kept(self._reply))
        writing = asyncio.ensure_future(self._caller.store.aput(row))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing
            raise

    def _tell_gate(self, failure: HeadraceError | None) -> None:
        """Share what this outcome says about the endpoint with all callers of the model."""
        gate = self._caller.gate
        if not isinstance(failure, Transient):
            gate.widen()
            if failure is not None and self._reply is not None and self._reply.status == 401:
                gate.shut(failure)
        elif failure.retry_after is not None:
            gate.pause(failure.retry_after)
        elif isinstance(failure, RateLimited):
            gate.pause(_jittered(self._caller, self._tries))


def _kept(reply: Reply) -> dict[str, Any]:
    return {
        "response": reply.body,
        "status": reply.status,
        "model": reply.model,
        "request_id": reply.request_id,
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
    }


def _backoff(caller: Caller, failure: Transient, tries: int) -> float:
    """Return the seconds that this call waits by itself; what everybody waits for is kept by the gate."""
    if failure.retry_after is not None or isinstance(failure, RateLimited):
        return 0.0
    return _jittered(caller, tries - 1)


def _jittered(caller: Caller, earlier: int) -> float:
    """Return a back-off with full jitter: anything up to a limit that doubles with every try."""
    return caller.jitter() * min(caller.retry.cap, caller.retry.base * 2.0**earlier)


def _report_retry(caller: Caller, failure: Transient, which: str, backoff: float) -> None:
    wait = max(backoff, caller.gate.wait)
    text = f"{which}: {type(failure).__name__}: {failure.message} Next in {wait:.1f} s."
    caller.report(Progress(caller.step, "retry", row=caller.row, text=text))


def _used_up(caller: Caller, bound: int) -> StepFailed:
    """Return the error for a record whose attempts were all made, by this process or earlier ones."""
    earlier = caller.store.attempts(caller.record_id)
    failure = StepFailed(
        f"no attempt is left: {len(earlier)} of {bound} were made for this record, here or earlier.",
        hint="Start a new run, or raise `retry: {attempts: ...}`.",
    )
    failure.history = [
        f"attempt {row.number}: {row.error_type or row.state}: {row.error_message or ''}".rstrip(": ")
        for row in earlier
    ]
    return failure


def _with_history(failure: HeadraceError, history: list[str]) -> HeadraceError:
    failure.history = history
    if len(history) > 1:
        kinds = ", ".join(line.split(": ")[1] for line in history)
        failure.message = f"{failure.message} After {len(history)} attempts: {kinds}."
    return failure


def _sum(total: int | None, more: int | None, answered: bool) -> int | None:
    if more is None:
        return None if answered else total
    return None if total is None else total + more
