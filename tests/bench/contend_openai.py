"""What people write: an asyncio loop over AsyncOpenAI that keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from contending import arguments, contend
from openai import AsyncOpenAI
from workload import messages, read_rows, step_names


async def run(data: Path) -> None:
    rows = iter(read_rows(data))
    async with AsyncOpenAI(base_url=given.url, api_key="none") as client:
        await asyncio.gather(*(worker(client, rows) for _ in range(given.concurrency)))


async def worker(client: AsyncOpenAI, rows: Iterator[dict]) -> None:
    for row in rows:
        answer = None
        for step in step_names(given.steps):
            asked = messages(step, row["number"], row["ticket"], answer)
            reply = await client.chat.completions.create(model="bench", messages=asked)
            answer = reply.choices[0].message.content


given = arguments()
contend(given, lambda data: asyncio.run(run(data)))
