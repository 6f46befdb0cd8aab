"""Budgets: the call that would pass one is not made, and what is said then."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chains.errors import EnvironmentLacks
from tasks.budgets import unpriced
from tasks.providers import Providers

TICKETS = [f"ticket number {number}" for number in range(12)]
PRICE = ", max_tokens: 20, price: {input: 1000, output: 1000}"


def used(desk: Any) -> tuple[int, int]:
    """What the ledger of attempts says: tokens and micro-dollars."""
    attempts = desk.store.attempts_of_run(desk.run_id)
    tokens = sum((a.tokens_in or 0) + (a.tokens_out or 0) for a in attempts)
    return tokens, sum(a.cost_micro or 0 for a in attempts)


async def test_a_budget_of_calls_of_the_run_lets_exactly_so_many_through(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(server, chain="budget: {calls: 5}")

    await desk.run(*TICKETS)

    assert len(server.ledger()) == 5
    assert sorted(desk.statuses()).count("ok") == 5
    (message, *_) = desk.over_budget
    assert "the budget of the run is 5 calls: 5 calls are spent or under way" in message
    assert f"headrace resume {desk.run_id} --budget calls=10" in message


async def test_rows_beyond_the_budget_are_cancelled_without_an_attempt_and_a_larger_one_finishes_them(
    serve: Any, desks: Any
) -> None:
    server = serve()
    desk = desks(server, chain="budget: {calls: 5}")
    await desk.run(*TICKETS)
    assert set(desk.statuses()) <= {"ok", "cancelled"}
    assert len(desk.store.attempts_of_run(desk.run_id)) == 5

    more = desks(server, chain="budget: {calls: 12}", run_id=desk.run_id)
    await more.run(*TICKETS)

    assert more.statuses() == ["ok"] * 12
    assert len(server.ledger()) == 12


async def test_a_budget_of_a_step_names_the_step(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(server, step="    budget: {calls: 2}")

    await desk.run(*TICKETS)

    assert len(server.ledger()) == 2
    assert "the budget of step 'triage' is 2 calls" in desk.over_budget[0]


async def test_dollars_are_never_passed_and_nearly_used_although_estimates_are_high(
    serve: Any, desks: Any
) -> None:
    server = serve(latency=0.01)
    # A call is estimated at about 60 tokens and comes to about 12 to 25.
    desk = desks(server, model=PRICE, chain="budget: {usd: 0.3}")

    await desk.run(*(f"ticket number {number}" for number in range(40)))

    tokens, micro = used(desk)
    assert micro == tokens * 1000
    assert 200_000 < micro <= 300_000
    assert desk.store.spent(f"run:{desk.run_id}").cost_micro == micro
    assert "the budget of the run is 0.30 USD" in desk.over_budget[0]
    assert "--budget usd=0.6" in desk.over_budget[0]
    record = next(record for record in desk.records() if record.status == "cancelled")
    assert json.loads(record.error)["type"] == "BudgetExceeded"


async def test_tokens_have_a_budget_too_and_without_a_limit_on_answers_a_thousand_are_reserved(
    serve: Any, desks: Any
) -> None:
    server = serve()
    none = desks(server, chain="budget: {tokens: 1000}")
    await none.run(*TICKETS)
    assert server.ledger() == []
    assert "this call may take up to 1,0" in none.over_budget[0]

    some = desks(server, chain="budget: {tokens: 1100}")
    await some.run(*TICKETS[:2])
    assert len(server.ledger()) >= 1
    assert used(some)[0] <= 1100


async def test_a_day_has_a_budget_over_all_runs(serve: Any, desks: Any) -> None:
    server = serve()
    first = desks(server, budget_calls_per_day=6)
    await first.run(*TICKETS[:4])
    second = desks(server, budget_calls_per_day=6)

    await second.run(*TICKETS)

    assert len(server.ledger()) == 6
    assert "the budget of the day 20" in second.over_budget[0]
    assert "HEADRACE_BUDGET_" in second.over_budget[0]


async def test_an_embed_step_has_a_budget_and_its_vectors_cost_no_answer(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(
        server,
        verb='embed: "{{ inputs.ticket }}"\n    model: writer',
        step="    budget: {calls: 3, tokens: 200}",
        model=", price: {input: 100}",
    )

    await desk.run(*TICKETS)

    assert len(server.ledger()) == 3
    (record, *_) = [record for record in desk.records() if record.status == "ok"]
    assert (record.tokens_out, record.cost_micro) == (0, 100 * record.tokens_in)


async def test_repeated_calls_count(serve: Any, desks: Any) -> None:
    server = serve({"fault": "status", "status": 500})
    desk = desks(server, chain="budget: {calls: 4}")

    await desk.run("a", "b")

    assert len(server.ledger()) == 4
    assert "cancelled" in desk.statuses()


async def test_a_budget_in_dollars_for_a_model_without_a_price_is_refused_before_any_call(
    serve: Any, desks: Any
) -> None:
    server = serve()
    desk = desks(server, chain="budget: {usd: 1}")

    await desk.run(*TICKETS)

    assert server.ledger() == []
    error = json.loads(desk.records()[0].error)
    assert error["type"] == "EnvironmentLacks"
    assert "what model 'writer' costs is not known" in error["message"]
    assert "HEADRACE_PRICES" in error["hint"]


async def test_costs_are_on_attempts_and_records_and_unknown_ones_stay_unknown(
    serve: Any, desks: Any
) -> None:
    server = serve({"at": 3, "fault": "no_usage"}, {"at": 4, "fault": "status", "status": 500})
    priced = desks(server, model=", price: {input: 2.5, output: 10}")
    await priced.run("a")
    (record,) = priced.records()
    (attempt,) = priced.store.attempts(record.id)
    assert record.cost_micro == attempt.cost_micro == round(2.5 * record.tokens_in + 10 * record.tokens_out)

    unknown = desks(server)
    await unknown.run("a")
    assert unknown.records()[0].cost_micro is None

    no_usage = desks(server, model=", price: {input: 2.5, output: 10}")
    await no_usage.run("a")
    assert no_usage.records()[0].cost_micro is None

    after_a_refusal = desks(server, model=", price: {input: 2.5, output: 10}")
    await after_a_refusal.run("a")
    (record,) = after_a_refusal.records()
    refused, answered = after_a_refusal.store.attempts(record.id)
    assert (refused.cost_micro, record.cost_micro) == (0, answered.cost_micro)


async def test_a_failed_row_keeps_what_its_calls_cost(serve: Any, desks: Any) -> None:
    server = serve({"fault": "changed", "finish_reason": "length"})
    desk = desks(server, model=", price: {input: 1, output: 1}")

    await desk.run("a")

    (record,) = desk.records()
    assert record.status == "failed"
    assert record.cost_micro == record.tokens_in + record.tokens_out > 0


def test_a_table_of_prices_that_cannot_be_read_is_told_before_any_call(serve: Any, desks: Any) -> None:
    desk = desks(serve(), prices="/no/such/file.json")

    (problem,) = desk.providers.check(["writer"])

    assert "/no/such/file.json" in problem
    with pytest.raises(EnvironmentLacks):
        Providers(desk.chain_file.chain.models, store=None, settings=desk.settings, env={}).price("writer")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"chain": "budget: {usd: 1}"}, ["writer"]),
        ({"step": "    budget: {usd: 1}"}, ["writer"]),
        ({"budget_usd_per_day": 1.0}, ["writer"]),
        ({"chain": "budget: {tokens: 1, calls: 1}"}, []),
        ({"chain": "budget: {usd: 1}", "model": ", price: {input: 1}"}, []),
    ],
)
def test_models_without_a_price_are_named_before_a_run_with_a_budget_in_dollars(
    serve: Any, desks: Any, options: dict[str, Any], names: list[str]
) -> None:
    desk = desks(serve(), **options)

    problems = unpriced(desk.chain_file.chain, desk.settings, desk.providers.price)

    assert len(problems) == len(names)
    assert all("what model 'writer' costs is not known" in problem for problem in problems)
