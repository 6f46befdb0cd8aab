"""Time and money behind each prediction, from the records and attempts of the steps that made it.

Owns which records tell: for an answer that was reused it is the record that made it, whether or not this run
paid for it. Where that is gone the row has no figure and is counted. Seconds are those of the calls, waiting
for a place left out; of a step that calls nobody, those of its record. Reads the store only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from chains.clock import elapsed
from chains.inside import all_inside
from chains.spec import ChainStep, EvaluateStep, MappedStep, RepeatStep, Step, runs_once
from chains.templates import references
from tasks.context import StepContext
from tasks.metrics.estimate import amount, percentile
from tasks.scoring.compared import Compared
from tasks.scoring.figures import Figure, figure, in_order

if TYPE_CHECKING:
    from chains.store import AttemptRow, RecordRow

NAMES = ("latency", "latency_p50", "latency_p95", "cost")
_AT_ONCE = 4096
_LINKS = 32
"""Records that one is followed through to where its answer was made."""

_PERCENTILES = {"latency_p50": 0.5, "latency_p95": 0.95}


def timed_steps(ctx: StepContext, step: EvaluateStep) -> list[str]:
    """Return the per-row steps whose time and cost are those of a prediction."""
    if step.timed:
        return list(dict.fromkeys(step.timed))
    steps = ctx.chain_file.chain.steps
    roots = [found.root for found in references(step.evaluate.prediction)]
    return [name for name in dict.fromkeys(roots) if name in steps and not runs_once(steps[name])]


def spent(
    ctx: StepContext, step: EvaluateStep, names: Sequence[str], rows: Sequence[Compared]
) -> dict[str, Figure]:
    """Return the figures of `names`: seconds and US dollars of each row."""
    seconds: dict[int, float] = defaultdict(float)
    dollars: dict[int, float] = defaultdict(float)
    no_time: dict[int, str] = {}
    no_cost: dict[int, str] = {}
    wanted = {item.row for item in rows}
    for name, timed in _with_inside(ctx, timed_steps(ctx, step)):
        took = _seconds_of_calls(ctx, name)
        records = _records(ctx, name, wanted)
        pieces = {record.row for record in records if record.sample}
        for record in records:
            made = _made(ctx, record)
            if not record.stands_for_row and record.status == "skipped":
                continue
            if not record.stands_for_row and record.status == "failed":
                made = record  # the step went on without it, and it took its time and money
            elif made is None or made.status != "ok":
                why = record.status if made is not None else "its answer's first record is gone"
                no_time[record.row] = no_cost[record.row] = f"step {name!r}: {why}"
                continue
            if made is not record:
                took[made.id] = _sum(ctx.store.attempts(made.id, payloads=False))
            # A record that was put together from others, which are counted, took no time of its own.
            voted = record.row in pieces and not record.sample
            own = 0.0 if voted or _only_holds(timed, record) else _own_seconds(made)
            seconds[record.row] += took.get(made.id, 0.0) if made.attempts else own
            if made.attempts and made.cost_micro is None:
                no_cost[record.row] = f"step {name!r}: its cost is not known"
            dollars[record.row] += (made.cost_micro or 0) / 1_000_000
    found = {}
    for name in names:
        values, without = (dollars, no_cost) if name == "cost" else (seconds, no_time)
        found[name] = _figure(name, values, without, wanted)
    return found


def _figure(name: str, values: Mapping[int, float], without: Mapping[int, str], wanted: set[int]) -> Figure:
    known = {row: value for row, value in values.items() if row not in without and row in wanted}
    unscored = {row: without.get(row, "it has no record") for row in sorted(wanted - known.keys())}
    if not known:
        return figure(name, known, unscored, amount([0.0]))
    scores = in_order(known)
    share = _PERCENTILES.get(name)
    estimate = amount(scores) if share is None else percentile(scores, share)
    return figure(name, known, unscored, estimate)


def _seconds_of_calls(ctx: StepContext, step_id: str) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for attempt in ctx.store.attempts_of_run(ctx.run_id, step_id, payloads=False):
        found[attempt.record_id] += elapsed(attempt.started_at, attempt.finished_at) or 0.0
    return found


def _made(ctx: StepContext, record: RecordRow) -> RecordRow | None:
    """Return the record that an answer was made in."""
    for _ in range(_LINKS):
        if record.reused_from is None:
            return record
        origin = ctx.store.record_by_id(record.reused_from)
        if origin is None:
            return None
        record = origin
    return None


def _own_seconds(record: RecordRow) -> float:
    return elapsed(record.started_at, record.finished_at) or 0.0


def _with_inside(ctx: StepContext, names: Sequence[str]) -> Iterator[tuple[str, Step]]:
    """Yield the steps, each with those inside it, by their whole names."""
    for name in names:
        yield name, ctx.chain_file.chain.steps[name]
        yield from all_inside(ctx.chain_file, name).items()


def _only_holds(step: Step, record: RecordRow) -> bool:
    """Whether a record is put together from those inside it, which are counted."""
    if isinstance(step, RepeatStep | ChainStep):
        return True
    return isinstance(step, MappedStep) and step.map is not None and record.item < 0


def _sum(attempts: Sequence[AttemptRow]) -> float:
    return sum(elapsed(attempt.started_at, attempt.finished_at) or 0.0 for attempt in attempts)


def _records(ctx: StepContext, step_id: str, wanted: set[int]) -> list[RecordRow]:
    found: list[RecordRow] = []
    for start in range(min(wanted), max(wanted) + 1, _AT_ONCE):
        span = range(start, start + _AT_ONCE)
        records = ctx.store.records(ctx.run_id, step_id, rows=span, payloads=False, within=True)
        found += [record for record in records if record.row in wanted]
    return found
