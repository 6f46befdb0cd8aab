"""Headrace through its own API, everything kept: as plain calls, or with `--prefect` as its flow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from contending import arguments, contend
from workload import write_chain

from chains.settings import Settings
from chains.store import open_store
from flows.executor import execute
from flows.prepared import PreparedRun, RunRequest, prepare
from flows.units import Direct


def run(data: Path) -> None:
    request = RunRequest(chain=str(chain), data=str(data))
    prepared = prepare(request, store=store, settings=settings)
    result = asyncio.run(through_prefect(prepared) if given.prefect else directly(prepared))
    assert result["status"] == "ok", result


async def directly(prepared: PreparedRun) -> dict[str, Any]:
    return await execute(prepared, Direct())


async def through_prefect(prepared: PreparedRun) -> dict[str, Any]:
    from flows.run_chain import run_prepared

    return await run_prepared(prepared)


given = arguments()
settings = Settings(**({"shard_rows": given.shard_rows} if given.shard_rows else {}))
chain = write_chain(
    given.folder / "chain.yaml",
    steps=given.steps,
    url=given.url,
    concurrency=given.concurrency,
    temperature=given.temperature,
)
with open_store(given.store or given.folder / "store") as store:
    contend(given, run)
