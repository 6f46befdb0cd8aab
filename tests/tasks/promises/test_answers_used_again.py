"""`cache:` and claims: which questions are asked, by whom, and who waits for whose answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import reuse

SAME = ", temperature: 0"


async def calls_of_runs(serve: Any, desks: Any, mode: str, model: str) -> list[int]:
    """Run the same three rows, two of them equal, in two runs; return the calls after each."""
    server = serve()
    calls = []
    for _ in range(2):
        desk = desks(server, step=f"    cache: {mode}" if mode else "", model=model)
        await desk.run("a", "b", "a")
        assert desk.statuses() == ["ok"] * 3
        calls.append(len(server.ledger()))
    return calls


@pytest.mark.parametrize(
    ("mode", "model", "calls"),
    [
        ("", SAME, [2, 2]),
        ("", "", [3, 6]),
        ("always", SAME, [2, 2]),
        ("always", ", temperature: 0.7", [2, 2]),
        ("run", SAME, [2, 4]),
        ("run", "", [2, 4]),
        ("never", SAME, [3, 6]),
        ("refresh", SAME, [3, 6]),
    ],
)
async def test_each_mode_asks_what_it_says(
    serve: Any, desks: Any, mode: str, model: str, calls: list[int]
) -> None:
    assert await calls_of_runs(serve, desks, mode, model) == calls


@pytest.mark.parametrize(
    ("mode", "calls"),
    [("", [2, 2]), ("always", [2, 2]), ("run", [2, 4]), ("never", [3, 6]), ("refresh", [3, 6])],
)
async def test_vectors_of_rows_are_used_again_as_the_step_says(
    serve: Any, desks: Any, mode: str, calls: list[int]
) -> None:
    server = serve()
    verb, made = 'embed: "{{ inputs.ticket }}"\n    model: writer', []
    for _ in range(2):
        desk = desks(server, verb=verb, step=f"    cache: {mode}" if mode else "")
        await desk.run("a", "b", "a")
        assert desk.statuses() == ["ok"] * 3
        made.append(len(server.ledger()))

    assert made == calls


async def test_what_was_refreshed_is_used_by_later_runs_and_the_newest_answer_counts(
    serve: Any, desks: Any
) -> None:
    server = serve({"at": 1, "fault": "changed", "text": "old"}, {"at": 2, "fault": "changed", "text": "new"})
    await desks(server, model=SAME).run("a")
    await desks(server, model=SAME, step="    cache: refresh").run("a")
    later = desks(server, model=SAME)

    await later.run("a")

    assert len(server.ledger()) == 2
    assert b'"text":"new"' in later.records()[0].output
    assert later.records()[0].reused_from is not None


async def test_a_resume_keeps_finished_rows_whatever_the_mode(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(server, step="    cache: never")
    await desk.run("a", "b")

    again = desks(server, step="    cache: never", run_id=desk.run_id)
    counts = await again.run("a", "b", "c")

    assert counts.resumed == 2
    assert len(server.ledger()) == 3


async def test_two_runs_that_ask_the_same_at_once_pay_once(serve: Any, desks: Any) -> None:
    server = serve(latency=0.1)
    one, two = desks(server, model=SAME), desks(server, model=SAME)
    tickets = [f"ticket {number}" for number in range(8)]

    await asyncio.gather(one.run(*tickets), two.run(*tickets))

    assert len(server.ledger()) == 8
    assert one.statuses() == two.statuses() == ["ok"] * 8
    linked = [r for desk in (one, two) for r in desk.records() if r.reused_from is not None]
    assert len(linked) == 8
    assert all(record.attempts == 0 for record in linked)


async def test_claims_are_given_back_with_the_record_and_after_a_failure(serve: Any, desks: Any) -> None:
    server = serve({"at": 2, "fault": "status", "status": 400})
    desk = desks(server, model=SAME)
    await desk.run("a")
    await desk.run("a", "b")

    assert desk.statuses() == ["ok", "failed"]
    keys = {reuse.question(desk.context(), "prompt", parts_of(desk, ticket)).key for ticket in "ab"}
    assert desk.records()[0].value_key in keys
    assert all(desk.store.claimed_by(key) is None for key in keys)


def parts_of(desk: Any, ticket: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Ticket: {ticket}"}]
    identity = desk.providers.get("writer").identity
    return {"messages": messages, "model": identity, "schema": None, "sample": 0}


async def test_who_waits_asks_himself_when_the_other_gives_up(serve: Any, desks: Any) -> None:
    server = serve({"at": 1, "fault": "status", "status": 400}, latency=0.1)
    one, two = desks(server, model=SAME), desks(server, model=SAME)

    first = asyncio.create_task(one.run("a"))
    await asyncio.sleep(0.03)
    await two.run("a")
    await first

    assert (one.statuses(), two.statuses()) == (["failed"], ["ok"])
    assert len(server.ledger()) == 2


async def test_a_claim_whose_holder_is_gone_is_taken_over_when_its_lease_ends(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(server, model=SAME)
    key = reuse.question(desk.context(), "prompt", parts_of(desk, "a")).key
    assert await desk.store.claim([key], holder="gone", lease=0.3)
    began = time.monotonic()

    await desk.run("a")

    assert desk.statuses() == ["ok"]
    assert 0.25 < time.monotonic() - began < 3
    assert len(server.ledger()) == 1


async def test_a_paused_process_links_what_was_made_meanwhile_in_its_place(serve: Any, desks: Any) -> None:
    """Its lease passed while it was away: its own late answer is not written, the other's is used."""
    server = serve({"at": 1, "fault": "none", "delay": 0.3}, {"at": 2, "fault": "changed", "text": "second"})
    late, other = desks(server, model=SAME), desks(server, model=SAME)
    key = reuse.question(late.context(), "prompt", parts_of(late, "a")).key
    paused = asyncio.create_task(late.run("a"))
    async with asyncio.timeout(5):
        while late.store.claimed_by(key) is None:
            await asyncio.sleep(0.005)
    await late.store.release([key], late.store.claimed_by(key))  # as if the lease had ended
    await other.run("a")

    await paused

    (record,) = late.records()
    (made,) = other.records()
    assert record.status == "ok" and record.reused_from == made.id
    assert record.output == made.output and b"second" in record.output
    assert len(late.store.attempts(record.id)) == 1  # what it paid stays in view


