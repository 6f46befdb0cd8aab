"""The one place that calls out, and the one retry loop.

Owns the life of an attempt: its intent is in the store before the first byte is sent, with the claim and the
budget that allow it; its outcome and the bytes that came back are handed to the store before the caller sees
them, so that whatever is put later stands after them. Knows nothing of what is asked or of whom: a call is
some bytes, a function that sends them once and one that reads the reply. Invariant: calls per record never
exceed `retry.attempts` and the re-asked ones, across processes, because attempts of earlier processes count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from chains import failpoints
from chains.errors import HeadraceError, RateLimited, StepFailed, TimedOut, Transient
from chains.store import AttemptRow, RecordRow, Settlement, Usage, Verdict
from tasks.budgets import estimate_of, exceeded
from tasks.callers import Caller, Tally, caller_for
from tasks.context import Progress
from tasks.providers.reply import Reply

if TYPE_CHECKING:
    from chains.store.rows import AttemptState

__all__ = ["Caller", "Taken", "Tally", "call", "caller_for"]

T = TypeVar("T")


class Taken(Exception):
    """No call was made: somebody else has the answer (`done`, a record) or is working on it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__("the value key is claimed")
        self.done = verdict.done


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
    carries how each attempt of this call ended in `history`, and what all of them came to in `tally`.
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
        except (
            HeadraceError
        ) as error:  # the gate or a budget turned this caller away, or the store took no row
            error.history, error.tally = history, caller.tally
            raise
        if failure is None:
            return cast(T, value)
        history.append(f"attempt {number}: {type(failure).__name__}: {failure.message}")
        if not isinstance(failure, Transient) or number >= bound:
            raise _with_history(caller, failure, history)
        backoff = _backoff(caller, failure, len(history))
        _report_retry(caller, failure, f"attempt {number} of {bound}", backoff)


