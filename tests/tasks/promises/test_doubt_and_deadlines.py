"""Calls in doubt, rows that take too long, and endpoints that are not there."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from chains.clock import Clock
from chains.store import AttemptRow, RecordRow
from tasks.providers.circuit import Circuit
from tasks.providers.gate import Gate


def interrupted(desk: Any, row: int = 0) -> None:
    """Leave what a process leaves that is killed while a call is under way."""
    desk.store.put(
        RecordRow(id=f"record{row}", run_id=desk.run_id, step="triage", row=row, started_at=1.0),
        AttemptRow(
            id=f"attempt{row}", record_id=f"record{row}", run_id=desk.run_id, step="triage", number=1,
            request=b"{}", started_at=1.0,
        ),
    )  # fmt: skip
    desk.store.close_lost(desk.run_id, "interrupted")


async def test_a_call_in_doubt_is_made_again_by_default_and_counts(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(server)
    interrupted(desk)

    await desk.run("a")

    attempts = desk.store.attempts("record0")
    assert [(attempt.number, attempt.state) for attempt in attempts] == [(1, "ambiguous"), (2, "ok")]
    assert len(server.ledger()) == 1


async def test_with_on_ambiguous_fail_the_row_fails_and_nothing_is_sent(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(server, step="    on_ambiguous: fail")
    interrupted(desk)

    await desk.run("a", "b")

    assert desk.statuses() == ["failed", "ok"]
    assert len(server.ledger()) == 1
    error = json.loads(desk.records()[0].error)
    assert "attempt 1 was interrupted and may have been paid" in error["message"]
    assert f"headrace show {desk.run_id} --step triage --row 0" in error["hint"]
    assert f"headrace retry {desk.run_id}" in error["hint"]


async def test_when_the_user_runs_the_failed_row_again_the_call_in_doubt_is_forgiven(
    serve: Any, desks: Any
) -> None:
    server = serve()
    desk = desks(server, step="    on_ambiguous: fail")
    interrupted(desk)
    await desk.run("a")
    await asyncio.sleep(0.01)

    await desk.run("a")

    assert desk.statuses() == ["ok"]
    assert len(server.ledger()) == 1


async def test_a_deadline_ends_the_tries_of_a_row(serve: Any, desks: Any) -> None:
    server = serve({"fault": "status", "status": 503, "headers": {"retry-after-ms": "200"}})
    desk = desks(server, step="    deadline: 300ms")
    began = time.monotonic()

    await desk.run("a")

    assert time.monotonic() - began < 1.5
    assert len(server.ledger()) == 2
    (record,) = desk.records()
    error = json.loads(record.error)
    assert error["type"] == "TimedOut"
    assert "the row's deadline of 0.3 s passed before attempt 3" in error["message"]
    assert len(error["history"]) == 2


async def test_a_deadline_cuts_the_attempt_that_would_outlast_it(serve: Any, desks: Any) -> None:
    server = serve({"fault": "hang"})
    desk = desks(server, step="    deadline: 200ms\n    timeout: 30s\n    retry: {attempts: 1}")
    began = time.monotonic()

    await desk.run("a")

    assert time.monotonic() - began < 2
    assert "TimedOut" in json.loads(desk.records()[0].error)["type"]


async def test_when_the_deadline_has_passed_nothing_more_is_sent(serve: Any, desks: Any) -> None:
    """An answer that does not fit comes after the deadline: it is not asked for again."""
    server = serve({"fault": "changed", "text": "prose"}, latency=0.1)
    form = "    output: {intent: string}\n    reask: 3\n    deadline: 90ms\n    timeout: 5s"
    desk = desks(server, step=form)

    await desk.run("a")

    assert len(server.ledger()) == 1
    assert desk.statuses() == ["failed"]


async def test_rows_that_wait_for_a_place_do_not_use_up_their_deadline(serve: Any, desks: Any) -> None:
    server = serve(latency=0.15)
    desk = desks(server, step="    deadline: 400ms", model=", limits: {concurrency: 1}")

    await desk.run("a", "b", "c", "d")

    assert desk.statuses() == ["ok"] * 4


def nobody() -> SimpleNamespace:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return SimpleNamespace(url=f"http://127.0.0.1:{probe.getsockname()[1]}/v1")


async def test_when_the_endpoint_is_down_most_rows_fail_without_a_call_and_say_so(desks: Any) -> None:
    desk = desks(nobody(), model=", limits: {concurrency: 4}")
    gate = Gate(4, circuit=Circuit(Clock(), interval=0.1, patience=0.3))
    desk.providers._gates["writer"] = gate
    began = time.monotonic()

    await desk.run(*(f"ticket {number}" for number in range(100)))

    assert time.monotonic() - began < 8
    assert desk.statuses() == ["failed"] * 100
    assert len(desk.store.attempts_of_run(desk.run_id)) < 60  # of 300
    last = json.loads(desk.records()[-1].error)
    assert "the endpoint is down" in last["message"] and "connect" in last["message"].lower()
    assert "Resume the run" in last["hint"]
    assert [p for p in desk.progress if p.event == "message" and "endpoint is down" in p.text]


async def test_an_outage_that_ends_in_time_fails_no_row(serve: Any, desks: Any) -> None:
    server = serve({"to": 12, "fault": "close"})
    desk = desks(server, model=", limits: {concurrency: 8}", step="    retry: {attempts: 6, base: 1ms}")
    desk.providers._gates["writer"] = Gate(8, circuit=Circuit(Clock(), interval=0.02, patience=20))

    await desk.run(*(f"ticket {number}" for number in range(20)))

    assert desk.statuses() == ["ok"] * 20
    assert len(server.ledger()) == 32


async def test_attempts_that_reached_nothing_do_not_count_as_answers_of_a_budget(desks: Any) -> None:
    desk = desks(nobody(), chain="budget: {tokens: 100000}")

    await desk.run("a")

    spent = desk.store.spent(f"run:{desk.run_id}")
    assert (spent.calls, spent.tokens) == (3, 0)


async def test_a_call_that_timed_out_keeps_its_estimate_in_the_budget(serve: Any, desks: Any) -> None:
    server = serve({"fault": "hang"})
    desk = desks(
        server,
        chain="budget: {tokens: 100000}",
        step="    timeout: 100ms\n    retry: {attempts: 1}",
        model=", max_tokens: 50",
    )

    await desk.run("a")

    spent = desk.store.spent(f"run:{desk.run_id}")
    assert spent.calls == 1
    assert 50 < spent.tokens < 120
    assert replace(spent, tokens=None).cost_micro == 0