async def test_claims_are_renewed_while_there_is_work(
    serve: Any, desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "LEASE_S", 0.4)
    monkeypatch.setattr(reuse, "RENEW_S", 0.1)
    server = serve({"at": 1, "fault": "none", "delay": 1.0})
    one, two = desks(server, model=SAME), desks(server, model=SAME)

    first = asyncio.create_task(one.run("a"))
    await asyncio.sleep(0.1)
    await two.run("a")
    await first

    assert len(server.ledger()) == 1
    assert two.records()[0].reused_from == one.records()[0].id


async def test_without_others_a_claim_costs_no_transaction(serve: Any, desks: Any) -> None:
    server = serve()
    plain, claiming = desks(server), desks(server, model=SAME)
    counts = []
    for desk in (plain, claiming):
        before = desk.store.transactions
        await desk.run("a")
        counts.append(desk.store.transactions - before)

    assert counts[0] == counts[1] == 2


async def test_an_unexpected_error_of_a_look_reaches_every_row_that_waits() -> None:
    class Broken:
        def reusable(self, keys: list[str]) -> Any:
            raise LookupError(f"no place for {len(keys)}")

    looks = reuse._Looks(Broken())
    async with asyncio.timeout(5):
        found = await asyncio.gather(*map(looks.look, "aab"), return_exceptions=True)
    assert [str(error) for error in found] == ["no place for 2"] * 3


HOLD = """
import asyncio, sys, time
from chains.store import open_store

async def main():
    with open_store(sys.argv[1]) as store:
        assert await store.claim([sys.argv[2]], holder="other", lease=0.5)
        print("claimed", flush=True)
        time.sleep(60)

asyncio.run(main())
"""


async def test_a_claim_of_a_killed_process_ends_with_its_lease(
    serve: Any, desks: Any, tmp_path: Path
) -> None:
    server = serve()
    desk = desks(server, model=SAME)
    key = reuse.question(desk.context(), "prompt", parts_of(desk, "a")).key
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "store"), key]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"claimed\n"
        os.kill(other.pid, signal.SIGKILL)

    await desk.run("a")

    assert desk.statuses() == ["ok"] and len(server.ledger()) == 1


async def test_rows_that_look_at_once_share_a_query(
    serve: Any, desks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = desks(serve(), model=SAME)
    tickets = [f"ticket {number}" for number in range(20)]
    await first.run(*tickets)
    again = desks(SimpleNamespace(url=first.chain_file.chain.models["writer"].base_url), model=SAME)
    asked: list[int] = []
    reusable = type(again.store).reusable
    monkeypatch.setattr(
        type(again.store),
        "reusable",
        lambda store, keys: (asked.append(len(keys)), reusable(store, keys))[1],
    )

    await again.run(*tickets)

    assert [record.reused_from is not None for record in again.records()] == [True] * 20
    assert sum(asked) == 20 and len(asked) <= 3
