"""`headrace check` and `headrace plan`: what is wrong with a chain, and what a run of it would do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from flows.cli.options import (
    BaseUrlOption,
    ChainArgument,
    DataOption,
    InputsOption,
    JsonOption,
    LimitOption,
    MapOption,
    ModelOption,
    SkipBadOption,
    StoreOption,
    request_of_options,
)

if TYPE_CHECKING:
    from chains.plan import Plan
    from chains.settings import Settings
    from chains.store import Store
    from flows.request import RunRequest


def check(chain: ChainArgument, as_json: JsonOption = False) -> None:
    """Check a chain file: report every problem at once, run nothing."""
    from chains.check import missing_environment, warnings
    from chains.errors import ChainInvalid
    from chains.loading import find_chain, load
    from chains.settings import get_settings
    from flows.cli.text import print_json, safe

    settings = get_settings()
    try:
        chain_file = load(find_chain(chain), settings=settings)
        if chain_file.chain.variants:
            from flows.varying import check_variants

            check_variants(chain_file, list(chain_file.chain.variants), settings)
    except ChainInvalid as invalid:
        if not as_json:
            raise
        problems = [
            {
                "file": problem.location.file,
                "line": problem.location.line,
                "column": problem.location.column,
                "message": problem.message,
                "hint": problem.hint,
            }
            for problem in invalid.problems
        ]
        print_json({"ok": False, "problems": problems})
        raise typer.Exit(2) from None
    noted = [str(warning) for warning in warnings(chain_file)]
    import os

    from tasks.providers.routes import refusals

    refused = refusals(chain_file.chain, settings=settings, env=os.environ)
    missing = missing_environment(chain_file.chain, os.environ, without=refused)
    steps = len(chain_file.chain.steps)
    if as_json:
        found = {"ok": True, "chain": chain_file.chain.chain, "hash": chain_file.hash, "steps": steps}
        found |= {"warnings": noted, "refused": list(refused.values()), "missing_environment": missing}
        print_json(found)
        return
    for warning in noted:
        print(safe(warning), file=sys.stderr)
    for refusal in refused.values():
        print(f"A run is refused here: {safe(refusal)}", file=sys.stderr)
    for name in missing:
        print(f"A run needs the environment variable {safe(name)}, which is not set.", file=sys.stderr)
    print(f"{safe(str(chain_file.path))}: ok ({steps} steps, {chain_file.hash[:12]})")


def plan(
    chain: ChainArgument,
    inputs: InputsOption = None,
    data: DataOption = None,
    map_: MapOption = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do: order, pools, calls, tokens, and what may be reused."""
    from chains.settings import get_settings
    from flows.cli.text import print_json, safe, table

    settings = get_settings()
    request = request_of_options(
        chain,
        inputs=inputs,
        data=data,
        mapping=map_,
        models=model,
        base_url=base_url,
        limit=limit,
        skip_bad=skip_bad,
    )
    found = _planned(request, store or settings.store, settings)
    if as_json:
        print_json(found.to_dict())
        return
    print(f"{safe(found.chain)} · {found.rows} rows in {len(found.shards)} shards · {found.hash[:12]}\n")
    steps = [
        {
            "step": step.id,
            "kind": step.kind,
            "runs": "once" if step.once else "per row",
            "after": ", ".join(sorted(step.needs)) or "-",
            "model": step.model or "-",
            "calls ≤": step.calls,
            "tokens in ~": step.tokens_in_estimate,
            "reuse": step.reuse,
        }
        for step in found.steps
    ]
    print(table(steps, right=frozenset({"calls ≤", "tokens in ~"})))
    for note in found.notes:
        print(f"\n{safe(note)}")


def _planned(request: RunRequest, location: str, settings: Settings) -> Plan:
    """Check a request as a run would, up to what the machine has; without inputs, plan one row of any."""
    from dataclasses import replace

    from chains.loading import find_chain, load
    from chains.plan import make_plan
    from flows.binding import bind_rows, open_data, refuse_per_row_inputs
    from flows.cli.text import safe
    from flows.overriding import override_models

    chain_file = load(find_chain(request.chain), settings=settings)
    chain = override_models(chain_file.chain, request.models, request.base_url)
    chain_file = replace(chain_file, chain=chain)
    dataset = open_data(request, None)
    number, sample = 1, None
    if dataset is not None or request.inputs or request.mapping:
        rows, bad = bind_rows(chain, request, dataset)
        refuse_per_row_inputs(chain_file, rows)
        number, sample = len(rows), rows.first.inputs
        for row in bad:
            print(f"left out: {safe(row)}", file=sys.stderr)
    store = _existing_store(location)
    try:
        return make_plan(
            chain_file,
            rows=number,
            inputs_sample=sample,
            settings=settings,
            store=store,
            data_sha256=dataset.sha256 if dataset is not None else None,
        )
    finally:
        if store is not None:
            store.close()


def _existing_store(location: str) -> Store | None:
    """Open the store only where there is one: planning leaves nothing behind."""
    from chains.store import open_store, store_exists

    return open_store(location) if store_exists(location) else None
