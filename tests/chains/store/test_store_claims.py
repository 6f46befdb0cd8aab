"""pytest tests/chains/store/test_store_claims.py"""

from __future__ import annotations

import asyncio

import pytest

from chains.errors import InputInvalid, StoreConflict
from chains.store import Claim, Limit, Usage, Verdict

KEY, OTHER = "k" * 64, "l" * 64


async def test_a_key_is_claimed_by_one_holder(shared):
    assert KEY in await shared.claim([KEY], holder="one")
    assert set(await shared.claim([KEY, OTHER], holder="two")) == {OTHER}
    assert (shared.claimed_by(KEY), shared.claimed_by(OTHER)) == ("one", "two")


async def test_a_claim_that_was_given_back_is_free(shared):
    await shared.claim([KEY], holder="one")
    await shared.release([KEY], "two")
    assert shared.claimed_by(KEY) == "one"
    await shared.release([KEY], "one")
    assert shared.claimed_by(KEY) is None
    assert KEY in await shared.claim([KEY], holder="two")


async def test_a_claim_passes_when_its_lease_does_and_the_fence_rises(shared, elapse):
    first = await shared.claim([KEY], holder="one", lease=30)
    elapse(29)
    assert await shared.claim([KEY], holder="two") == {}
    elapse(2)
    assert shared.claimed_by(KEY) is None
    second = await shared.claim([KEY], holder="two")
    assert second[KEY] > first[KEY]


async def test_a_renewed_claim_stays(shared, elapse):
    await shared.claim([KEY, OTHER], holder="one", lease=30)
    for _ in range(5):
        elapse(20)
        assert await asyncio.to_thread(shared.renew, "one", 30) == 2
    assert await shared.claim([KEY], holder="two") == {}


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_jump_of_the_wall_clock_ends_no_claim_and_keeps_none(shared, clock, jump, elapse):
    await shared.claim([KEY], holder="one", lease=30)
    clock.wall += jump
    assert await shared.claim([KEY], holder="two") == {}
    elapse(31)
    assert KEY in await shared.claim([KEY], holder="two")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)  # a server's time is no uptime
async def test_a_claim_from_before_the_machine_was_restarted_is_over(shared, clock):
    clock.time = 90_000.0
    await shared.claim([KEY], holder="one", lease=30)
    clock.time = 60.0
    assert KEY in await shared.claim([KEY], holder="two")


async def test_a_late_record_under_an_old_fence_is_refused_and_the_new_one_stays(shared, record_row, elapse):
    old = (await shared.claim([KEY], holder="one", lease=30))[KEY]
    elapse(31)
    new = (await shared.claim([KEY], holder="two", lease=30))[KEY]
    with pytest.raises(StoreConflict, match="has passed to another process"):
        await shared.aput(record_row(0, value_key=KEY), fence=old)
    await shared.aput(record_row(1, value_key=KEY), fence=new)
    assert [record.row for record in shared.records("run1")] == [1]


async def test_a_final_record_gives_its_claim_back_and_a_running_one_does_not(shared, record_row):
    fence = (await shared.claim([KEY], holder="one"))[KEY]
    await shared.aput(record_row(0, value_key=KEY, status="running"), fence=fence)
    assert shared.claimed_by(KEY) == "one"
    await shared.aput(record_row(0, value_key=KEY, status="ok"), fence=fence)
    assert shared.claimed_by(KEY) is None
    with pytest.raises(StoreConflict):
        await shared.aput(record_row(0, value_key=KEY), fence=fence)


async def test_a_call_and_its_claim_begin_in_one_transaction(shared, record_row, attempt_row):
    async def begin(row: int, key: str, holder: str, **wish) -> Verdict:
        opening = record_row(row, status="running")
        intent = attempt_row(id=f"a{row}", record_id=opening.id)
        claim = Claim(key, holder, **wish)
        return await shared.begin_attempt(opening, intent, claim=claim)

    before = shared.transactions
    first, twin, other = await asyncio.gather(
        begin(0, KEY, "one"), begin(1, KEY, "one"), begin(2, OTHER, "one")
    )
    assert shared.transactions - before == 1
    assert (first.allowed, twin.allowed, other.allowed) == (True, False, True)
    assert twin.claimed_by == "one"
    assert await begin(3, KEY, "two") == Verdict(False, claimed_by="one")
    assert {record.row for record in shared.records("run1")} == {0, 2}
    await shared.aput(record_row(0, value_key=KEY), fence=first.fence)
    assert await begin(3, KEY, "two") == Verdict(False, done="record-0")
    assert (await begin(3, KEY, "two", anew=True)).allowed


async def test_a_claim_is_not_kept_by_a_call_that_a_budget_forbids(shared, record_row, attempt_row):
    opening, intent = record_row(0, status="running"), attempt_row()
    verdict = await shared.begin_attempt(
        opening,
        intent,
        limits=[Limit("run:run1", calls=0)],
        estimate=Usage(),
        claim=Claim(KEY, "one"),
    )
    assert (verdict.allowed, verdict.unit, verdict.fence) == (False, "calls", None)
    assert shared.claimed_by(KEY) is None
    assert shared.records("run1") == []


