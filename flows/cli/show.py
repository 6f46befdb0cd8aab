"""`headrace show`: a run, a step or one record, with every attempt's exact bytes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.clock import elapsed, iso
from chains.errors import InputInvalid
from flows.cli.options import JsonOption, RunArgument, StoreOption
from flows.cli.read import MOST_ROWS, reading, run_facts
from flows.cli.text import duration, moment, money, print_json, safe, shorten, table
from flows.costs import cost_of
from flows.forked import fork_words
from flows.listing import seconds_of
from flows.pool_waits import wait_text
from flows.resuming import find_run
from tasks.context import Place

if TYPE_CHECKING:
    from chains.store import AttemptRow, RecordRow, RunRow, StepRow, Store

MOST_INSIDE = 50

_RIGHT = frozenset(
    {"ok", "failed", "skipped", "inside", "reused", "attempts", "tokens in", "tokens out", "cost", "seconds"}
)


def show(
    run: RunArgument,
    step: Annotated[str | None, typer.Option("--step", help="One step.")] = None,
    row: Annotated[
        int | None, typer.Option("--row", min=0, max=MOST_ROWS, help="One row, counted from 0.")
    ] = None,
    item: Annotated[
        int | None, typer.Option("--item", min=0, help="One item of the row's map, from 0.")
    ] = None,
    turn: Annotated[int | None, typer.Option("--turn", min=0, help="One turn of a repeat, from 0.")] = None,
    path: Annotated[
        str, typer.Option("--path", help="The items and turns further out, as the list of the step has them.")
    ] = "",
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, max=100, help="One sample of the row, counted from 1.")
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Print only the exact bytes of the last request, to a file or a pipe."),
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST_ROWS, help="Rows listed.")] = 20,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run, a step or one record: what was sent and said, attempts, tokens, cost, time."""
    with reading(store) as opened:
        found = find_run(opened, run)
        if step is None:
            if raw or path or {row, sample, item, turn} != {None}:
                raise InputInvalid(
                    "--row, --item, --turn, --path, --sample and --raw need --step.",
                    hint="Name a step of the run.",
                )
            _show_run(opened, found, as_json=as_json)
            return
        if path or {item, turn} != {None}:
            place = Place(row or 0, _number(item), _number(turn), path)
            record = _record_inside(opened, found, step, place)
        elif "." in step:
            record = None
        else:
            record = find_record(opened, found, step, row)
        if sample is not None:
            record = _sample_of(opened, record, sample)
        if record is None:
            _show_step(opened, found, step, row, limit=limit, as_json=as_json)
        elif raw:
            _print_raw(opened, record)
        else:
            _show_record(opened, record, as_json=as_json)


def find_record(store: Store, run: RunRow, step_id: str, row: int | None) -> RecordRow | None:
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


def _number(given: int | None) -> int:
    return -1 if given is None else given


def _record_inside(store: Store, run: RunRow, step_id: str, place: Place) -> RecordRow:
    record = store.record(run.id, step_id, place.row, path=place.path, item=place.item, turn=place.turn)
    if record is None:
        raise InputInvalid(
            f"run {run.id} has no such record of step {step_id!r}.",
            hint=f"`headrace show {run.id} --step {step_id}` lists what there is.",
        )
    return record


def _where(record: RecordRow) -> str:
    """Return where in its row a record stands, in words."""
    found = [record.path] if record.path else []
    found += [f"turn {record.turn}"] if record.turn >= 0 else []
    found += [f"item {record.item}"] if record.item >= 0 else []
    return " · ".join(found)


def _sample_of(store: Store, record: RecordRow | None, number: int) -> RecordRow:
    if record is None:
        raise InputInvalid("--sample needs --row.", hint="Name one row.")
    for sample in store.samples(record):
        if sample.sample == number:
            return sample
    raise InputInvalid(f"the record has no sample {number}.", hint="Leave --sample out to see which it has.")


def _show_run(store: Store, run: RunRow, *, as_json: bool) -> None:
    counts = store.counts(run.id)
    facts = run_facts(run)
    steps = [step_facts(step, counts.get(step.id, {}), facts["status"]) for step in store.steps(run.id)]
    result = json.loads(run.result or b"{}")
    if as_json:
        print_json(facts | {"steps": steps, "result": result})
        return
    shown = {
        **{name: facts[name] for name in ("run", "chain", "status", "rows")},
        "started": moment(facts["started_at"]),
        "took": duration(facts["seconds"]),
        "data": facts["data"] or "-",
        "version": facts["version"][:12],
        **({"fork of": told} if (told := fork_words(run)) is not None else {}),
    }
    for name, value in shown.items():
        print(f"{name:<10} {safe(str(value))}")
    left_out = {"cost_micro"} if any(step["inside"] for step in steps) else {"cost_micro", "inside"}
    lines = [
        {name.replace("_", " "): value for name, value in step.items() if name not in left_out | {"waits"}}
        | {"cost": money(step["cost_micro"]), "seconds": _tenths(step["seconds"])}
        for step in steps
    ]
    print("\n" + table(lines, right=_RIGHT))
    for step in steps:
        if step["waits"] is not None:
            print(f"\n{safe(step['step'])}: {safe(step['waits'])}; `headrace doctor` tells who serves it.")
    for name, value in (result.get("outputs") or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"\n{safe(name)}: {safe(text)}")


