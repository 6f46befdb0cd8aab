"""`headrace check` and `headrace plan`: what is wrong with a chain, and what a run of it would do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

ChainArgument = Annotated[
    str, typer.Argument(metavar="CHAIN", help="A chain file, or the name of a shipped chain.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="FOLDER", help="The store. Default: HEADRACE_STORE, else .headrace."),
]


def check(chain: ChainArgument, as_json: JsonOption = False) -> None:
    """Check a chain file: report every problem at once, run nothing."""
    from chains.check import missing_environment, warnings
    from chains.errors import ChainInvalid
    from chains.loading import find_chain, load
    from chains.settings import get_settings
    from flows.cli.text import print_json, safe

    try:
        chain_file = load(find_chain(chain), settings=get_settings())
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

    missing = missing_environment(chain_file.chain, os.environ)
    steps = len(chain_file.chain.steps)
    if as_json:
        found = {"ok": True, "chain": chain_file.chain.chain, "hash": chain_file.hash, "steps": steps}
        print_json(found | {"warnings": noted, "missing_environment": missing})
        return
    for warning in noted:
        print(safe(warning), file=sys.stderr)
    for name in missing:
        print(f"A run needs the environment variable {safe(name)}, which is not set.", file=sys.stderr)
    print(f"{safe(str(chain_file.path))}: ok ({steps} steps, {chain_file.hash[:12]})")


def plan(
    chain: ChainArgument,
    data: Annotated[Path | None, typer.Option("--data", help="A JSONL, CSV or Parquet file.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("-i", "--input", metavar="NAME=VALUE")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do: order, pools, calls, tokens, and what may be reused."""
    from chains.data import open_dataset
    from chains.loading import find_chain, load
    from chains.plan import make_plan
    from chains.settings import get_settings
    from flows.cli.run import parse_pairs
    from flows.cli.text import print_json, safe, table

    settings = get_settings()
    chain_file = load(find_chain(chain), settings=settings)
    sample = dict(parse_pairs(inputs or [], flag="-i"))
    rows = 1
    if data is not None:
        dataset = open_dataset(data)
        rows = dataset.count
        sample = {**sample, **next((row for _, row in dataset.rows(0, 1)), {})}
    opened = _existing_store(store or settings.store)
    found = make_plan(chain_file, rows=rows, inputs_sample=sample or None, settings=settings, store=opened)
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


def _existing_store(location: str):  # type: ignore[no-untyped-def]  # the store's import is heavy; a plan may need none
    """Open the store only where there is one: planning leaves nothing behind."""
    from chains.store import open_store, store_exists

    return open_store(location) if store_exists(location) else None
