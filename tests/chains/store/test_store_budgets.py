"""pytest tests/chains/store/test_store_budgets.py"""

from __future__ import annotations

import asyncio

import pytest

from chains.errors import InputInvalid
from chains.store import Limit, Settlement, Usage, Verdict

DAY = "day:1970-01-01"
LIMITS = (Limit("step:run1/triage", calls=10), Limit("run:run1", usd_micro=1000, tokens=500))
ASK = Usage(tokens=100, cost_micro=300)


@pytest.fixture
def begin(store, record_row, attempt_row):
    async def begin(row: int, limits=LIMITS, estimate=ASK, to=None) -> Verdict:
        opening = record_row(row, status="running")
        intent = attempt_row(id=f"a{row}", record_id=opening.id)
        return await (to or store).begin_attempt(opening, intent, limits=limits, estimate=estimate)

    return begin


async def test_without_limits_a_call_begins_with_one_shared_transaction(store, begin):
    before = store.transactions
    verdicts = await asyncio.gather(*(begin(row, limits=()) for row in range(32)))
    assert verdicts == [Verdict(allowed=True)] * 32
    assert store.transactions - before == 1
    assert len(store.attempts_of_run("run1")) == 32


async def test_the_call_that_would_pass_a_limit_leaves_nothing_and_names_it(store, begin):
    verdicts = [await begin(row) for row in range(4)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False]
    refused = verdicts[3]
    assert (refused.scope, refused.unit, refused.limit, refused.spent) == ("run:run1", "usd_micro", 1000, 900)
    assert {record.row for record in store.records("run1")} == {0, 1, 2}
    assert store.spent("run:run1") == Usage(calls=3, tokens=300, cost_micro=900)


async def test_a_limit_may_be_used_to_its_end(begin):
    exact = (Limit("run:run1", tokens=200, calls=2),)
    assert [(await begin(row, exact)).allowed for row in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("limit", "unit"), [(Limit("run:run1", tokens=99), "tokens"), (Limit(DAY, calls=0), "calls")]
)
async def test_each_unit_is_limited_by_itself(begin, limit, unit):
    assert (await begin(0, (limit,))).unit == unit


async def test_callers_in_one_transaction_share_what_is_left(store, begin):
    before = store.transactions
    verdicts = await asyncio.gather(*(begin(row) for row in range(20)))
    assert sum(verdict.allowed for verdict in verdicts) == 3
    assert store.transactions - before == 1
    assert len(store.records("run1")) == 3


async def test_what_a_call_came_to_takes_the_place_of_its_estimate(store, begin, attempt_row):
    await begin(0)
    outcome = attempt_row(id="a0", record_id="record-0", state="ok", finished_at=2.0)
    actual = Usage(tokens=40, cost_micro=50)
    await store.end_attempt(outcome, limits=LIMITS, estimate=ASK, actual=actual)
    assert store.spent("run:run1") == store.spent("step:run1/triage") == actual
    assert store.attempts("record-0")[0].state == "ok"


async def test_a_settlement_that_was_handed_over_counts_before_the_next_call(store, begin, attempt_row):
    for row in range(3):
        assert (await begin(row)).allowed
    for row in range(3):
        outcome = attempt_row(id=f"a{row}", record_id=f"record-{row}", state="ok", finished_at=2.0)
        settle = Settlement(LIMITS, ASK, Usage(tokens=1, cost_micro=1))
        store.hand_over(outcome, settle=settle)
    assert (await begin(3)).allowed
    assert store.spent("run:run1") == Usage(calls=4, tokens=103, cost_micro=303)


async def test_what_is_unknown_keeps_its_estimate(store, begin, attempt_row):
    await begin(0)
    outcome = attempt_row(id="a0", record_id="record-0", state="ok", finished_at=2.0)
    await store.end_attempt(outcome, limits=LIMITS, estimate=ASK, actual=Usage())
    assert store.spent("run:run1") == ASK


async def test_a_call_that_was_never_sent_gives_its_reservation_back(store, begin, attempt_row):
    await begin(0)
    outcome = attempt_row(id="a0", record_id="record-0", state="error", finished_at=2.0)
    nothing = Usage(calls=0, tokens=0, cost_micro=0)
    await store.end_attempt(outcome, limits=LIMITS, estimate=ASK, actual=nothing)
    assert store.spent("run:run1") == nothing


async def test_a_limit_that_comes_later_counts_what_was_used_before(store, begin, record_row, attempt_row):
    used = {"state": "ok", "tokens_in": 30, "tokens_out": 12, "cost_micro": 7, "finished_at": 104.0}
    store.put(record_row(0), attempt_row(1, **used), attempt_row(2, **used, step="triage"))
    for scope in ("run:run1", "step:run1/triage", DAY):
        assert store.spent(scope) == Usage(calls=2, tokens=84, cost_micro=14)
        verdict = await begin(1, (Limit(scope, calls=2),))
        assert (verdict.allowed, verdict.spent) == (False, 2)
    assert (await begin(1, (Limit("day:1970-01-02", calls=1),))).allowed


async def test_processes_on_one_store_share_a_budget(store, again, begin):
    with again() as other:
        verdicts = []
        for row in range(10):
            verdicts.append(await begin(row, to=(store, other)[row % 2]))
        assert sum(verdict.allowed for verdict in verdicts) == 3
        assert other.spent("run:run1") == store.spent("run:run1")


@pytest.mark.parametrize("scope", ["run1", "year:2026", ""])
async def test_a_scope_that_means_nothing_is_refused(begin, scope):
    with pytest.raises(InputInvalid, match="no scope"):
        await begin(0, (Limit(scope, calls=1),))
