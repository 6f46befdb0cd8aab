"""A bare loop that waits out Retry-After and tries errors again: what injected faults allow."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import orjson
from contending import arguments, contend
from workload import messages, read_rows, step_names


class Waits:
    """When the next call may be sent, where everybody waits for a 429."""

    open_at = 0.0


async def run(data: Path) -> None:
    rows = iter(read_rows(data))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session, rows) for _ in range(given.concurrency)))


async def worker(session: aiohttp.ClientSession, rows: Iterator[dict]) -> None:
    for row in rows:
        answer = None
        for step in step_names(given.steps):
            asked = {"model": "bench", "messages": messages(step, row["number"], row["ticket"], answer)}
            body = orjson.dumps(asked)
            while (answer := await ask(session, body)) is None:
                pass


async def ask(session: aiohttp.ClientSession, body: bytes) -> str | None:
    headers = {"Content-Type": "application/json"}
    while (wait := Waits.open_at - time.monotonic()) > 0:
        await asyncio.sleep(wait)
    try:
        async with session.post(given.url + "/chat/completions", data=body, headers=headers) as reply:
            found = await reply.read()
            if reply.status == 429:
                await refused(float(reply.headers["Retry-After"]))
            if reply.status != 200:
                return None
    except aiohttp.ClientConnectionError:
        return None
    return orjson.loads(found)["choices"][0]["message"]["content"]


async def refused(seconds: float) -> None:
    if shared:
        Waits.open_at = max(Waits.open_at, time.monotonic() + seconds)
    else:
        await asyncio.sleep(seconds)


shared = "--shared-wait" in sys.argv
sys.argv = [text for text in sys.argv if text != "--shared-wait"]
given = arguments()
contend(given, lambda data: asyncio.run(run(data)))
