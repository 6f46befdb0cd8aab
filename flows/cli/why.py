"""`headrace why`: whether a record ran or was reused, what its key is made of, and what has changed since."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import JsonOption, RunArgument, StepArgument, StoreOption
from flows.cli.read import MOST_ROWS, reading
from flows.cli.show import find_record
from flows.cli.text import print_json, safe, shorten

if TYPE_CHECKING:
    from chains.diff import Cause, Why
    from chains.store import RecordRow, RunRow, Store

_WIDTH = 100


def why(
    run: RunArgument,
    step: StepArgument,
    row: Annotated[
        int | None, typer.Option("--row", min=0, max=MOST_ROWS, help="One row, counted from 0.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a step ran or was reused: the parts of its key, and which changed since which run."""
    from chains.diff import why as explained
    from flows.recorded import recorded_or_none, recorded_run
    from flows.resuming import find_run

    with reading(store) as opened:
        found = find_run(opened, run)
        record = find_record(opened, found, step, row)
        of_rows = None if record is not None else _of_rows(opened, found, step)
        record = record or _first(opened, found, step)
        reason = explained(
            opened,
            recorded_run(opened, found),
            record,
            restored=lambda other: recorded_or_none(opened, other),
        )
    place = f"{step} · row {record.row}" if record.row >= 0 else step
    if as_json:
        facts = {"run": found.id, "step": step, "row": record.row if record.row >= 0 else None}
        print_json(facts | {"rows": of_rows, "record": record.id, **reason.to_dict()})
        return
    if of_rows is not None:
        counts = ", ".join(f"{number} {word}" for word, number in of_rows.items())
        print(f"{safe(step)}: {counts}. The first that was not reused, else the first (--row N for another):")
    _print(place, reason)


def _of_rows(store: Store, run: RunRow, step: str) -> dict[str, int]:
    """Return how many rows of a step were reused, and how the others ended."""
    found = Counter(
        "reused" if record.reused_from is not None else record.status
        for record in store.records(run.id, step, payloads=False)
        if record.row >= 0
    )
    return dict(found.most_common())


def _first(store: Store, run: RunRow, step: str) -> RecordRow:
    """Return a step's first record that was not reused, else its first."""
    from chains.errors import InputInvalid

    records = [record for record in store.records(run.id, step, payloads=False) if record.row >= 0]
    if not records:
        raise InputInvalid(f"step {step!r} has no records in run {run.id}.", hint="It has not run.")
    chosen = next((record for record in records if record.reused_from is None), records[0])
    whole = store.record_by_id(chosen.id)
    assert whole is not None  # records are removed with their run only
    return whole


def _print(place: str, reason: Why) -> None:
    print(safe(f"{place}: {reason.verdict}. {reason.reason}"))
    print(f"\nkey {reason.key or '- (none: it is not looked for)'}")
    for name, value in reason.parts.items():
        print(f"  {name:<12} {safe(shorten(_one_line(value), _WIDTH))}")
    if reason.compared is not None and reason.compared.changed:
        print(f"\nchanged since run {safe(reason.compared.run)}:")
        for cause in reason.compared.changed:
            print_cause(cause)


def print_cause(cause: Cause, indent: str = "  ") -> None:
    """Print a cause with both sides, shortened."""
    if cause.kind == "model" and cause.name == "identity":
        print(f"{indent}model identity: its weights, version or address; the store keeps only its hash")
        return
    print(safe(f"{indent}{cause}"))
    if cause.before is not None or cause.after is not None:
        print(f"{indent}  - {safe(shorten(_one_line(cause.before), _WIDTH))}")
        print(f"{indent}  + {safe(shorten(_one_line(cause.after), _WIDTH))}")


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("\n", " ⏎ ")
