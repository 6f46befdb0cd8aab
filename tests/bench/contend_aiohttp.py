"""The limit: a bare asyncio and aiohttp loop that keeps nothing and checks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import orjson
from contending import arguments, contend
from workload import messages, read_rows, step_names


async def run(data: Path) -> None:
    rows = iter(read_rows(data))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session, rows) for _ in range(given.concurrency)))


async def worker(session: aiohttp.ClientSession, rows: Iterator[dict]) -> None:
    for row in rows:
        answer = None
        for step in step_names(given.steps):
            asked = {"model": "bench", "messages": messages(step, row["number"], row["ticket"], answer)}
            answer = await ask(session, orjson.dumps(asked))


async def ask(session: aiohttp.ClientSession, body: bytes) -> str:
    headers = {"Content-Type": "application/json"}
    async with session.post(given.url + "/chat/completions", data=body, headers=headers) as reply:
        reply.raise_for_status()
        found = orjson.loads(await reply.read())
    return found["choices"][0]["message"]["content"]


given = arguments()
contend(given, lambda data: asyncio.run(run(data)))
