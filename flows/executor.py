"""Executes a prepared run: starts each (step, shard) when its inputs are there.

Owns the order and the run's end in the store. Knows nothing of how a unit is started: a `Starter` does that,
as a Prefect task or as a plain call. Invariant: a run that this function leaves is never `running` in the
store, unless another process has taken it over.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

from chains.errors import StoreConflict
from chains.spec import kind_of
from chains.store import RunRow
from chains.store.rows import RunStatus, StepStatus
from flows.costs import cost_of_run
from flows.garbage import rare_collections
from flows.prepared import PreparedRun, note_anew
from flows.step_rows import step_row
from flows.stopping import Stop, listen
from tasks.context import Progress, StepContext
from tasks.rows import DONE, ShardCounts, Stopping, run_once, run_shard
from tasks.scopes import Scopes

_LOG: Final = logging.getLogger(__name__)

SHARDS_AT_ONCE = 4
"""Shards of one step that run together: enough to fill a model's limit, few enough to bound memory."""
WINDOW = 16
"""Shards of one step that are started or wait for their turn; the others are not even made yet."""

Work = Callable[[], Awaitable[ShardCounts]]


@dataclass(frozen=True, slots=True)
class Unit:
    """One (step, shard); `rows` is None for a once step."""

    step_id: str
    kind: str
    rows: range | None

    @property
    def title(self) -> str:
        """The unit's name in the Prefect UI and in logs, such as `triage · rows 0-255`."""
        if self.rows is None:
            return f"{self.step_id} · once"
        if len(self.rows) == 1:
            return f"{self.step_id} · row {self.rows.start}"
        return f"{self.step_id} · rows {self.rows.start}-{self.rows.stop - 1}"


class Starter(Protocol):
    """How units are started, and who hears of ends."""

    async def start(self, unit: Unit, work: Work) -> ShardCounts:
        """Run `work` and return what it counted."""

    async def step_ended(self, run: PreparedRun, step_id: str, status: str) -> None:
        """All units of a step have ended."""

    async def finish(self) -> None:
        """All steps have ended; return when whoever was told of them is done."""


class Direct:
    """Starts units as plain calls in this process."""

    async def start(self, unit: Unit, work: Work) -> ShardCounts:
        """Run `work` here and now."""
        return await work()

    async def step_ended(self, run: PreparedRun, step_id: str, status: str) -> None:
        """Nobody else is told."""

    async def finish(self) -> None:
        """Nobody was told."""


class _Track:
    """Which units of one step have ended, for those who wait for them."""

    def __init__(self, units: int) -> None:
        self._left = units
        self._ended: set[int] = set()
        self._waiting: dict[int, asyncio.Event] = {}
        self._all = asyncio.Event()

    async def unit(self, number: int) -> None:
        """Return when this unit has ended."""
        if number not in self._ended:
            await self._waiting.setdefault(number, asyncio.Event()).wait()

    async def all(self) -> None:
        """Return when every unit has ended."""
        await self._all.wait()

    def end(self, number: int) -> None:
        """Note that a unit has ended."""
        self._ended.add(number)
        self._left -= 1
        if waiting := self._waiting.pop(number, None):
            waiting.set()
        if not self._left:
            self._all.set()


@dataclass(slots=True)
class _Execution:
    run: PreparedRun
    starter: Starter
    report: Callable[[Progress], None]
    stop: Stop
    since: float
    shards: list[range]
    tracks: dict[str, _Track] = field(default_factory=dict)
    memos: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    ended: dict[str, Counter[str]] = field(default_factory=dict)


