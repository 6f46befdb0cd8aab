"""A store, a real embedder, and a run's context for embed and retrieve steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from chains.clock import Clock
from chains.settings import Settings
from chains.spec import Chain, Model
from chains.store import RecordRow, RunRow, StepRow, Store, open_store
from tasks import embed, retrieve
from tasks.collection import Collections
from tasks.context import OnceJob, Progress, RowJob, RowResult, StepContext
from tasks.providers import Providers

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


@dataclass(frozen=True)
class File:
    """As much of a chain file as the steps read."""

    chain: Chain
    folder: Path


@dataclass
class Bench:
    """Runs single steps of a chain against a real store, as the executor does."""

    store: Store
    folder: Path
    settings: Settings = field(default_factory=lambda: Settings(torch_threads=1))
    models: dict[str, Any] = field(default_factory=lambda: {"mini": {"provider": "local", "model": MINILM}})
    collections: dict[str, Any] = field(default_factory=lambda: {"handbook": {"embedder": "mini"}})
    reports: list[Progress] = field(default_factory=list)
    runs: int = 0

    async def step(
        self, described: dict[str, Any], rows: list[Mapping[str, Any]] | None = None, *, chain: str = "bench"
    ) -> Any:
        """Run one step in a run of its own: once, or over these rows at the same time."""
        import asyncio

        context, close = self._context(described, chain)
        try:
            if rows is None:
                return await self._once(context)
            kind = retrieve if "retrieve" in described else embed
            return await asyncio.gather(
                *(kind.run_row(context, self._job(context, row, scope)) for row, scope in enumerate(rows)),
                return_exceptions=True,
            )
        finally:
            # As the executor puts the record: what was handed to the store stands there before it.
            await self.store.aput(StepRow(run_id=context.run_id, id="it", kind="embed"))
            await close()

    def _context(self, described: dict[str, Any], name: str) -> tuple[StepContext, Callable[[], Any]]:
        self.runs += 1
        chain = Chain.model_validate(
            {
                "chain": name,
                "models": self.models,
                "collections": self.collections,
                "steps": {"it": described},
            }
        )
        run_id = f"run{self.runs}"
        self.store.put(
            RunRow(id=run_id, chain=name, chain_hash="0" * 64, source=b"", started_at=0.0),
            StepRow(run_id=run_id, id="it", kind="embed", once=False, spec=b"{}"),
        )
        models = {key: Model.model_validate(model) for key, model in self.models.items()}
        providers = Providers(models, store=self.store, settings=self.settings, env={})
        collections = Collections(
            chain.collections, store=self.store, providers=providers, settings=self.settings
        )

        async def close() -> None:
            await collections.aclose()
            await providers.aclose()

        context = StepContext(
            run_id=run_id,
            step_id="it",
            step=chain.steps["it"],
            chain_file=File(chain, self.folder),  # type: ignore[arg-type]
            store=self.store,
            clock=Clock(),
            settings=self.settings,
            providers=providers,
            collections=collections,
            report=self.reports.append,
        )
        return context, close

    async def _once(self, context: StepContext) -> RowResult:
        record = self._record(context, -1)
        attempts = len(self.store.attempts(record.id))
        job = OnceJob(
            record_id=record.id, scope={"inputs": {}}, rows=list, opening=record, attempts_before=attempts
        )
        result = await embed.run_once(context, job)
        self._keep(record, result)
        return result

    def _job(self, context: StepContext, row: int, scope: Mapping[str, Any]) -> RowJob:
        record = self._record(context, row)
        return RowJob(row=row, record_id=record.id, scope=scope, opening=record)

    def _record(self, context: StepContext, row: int) -> RecordRow:
        return RecordRow(
            id=f"{context.run_id}-{row + 1}",
            run_id=context.run_id,
            step="it",
            row=row,
            status="running",
            started_at=0.0,
        )

    def _keep(self, record: RecordRow, result: RowResult) -> None:
        from dataclasses import replace

        from chains.keys import canonical

        self.store.put(
            replace(
                record,
                status="ok",
                value_key=result.value_key,
                reused_from=result.reused_from,
                output=canonical(result.output),
            )
        )

    def keep(self, run: int, row: int, result: RowResult) -> None:
        """Write a row's result as its record, as the executor does."""
        record = self.store.record(f"run{run}", "it", row)
        assert record is not None
        self._keep(record, result)


@pytest.fixture
def bench(store: Store, tmp_path: Path) -> Bench:
    folder = tmp_path / "chain"
    folder.mkdir()
    return Bench(store, folder)
