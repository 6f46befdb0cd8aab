"""`headrace demo`: the shipped chain `support` on its held-out tickets, before and after fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import StoreOption
from flows.cli.text import duration, table

if TYPE_CHECKING:
    from chains.store import RunRow, Store
    from flows.prepared import PreparedRun

SCORES = ("score_before", "score_after")


def demo(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="openai:NAME", help="A real model in place of the starter."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Endpoint for --model, up to /v1.")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Run without Prefect.")] = False,
    store: StoreOption = None,
) -> None:
    """Embed, retrieve, prompt, fine-tune and evaluate on 200 held-out tickets, offline."""
    from chains.loading import find_chain
    from flows.cli.run import started_run
    from flows.request import RunRequest

    chain = find_chain("support")
    request = RunRequest(
        chain=str(chain),
        inputs={"tune": True},
        data=str(chain.parent / "data" / "heldout.jsonl"),
        models=(model,) if model else (),
        base_url=base_url,
    )
    with started_run(request, store=store, direct=direct) as (prepared, _monitor, row):
        print(_dag(prepared))
        print("\n" + _before_after(prepared, row))
        print(f"\nstore: {prepared.store.path}   run: {row.id}   status: {row.status}")
        print(_next_commands(prepared, row))
    if row.status != "ok":
        raise typer.Exit(130 if row.status == "cancelled" else 1)


def _dag(prepared: PreparedRun) -> str:
    """Return the DAG as a table in running order: each step, what it waits for, and how long it took."""
    counts = prepared.store.counts(prepared.run_id)
    steps = {step.id: step for step in prepared.store.steps(prepared.run_id)}
    depth: dict[str, int] = {}
    for step_id in prepared.graph.order:
        depth[step_id] = 1 + max((depth[up] for up in prepared.graph.needs[step_id]), default=-1)
    rows = []
    for step_id in prepared.graph.order:
        step, numbers = steps[step_id], counts.get(step_id, {})
        seconds = _busy_seconds(prepared, step_id)
        rows.append(
            {
                "step": "  " * depth[step_id] + ("└ " if depth[step_id] else "") + step_id,
                "kind": step.kind,
                "needs": ", ".join(sorted(prepared.graph.needs[step_id])) or "-",
                "status": step.status,
                "rows": _rows_text(numbers, once=step.once),
                "time": duration(seconds),
            }
        )
    return table(rows, right=frozenset({"time"}))


def _rows_text(numbers: dict[str, int], *, once: bool) -> str:
    done = "once" if once else str(numbers.get("ok", 0))
    notes = [f"{numbers[word]} {word}" for word in ("failed", "skipped") if numbers.get(word)]
    if numbers.get("reused"):
        notes.append("reused" if once else f"{numbers['reused']} reused")
    return ", ".join([done, *notes])


def _busy_seconds(prepared: PreparedRun, step_id: str) -> float:
    """Return the seconds from the step's first record to its last; a step row also counts waiting."""
    records = prepared.store.records(prepared.run_id, step_id, payloads=False)
    begun = [record.started_at for record in records if record.started_at is not None]
    ended = [record.finished_at for record in records if record.finished_at is not None]
    return max(ended) - min(begun) if begun and ended else 0.0


def _before_after(prepared: PreparedRun, row: RunRow) -> str:
    """Return the before/after table, each metric with its 95 % interval, and the paired difference."""
    from tasks.metrics.compare import compare

    store = prepared.store
    before, after = (store.record(row.id, step, -1) for step in SCORES)
    if before is None or after is None or not before.output or not after.output:
        return "No before/after table: an evaluation did not run. `headrace show` says why."
    left, right = json.loads(before.output), json.loads(after.output)
    names = [name for name in left if isinstance(left[name], dict) and "low" in left[name]]
    before_name = _model_name(prepared)
    lines = [
        {"held-out triage": name, before_name: _interval(left[name]), "tuned starter": _interval(right[name])}
        for name in names
    ]
    text = table(lines)
    scores = [_scores(store, row.id, step) for step in SCORES]
    if scores[0] and scores[1]:
        paired = compare(scores[0], scores[1])
        interval = f"[{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]"
        text += f"\naccuracy, paired difference: {100 * paired.difference:+.1f} points {interval}"
    return text


def _model_name(prepared: PreparedRun) -> str:
    model = prepared.chain.models[prepared.chain.defaults.model or "writer"]
    return model.model or model.provider


def _scores(store: Store, run_id: str, step: str) -> list[float]:
    outputs = [
        json.loads(r.output) for r in store.records(run_id, step) if r.row >= 0 and r.output is not None
    ]
    return [float(output["scores"]["accuracy"]) for output in outputs]


def _interval(metric: dict[str, Any]) -> str:
    return f"{100 * metric['value']:.1f} %  [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def _next_commands(prepared: PreparedRun, row: RunRow) -> str:
    store = _store_flag(prepared.store.path)
    return "\n".join(
        [
            "next:",
            f"  headrace show {row.id[:14]} --step triage --row 0{store}",
            "  headrace demo --model openai:gpt-5-mini            # or --model openai:NAME --base-url URL",
            f"  headrace run support --data YOUR_TICKETS.csv --out replies.jsonl{store}",
        ]
    )


def _store_flag(path: Path) -> str:
    return "" if path.resolve() == Path(".headrace").resolve() else f" --store {path}"
