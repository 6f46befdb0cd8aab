"""The gate in front of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from chains.errors import CallRefused
from tasks.providers.gate import Gate


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_never_more_callers_inside_than_the_limit() -> None:
    gate, most = Gate(3), 0

    async def caller() -> None:
        nonlocal most
        async with gate.enter():
            most = max(most, gate.inside)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(caller() for _ in range(20)))
    assert most == 3
    assert gate.inside == 0


async def until(held: Callable[[], object]) -> None:
    """Return when something holds, and everybody who could go on has."""
    async with asyncio.timeout(20):
        while not held():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def test_a_pause_holds_everybody_and_then_lets_one_go_first() -> None:
    gate, entered, go = Gate(8), [], asyncio.Event()
    gate.pause(0.3)

    async def caller(number: int) -> None:
        async with gate.enter():
            entered.append(number)
            await go.wait()
            gate.widen()

    callers = [asyncio.create_task(caller(number)) for number in range(6)]
    await asyncio.sleep(0.01)
    assert entered == []
    await until(lambda: entered)
    assert entered == [0]
    go.set()
    await asyncio.gather(*callers)
    assert entered == list(range(6))


@pytest.mark.parametrize(("refused", "first"), [(1, 12), (12, 1)])
async def test_after_a_pause_the_gate_is_as_wide_as_before_where_most_calls_were_answered(
    refused: int, first: int
) -> None:
    gate, entered, done = Gate(12), [], asyncio.Event()

    async def under_way(number: int) -> None:
        async with gate.enter():
            await asyncio.sleep(0.002)
        gate.pause(0.3) if number < refused else gate.widen()

    async def later() -> None:
        async with gate.enter():
            entered.append(1)
            await done.wait()

    await asyncio.gather(*(under_way(number) for number in range(12)))
    callers = [asyncio.create_task(later()) for _ in range(16)]
    await asyncio.sleep(0.01)
    assert entered == []
    await until(lambda: entered)
    assert len(entered) == first
    done.set()
    await asyncio.gather(*callers)


async def test_callers_with_more_tries_behind_them_go_first() -> None:
    gate, order = Gate(1), []

    async def caller(tries: int) -> None:
        async with gate.enter(tries):
            order.append(tries)

    async with gate.enter():
        callers = [asyncio.create_task(caller(tries)) for tries in (1, 1, 3, 2)]
        await settle()
    await asyncio.gather(*callers)
    assert order == [3, 2, 1, 1]


async def test_the_gate_widens_again_to_its_full_width() -> None:
    gate = Gate(4)
    gate.pause(0.0)
    for _ in range(20):
        gate.widen()
    async with gate.enter(), gate.enter(), gate.enter(), gate.enter():
        assert gate.inside == 4


async def test_a_cancelled_caller_takes_no_place() -> None:
    gate = Gate(1)
    async with gate.enter():
        waiting = asyncio.create_task(gate.enter().__aenter__())
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1), gate.enter():
        assert gate.inside == 1


async def test_a_caller_cancelled_as_it_is_let_in_gives_its_place_back() -> None:
    gate = Gate(1)
    holder = gate.enter()
    await holder.__aenter__()
    waiting = asyncio.create_task(gate.enter().__aenter__())
    await settle()
    await holder.__aexit__(None, None, None)  # the place is handed over ...
    waiting.cancel()  # ... to a caller that is stopped before it runs
    await asyncio.gather(waiting, return_exceptions=True)
    assert gate.inside == 0


async def test_a_wait_beyond_the_limit_turns_everybody_away_and_names_the_time() -> None:
    gate = Gate(1)
    async with gate.enter():
        waiting = asyncio.create_task(gate.enter().__aenter__())
        await settle()
        gate.pause(86400)
    with pytest.raises(CallRefused, match=r"86400 s, until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"):
        await waiting
    with pytest.raises(CallRefused, match="until"):
        async with gate.enter():
            pass


async def test_a_shut_gate_refuses_without_letting_anybody_in() -> None:
    gate = Gate(1)
    async with gate.enter():
        waiting = asyncio.create_task(gate.enter().__aenter__())
        await settle()
        gate.shut(CallRefused("401", hint="Check the key."))
    with pytest.raises(CallRefused, match="401 Check the key"):
        await waiting
    with pytest.raises(CallRefused, match="401"):
        async with gate.enter():
            pass
