"""Parts of a run that other processes do: their leases and what they leave behind."""

from __future__ import annotations

import pytest

from chains.errors import StoreConflict

KEY = "k" * 64


@pytest.fixture
def shared(again, run_row, step_row, clock):
    """The store of the process that has the run, and the run's fence."""
    with again(clock=clock) as opened:
        assert opened.lease_run("run1", "parent")
        opened.put(run_row, step_row)
        yield opened


@pytest.fixture
def part(again, clock):
    with again(clock=clock) as opened:
        yield opened


async def test_a_part_writes_to_its_run_until_somebody_else_has_it(
    shared, part, again, clock, record_row
) -> None:
    fence = shared.run_fence("run1")
    assert part.lease_part("run1.rows-0", "first", run_fence=fence)
    await part.aput(record_row(0))
    with again(clock=clock) as other:
        assert not other.lease_part("run1.rows-0", "second", run_fence=fence)
        assert other.lease_part("run1.rows-9", "second", run_fence=fence)
        shared.end_part("run1.rows-0")
        other.release_run("run1.rows-9", "second")
        assert other.lease_part("run1.rows-0", "second", run_fence=fence)
        await other.aput(record_row(1, output=b"new"))
        with pytest.raises(StoreConflict, match="taken over"):
            await part.aput(record_row(1, output=b"late"))
        with pytest.raises(StoreConflict, match="taken over"):
            part.put(record_row(2))
    assert shared.record("run1", "triage", 1).output == b"new"
    shared.put(record_row(3))  # the run itself is still its own


async def test_the_end_of_a_run_ends_its_parts_and_gives_their_claims_back(shared, part, record_row) -> None:
    fence = shared.run_fence("run1")
    assert part.lease_part("run1.a", "worker", run_fence=fence)
    await part.claim([KEY], holder="worker")
    shared.release_run("run1", "parent")
    assert shared.part_leases("run1") == {} and shared.claimed_by(KEY) is None
    assert part.renew("worker") == 0
    with pytest.raises(StoreConflict, match="taken over"):
        await part.aput(record_row(0))
    with pytest.raises(StoreConflict, match="no longer the one"):
        part.lease_part("run1.a", "worker", run_fence=fence)


async def test_who_takes_a_run_over_takes_its_parts(shared, part, again, clock, record_row, elapse) -> None:
    fence = shared.run_fence("run1")
    assert part.lease_part("run1.a", "worker", run_fence=fence)
    elapse(31)
    with again(clock=clock) as resumed:
        assert resumed.lease_run("run1", "resumed")
        assert resumed.lease_part("run1.a", "worker2", run_fence=resumed.run_fence("run1"))
        with pytest.raises(StoreConflict, match="taken over"):
            await part.aput(record_row(0))


def test_a_part_is_alive_while_its_lease_is_renewed(shared, part, elapse) -> None:
    part.lease_part("run1.a", "worker", run_fence=shared.run_fence("run1"), lease=30)
    elapse(20)
    part.renew("worker", 30)
    elapse(20)
    assert shared.part_leases("run1")["run1.a"].alive
    elapse(20)
    assert not shared.part_leases("run1")["run1.a"].alive
    shared.end_part("run1.a")
    assert shared.part_leases("run1")["run1.a"].holder is None


def test_closing_a_part_leaves_the_calls_of_other_rows_and_steps_alone(
    shared, step_row, record_row, attempt_row
) -> None:
    rows = [record_row(n, status="running") for n in (0, 1, 2)]
    for record in rows:
        shared.put(record, attempt_row(1, id=f"attempt-{record.row}", record_id=record.id, state="intent"))
    assert shared.close_part("run1", ["other"], range(3)) == 0
    assert shared.close_part("run1", ["triage"], range(1, 3)) == 2
    states = [shared.attempts(record.id)[0].state for record in rows]
    assert states == ["intent", "ambiguous", "ambiguous"]
    statuses = [record.status for record in shared.records("run1", "triage")]
    assert statuses == ["running", "cancelled", "cancelled"]


def test_a_part_hears_its_own_cancellation_and_that_of_the_run(shared, part) -> None:
    part.lease_part("run1.a", "worker", run_fence=shared.run_fence("run1"))
    assert part.cancel_requested("run1", "run1.a") is None
    shared.request_cancel("run1.a")
    assert part.cancel_requested("run1", "run1.a") is not None
    assert shared.cancel_requested("run1") is None


def test_counts_of_a_range_of_rows_leave_the_others_out(shared, record_row) -> None:
    shared.put(*(record_row(n, status="ok" if n < 4 else "failed") for n in range(6)))
    assert shared.counts("run1", range(3, 6))["triage"]["ok"] == 1
    assert shared.counts("run1", range(3, 6))["triage"]["failed"] == 2
    assert shared.counts("run1")["triage"]["ok"] == 4