def step_facts(step: StepRow, numbers: Mapping[str, int], run_status: str) -> dict[str, Any]:
    """Return what the lists say of a step, as JSON values."""
    status = step_status(step, numbers, run_status)
    took = elapsed(step.started_at, step.finished_at)
    return {
        "step": step.id,
        "kind": step.kind,
        "status": status,
        "waits": wait_text(step),
        # A once step may also have a record for each row that it scored; it ran once.
        "ok": int(status == "ok") if step.once else numbers.get("ok", 0),
        "failed": numbers.get("failed", 0) + numbers.get("blocked", 0),
        "skipped": numbers.get("skipped", 0),
        "inside": sum(number for name, number in numbers.items() if name.startswith("within_")),
        "reused": numbers.get("reused", 0),
        "attempts": numbers.get("attempts", 0),
        "tokens_in": numbers.get("tokens_in") or 0,
        "tokens_out": numbers.get("tokens_out") or 0,
        "cost_micro": cost_of(numbers),
        "seconds": None if took is None else round(took, 3),
    }


def _tenths(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _show_step(store: Store, run: RunRow, step: str, row: int | None, *, limit: int, as_json: bool) -> None:
    rows = None if row is None else [row]
    records = store.records(run.id, step, rows=rows, within="." in step)
    records = [record for record in records if record.sample == 0]
    listed = [
        {
            "row": record.row if record.row >= 0 else None,
            **({"place": _where(record)} if _where(record) else {}),
            "status": record.status,
            "reused": record.reused_from is not None,
            "attempts": record.attempts,
            "tokens_in": record.tokens_in,
            "tokens_out": record.tokens_out,
            "seconds": round(seconds_of(record), 3),
            "output": json.loads(record.output) if record.output is not None else None,
            "error": json.loads(record.error) if record.error is not None else None,
        }
        for record in records
    ]
    if as_json:
        print_json(listed)
        return
    placed = any(_where(record) for record in records)
    lines = [
        {"row": record.row, **({"place": _where(record)} if placed else {}), **_line(record)}
        for record in records
    ]
    failed_first = sorted(lines, key=lambda line: line["status"] not in ("failed", "blocked"))
    print(table(failed_first[:limit], right=_RIGHT | {"row"}))
    if len(lines) > limit:
        print(f"… {len(lines) - limit} more; --limit N or --row N shows them.")


def _line(record: RecordRow) -> dict[str, Any]:
    return {
        "status": record.status,
        "reused": "yes" if record.reused_from else "",
        "attempts": record.attempts,
        "tokens in": record.tokens_in,
        "tokens out": record.tokens_out,
        "seconds": _seconds(record),
        "output or error": shorten(_summary(record), 90),
    }


def _show_record(store: Store, record: RecordRow, *, as_json: bool) -> None:
    attempts, samples = store.attempts(record.id), [] if record.sample else store.samples(record)
    if as_json:
        of_samples = [_record_json(sample, store.attempts(sample.id)) for sample in samples]
        print_json(_record_json(record, attempts) | ({"samples": of_samples} if of_samples else {}))
        return
    place = f" · row {record.row}" if record.row >= 0 else ""
    place += f" · {_where(record)}" if _where(record) else ""
    place += f" · sample {record.sample}" if record.sample else ""
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
    if samples:
        print("\n[samples; --sample N shows one]")
        print(
            table(
                [{"sample": sample.sample, **_line(sample)} for sample in samples], right=_RIGHT | {"sample"}
            )
        )
    if record.stands_for_row:
        _list_inside(store, record)
    for attempt in attempts:
        _print_attempt(attempt)


def _list_inside(store: Store, record: RecordRow) -> None:
    within = store.records(record.run_id, record.step, rows=[record.row], within=True)
    inside = [found for found in within if not found.stands_for_row and found.sample == 0]
    if inside:
        print("\n[inside; --item N or --turn N shows one]")
        lines = [{"place": _where(found), **_line(found)} for found in inside[:MOST_INSIDE]]
        print(table(lines, right=_RIGHT))
        if len(inside) > MOST_INSIDE:
            print(f"… {len(inside) - MOST_INSIDE} more; --item N or --turn N shows one.")


def _print_error(error: dict[str, Any]) -> None:
    print(safe(f"{error['type']}: {error['message']} {error.get('hint') or ''}".rstrip()))
    for line in error.get("history", []):
        print(safe(f"  {line}"))


def _print_attempt(attempt: AttemptRow) -> None:
    took = duration(elapsed(attempt.started_at, attempt.finished_at) or 0.0)
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
    if sys.stdout.isatty():
        raise InputInvalid(
            "--raw prints bytes as they are, and a terminal would obey what is in them.",
            hint="Write them to a file or a pipe, as in `| cat -v`, or leave --raw out.",
        )
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
        "started_at": iso(record.started_at),
        "finished_at": iso(record.finished_at),
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
                "started_at": iso(attempt.started_at),
                "finished_at": iso(attempt.finished_at),
            }
            for attempt in attempts
        ],
    }


def step_status(step: StepRow, numbers: Mapping[str, int], run_status: str) -> str:
    """Return a step's status: what a process that is gone left open has not run to its end."""
    if step.status not in ("waiting", "running"):
        return step.status
    if numbers.get("waiting"):
        return "waiting"
    if run_status != "running":
        return "cancelled"
    return "running" if any(numbers.values()) else step.status


def _summary(record: RecordRow) -> str:
    if record.error is not None:
        return str(json.loads(record.error)["message"])
    if record.output is None:
        return ""
    output = json.loads(record.output)
    shown = output.get("output") or output.get("text") or output if isinstance(output, dict) else output
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def _seconds(record: RecordRow) -> str:
    return f"{seconds_of(record):.2f}"


def _pretty(payload: bytes | None) -> str | None:
    if payload is None:
        return None
    return json.dumps(json.loads(payload), ensure_ascii=False, indent=2)


def _text(payload: bytes | None) -> str | None:
    return None if payload is None else payload.decode("utf-8", "replace")
