"""What has become of a part, by its lease and by what Prefect says; and which steps go together."""

from __future__ import annotations

from uuid import UUID

import pytest
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

from chains.graph import Graph
from chains.store import PartLease
from flows.parts.grouping import cut_rows, group_steps
from flows.parts.part import Part
from flows.parts.waiting import SETTLE_S, START_S, SUBMIT_S, Sent, Silence, judge
from flows.pools import PoolState

PART = Part("run1", 1, ("triage",), range(10), 0.0)
ALIVE, PASSED, RELEASED = PartLease(3, "w", True), PartLease(3, "w", False), PartLease(4, None, False)


@pytest.fixture
async def sent() -> Sent:
    return Sent(PART, "pool", UUID(int=1), 100.0, 2)


async def test_who_renews_its_lease_is_alive_whatever_prefect_believes(sent: Sent) -> None:
    assert judge(sent, ALIVE, Pending(), 100.0) is None
    assert judge(sent, ALIVE, Pending(), 10_000.0) is None


async def test_a_lease_that_has_passed_is_a_lost_part_although_prefect_says_running(sent: Sent) -> None:
    assert judge(sent, ALIVE, Running(), 100.0) is None
    ending = judge(sent, PASSED, Running(), 131.0)
    assert ending is not None and ending.kind == "lost"


async def test_a_lease_of_the_try_before_says_nothing_of_this_one(sent: Sent) -> None:
    assert judge(sent, PartLease(2, None, False), Scheduled(), 5000.0) is None
    assert not sent.begun


@pytest.mark.parametrize(
    "state, kind",
    [
        (Completed(message="1 ok"), "done"),
        (Cancelled(), "cancelled"),
        (Crashed(), "lost"),
        (Failed(message="Flow run encountered an exception: EnvironmentLacks: no key"), "failed"),
    ],
)
async def test_a_final_state_ends_the_waiting(sent: Sent, state, kind: str) -> None:
    ending = judge(sent, ALIVE, state, 100.0)
    assert ending is not None and ending.kind == kind
    assert "Flow run" not in ending.message


async def test_a_part_that_was_given_back_is_done_also_where_prefect_says_nothing(sent: Sent) -> None:
    assert judge(sent, RELEASED, None, 100.0) is None
    assert judge(sent, RELEASED, None, 100.0 + SETTLE_S) is None
    ending = judge(sent, RELEASED, None, 101.0 + SETTLE_S)
    assert ending is not None and ending.kind == "done"


@pytest.mark.parametrize("state, patience", [(Running(), START_S), (Pending(), SUBMIT_S)])
async def test_a_process_that_never_takes_the_lease_was_killed_before(sent: Sent, state, patience) -> None:
    assert judge(sent, None, state, 100.0) is None
    assert judge(sent, None, state, 99.0 + patience) is None
    ending = judge(sent, None, state, 101.0 + patience)
    assert ending is not None and ending.kind == "lost"


@pytest.mark.parametrize(
    "workers, paused, text",
    [
        ((), False, "waiting for pool 'gpu' (37 s, no worker)"),
        (("a",), False, "waiting for pool 'gpu' (37 s, 1 worker)"),
        (("a", "b"), False, "waiting for pool 'gpu' (37 s, 2 workers)"),
        (("a",), True, "waiting for pool 'gpu' (37 s, paused)"),
    ],
)
def test_a_silent_pool_is_shown_with_its_age(workers, paused, text: str) -> None:
    assert Silence(0.0).text(PoolState("gpu", "process", workers, paused), 37.2) == text


def graph(**needs: str) -> Graph:
    upstream = {step: frozenset(names.split()) for step, names in needs.items()}
    return Graph(tuple(needs), upstream, upstream, dict.fromkeys(needs, frozenset()))


def grouped(found: Graph, once: str, pools: dict[str, str], parts: int) -> list[tuple[str, ...]]:
    rows = [range(n * 10, n * 10 + 10) for n in range(parts)]
    return [group.steps for group in group_steps(found, frozenset(once.split()), pools, rows)]


def test_dependent_steps_of_a_row_stay_in_one_part() -> None:
    steps = graph(a="", b="a", score="b", c="b")
    assert grouped(steps, "score", dict.fromkeys("abc", "p"), 3) == [("a", "b", "c")]


def test_a_once_step_between_parts_them() -> None:
    steps = graph(a="", sum="a", b="a sum", c="b")
    assert grouped(steps, "sum", dict.fromkeys("abc", "p"), 3) == [("a",), ("b", "c")]


def test_a_once_step_shares_the_part_that_has_all_rows() -> None:
    steps = graph(tune="", answer="tune", score="answer")
    pools = {"tune": "gpu", "answer": "gpu"}
    assert grouped(steps, "tune score", pools, 1) == [("tune", "answer")]
    assert grouped(steps, "tune score", pools, 2) == [("tune",), ("answer",)]


def test_steps_of_two_pools_do_not_wait_for_each_other_in_a_circle() -> None:
    steps = graph(a="", g1="a", b="g1", g2="b")
    pools = {"g1": "gpu", "g2": "gpu"}
    found = group_steps(steps, frozenset(), pools, [range(10)])
    assert [(group.steps, group.needs) for group in found] == [(("g1",), {"a"}), (("g2",), {"b"})]


def test_parts_are_whole_shards_and_a_few_for_each_worker() -> None:
    def sizes(rows: int, workers: int, part_rows: int | None = None) -> list[int]:
        cut = cut_rows(range(rows), shard_rows=256, part_rows=part_rows, workers=workers)
        assert [n for part in cut for n in part] == list(range(rows))
        return [len(part) for part in cut]

    assert sizes(300, 2) == [300]
    assert sizes(10_000, 2)[0] == 5 * 256
    assert len(sizes(100_000, 2)) == 13
    assert sizes(100, 2, part_rows=40) == [40, 40, 20]
