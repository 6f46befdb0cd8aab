"""On whose behalf calls are made: what one record may spend, how patiently, and what it came to so far.

Owns `Caller` and its tally. Knows nothing of sending (tasks.attempts). One Caller serves one record.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chains.clock import Clock
from chains.errors import StepFailed
from chains.spec import Price, PromptStep, Retry
from chains.store import Claim, Limit, RecordRow, Usage
from tasks.budgets import DEFAULT_ANSWER_TOKENS, Reservations, check_priced, limits_of
from tasks.context import OnceJob, Progress, RowJob, RowResult, StepContext
from tasks.prices import cost_micro
from tasks.providers.gate import Gate
from tasks.providers.rates import Rates
from tasks.providers.reply import Reply

if TYPE_CHECKING:
    from chains.store import Store


@dataclass(slots=True)
class Tally:
    """What the calls of one record came to in this process; a count is None once one of them is unknown."""

    attempts: int = 0
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cost_micro: int | None = 0
    began: float | None = None
    fence: int | None = None

    def add(self, reply: Reply, cost: int | None) -> None:
        """Add the tokens and cost of one reply; an error reply that tells none has none."""
        answered = reply.status is None or 200 <= reply.status < 300
        self.tokens_in = _sum(self.tokens_in, reply.tokens_in, answered)
        self.tokens_out = _sum(self.tokens_out, reply.tokens_out, answered)
        self.cost_micro = _sum(self.cost_micro, cost, answered)


@dataclass(slots=True)
class Caller:
    """On whose behalf a call is made, how often it may be tried, and who else calls the same model.

    `first_number` is one more than the attempts that the store has for this record; `granted` of those do
    not count. `opening` is the record as `running`; it is committed together with the first intent, and so
    is `claim`. `price` None is unknown. `answer_tokens` are reserved for what may come back. With `ahead` the
    first intent may be committed while the call waits for its place. `estimate` is the most that the call may
    use, where its bytes do not tell.
    """

    store: Store
    clock: Clock
    retry: Retry
    timeout: float
    gate: Gate
    run_id: str
    step: str
    record_id: str
    price: Price | None = None
    first_number: int = 1
    granted: int = 0
    row: int = -1
    opening: RecordRow | None = None
    deadline: float | None = None
    limits: Sequence[Limit] = ()
    reservations: Reservations = field(default_factory=Reservations)
    answer_tokens: int = 0
    rates: Rates | None = None
    claim: Claim | None = None
    ahead: bool = False
    estimate: Usage | None = None
    report: Callable[[Progress], None] = lambda _: None
    jitter: Callable[[], float] = random.random
    tally: Tally = field(default_factory=Tally)

    @property
    def made(self) -> int:
        """How many attempts the record has, those of earlier processes included."""
        return self.first_number - 1 + self.tally.attempts

    def left(self) -> float | None:
        """Return the seconds until the record's deadline, which runs from its first place in the queue."""
        if self.deadline is None:
            return None
        began = self.tally.began
        return self.deadline if began is None else self.deadline - (self.clock.monotonic() - began)

    def cost_of(self, reply: Reply) -> int | None:
        """Return what a reply costs; a refusal costs nothing."""
        if reply.status is not None and reply.status >= 300 and reply.tokens_in is None:
            return 0
        return cost_micro(self.price, reply.tokens_in, reply.tokens_out)

    def used(self, reply: Reply | None, *, reached: bool) -> Usage:
        """Return what a call came to, for its budgets; a call of which nobody knows keeps its estimate."""
        if reply is None:
            return Usage(1) if reached else Usage(1, 0, 0)
        tokens: int | None = None
        if reply.tokens_in is not None or reply.tokens_out is not None:
            tokens = (reply.tokens_in or 0) + (reply.tokens_out or 0)
        elif reply.status is not None and reply.status >= 300:
            tokens = 0
        return Usage(1, tokens, self.cost_of(reply))

    def charge(self, result: RowResult) -> RowResult:
        """Write on a result what its calls came to; a price that is not known stays unknown."""
        result.attempts = self.made
        result.tokens_in, result.tokens_out = self.tally.tokens_in, self.tally.tokens_out
        result.cost_micro = self.tally.cost_micro
        result.fence = self.tally.fence
        return result


def caller_for(ctx: StepContext, job: RowJob | OnceJob, model: str, *, claim: Claim | None = None) -> Caller:
    """Return the caller for one record's calls to the model of this name."""
    row = job.row if isinstance(job, RowJob) else -1
    price, limits = ctx.providers.price(model), limits_of(ctx)
    if limits:
        check_priced(limits, price, model)
    if job.attempts_before > job.attempts_granted and getattr(ctx.step, "on_ambiguous", "retry") == "fail":
        _refuse_doubtful(ctx, job, row)
    rates = ctx.providers.rates(model)
    # After a crash an intent counts as a try and as a doubt, and until then it holds its share of a budget or
    # of a rate: nothing for calls that wait, where any of these is scarce.
    doubt = ctx.retry.attempts > 1 and getattr(ctx.step, "on_ambiguous", "retry") != "fail"
    described = ctx.providers.described(model)
    answer = (described.max_tokens or DEFAULT_ANSWER_TOKENS) if isinstance(ctx.step, PromptStep) else 0
    return Caller(
        store=ctx.store,
        clock=ctx.clock,
        retry=ctx.retry,
        timeout=ctx.timeout,
        gate=ctx.providers.gate(model),
        run_id=ctx.run_id,
        step=ctx.step_id,
        record_id=job.record_id,
        price=price,
        first_number=job.attempts_before + 1,
        granted=job.attempts_granted,
        row=row,
        opening=job.opening,
        deadline=getattr(ctx.step, "deadline", None),
        limits=limits,
        reservations=ctx.providers.reservations,
        answer_tokens=answer,
        rates=rates,
        claim=claim,
        ahead=doubt and not limits and rates is None,
        report=ctx.report,
    )


def _refuse_doubtful(ctx: StepContext, job: RowJob | OnceJob, row: int) -> None:
    """Raise where an earlier process left a call of this record in doubt; the step says not to repeat it."""
    earlier = ctx.store.attempts(job.record_id, payloads=False)[job.attempts_granted :]
    doubtful = [attempt for attempt in earlier if attempt.state in ("intent", "ambiguous")]
    if doubtful:
        raise StepFailed(
            f"attempt {doubtful[-1].number} was interrupted and may have been paid; `on_ambiguous: fail`.",
            hint=f"Look at it with `headrace show {ctx.run_id} --step {ctx.step_id}"
            + (f" --row {row}`; " if row >= 0 else "`; ")
            + f"`headrace retry {ctx.run_id}` makes the call again.",
        )


def _sum(total: int | None, more: int | None, answered: bool) -> int | None:
    if more is None:
        return None if answered else total
    return None if total is None else total + more
