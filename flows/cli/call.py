"""`headrace call` and `headrace result`: run a deployed chain elsewhere, and read what a run came to."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from chains.errors import InputInvalid
from flows.cli.options import InputsOption, JsonOption, RunArgument, StoreOption, named_values, read_inputs


def call(
    chain: Annotated[str, typer.Argument(metavar="CHAIN", help="The name of a deployed chain.")],
    inputs: InputsOption = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FILE", help="A data set in the chain's folder.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="NAME=VALUE", help="A field of the form's options, such as limit=5."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the outputs.")] = True,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Wait no longer; the run goes on.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Calls with the same key make one run.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a deployed chain on its worker and print its outputs."""
    from flows.cli.text import print_json, safe
    from flows.client import begin_call, deployment_of

    schema = deployment_of(chain)["parameter_openapi_schema"]
    options = (schema.get("definitions") or {}).get("Options") or {}
    begun = begin_call(
        chain,
        _typed(schema, read_inputs(inputs), flag="-i"),
        data=data,
        options=_typed(options, named_values(option, flag="--option"), flag="--option"),
        idempotency_key=idempotency_key,
    )
    if not wait:
        facts = {"chain": chain, "flow_run_id": begun.flow_run_id}
        print_json(facts) if as_json else print(f"flow run {begun.flow_run_id}")
        return
    print(f"flow run {safe(begun.flow_run_id)}", file=sys.stderr)
    _print_result(begun.result(timeout=timeout), as_json=as_json)


def result(run: RunArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Print what a run returned: its outputs, or those of each row."""
    from flows.cli.read import reading
    from flows.results import result_of
    from flows.resuming import find_run

    with reading(store) as opened:
        found = result_of(opened, find_run(opened, run))
    _print_result(found, as_json=as_json)


def _typed(schema: Mapping[str, Any], texts: Mapping[str, str], *, flag: str) -> dict[str, Any]:
    """Return the texts of a command line as the values that a form's fields take."""
    from chains.inputs import WrongValue, value_of
    from chains.spec import Input

    values: dict[str, Any] = {}
    for name, text in texts.items():
        kind = ((schema.get("properties") or {}).get(name) or {}).get("type", "string")
        try:
            values[name] = value_of(Input(type=kind, required=False), text, from_text=True)
        except WrongValue as error:
            raise InputInvalid(f"{flag} {name} {error}") from error
    return values


def _print_result(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a run's result and exit with its code: 0 ok, 1 failed, 130 stopped."""
    from flows.cli.text import print_json, safe

    if as_json:
        print_json(found)
    else:
        outputs = found["outputs"] if found["status"] == "ok" else None
        for name, value in (outputs or {}).items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            print(f"{safe(name)}: {safe(text)}")
        for row in found["row_outputs"] or []:
            print(safe(json.dumps(row, ensure_ascii=False)))
        print(f"\nrun {found['run_id']}: {found['status']}", file=sys.stderr)
        error = found["error"]
        if error:
            row = "" if error["row"] is None else f", row {error['row']}"
            print(safe(f"step {error['step']!r}{row}: {error['message']}"), file=sys.stderr)
        if found.get("note"):
            print(safe(found["note"]), file=sys.stderr)
    if found["status"] not in ("ok", "running"):
        raise typer.Exit(130 if found["status"] == "cancelled" else 1)
