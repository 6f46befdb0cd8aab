"""Commands that read the store: `runs`, `show`, `models`, `verify`."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.errors import EnvironmentLacks, InputInvalid
from flows.cli.check import JsonOption, StoreOption
from flows.cli.text import duration, moment, money, print_json, safe, shorten, table
from flows.costs import cost_of

if TYPE_CHECKING:
    from chains.store import AttemptRow, RecordRow, RunRow, Store

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its first letters, or `last`.")]
_RIGHT = frozenset(
    {"rows", "ok", "failed", "skipped", "reused", "attempts", "tokens in", "tokens out", "cost", "seconds"}
)


def runs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 20,
    chain: Annotated[str | None, typer.Option("--chain", help="Only runs of this chain.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the latest runs."""
    with reading(store) as opened:
        found = [_run_facts(run) for run in opened.runs(limit=limit, chain=chain)]
    if as_json:
        print_json(found)
    else:
        print(table(found, right=_RIGHT) if found else "No runs yet. Try `headrace demo`.")


def show(
    run: RunArgument,
    step: Annotated[str | None, typer.Option("--step", help="One step.")] = None,
    row: Annotated[int | None, typer.Option("--row", min=0, help="One row, counted from 0.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print only the exact bytes of the last request.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows listed.")] = 20,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run, a step or one record: what was sent and said, attempts, tokens, cost, time."""
    with reading(store) as opened:
        found = _find_run(opened, run)
        if step is None:
            if row is not None or raw:
                raise InputInvalid("--row and --raw need --step.", hint="Name a step of the run.")
            _show_run(opened, found, as_json=as_json)
            return
        record = _find_record(opened, found, step, row)
        if record is None:
            _show_step(opened, found, step, limit=limit, as_json=as_json)
        elif raw:
            _print_raw(opened, record)
        else:
            _show_record(opened, record, as_json=as_json)


def models(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the models that finetune steps have published."""
    with reading(store) as opened:
        found = [
            {
                "model": f"models:{model.name}@{model.version}",
                "latest": "yes" if model.is_latest else "",
                "kind": model.kind,
                "base": _base_name(model.base),
                "made": moment(model.created_at),
                "run": json.loads(model.lineage or b"{}").get("run_id"),
                "metrics": json.loads(model.metrics or b"{}"),
            }
            for model in opened.models()
        ]
    if as_json:
        print_json(found)
        return
    if not found:
        print("No models yet: a finetune step with `publish:` adds one.")
        return
    for model in found:
        model["metrics"] = ", ".join(f"{name} {_number(value)}" for name, value in model["metrics"].items())
    print(table(found))


def verify(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check every row and blob of the store against its hash; exit 1 where something is damaged."""
    with reading(store) as opened:
        problems = opened.verify()
    if as_json:
        print_json({"ok": not problems, "problems": problems})
    else:
        print("\n".join(safe(problem) for problem in problems) or "The store is clean.")
    if problems:
        raise typer.Exit(1)


@contextmanager
def reading(store: str | None) -> Iterator[Store]:
    """Open a store that must exist."""
    from chains.settings import get_settings
    from chains.store import open_store, store_exists

    location = store or get_settings().store
    if not store_exists(location):
        raise EnvironmentLacks(
            f"there is no store at {location!r}.", hint="Name one with --store or HEADRACE_STORE."
        )
    opened = open_store(location)
    try:
        yield opened
    finally:
        opened.close()


def _find_run(store: Store, name: str) -> RunRow:
    if name == "last":
        latest = store.runs(limit=1)
        if latest:
            return latest[0]
    found = store.run(name)
    if found is None:
        raise InputInvalid(f"there is no run {name!r} in this store.", hint="See `headrace runs`.")
    return found


def _find_record(store: Store, run: RunRow, step_id: str, row: int | None) -> RecordRow | None:
    """Return the one record that is meant, or None where the step has many and no row was named."""
    steps = {step.id: step for step in store.steps(run.id)}
    if step_id not in steps:
        raise InputInvalid(f"run {run.id} has no step {step_id!r}.", hint=f"It has {', '.join(steps)}.")
    if row is None and not steps[step_id].once and run.rows > 1:
        return None
    position = row if row is not None else (-1 if steps[step_id].once else 0)
    record = store.record(run.id, step_id, position)
    if record is None:
        place = f"row {row} of step {step_id!r}" if row is not None else f"step {step_id!r}"
        raise InputInvalid(
            f"{place} has no record in run {run.id}.", hint="It has not run; `headrace show RUN` says why."
        )
    return record


def _show_run(store: Store, run: RunRow, *, as_json: bool) -> None:
    counts = store.counts(run.id)
    steps = []
    for step in store.steps(run.id):
        numbers = counts.get(step.id, {})
        steps.append(
            {
                "step": step.id,
                "kind": step.kind,
                "status": step.status,
                # A once step may also have a record for each row that it scored; it ran once.
                "ok": int(step.status == "ok") if step.once else numbers.get("ok", 0),
                "failed": numbers.get("failed", 0) + numbers.get("blocked", 0),
                "skipped": numbers.get("skipped", 0),
                "reused": numbers.get("reused", 0),
                "attempts": numbers.get("attempts", 0),
                "tokens in": numbers.get("tokens_in") or 0,
                "tokens out": numbers.get("tokens_out") or 0,
                "cost": money(cost_of(numbers)),
                "seconds": None
                if step.finished_at is None
                else f"{step.finished_at - (step.started_at or 0):.1f}",
            }
        )
    result = json.loads(run.result or b"{}")
    if as_json:
        print_json(_run_facts(run) | {"steps": steps, "result": result})
        return
    for name, value in _run_facts(run).items():
        print(f"{name:<10} {safe(str(value))}")
    print("\n" + table(steps, right=_RIGHT))
    for name, value in (result.get("outputs") or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"\n{safe(name)}: {safe(text)}")


def _show_step(store: Store, run: RunRow, step: str, *, limit: int, as_json: bool) -> None:
    records = store.records(run.id, step)
    listed = [
        {
            "row": record.row,
            "status": record.status,
            "reused": "yes" if record.reused_from else "",
            "attempts": record.attempts,
            "tokens in": record.tokens_in,
            "tokens out": record.tokens_out,
            "seconds": _seconds(record),
            "output or error": _summary(record),
        }
        for record in records
    ]
    if as_json:
        print_json(listed)
        return
    for line in listed:
        line["output or error"] = shorten(str(line["output or error"]), 90)
    failed_first = sorted(listed[:], key=lambda line: line["status"] not in ("failed", "blocked"))
    print(table(failed_first[:limit], right=_RIGHT | {"row"}))
    if len(listed) > limit:
        print(f"… {len(listed) - limit} more; --limit N or --row N shows them.")


def _show_record(store: Store, record: RecordRow, *, as_json: bool) -> None:
    attempts = store.attempts(record.id)
    if as_json:
        print_json(_record_json(record, attempts))
        return
    place = f" · row {record.row}" if record.row >= 0 else ""
    print(f"{record.step}{place} · {record.status} · {_seconds(record)} s · record {record.id}")
    if record.reused_from:
        print(f"reused from record {record.reused_from} (key {(record.value_key or '')[:12]})")
    if record.tokens_in is not None:
        print(f"tokens {record.tokens_in} in, {record.tokens_out} out · cost {money(record.cost_micro)}")
    if record.error is not None:
        _print_error(json.loads(record.error))
    _section("inputs", _pretty(record.inputs))
    for message in json.loads(record.messages) if record.messages else []:
        _section(message["role"], message["content"])
    _section("output", _pretty(record.output))
    for attempt in attempts:
        _print_attempt(attempt)


def _print_error(error: dict[str, Any]) -> None:
    print(safe(f"{error['type']}: {error['message']} {error.get('hint') or ''}".rstrip()))
    for line in error.get("history", []):
        print(safe(f"  {line}"))


def _print_attempt(attempt: AttemptRow) -> None:
    took = duration((attempt.finished_at or attempt.started_at) - attempt.started_at)
    facts = [attempt.state, took] + [f"HTTP {attempt.status}"] * bool(attempt.status)
    facts += [safe(attempt.model)] if attempt.model else []
    print(f"\n--- attempt {attempt.number}: {' · '.join(facts)}")
    if attempt.error_type:
        print(safe(f"{attempt.error_type}: {attempt.error_message}"))
    _section("request", _text(attempt.request))
    _section("response", _text(attempt.response))


def _print_raw(store: Store, record: RecordRow) -> None:
    attempts = store.attempts(record.id)
    if not attempts:
        origin = f"; it was reused from record {record.reused_from}" if record.reused_from else ""
        raise InputInvalid(f"record {record.id} sent nothing{origin}.", hint="Leave --raw out.")
    sys.stdout.buffer.write(attempts[-1].request or b"")


def _section(title: str, body: str | None) -> None:
    if body:
        print(f"\n[{title}]\n{safe(body)}")


def _record_json(record: RecordRow, attempts: list[AttemptRow]) -> dict[str, Any]:
    def parsed(payload: bytes | None) -> Any:
        return None if payload is None else json.loads(payload)

    return {
        "id": record.id,
        "run": record.run_id,
        "step": record.step,
        "row": record.row if record.row >= 0 else None,
        "status": record.status,
        "key": record.value_key,
        "reused_from": record.reused_from,
        "inputs": parsed(record.inputs),
        "messages": parsed(record.messages),
        "output": parsed(record.output),
        "error": parsed(record.error),
        "tokens_in": record.tokens_in,
        "tokens_out": record.tokens_out,
        "cost_micro": record.cost_micro,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "attempts": [
            {
                "number": attempt.number,
                "state": attempt.state,
                "status": attempt.status,
                "request": _text(attempt.request),
                "response": _text(attempt.response),
                "error_type": attempt.error_type,
                "error": attempt.error_message,
                "model": attempt.model,
                "request_id": attempt.request_id,
                "started_at": attempt.started_at,
                "finished_at": attempt.finished_at,
            }
            for attempt in attempts
        ],
    }


def _run_facts(run: RunRow) -> dict[str, Any]:
    return {
        "run": run.id,
        "chain": run.chain,
        "status": _live_status(run),
        "rows": run.rows,
        "started": moment(run.started_at),
        "took": duration(None if run.finished_at is None else run.finished_at - run.started_at),
        "data": run.data_path,
        "version": run.chain_hash[:12],
    }


def _live_status(run: RunRow) -> str:
    """Return `interrupted` for a run whose process on this machine is gone."""
    if run.status == "running" and run.host == socket.gethostname() and run.pid:
        try:
            os.kill(run.pid, 0)
        except ProcessLookupError:
            return "interrupted"
        except PermissionError:
            pass
    return run.status


def _summary(record: RecordRow) -> str:
    if record.error is not None:
        return str(json.loads(record.error)["message"])
    if record.output is None:
        return ""
    output = json.loads(record.output)
    shown = output.get("output") or output.get("text") or output if isinstance(output, dict) else output
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def _seconds(record: RecordRow) -> str:
    return f"{(record.finished_at or record.started_at or 0) - (record.started_at or 0):.2f}"


def _base_name(base: str | None) -> str:
    try:
        found = json.loads(base or "{}")
    except ValueError:
        return base or "-"
    return str(found.get("model") or found.get("provider") or "-") if isinstance(found, dict) else str(found)


def _number(value: Any) -> str:
    if isinstance(value, dict) and "value" in value:
        value = value["value"]
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _pretty(payload: bytes | None) -> str | None:
    if payload is None:
        return None
    return json.dumps(json.loads(payload), ensure_ascii=False, indent=2)


def _text(payload: bytes | None) -> str | None:
    return None if payload is None else payload.decode("utf-8", "replace")
