"""The pages of one run and of one of its steps: the graph with states, the table, the waterfall, the rows.

Owns what they say; knows nothing of HTML. A run whose chain this Headrace does not read has no graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chains.clock import elapsed
from chains.drawing import Mark, draw_file, svg
from chains.store.run_life import WITHIN
from flows.cli.show import step_facts
from flows.inspector.addresses import Place, path_of, step_path
from flows.inspector.detail_view import detail_view
from flows.inspector.looking import NotThere
from flows.inspector.runs_view import run_line
from flows.inspector.texts import SHORT, cut, decoded, pretty, summary
from flows.inspector.waterfall import attempt_bars, pool_waits, step_bars, waterfall
from tasks.scopes import ONCE

if TYPE_CHECKING:
    from chains.store import RecordRow, RunRow, StepRow
    from flows.inspector.looking import Looking

PER_PAGE: Final = 100
MOST_TIMED: Final = 20_000
"""Rows of a run whose calls are added up for its picture."""
RECORD_STATUSES: Final = ("ok", "failed", "skipped", "blocked", "waiting", "cancelled", "running")


def run_view(looking: Looking, run: RunRow, *, links: bool = True) -> dict[str, Any]:
    """Return the page of a run; without `links` its picture leads nowhere."""
    store = looking.store
    counts = store.counts(run.id)
    sums = looking.sums([run]).get(run.id, {})
    line = run_line(run, sums)
    # What a step waits for stands in its payloads; a run that has ended waits for nothing.
    steps = store.steps(run.id, payloads=line["status"] == "running")
    facts = [step_facts(step, counts.get(step.id, {}), line["status"]) for step in steps]
    result = decoded(run.result) or {}
    outputs = result.get("outputs") or {}
    return {
        "run": line,
        "data": run.data_path,
        "version": run.chain_hash,
        "inputs": {name: cut(pretty(value), SHORT).text for name, value in _inputs(run).items()},
        "steps": facts,
        "outputs": {name: cut(pretty(value), SHORT).text for name, value in outputs.items()},
        "picture": _picture(looking, run, facts, {step.id for step in steps if step.once}, links=links),
        "waterfall": _waterfall(looking, run, steps),
        "refresh": line["status"] == "running",
    }


def step_view(looking: Looking, run: RunRow, step_id: str, *, status: str, page: int) -> dict[str, Any]:
    """Return the page of a step: its rows."""
    store = looking.store
    counts = store.counts(run.id).get(step_id, {})
    steps = {step.id: step for step in store.steps(run.id, payloads=False)}
    if step_id not in steps:
        raise NotThere(f"Run {run.id} has no step {step_id!r}.")
    line = run_line(run, {})
    status = status if status in RECORD_STATUSES else ""
    # A step of another chain may have one record for each row, a step of a turn has none that stands for it.
    within = "." in step_id and not any(counts.get(word) for word in RECORD_STATUSES)
    words = [status] if status else RECORD_STATUSES
    number = sum(counts.get(WITHIN + word if within else word, 0) for word in words)
    pages = max(1, -(-number // PER_PAGE))
    page = min(max(1, page), pages)
    listed = store.page_of_records(
        run.id, step_id, limit=PER_PAGE, offset=(page - 1) * PER_PAGE, status=status or None, within=within
    )
    return {
        "run": line,
        "step": step_facts(steps[step_id], counts, line["status"]),
        **detail_view(looking, run, _own_record(looking, run, steps[step_id]), steps[step_id].kind),
        "records": [
            {
                "row": item.record.row if item.record.row >= 0 else None,
                "place": Place.of(item.record).words,
                "href": path_of(item.record),
                "status": item.record.status,
                "reused": item.record.reused_from is not None,
                "attempts": item.record.attempts,
                "tokens_in": item.record.tokens_in,
                "tokens_out": item.record.tokens_out,
                "cost_micro": item.record.cost_micro,
                "seconds": elapsed(item.record.started_at, item.record.finished_at),
                "said": "(long)" if item.is_large else summary(item.output, item.error),
            }
            for item in listed
        ],
        "filter": {"status": status},
        "statuses": list(RECORD_STATUSES),
        "number": number,
        "page": page,
        "pages": pages,
        "refresh": line["status"] == "running",
    }


def _own_record(looking: Looking, run: RunRow, step: StepRow) -> RecordRow | None:
    """Return the record of a step that runs once."""
    return looking.store.record(run.id, step.id, ONCE) if step.once else None


def _inputs(run: RunRow) -> dict[str, Any]:
    found = decoded(run.inputs)
    return found if isinstance(found, dict) else {}


def _picture(
    looking: Looking, run: RunRow, facts: list[dict[str, Any]], once: set[str], *, links: bool
) -> str | None:
    recorded = looking.chain(run)
    if recorded is None:
        return None
    marks = {
        fact["step"]: Mark(
            state=_state(fact),
            note=_note(fact, run.rows, inside=_inside(fact, facts), once=fact["step"] in once),
            href=step_path(run.id, fact["step"]) if links else None,
        )
        for fact in facts
    }
    return svg(draw_file(recorded.chain_file), marks, styled=False)


def _state(fact: dict[str, Any]) -> str:
    return "failed" if fact["failed"] else str(fact["status"])


def _inside(fact: dict[str, Any], facts: list[dict[str, Any]]) -> int:
    """Return how many records lie inside those of a step's rows, also those of the steps inside it."""
    below = f"{fact['step']}."
    found: int = fact["inside"] + sum(other["inside"] for other in facts if other["step"].startswith(below))
    return found


def _note(fact: dict[str, Any], rows: int, *, inside: int, once: bool) -> str:
    within = f", {inside} inside" if inside else ""
    if fact["failed"]:
        others = within or f", {fact['ok']} ok"
        return f"{fact['failed']} failed{others}"
    if once:
        return str(fact["status"])
    reused = f", {fact['reused']} reused" if fact["reused"] else ""
    if inside and not fact["ok"] + fact["skipped"] and "." in fact["step"]:
        return f"{inside} inside{reused}"  # a step of a turn has no record that stands for a row
    return f"{fact['ok'] + fact['skipped']}/{rows}{within}{reused}"


def _waterfall(looking: Looking, run: RunRow, steps: list[StepRow]) -> str | None:
    store = looking.store
    if run.rows > MOST_TIMED:
        return waterfall(step_bars(steps, {}, {}))
    if run.rows > 1:
        recorded = looking.chain(run)
        begun = store.begun_elsewhere(run.id)
        pools = pool_waits(steps, begun, recorded.graph.needs if recorded is not None else {})
        return waterfall(step_bars(steps, store.times_of_steps(run.id), pools))
    records = [record for row in (-1, 0) for record in store.records_of_row(run.id, row)]
    attempts = store.attempts_of_run(run.id, payloads=False)
    return waterfall(attempt_bars(records, attempts, {step.id: step for step in steps}))
