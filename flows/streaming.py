"""A single run whose answers are told to a program while they come.

    async for event in stream_chain("support", {"ticket": "Where is my parcel?"}):
        print(event.text, end="")

Owns the events that a caller gets. The run is one like any other, kept in the store; it runs in the caller's
process and without Prefect, which carries no texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chains.settings import get_settings
from chains.store import open_store
from flows.closing import close_unfinished
from flows.executor import execute
from flows.prepared import PreparedRun, prepare
from flows.request import RunRequest
from flows.units import Direct
from tasks.context import Progress


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One thing that happened: a part of a step's answer, or the end of the run.

    `text`: the next part of the answer of `step`. `again`: that answer broke off or did not fit, and begins
    anew; what came of it does not count. `said`: it is complete, and `failed`: none comes. `ended` is the
    last event and has the run's `result`, as `run_chain` returns it. Answers that are asked for at the same
    time, such as samples, come mixed; `record` tells them apart.
    """

    event: Literal["text", "again", "said", "failed", "ended"]
    step: str = ""
    record: str = ""
    text: str = ""
    result: Mapping[str, Any] | None = None


async def stream_chain(
    chain: str | Path,
    inputs: Mapping[str, Any] | None = None,
    *,
    models: Sequence[str] = (),
    base_url: str | None = None,
    store: str | None = None,
) -> AsyncGenerator[StreamEvent, None]:
    """Run a chain over one row and yield what its prompt steps say while they say it.

    Raises what `run_chain` raises before the first call: ChainInvalid, InputInvalid, EnvironmentLacks. A row
    that fails is no error: the last event's result says so. Who leaves the loop early stops the run, which
    can be resumed.
    """
    settings = get_settings()
    opened = open_store(store or settings.store)
    try:
        request = RunRequest(chain=str(chain), inputs=inputs or {}, models=tuple(models), base_url=base_url)
        prepared = prepare(request, store=opened, settings=settings)
        prepared.stream = True
        async with aclosing(_events(prepared)) as events:  # else it ends some time after the store is closed
            async for event in events:
                yield event
    finally:
        opened.close()


async def _events(run: PreparedRun) -> AsyncGenerator[StreamEvent, None]:
    heard: asyncio.Queue[StreamEvent | None] = asyncio.Queue()

    def report(progress: Progress) -> None:
        if progress.record:
            heard.put_nowait(_event(progress))

    work = asyncio.create_task(execute(run, Direct(), report))
    work.add_done_callback(lambda _: heard.put_nowait(None))
    try:
        while (event := await heard.get()) is not None:
            yield event
        yield StreamEvent("ended", result=await work)
    finally:
        if not work.done():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
        close_unfinished(run, "cancelled")


def _event(progress: Progress) -> StreamEvent:
    kind: Any = progress.event
    return StreamEvent(kind, progress.step, progress.record, progress.text)
