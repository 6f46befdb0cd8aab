"""Budgets of a run: which limits a call has, what it may use at most, and what is said when it may not.

Owns the limits of chain, step and machine as the store knows them, and the estimate of a call. The store
checks them in the transaction that lets a call be sent; prices are tasks.prices'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chains.errors import BudgetExceeded, EnvironmentLacks
from chains.graph import models_of
from chains.spec import Budget, CallingStep, Chain, Price
from chains.store import Limit, Usage, Verdict
from tasks.prices import cost_micro

if TYPE_CHECKING:
    from chains.settings import Settings
    from tasks.context import StepContext

DEFAULT_ANSWER_TOKENS = 1024
"""Tokens that are reserved for an answer where the model names no `max_tokens`."""
BYTES_PER_TOKEN = 4


class Reservations:
    """The calls of this process that are under way and count with their estimates.

    An estimate is mostly more than what a call comes to, so a budget that seems used up may not be: who is
    turned away waits for a call to end and asks again, until none is left.
    """

    def __init__(self) -> None:
        self._under_way = 0
        self._waiting: list[asyncio.Future[None]] = []

    def begin(self) -> None:
        """Note a call that is about to be sent."""
        self._under_way += 1

    def end(self) -> None:
        """Note that a call has ended and its estimate has been settled."""
        self._under_way -= 1
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def one_ends(self) -> bool:
        """Wait until a call ends; False at once where none is under way."""
        if not self._under_way:
            return False
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting
        return True


def limits_of(ctx: StepContext) -> tuple[Limit, ...]:
    """Return every limit that a call of this step has now; a day ends at midnight UTC."""
    settings = ctx.settings
    own = [
        # a judge's calls, of step `score-polite`, are those of the step `score`
        _limit(f"step:{ctx.run_id}/{ctx.step_id.partition('-')[0]}", getattr(ctx.step, "budget", None)),
        _limit(f"run:{ctx.run_id}", ctx.chain_file.chain.budget),
    ]
    most = (settings.budget_usd_per_day, settings.budget_tokens_per_day, settings.budget_calls_per_day)
    if any(number is not None for number in most):
        day = datetime.fromtimestamp(ctx.clock.now(), UTC).strftime("%Y-%m-%d")
        own.append(_limit(f"day:{day}", Budget(usd=most[0], tokens=most[1], calls=most[2])))
    return tuple(limit for limit in own if limit is not None)


def estimate_of(request: bytes, answer_tokens: int, price: Price | None) -> Usage:
    """Return the most that a call is expected to use: what is sent, and the longest answer."""
    sent = -(-len(request) // BYTES_PER_TOKEN)
    return Usage(1, sent + answer_tokens, cost_micro(price, sent, answer_tokens))


def unpriced(chain: Chain, settings: Settings, price_of: Callable[[str], Price | None]) -> list[str]:
    """Return, before any call, what is wrong with budgets in dollars: models whose price nobody knows."""
    for_all = settings.budget_usd_per_day is not None or (
        chain.budget is not None and chain.budget.usd is not None
    )
    names: dict[str, None] = {}
    for step in chain.steps.values():
        own: Budget | None = getattr(step, "budget", None)
        if isinstance(step, CallingStep) and (for_all or (own is not None and own.usd is not None)):
            names |= dict.fromkeys(name for name in models_of(step, chain) if name in chain.models)
    return [str(_unknown_price(name)) for name in names if price_of(name) is None]


def check_priced(limits: Sequence[Limit], price: Price | None, model: str) -> None:
    """Refuse a budget in dollars for a model whose price nobody knows."""
    if price is None and any(limit.usd_micro is not None for limit in limits):
        raise _unknown_price(model)


def _unknown_price(model: str) -> EnvironmentLacks:
    return EnvironmentLacks(
        f"a budget in US dollars is set, and what model {model!r} costs is not known.",
        hint="Add `price: {input: ..., output: ...}` to the model, in US dollars per million tokens, or "
        "name a file with prices in HEADRACE_PRICES. `tokens` and `calls` can be limited without.",
    )


def exceeded(verdict: Verdict, estimate: Usage) -> BudgetExceeded:
    """Return the error for a call that was not made."""
    unit, most = verdict.unit or "calls", verdict.limit or 0
    whose, cure = _words(verdict.scope or "", f"{_OPTIONS[unit]}={_enough(unit, most)}")
    more = {"usd_micro": estimate.cost_micro, "tokens": estimate.tokens, "calls": estimate.calls}[unit]
    return BudgetExceeded(
        f"the budget of {whose} is {_amount(unit, most)}: {_amount(unit, verdict.spent or 0)} are spent or "
        f"under way, and this call may take up to {_amount(unit, more or 0)}.",
        hint=cure,
    )


def _limit(scope: str, budget: Budget | None) -> Limit | None:
    if budget is None:
        return None
    usd = round(budget.usd * 1_000_000) if budget.usd is not None else None
    return Limit(scope, usd_micro=usd, tokens=budget.tokens, calls=budget.calls)


_OPTIONS = {"usd_micro": "usd", "tokens": "tokens", "calls": "calls"}


def _words(scope: str, option: str) -> tuple[str, str]:
    """Return whose budget a scope is, and how to go on."""
    kind, _, name = scope.partition(":")
    if kind == "run":
        return "the run", f"Go on with more: `headrace resume {name} --budget {option}`."
    if kind == "step":
        run, _, step = name.partition("/")
        return (
            f"step {step!r}",
            f"Raise `budget:` of the step, then `headrace resume {run}`.",
        )
    return f"the day {name} (UTC)", "Resume the run tomorrow, or raise HEADRACE_BUDGET_..._PER_DAY."


def _enough(unit: str, limit: int) -> str:
    return f"{limit * 2 / 1_000_000:g}" if unit == "usd_micro" else str(limit * 2)


def _amount(unit: str, number: int) -> str:
    if unit == "usd_micro":
        return f"{number / 1_000_000:.6f}".rstrip("0").ljust(4, "0").removesuffix(".") + " USD"
    return f"{number:,} {unit}"
