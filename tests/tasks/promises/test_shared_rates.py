"""Requests and tokens per minute, shared by processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chains.spec import Limits
from chains.store import open_store
from tasks.providers.rates import Rates, rate_name

TAKE = """
import asyncio, sys, time
from chains.spec import Limits
from chains.store import open_store
from tasks.providers.rates import Rates

folder, seconds, per_minute = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])

async def main():
    with open_store(folder) as store:
        rates = Rates(store, "model:x", Limits(requests_per_minute=per_minute))
        taken = []

        async def caller():
            while time.time() < ends:
                await rates.take(10)
                taken.append(time.time())

        print("ready", flush=True)
        ends = float(sys.stdin.readline())
        callers = [asyncio.create_task(caller()) for _ in range(8)]
        await asyncio.sleep(max(0.0, ends - time.time()))
        for each in callers:
            each.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        print(*(at for at in taken if at < ends), flush=True)

asyncio.run(main())
"""


def processes(folder: Path, *, seconds: float, per_minute: int, number: int = 3) -> list[float]:
    """Let several processes take what they can for some seconds; return when each slot was taken."""
    with open_store(folder):
        pass
    command = [sys.executable, "-c", TAKE, str(folder), str(seconds), str(per_minute)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(number)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    ends = time.time() + seconds
    outputs = [process.communicate(f"{ends}\n", timeout=seconds + 60)[0] for process in started]
    assert all(outputs), "every process got something"
    return sorted(float(at) for output in outputs for at in output.split())


def test_three_processes_keep_a_rate_together_and_use_it(tmp_path: Path) -> None:
    """Six seconds of 600 requests per minute; the whole minute is the slow test below."""
    taken = processes(tmp_path / "store", seconds=6.0, per_minute=600)

    assert 60 * 0.93 <= len(taken) <= 60 + 6 + 1  # the bucket is full at the start: 1 % of a minute


@pytest.mark.slow
def test_over_a_minute_the_rate_is_kept_within_two_percent_and_used_to_ninety_five(tmp_path: Path) -> None:
    taken = processes(tmp_path / "store", seconds=61.0, per_minute=600)

    first = taken[0]
    in_a_minute = [
        sum(start <= at < start + 60 for at in taken) for start in (first, first + 0.5, first + 1.0)
    ]
    assert min(in_a_minute) >= 600 * 0.95
    assert max(in_a_minute) <= 600 * 1.02


async def test_a_run_keeps_the_requests_per_minute_of_its_model(serve: Any, desks: Any) -> None:
    server = serve()
    desk = desks(server, model=", limits: {requests_per_minute: 1200}")

    await desk.run(*(f"ticket {number}" for number in range(40)))

    at = [line["at"] for line in server.ledger()]
    assert desk.statuses() == ["ok"] * 40
    # 12 at once, then 20 each second.
    assert at[-1] - at[0] > 28 / 20 * 0.8


async def test_tokens_that_were_reserved_and_not_used_are_given_back(serve: Any, desks: Any) -> None:
    server = serve()
    # A call reserves about 1,050 tokens and uses about 10: without giving back, one call a second.
    desk = desks(server, model=", max_tokens: 1000, limits: {tokens_per_minute: 60000}")
    began = time.monotonic()

    await asyncio.wait_for(desk.run(*(f"{number}" for number in range(8))), 30)

    assert desk.statuses() == ["ok"] * 8
    assert time.monotonic() - began < 6


async def test_rows_that_find_their_question_claimed_use_up_no_requests(serve: Any, desks: Any) -> None:
    server = serve(latency=0.2)
    # Three at once, then one each 0.2 s: ten rows with one question between them must not wait for slots.
    desk = desks(server, model=", temperature: 0, limits: {requests_per_minute: 300}")
    began = time.monotonic()

    await desk.run(*["the same"] * 10)

    assert len(server.ledger()) == 1
    assert desk.statuses() == ["ok"] * 10
    assert time.monotonic() - began < 1.5


async def test_callers_are_served_in_their_order(tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        rates = Rates(store, "model:x", Limits(requests_per_minute=6000))
        order: list[int] = []

        async def caller(number: int) -> None:
            await rates.take(0)
            order.append(number)

        await asyncio.gather(*(caller(number) for number in range(30)))
        assert order == list(range(30))


def test_one_model_at_one_address_has_one_name() -> None:
    assert rate_name("http://a/v1", "m") == rate_name("http://a/v1", "m")
    assert (
        len({rate_name("http://a/v1", "m"), rate_name("http://a/v1", "n"), rate_name("http://b/v1", "m")})
        == 3
    )
