"""What Prefect itself takes for a flow run with a task run per step, in which nothing is done."""

from __future__ import annotations

import asyncio
from pathlib import Path

from contending import arguments, contend
from prefect import flow, task


@task(retries=1, persist_result=False)
async def nothing(step: int) -> int:
    return step


@flow(persist_result=False)
async def bare(steps: int) -> None:
    for step in range(steps):
        await nothing(step)


def run(_data: Path) -> None:
    asyncio.run(bare(given.steps))


given = arguments()
contend(given, run)
