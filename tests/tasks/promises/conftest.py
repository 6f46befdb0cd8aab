"""A chain with one prompt step behind a real server, run as the executor runs it: records, fences and all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from chains.clock import Clock
from chains.loading import load
from chains.settings import Settings
from chains.store import RecordRow, RunRow, StepRow, Store, open_store
from tasks.context import Progress, StepContext
from tasks.counts import ShardCounts, Stopping
from tasks.providers import Providers
from tasks.rows import run_shard
from tasks.scopes import RowScope

CHAIN = """
chain: desk
inputs:
  ticket: {{type: string}}
models:
  writer: {{provider: openai, model: test-model, base_url: "{url}"{model}}}
defaults: {{model: writer, retry: {{attempts: 3, base: 1ms, cap: 2ms}}}}
{chain}
steps:
  triage:
    {verb}
{step}
"""
PROMPT = 'prompt: "Ticket: {{ inputs.ticket }}"'


class Rows:
    """The upstream of a step that has none: a ticket for each row."""

    def __init__(self, tickets: list[str]) -> None:
        self._tickets = tickets

    def per_row(self, step_id: str, rows: range, *, run_on_skip: bool) -> list[RowScope]:
        return [RowScope(row, {"inputs": {"ticket": self._tickets[row]}}, "run", "") for row in rows]


class Desk:
    """One run of the chain in one "process": its own store, providers and holder."""

    def __init__(self, chain: Path, store: Store, run_id: str, settings: Settings) -> None:
        self.store, self.run_id, self.clock = store, run_id, Clock()
        self.chain_file = load(chain, settings=settings)
        self.progress: list[Progress] = []
        self.over_budget: list[str] = []
        self.settings = settings
        self.providers = Providers(self.chain_file.chain.models, store=store, settings=settings, env={})

    def context(self) -> StepContext:
        return StepContext(
            run_id=self.run_id,
            step_id="triage",
            step=self.chain_file.chain.steps["triage"],
            chain_file=self.chain_file,
            store=self.store,
            clock=self.clock,
            settings=self.settings,
            providers=self.providers,
            collections=None,
            report=self.progress.append,
            since=self.clock.now(),
        )

    async def run(self, *tickets: str, stop_at_budget: bool = True, stream: bool = False) -> ShardCounts:
        def stop(reason: str) -> None:
            self.over_budget.append(reason)

        stopping = Stopping(lambda: stop_at_budget and bool(self.over_budget), on_budget=stop)
        ctx = self.context()
        ctx.stream = stream
        return await run_shard(ctx, Rows(list(tickets)), range(len(tickets)), stopping)

    def records(self) -> list[RecordRow]:
        return self.store.records(self.run_id, "triage")

    def statuses(self) -> list[str]:
        return [record.status for record in self.records()]


@pytest.fixture
async def desks(serve: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Desk]]:
    """Make runs of one chain on one store: `desks(server, step="    cache: always")`."""
    made: list[Desk] = []

    def begin(
        server: Any,
        *,
        step: str = "",
        model: str = "",
        chain: str = "",
        verb: str = PROMPT,
        run_id: str | None = None,
        **settings: Any,
    ) -> Desk:
        file = tmp_path / f"chain{len(made)}.yaml"
        file.write_text(CHAIN.format(url=server.url, model=model, step=step, chain=chain, verb=verb))
        store = open_store(tmp_path / "store")
        name = run_id or f"run{len(made)}"
        if store.run(name) is None:
            store.put(RunRow(id=name, chain="desk", chain_hash="h", source=b"", started_at=1.0))
            store.put(StepRow(run_id=name, id="triage", kind="prompt"))
        made.append(Desk(file, store, name, Settings(**settings)))
        return made[-1]

    yield begin
    for one in made:
        await one.providers.aclose()
        one.store.close()
    await asyncio.sleep(0)
