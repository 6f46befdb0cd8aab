"""The gate in front of an endpoint that is down."""

from __future__ import annotations

import asyncio
import time

import pytest

from chains.clock import Clock
from chains.errors import ConnectionFailed
from tasks.providers.circuit import FAILURES, Circuit
from tasks.providers.gate import Gate

DOWN = ConnectionFailed("connection refused.")


def gate(interval: float = 0.03, patience: float = 10.0) -> Gate:
    return Gate(8, circuit=Circuit(Clock(), interval=interval, patience=patience))


def take_down(one: Gate) -> list[bool]:
    return [one.unreached(f"row{number}", DOWN) for number in range(FAILURES)]


async def test_only_failures_of_different_rows_in_a_row_open_the_circuit() -> None:
    one = gate()
    assert not any(one.unreached("row0", DOWN) for _ in range(3 * FAILURES))
    for number in range(1, FAILURES - 1):
        assert not one.unreached(f"row{number}", DOWN)
    one.reached()

    assert take_down(one) == [False] * (FAILURES - 1) + [True]
    assert one.unreached("another", DOWN) is False  # no news any more


async def test_while_the_endpoint_is_down_one_probe_goes_at_a_time() -> None:
    one, entered = gate(), []
    take_down(one)

    async def caller(number: int) -> None:
        async with one.enter():
            entered.append((number, time.monotonic()))
            one.unreached(f"caller{number}", DOWN)

    began = time.monotonic()
    await asyncio.gather(*(caller(number) for number in range(3)))

    assert [number for number, _ in entered] == [0, 1, 2]
    waits = [at - began for _, at in entered]
    assert waits[0] >= 0.03 and waits[1] - waits[0] >= 0.03 and waits[2] - waits[1] >= 0.03


async def test_a_probe_that_is_answered_lets_everybody_in() -> None:
    one, entered = gate(), []
    take_down(one)

    async def caller(number: int) -> None:
        async with one.enter():
            entered.append(time.monotonic())
            one.reached()

    await asyncio.gather(*(caller(number) for number in range(5)))

    assert entered[-1] - entered[0] < 0.02


async def test_when_patience_ends_all_that_wait_fail_and_later_ones_fail_at_once_but_for_a_probe() -> None:
    one = gate(interval=0.05, patience=0.02)
    take_down(one)
    results = await asyncio.gather(*(one.wait_for_place(0) for _ in range(3)), return_exceptions=True)

    assert all(isinstance(result, ConnectionFailed) for result in results)
    assert "the endpoint is down" in str(results[0]) and "connection refused" in str(results[0])
    assert "Resume the run" in str(results[0])

    with pytest.raises(ConnectionFailed):
        await one.wait_for_place(0)
    await asyncio.sleep(0.05)
    await one.wait_for_place(0)  # the probe
    with pytest.raises(ConnectionFailed):
        await one.wait_for_place(0)
    one.leave()
    one.reached()
    async with one.enter():
        assert one.inside == 1