async def execute(
    run: PreparedRun, starter: Starter, report: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Run every step and return `{run_id, status, rows, counts, cost, outputs}` as a small dict.

    Never raises for failed rows or a stop by the user: the status says so. A cancellation from outside and
    an unexpected error of the program itself are raised after the run is closed. A run that another process
    has taken over is left to it, with a StoreConflict.
    """
    shards = run.shards
    execution = _Execution(run, starter, report, Stop(), run.clock.now(), shards)
    for step_id in run.graph.order:
        execution.memos[step_id] = {}
        execution.tracks[step_id] = _Track(1 if step_id in run.once else len(shards))
    try:
        with rare_collections():
            await _run_units(execution)
    except asyncio.CancelledError:
        if execution.stop.lost:
            raise _taken_over(run) from None
        if execution.stop.by_user:  # the grace is over, or Ctrl-C came twice
            return _close(execution, "cancelled")
        _close(execution, "cancelled")
        raise
    except Exception:
        _close(execution, "failed")
        raise
    finally:
        await run.providers.aclose()
        await run.collections.aclose()
    return _close(execution, _status(execution))


async def _run_units(execution: _Execution) -> None:
    group = [asyncio.create_task(_run_step(execution, step_id)) for step_id in execution.run.graph.order]
    restore = listen(execution.stop, execution.run, group, execution.report)
    try:
        await asyncio.gather(*group)
        await execution.starter.finish()
    except BaseException:
        for task in group:
            task.cancel()
        await asyncio.gather(*group, return_exceptions=True)
        raise
    finally:
        restore()


async def _run_step(execution: _Execution, step_id: str) -> None:
    """Make a step's units in order, a window at a time, and write its row when the last has ended."""
    run = execution.run
    kind = kind_of(run.chain.steps[step_id])
    total = ShardCounts()
    slots = asyncio.Semaphore(SHARDS_AT_ONCE)
    units: set[asyncio.Task[ShardCounts]] = set()
    try:
        for number, rows in enumerate([None] if step_id in run.once else execution.shards):
            if len(units) == WINDOW:
                units = await _some(units, total)
            unit = Unit(step_id, kind, rows)
            units.add(asyncio.create_task(_run_unit(execution, unit, number, slots)))
        while units:
            units = await _some(units, total)
    except BaseException:
        for unfinished in units:
            unfinished.cancel()
        await asyncio.gather(*units, return_exceptions=True)
        raise
    rows_left = (1 if step_id in run.once else len(run.rows)) - total.ended
    status = _step_status(total.statuses, rows_left)
    started = execution.begun.get(step_id)
    counts = {**total.statuses, "reused": total.reused, "resumed": total.resumed}
    row = partial(step_row, run.run_id, run.chain, step_id)
    run.store.hand_over(row(status, started=started, finished=run.clock.now(), counts=counts))
    execution.ended[step_id] = total.statuses
    await execution.starter.step_ended(run, step_id, status)


async def _some(units: set[asyncio.Task[ShardCounts]], total: ShardCounts) -> set[asyncio.Task[ShardCounts]]:
    """Wait until some units have ended, add what they counted, and return the others."""
    ended, others = await asyncio.wait(units, return_when=asyncio.FIRST_COMPLETED)
    for unit in ended:
        total.add(unit.result())
    return others


async def _run_unit(execution: _Execution, unit: Unit, number: int, slots: asyncio.Semaphore) -> ShardCounts:
    run = execution.run
    for upstream in run.graph.needs[unit.step_id]:
        track = execution.tracks[upstream]
        if unit.rows is not None and upstream not in run.once:
            await track.unit(number)
        else:
            await track.all()
    async with slots:
        if unit.step_id not in execution.begun:
            execution.begun[unit.step_id] = begun = run.clock.now()
            run.store.hand_over(step_row(run.run_id, run.chain, unit.step_id, "running", started=begun))
        counts = await execution.starter.start(unit, lambda: _work(execution, unit))
    execution.tracks[unit.step_id].end(number)
    return counts


async def _work(execution: _Execution, unit: Unit) -> ShardCounts:
    run = execution.run
    ctx = StepContext(
        run_id=run.run_id,
        step_id=unit.step_id,
        step=run.chain.steps[unit.step_id],
        chain_file=run.chain_file,
        store=run.store,
        clock=run.clock,
        settings=run.settings,
        providers=run.providers,
        collections=run.collections,
        report=execution.report,
        since=execution.since,
        holder=run.lease.holder,
        memo=execution.memos[unit.step_id],
        anew=run.anew.get(unit.step_id, 0.0),
        renewed=lambda: note_anew(run, unit.step_id),
    )
    scopes = Scopes(store=run.store, run_id=run.run_id, graph=run.graph, once=run.once, rows=run.rows)
    stopping = Stopping(
        execution.stop.asked, lambda: _row_failed(execution), lambda reason: _budget_used(execution, reason)
    )
    total = len(unit.rows) if unit.rows is not None else 1
    execution.report(Progress(unit.step_id, "started", total=total))
    if unit.rows is None:
        counts = await run_once(ctx, scopes, stopping)
    else:
        counts = await run_shard(ctx, scopes, unit.rows, stopping)
    execution.report(
        Progress(unit.step_id, "ended", text=unit.title, done=counts.statuses.total(), total=total)
    )
    return counts


def _row_failed(execution: _Execution) -> None:
    if execution.run.chain.on_error == "fail":
        execution.stop.failed = True
        execution.stop.reason = execution.stop.reason or "a row failed and the chain says `on_error: fail`"


def _budget_used(execution: _Execution, reason: str) -> None:
    """Stop the run: every further call would be turned away in the same way."""
    if execution.stop.reason is None:
        execution.stop.failed = True
        execution.stop.calls(execution.run, reason)
        execution.report(Progress("", "message", text=reason))


def _step_status(total: Counter[str], rows_left: int) -> StepStatus:
    """Decide how a step ended; with rows left the run was stopped before the step was done."""
    if total["failed"] or total["blocked"]:
        return "failed"
    if rows_left > 0:
        return "cancelled"
    return "ok" if total["ok"] else "skipped"


def _status(execution: _Execution) -> RunStatus:
    """Decide how the run ended, by the chain's `on_error` and `max_failed_rows`."""
    run = execution.run
    if execution.stop.by_user:
        return "cancelled"
    if execution.stop.failed:
        return "failed"
    if not run.once and all(set(statuses) <= DONE for statuses in execution.ended.values()):
        return "ok"
    counts = run.store.counts(run.run_id)
    if any(counts.get(step_id, {}).get("failed") for step_id in run.once):
        return "failed"
    failed = any(counts.get(step_id, {}).get("failed") for step_id in run.graph.order)
    if failed and run.chain.on_error != "skip" and _too_many_failed(run):
        return "failed"
    return "ok"


def _too_many_failed(run: PreparedRun) -> bool:
    """Whether more rows failed than the chain allows; a row counts once, however many of its steps failed."""
    number = 0
    for rows in run.shards:
        records = run.store.records(run.run_id, rows=rows, statuses=("failed", "blocked"), payloads=False)
        number += len({record.row for record in records if record.step in run.chain.steps})
        if number > run.chain.max_failed_rows:
            return True
    return False


def _taken_over(run: PreparedRun) -> StoreConflict:
    return StoreConflict(
        f"run {run.run_id} was taken over by another process while this one was paused.",
        hint="This process has stopped; the run goes on there.",
    )


def _close(execution: _Execution, status: RunStatus) -> dict[str, Any]:
    from flows.outputs import run_outputs

    run = execution.run
    outputs = run_outputs(run) if len(run.rows) == 1 else None
    result: dict[str, Any] = {}

    def row(found: Mapping[str, dict[str, int]]) -> RunRow:
        counts = {step_id: found[step_id] for step_id in run.graph.order if step_id in found}
        result.update(
            run_id=run.run_id,
            status=status,
            rows=len(run.rows),
            counts=counts,
            cost_micro=cost_of_run(counts),
            outputs=outputs,
        )
        encoded = json.dumps(result, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return replace(run.row, status=status, finished_at=run.clock.now(), result=encoded)

    if not run.lease.end(row):
        raise _taken_over(run)
    run.store.write_manifest_aside(run.run_id)
    return result