class _Attempt:
    """One try: its row in the store, from intent to outcome."""

    def __init__(self, caller: Caller, number: int, request: bytes, *, tries: int) -> None:
        self._caller = caller
        self._number = number
        self._request = request
        self._tries = tries
        self._estimate = _NOTHING
        self._begun: dict[str, Any] = {}  # what the row says from its intent on
        self._reply: Reply | None = None

    async def run(
        self, send: Callable[..., Awaitable[Reply]], read: Callable[[Reply], T], backoff: float
    ) -> tuple[T | None, HeadraceError | None]:
        """Wait for a place, send, keep what happened; return what was read, or why nothing was.

        What is raised is no outcome of the call: the gate's refusal, a budget's, the store's, or a
        cancellation.
        """
        caller = self._caller
        since = caller.clock.monotonic()
        await self._enter(backoff, since)
        try:
            failpoints.hit("attempt.after_intent")
            value, failure = await self._send(send, read)
            self._tell_gate(failure)
        finally:
            caller.gate.leave()
        failpoints.hit("attempt.before_outcome")
        if failure is None:
            self._end("ok")
        else:
            reached = not isinstance(failure, Transient) or failure.reached
            self._end("error", type(failure).__name__, _with_wish(failure), reached=reached)
        return value, failure

    async def _enter(self, backoff: float, since: float) -> None:
        """Return inside the gate with the intent in the store.

        The next in line have their intents committed while they wait, so that no place is idle meanwhile.
        """
        gate = self._caller.gate
        if self._caller.ahead and self._caller.tally.attempts == 0:
            async with gate.line:
                if gate.is_open:
                    await self._begin(since)
                    await self._wait_ready(backoff)
                    return
        await self._wait(backoff)
        try:
            await self._begin(since)
        except BaseException:
            gate.leave()
            raise

    async def _wait_ready(self, backoff: float) -> None:
        try:
            await self._wait(backoff)
        except BaseException as error:
            name = "Cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
            self._end("error", name, "stopped before it was sent", reached=False)
            raise

    async def _wait(self, backoff: float) -> None:
        """Return inside the gate; the record's deadline ends the waiting."""
        caller = self._caller
        if caller.deadline is None:
            if backoff > 0:
                await asyncio.sleep(backoff)
            await caller.gate.wait_for_place(self._number)
            return
        left = caller.left() if caller.tally.began is not None else None
        if left is not None and left <= 0:
            raise self._too_late()  # a place that is free would be taken without a look at the time
        try:
            async with asyncio.timeout(left):
                if backoff > 0:
                    await asyncio.sleep(backoff)
                await caller.gate.wait_for_place(self._number)
        except TimeoutError as error:
            raise self._too_late() from error
        if caller.tally.began is None:
            caller.tally.began = caller.clock.monotonic()

    def _too_late(self) -> TimedOut:
        return TimedOut(
            f"the row's deadline of {self._caller.deadline:g} s passed before attempt {self._number}.",
            hint="Raise `deadline:` of the step, or resume the run.",
        )

    async def _begin(self, since: float) -> None:
        caller = self._caller
        if caller.limits or caller.rates is not None:
            self._estimate = caller.estimate or estimate_of(self._request, caller.answer_tokens, caller.price)
        if caller.rates is not None:
            await caller.rates.take(self._estimate.tokens or 0)
        first = caller.tally.attempts == 0
        self._begun = {
            "id": caller.clock.new_id(),
            "record_id": caller.record_id,
            "run_id": caller.run_id,
            "step": caller.step,
            "number": self._number,
            "request": self._request,
            "started_at": caller.clock.now(),
            "wait_s": round(caller.clock.monotonic() - since, 6),
        }
        caller.tally.attempts += 1
        intent = AttemptRow(state="intent", **self._begun)
        verdict = await self._asked(intent, caller.opening if first else None)
        while verdict.scope is not None and await caller.reservations.one_ends():
            verdict = await self._asked(intent, caller.opening if first else None)
        if not verdict.allowed:
            self._refused(verdict)

    async def _asked(self, intent: AttemptRow, opening: RecordRow | None) -> Verdict:
        """Return whether the call may be sent; if so, it is in the store and counted."""
        caller = self._caller
        shut = caller.gate.refusal()
        if shut is not None:  # since this call passed the gate, where it then waited for its rate or budget
            self._not_sent()
            raise shut
        claim = caller.claim if caller.tally.fence is None else None
        if claim is None and not caller.limits:
            return await self._always_allowed(intent, opening)
        asking = asyncio.ensure_future(
            caller.store.begin_attempt(
                opening, intent, limits=caller.limits, estimate=self._estimate, claim=claim
            )
        )
        try:
            verdict = await asyncio.shield(asking)
        except asyncio.CancelledError:
            [answer] = await asyncio.gather(asking, return_exceptions=True)
            if isinstance(answer, Verdict) and answer.allowed:
                caller.reservations.begin()
                self._end("error", "Cancelled", "stopped before it was sent", reached=False)
            raise
        if verdict.allowed:
            caller.reservations.begin()
            if verdict.fence is not None:
                caller.tally.fence = verdict.fence
        return verdict

    async def _always_allowed(self, intent: AttemptRow, opening: RecordRow | None) -> Verdict:
        caller = self._caller
        caller.reservations.begin()
        try:
            return await caller.store.begin_attempt(opening, intent)
        except asyncio.CancelledError:
            self._end("error", "Cancelled", "stopped before it was sent", reached=False)
            raise
        except BaseException:
            caller.reservations.end()
            raise

    def _refused(self, verdict: Verdict) -> None:
        """Raise for a call that may not be made; nothing of it is in the store."""
        self._not_sent()
        if verdict.scope is not None:
            raise exceeded(verdict, self._estimate)
        raise Taken(verdict)

    def _not_sent(self) -> None:
        self._caller.tally.attempts -= 1
        if self._caller.rates is not None:
            self._caller.rates.put_back(self._estimate.tokens or 0)

    async def _send(
        self, send: Callable[..., Awaitable[Reply]], read: Callable[[Reply], T]
    ) -> tuple[T | None, HeadraceError | None]:
        caller = self._caller
        left = caller.left()
        timeout = caller.timeout if left is None else max(0.001, min(caller.timeout, left))
        try:
            reply = await send(self._request, timeout=timeout)
            self._reply = reply
            caller.tally.add(reply, caller.cost_of(reply))
            return (read(reply), None) if reply.failure is None else (None, reply.failure)
        except asyncio.CancelledError:
            # It may have been paid, and nobody will learn what became of it.
            self._end("ambiguous", "Cancelled", "stopped while it was under way")
            raise
        except HeadraceError as error:
            return None, error
        except Exception as error:
            failure = StepFailed(f"an unexpected {type(error).__name__} in a call: {str(error)[:200]}")
            failure.__cause__ = error
            return None, failure

    def _end(
        self,
        state: AttemptState,
        error_type: str | None = None,
        error_message: str | None = None,
        *,
        reached: bool = True,
    ) -> None:
        """Hand the outcome to the store, which writes it before whatever is put later."""
        caller, reply = self._caller, self._reply
        kept = {} if reply is None else _kept(reply) | {"cost_micro": caller.cost_of(reply)}
        row = AttemptRow(
            **self._begun,
            state=state,
            error_type=error_type,
            error_message=error_message,
            finished_at=caller.clock.now(),
            **kept,
        )
        settle = None
        if caller.limits or caller.rates is not None:
            actual = caller.used(reply, reached=reached)
            settle = Settlement(caller.limits, self._estimate, actual)
            if caller.rates is not None and actual.tokens is not None:
                caller.rates.give_back((self._estimate.tokens or 0) - actual.tokens)
        caller.store.hand_over(row, settle=settle)
        caller.reservations.end()

    def _tell_gate(self, failure: HeadraceError | None) -> None:
        """Share what this outcome says about the endpoint with all callers of the model."""
        caller, gate = self._caller, self._caller.gate
        if self._reply is None and isinstance(failure, Transient) and not failure.reached:
            if gate.unreached(caller.record_id, failure):
                text = f"the endpoint is down: {failure.message} Calls wait; it is tried again now and then."
                caller.report(Progress(caller.step, "message", row=caller.row, text=text))
            return
        gate.reached()
        if not isinstance(failure, Transient):
            gate.widen()
            if failure is not None and self._reply is not None and self._reply.status == 401:
                gate.shut(failure)
        elif failure.retry_after is not None:
            gate.pause(failure.retry_after)
        elif isinstance(failure, RateLimited):
            gate.pause(_jittered(caller, self._tries))


_NOTHING = Usage()


def _with_wish(failure: HeadraceError) -> str:
    """Return what an attempt's row says of a failure: also how long the endpoint asked to be left alone."""
    if not isinstance(failure, Transient) or failure.retry_after is None:
        return failure.message
    return f"{failure.message} Retry-After: {failure.retry_after:g} s."


def _kept(reply: Reply) -> dict[str, Any]:
    return {
        "response": reply.body,
        "status": reply.status,
        "model": reply.model,
        "request_id": reply.request_id,
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "device_wait_s": round(reply.waited_s, 6),
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
    failure.tally = caller.tally
    failure.history = [
        f"attempt {row.number}: {row.error_type or row.state}: {row.error_message or ''}".rstrip(": ")
        for row in earlier
    ]
    return failure


def _with_history(caller: Caller, failure: HeadraceError, history: list[str]) -> HeadraceError:
    failure.history, failure.tally = history, caller.tally
    if len(history) > 1:
        kinds = ", ".join(line.split(": ")[1] for line in history)
        failure.message = f"{failure.message} After {len(history)} attempts: {kinds}."
    return failure