async def test_a_failed_record_is_no_answer(shared, record_row, attempt_row):
    shared.put(record_row(0, value_key=KEY, status="failed"))
    opening = record_row(1, status="running")
    intent = attempt_row(record_id=opening.id)
    assert (await shared.begin_attempt(opening, intent, claim=Claim(KEY, "one"))).allowed


@pytest.mark.parametrize("bad", [{"lease": 0}, {"lease": 3600}, {"holder": "../up"}, {"keys": [""]}])
async def test_a_claim_that_cannot_be_kept_is_refused(shared, bad):
    with pytest.raises(InputInvalid):
        await shared.claim(
            bad.get("keys", [KEY]), holder=bad.get("holder", "one"), lease=bad.get("lease", 30)
        )


# Runs


def test_a_run_is_leased_by_one_process(shared, again, clock):
    with again(clock=clock) as other:
        assert shared.lease_run("run1", "one")
        assert shared.lease_run("run1", "one")
        assert not other.lease_run("run1", "two")
        shared.release_run("run1", "one")
        assert other.lease_run("run1", "two")


def test_a_run_whose_lease_has_passed_is_lost(shared, run_row, elapse):
    assert shared.lost_runs() == []
    shared.lease_run("run1", "one", 30)
    elapse(20)
    shared.renew("one", 30)
    elapse(20)
    assert shared.lost_runs() == []
    elapse(20)
    assert shared.lost_runs() == [run_row]
    shared.close_lost("run1", "interrupted")
    assert shared.lost_runs() == []


async def test_who_lost_its_run_to_another_process_writes_to_it_no_more(
    shared, clock, record_row, run_row, elapse, again
):
    with again(clock=clock) as zombie:
        assert zombie.lease_run("run1", "zombie", 30)
        await zombie.claim([KEY], holder="zombie")
        await zombie.aput(record_row(0))
        elapse(31)
        assert shared.lease_run("run1", "new", 30)
        assert shared.claimed_by(KEY) is None
        shared.put(record_row(1))
        with pytest.raises(StoreConflict, match="taken over"):
            await zombie.aput(record_row(1, output=b"late"))
        with pytest.raises(StoreConflict, match="taken over"):
            zombie.put(run_row)
    assert shared.record("run1", "triage", 1).output is None


def test_who_takes_a_run_over_closes_what_was_lost_and_keeps_its_lease(
    shared, clock, record_row, attempt_row, elapse, again
):
    with again(clock=clock) as dead:
        dead.lease_run("run1", "dead", 30)
        dead.put(record_row(0, status="running"), attempt_row())
    elapse(31)
    assert shared.lease_run("run1", "new", 30)
    assert shared.close_lost("run1", "running") == 1
    shared.put(record_row(0))
    assert shared.record("run1", "triage", 0).status == "ok"


def test_closing_a_lost_run_from_outside_stops_its_process(shared, clock, record_row, again):
    with again(clock=clock) as paused:
        paused.lease_run("run1", "paused", 30)
        shared.close_lost("run1", "interrupted")
        with pytest.raises(StoreConflict, match="taken over"):
            paused.put(record_row(0))


def test_a_request_to_cancel_is_seen_by_others_and_survives_the_runs_own_writes(shared, run_row, again):
    assert shared.cancel_requested("run1") is None
    shared.lease_run("run1", "one")
    with again() as other:
        other.request_cancel("run1")
        shared.put(run_row)
        assert shared.cancel_requested("run1") == other.cancel_requested("run1") is not None
    shared.lease_run("run1", "one")
    assert shared.cancel_requested("run1") is None


# Rates


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)  # a server's own time passes as well
async def test_a_bucket_gives_its_rate_over_a_minute_and_hardly_more(shared, clock, elapse):
    granted, until = 0, clock.time + 60
    while clock.time < until:
        taken = await shared.take_slots("m", requests=5, per_minute_requests=600)
        granted += taken.requests
        elapse(max(taken.wait_s, 0.02))
    assert 0.95 * 600 <= granted <= 1.02 * 600


async def test_a_call_larger_than_the_bucket_waits_for_its_tokens_afterwards(shared, elapse):
    first = await shared.take_slots("m", requests=1, tokens=5000, per_minute_tokens=60_000)
    assert (first.requests, first.tokens) == (1, 5000)
    second = await shared.take_slots("m", requests=1, tokens=10, per_minute_tokens=60_000)
    assert second.requests == second.tokens == 0
    assert second.wait_s == pytest.approx((5000 - 600) / 1000, abs=1)
    elapse(second.wait_s + 0.001)
    assert (await shared.take_slots("m", requests=1, tokens=10, per_minute_tokens=60_000)).requests == 1


async def test_a_rate_of_one_per_minute_lets_one_through(shared, clock):
    assert (await shared.take_slots("m", requests=3, per_minute_requests=1)).requests == 1
    assert (await shared.take_slots("m", requests=1, per_minute_requests=1)).wait_s == pytest.approx(
        60, abs=1
    )


async def test_without_a_rate_everything_is_granted(shared):
    taken = await shared.take_slots("m", requests=100, tokens=10**9)
    assert (taken.requests, taken.tokens, taken.wait_s) == (100, 10**9, 0.0)


async def test_names_do_not_share_a_bucket(shared):
    assert (await shared.take_slots("m", requests=1, per_minute_requests=1)).requests == 1
    assert (await shared.take_slots("n", requests=1, per_minute_requests=1)).requests == 1
