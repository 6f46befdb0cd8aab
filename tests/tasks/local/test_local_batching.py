from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence

import pytest

from chains.errors import Cancelled, ContextOverflow, StepFailed
from tasks.embedders import BATCH_TOKENS, MOST_PADDING, SPARED, batches
from tasks.providers.batching import Batcher, Job


def doubler(sizes: list[int], threads: set[int]) -> Batcher[int, int]:
    def run(jobs: Sequence[Job[int, int]]) -> None:
        sizes.append(len(jobs))
        threads.add(threading.get_ident())
        for job in jobs:
            if job.asked == 13:
                raise KeyError("thirteen")
            if job.asked == 17:
                job.fail(ContextOverflow("seventeen"))
            job.answer(job.asked * 2)

    return Batcher(lambda waiting: list(range(min(len(waiting), 8))), run)


async def test_concurrent_calls_share_batches_in_one_thread() -> None:
    sizes: list[int] = []
    threads: set[int] = set()
    one, other = doubler(sizes, threads), doubler(sizes, threads)
    answers = await asyncio.gather(*(batcher.submit(n) for n in range(10) for batcher in (one, other)))
    assert answers == [n * 2 for n in range(10) for _ in range(2)]
    assert sorted(sizes) == [2, 2, 8, 8]
    assert len(threads) == 1 and threads != {threading.get_ident()}


async def test_an_unexpected_error_reaches_its_batch_and_the_others_go_on() -> None:
    batcher = doubler([], set())
    results = await asyncio.gather(*(batcher.submit(n) for n in range(12, 24)), return_exceptions=True)
    assert results[0] == 24, "answered before the error"
    assert all(isinstance(result, StepFailed) and "thirteen" in str(result) for result in results[1:8])
    assert results[8:] == [40, 42, 44, 46]


async def test_one_call_may_fail_alone() -> None:
    batcher = doubler([], set())
    bad, good = await asyncio.gather(batcher.submit(17), batcher.submit(18), return_exceptions=True)
    assert isinstance(bad, ContextOverflow) and good == 36


async def test_a_closed_batcher_cancels_what_waits_and_takes_no_more() -> None:
    batcher = doubler([], set())
    waiting = asyncio.ensure_future(batcher.submit(1))
    await asyncio.sleep(0)
    batcher.close()
    with pytest.raises(Cancelled):
        await waiting
    with pytest.raises(Cancelled, match="has been closed"):
        await batcher.submit(2)


def test_callers_may_live_on_different_event_loops() -> None:
    batcher = doubler([], set())
    answers: list[int] = []
    loops = [
        threading.Thread(target=lambda n=n: answers.append(asyncio.run(batcher.submit(n)))) for n in range(4)
    ]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    assert sorted(answers) == [0, 2, 4, 6]


@pytest.mark.parametrize("seed", range(20))
def test_texts_are_batched_with_little_padding_and_each_once(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [min(256, max(3, int(rng.lognormvariate(4, 0.9)))) for _ in range(rng.randrange(1, 200))]
    found = batches(lengths, spared=SPARED)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        own = [lengths[index] for index in batch]
        padded = max(own) * len(own)
        assert padded <= BATCH_TOKENS and padded - sum(own) <= max(MOST_PADDING * padded, SPARED)


def test_where_a_batch_costs_more_than_padding_there_are_few() -> None:
    lengths = [3] * 15 + [256] + [40] * 48
    assert [len(batch) for batch in batches(lengths, spared=SPARED)] == [15, 48, 1]
    assert [len(batch) for batch in batches(lengths, spared=BATCH_TOKENS)] == [63, 1]


async def test_how_long_a_call_waited_for_its_batch_is_told() -> None:
    let_go = threading.Event()

    def run(jobs: Sequence[Job[int, int]]) -> None:
        assert let_go.wait(30)
        for job in jobs:
            job.answer(job.asked)

    batcher: Batcher[int, int] = Batcher(lambda waiting: [0], run)
    calls = [asyncio.create_task(batcher.submit_timed(n)) for n in range(2)]
    await asyncio.sleep(0.1)
    let_go.set()
    (_, first), (_, second) = await asyncio.gather(*calls)
    assert 0 < first < second and second >= 0.05
