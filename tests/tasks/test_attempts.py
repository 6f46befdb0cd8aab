"""The retry loop against a real server, a real store and their ledgers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chains.clock import Clock
from chains.errors import (
    CallRefused,
    ConnectionFailed,
    ContextOverflow,
    HeadraceError,
    InvalidBody,
    RateLimited,
    ServerFault,
    StepFailed,
    TimedOut,
)
from chains.settings import Settings
from chains.spec import Limits, Model, Retry
from chains.store import RecordRow, RunRow, StepRow, Store, open_store
from tasks.attempts import Caller, call
from tasks.context import Progress
from tasks.providers import Completion, Providers, Reply

KEY = "sk-canary-77d0e3a1c4"
FAST = Retry(attempts=4, base=0.001, cap=0.002)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        run = RunRow(id="run", chain="c", chain_hash="h", source=b"", started_at=1.0)
        opened.put(run, StepRow(run_id="run", id="s", kind="prompt"))
        yield opened


class Desk:
    """One model behind a server; asks for rows."""

    def __init__(self, url: str, store: Store, **model: Any) -> None:
        key = "{{ env.OPENAI_API_KEY }}"
        part = Model(provider="openai", model="test-model", base_url=url, api_key=key, **model)
        self.providers = Providers({"m": part}, store=store, settings=Settings(), env={"OPENAI_API_KEY": KEY})
        self.provider = self.providers.get("m")
        self.store = store
        self.progress: list[Progress] = []

    def caller(self, row: int = 0, **changes: Any) -> Caller:
        opening = RecordRow(id=f"record{row}", run_id="run", step="s", row=row, started_at=1.0)
        options: dict[str, Any] = {"retry": FAST, "timeout": 5.0, "report": self.progress.append, **changes}
        return Caller(
            store=self.store,
            clock=Clock(),
            gate=self.providers.gate("m"),
            run_id="run",
            step="s",
            record_id=opening.id,
            row=row,
            opening=opening,
            **options,
        )

    async def ask(self, row: int = 0, text: str = "hello", **changes: Any) -> Completion:
        caller = changes.pop("caller", None) or self.caller(row, **changes)
        request = self.provider.chat_request([{"role": "user", "content": text}], schema=None, sample=0)
        try:
            return await call(caller, request, self.provider.send_chat, self.provider.read_chat)
        finally:
            await self.close_step()

    async def close_step(self) -> None:
        """Put something, as whoever calls does with the record: the outcome is in the store before it."""
        await self.store.aput(StepRow(run_id="run", id="s", kind="prompt"))

    def states(self, row: int = 0) -> list[str]:
        return [attempt.state for attempt in self.store.attempts(f"record{row}")]


async def called(server: Any) -> None:
    """Return when the server has seen a request."""
    async with asyncio.timeout(5):
        while not server.ledger():
            await asyncio.sleep(0.005)


@pytest.fixture
async def desk(serve: Any, store: Store) -> AsyncIterator[Callable[..., tuple[Desk, Any]]]:
    made: list[Desk] = []

    def begin(*rules: dict[str, Any], server: Any = None, **model: Any) -> tuple[Desk, Any]:
        server = server or serve(*rules)
        made.append(Desk(server.url, store, **model))
        return made[-1], server

    yield begin
    for one in made:
        await one.providers.aclose()


async def test_an_answer_leaves_one_attempt_with_the_exact_bytes_of_both_sides(desk: Any) -> None:
    one, server = desk()

    completion = await one.ask(text="Grüße 🌍")

    (attempt,) = one.store.attempts("record0")
    assert attempt.request == server.ledger()[0]["raw"]
    assert json.loads(attempt.response)["choices"][0]["message"]["content"] == completion.text
    assert (attempt.state, attempt.number, attempt.status) == ("ok", 1, 200)
    assert (attempt.model, attempt.request_id, attempt.error_type) == ("test-model", "req-1", None)
    assert attempt.tokens_in == completion.tokens_in
    assert attempt.finished_at >= attempt.started_at
    assert one.store.record("run", "s", 0).status == "running"


async def test_the_intent_is_in_the_store_before_the_server_sees_the_request(desk: Any) -> None:
    one, server = desk({"fault": "hang"})
    asking = asyncio.create_task(one.ask())
    await called(server)

    (attempt,) = one.store.attempts("record0")
    assert (attempt.state, attempt.response, attempt.finished_at) == ("intent", None, None)
    assert attempt.request == server.ledger()[0]["raw"]

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize(
    ("rule", "expected", "calls"),
    [
        ({"fault": "status", "status": 429}, RateLimited, 4),
        ({"fault": "status", "status": 500}, ServerFault, 4),
        ({"fault": "status", "status": 529}, ServerFault, 4),
        ({"fault": "status", "status": 408}, ServerFault, 4),
        ({"fault": "close"}, ConnectionFailed, 4),
        ({"fault": "cut", "bytes": 30}, InvalidBody, 4),
        ({"fault": "body", "text": "<html>", "content_type": "text/html"}, InvalidBody, 4),
        ({"fault": "changed", "top": {"choices": []}}, InvalidBody, 4),
        ({"fault": "changed", "message": {"content": None}}, InvalidBody, 4),
        ({"fault": "status", "status": 400}, CallRefused, 1),
        ({"fault": "status", "status": 403}, CallRefused, 1),
        ({"fault": "status", "status": 404}, CallRefused, 1),
        ({"fault": "status", "status": 422}, CallRefused, 1),
        ({"fault": "status", "status": 429, "code": "insufficient_quota"}, CallRefused, 1),
        ({"fault": "context_length"}, ContextOverflow, 1),
        ({"fault": "redirect", "location": "http://169.254.169.254/"}, CallRefused, 1),
        ({"fault": "unauthorized"}, CallRefused, 1),
    ],
    ids=str,
)
async def test_what_may_pass_is_tried_up_to_the_bound_and_what_will_not_is_tried_once(
    desk: Any, rule: dict[str, Any], expected: type[HeadraceError], calls: int
) -> None:
    one, server = desk(rule)

    with pytest.raises(expected) as caught:
        await one.ask()

    assert type(caught.value) is expected
    assert len(server.ledger()) == calls
    assert one.states() == ["error"] * calls
    assert len(caught.value.history) == calls
    assert caught.value.history[0].startswith(f"attempt 1: {expected.__name__}: ")
    assert {row.error_type for row in one.store.attempts("record0")} == {expected.__name__}
    assert len([p for p in one.progress if p.event == "retry"]) == calls - 1


async def test_a_call_goes_on_after_faults_of_several_kinds_and_keeps_each(desk: Any) -> None:
    one, server = desk(
        {"at": 1, "fault": "close"},
        {"at": 2, "fault": "status", "status": 503},
        {"at": 3, "fault": "cut", "bytes": 20},
    )

    await one.ask()

    attempts = one.store.attempts("record0")
    assert [a.error_type for a in attempts] == ["ConnectionFailed", "ServerFault", "InvalidBody", None]
    assert [a.status for a in attempts] == [None, 503, 200, 200]
    assert [a.number for a in attempts] == [1, 2, 3, 4]
    assert attempts[0].response is None
    assert b"scripted" in attempts[1].response
    assert len(attempts[2].response) == 20
    assert len(server.ledger()) == 4


async def test_a_message_after_several_attempts_names_how_each_ended(desk: Any) -> None:
    one, _ = desk({"at": 1, "fault": "close"}, {"fault": "status", "status": 500})

    with pytest.raises(ServerFault, match=r"After 2 attempts: ConnectionFailed, ServerFault\."):
        await one.ask(retry=Retry(attempts=2, base=0.001))


async def test_attempts_of_earlier_processes_count(desk: Any) -> None:
    one, server = desk({"fault": "status", "status": 500})
    with pytest.raises(ServerFault):
        await one.ask(retry=Retry(attempts=3, base=0.001))

    with pytest.raises(ServerFault):
        await one.ask(first_number=4)
    with pytest.raises(StepFailed, match="no attempt is left: 4 of 4") as caught:
        await one.ask(first_number=5)

    assert len(server.ledger()) == 4
    assert [row.number for row in one.store.attempts("record0")] == [1, 2, 3, 4]
    assert [line[:22] for line in caught.value.history] == [f"attempt {n}: ServerFault" for n in (1, 2, 3, 4)]


async def test_granted_attempts_do_not_count(desk: Any) -> None:
    one, server = desk({"to": 2, "fault": "status", "status": 500})
    with pytest.raises(ServerFault):
        await one.ask(retry=Retry(attempts=2, base=0.001))

    await one.ask(retry=Retry(attempts=2, base=0.001), first_number=3, granted=2)

    assert len(server.ledger()) == 3
    assert one.states() == ["error", "error", "ok"]


async def test_retry_after_is_waited_for(desk: Any) -> None:
    one, server = desk({"at": 1, "fault": "status", "status": 429, "headers": {"retry-after-ms": "150"}})

    await one.ask()

    first, second = server.ledger()
    assert 0.14 < second["at"] - first["at"] < 1
    refused, answered = one.store.attempts("record0")
    assert answered.wait_s > 0.14 and refused.error_message.endswith("Retry-After: 0.15 s.")
    assert "Next in 0." in one.progress[0].text


async def test_after_a_429_all_callers_wait_and_one_goes_first(desk: Any) -> None:
    one, server = desk(
        {"to": 8, "fault": "status", "status": 429, "headers": {"retry-after-ms": "200"}},
        limits=Limits(concurrency=8),
    )

    await asyncio.gather(*(one.ask(row) for row in range(40)))

    lines = server.ledger()
    assert len(lines) == 48
    assert [line["status"] for line in lines] == [429] * 8 + [200] * 40
    assert lines[8]["at"] - lines[7]["at"] > 0.15
    # Those that were turned away go first, and before anybody else one alone.
    assert lines[8]["in_flight"] == 1
    assert [len(one.states(row)) for row in range(40)] == [2] * 8 + [1] * 32


async def test_a_storm_of_429_fails_no_row_that_the_endpoint_would_serve(desk: Any) -> None:
    # A quota of sorts: every sixth request is too much, whoever sends it.
    one, server = desk(
        {"every": 6, "fault": "status", "status": 429, "headers": {"retry-after-ms": "10"}},
        limits=Limits(concurrency=32),
    )

    patient = Retry(attempts=8, base=0.001, cap=0.002)
    await asyncio.gather(*(one.ask(row, retry=patient) for row in range(100)))

    assert sum(len(one.states(row)) == 1 for row in range(100)) >= 60
    assert len(server.ledger()) == 100 + sum(line["status"] == 429 for line in server.ledger())


async def test_a_wait_beyond_two_minutes_ends_all_rows_with_the_time_and_one_call(desk: Any) -> None:
    one, server = desk(
        {"fault": "status", "status": 429, "headers": {"Retry-After": "86400"}}, limits=Limits(concurrency=1)
    )

    results = await asyncio.gather(*(one.ask(row) for row in range(5)), return_exceptions=True)

    assert {type(result) for result in results} == {CallRefused}
    assert all("s, until 20" in str(result) for result in results)
    assert len(server.ledger()) == 1
    assert results[0].history[0].startswith("attempt 1: RateLimited")
    assert one.states(0) == ["error"] and one.states(1) == []


async def test_garbage_in_retry_after_is_ignored(desk: Any) -> None:
    one, server = desk({"at": 1, "fault": "status", "status": 503, "headers": {"Retry-After": "soon"}})
    began = time.monotonic()

    await one.ask()

    assert time.monotonic() - began < 1
    assert len(server.ledger()) == 2


async def test_a_refused_key_ends_the_rows_that_have_not_begun_without_a_call(desk: Any) -> None:
    one, server = desk({"from": 3, "fault": "unauthorized"}, limits=Limits(concurrency=1))

    results = await asyncio.gather(*(one.ask(row) for row in range(10)), return_exceptions=True)

    assert [type(result) for result in results] == [Completion] * 2 + [CallRefused] * 8
    assert len(server.ledger()) == 3
    assert one.states(2) == ["error"] and one.states(9) == []


async def test_never_more_calls_in_flight_than_the_limit(serve: Any, desk: Any) -> None:
    one, server = desk(server=serve(latency=0.01), limits=Limits(concurrency=5))

    await asyncio.gather(*(one.ask(row) for row in range(30)))

    assert max(line["in_flight"] for line in server.ledger()) == 5


async def test_backoff_has_full_jitter_under_a_doubling_limit(desk: Any) -> None:
    one, server = desk({"fault": "status", "status": 500})

    with pytest.raises(ServerFault):
        await one.ask(retry=Retry(attempts=4, base=0.04, cap=0.1), jitter=lambda: 0.5)

    waits = [attempt.wait_s for attempt in one.store.attempts("record0")]
    assert waits == pytest.approx([0.0, 0.02, 0.04, 0.05], abs=0.015)
    assert len(server.ledger()) == 4


async def test_a_server_that_hangs_costs_the_timeout_and_an_attempt(desk: Any) -> None:
    one, server = desk({"at": 1, "fault": "hang"})

    await one.ask(timeout=0.1)

    assert [row.error_type for row in one.store.attempts("record0")] == ["TimedOut", None]
    assert len(server.ledger()) == 2


async def test_a_hanging_server_is_a_timeout_at_last(desk: Any) -> None:
    one, _ = desk({"fault": "hang"})

    with pytest.raises(TimedOut, match="After 2 attempts: TimedOut, TimedOut"):
        await one.ask(timeout=0.05, retry=Retry(attempts=2, base=0.001))


async def test_a_call_that_is_cancelled_is_ambiguous(desk: Any) -> None:
    one, server = desk({"fault": "hang"})
    asking = asyncio.create_task(one.ask())
    await called(server)

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    (attempt,) = one.store.attempts("record0")
    assert (attempt.state, attempt.error_type) == ("ambiguous", "Cancelled")
    assert attempt.finished_at is not None
    assert one.providers.gate("m").inside == 0


async def test_a_caller_cancelled_while_it_waits_has_no_attempt(desk: Any) -> None:
    one, server = desk({"fault": "hang"}, limits=Limits(concurrency=1))
    first, second = asyncio.create_task(one.ask(0)), asyncio.create_task(one.ask(1))
    await called(server)

    for task in (second, first):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)

    assert one.states(0) == ["ambiguous"] and one.states(1) == []


async def test_an_unexpected_error_of_a_provider_is_kept_and_named(desk: Any) -> None:
    one, _ = desk()

    async def send(request: bytes, *, timeout: float) -> Reply:
        raise RuntimeError("shape mismatch")

    with pytest.raises(StepFailed, match="unexpected RuntimeError in a call: shape mismatch"):
        await call(one.caller(), b"{}", send, one.provider.read_chat)
    await one.close_step()

    (attempt,) = one.store.attempts("record0")
    assert (attempt.state, attempt.error_type) == ("error", "StepFailed")


async def test_tokens_of_all_attempts_are_added_and_unknown_stays_unknown(desk: Any) -> None:
    one, _ = desk(
        {"at": 1, "fault": "changed", "message": {"content": None}},
        {"at": 3, "fault": "no_usage"},
        {"at": 4, "fault": "changed", "top": {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}},
    )

    caller = one.caller(0)
    completion = await one.ask(caller=caller)
    assert caller.tally.tokens_in == 2 * completion.tokens_in
    assert caller.tally.tokens_out == 2 * completion.tokens_out

    for row in (1, 2):
        caller = one.caller(row)
        await one.ask(caller=caller)
        assert (caller.tally.tokens_in, caller.tally.tokens_out) == (None, None)
        assert one.store.attempts(f"record{row}")[0].tokens_in is None


async def test_the_key_is_nowhere_in_the_store_nor_in_any_message(desk: Any, store: Store) -> None:
    one, server = desk(
        {"at": 2, "fault": "status", "status": 500, "message": f"key {KEY} is slow"},
        {"at": 4, "fault": "unauthorized"},
    )
    await one.ask(0)
    await one.ask(1)
    with pytest.raises(CallRefused) as caught:
        await one.ask(2)

    assert server.ledger()[0]["key_sha256"]
    assert "[key removed]" in str(caught.value)
    assert KEY not in str(caught.value) + str(caught.value.history) + str(one.progress) + repr(one.provider)
    store.close()
    files = [path for path in store.path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)
