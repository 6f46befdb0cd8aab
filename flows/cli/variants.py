"""`headrace run --variants`: the chain as it is, then its variants, and what they come to beside it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from flows.cli.text import print_json, safe, table

if TYPE_CHECKING:
    from chains.store import RunRow
    from flows.request import Replay, RunRequest

_RIGHT = frozenset({"rows that differ", "calls", "tokens", "cost", "seconds each"})


def run_variants(request: RunRequest, named: str, *, direct: bool, store: str | None, as_json: bool) -> None:
    """Run a chain and variants of it, and print each beside it."""
    from chains.loading import find_chain, load
    from chains.settings import get_settings
    from chains.store import open_store
    from flows import varying

    settings = get_settings()
    chain_file = load(find_chain(request.chain), settings=settings)
    names = varying.variants_named(chain_file.chain, named)
    varying.check_variants(chain_file, names, settings)
    base = _run(request, "the chain as it is", store=store, direct=direct)
    found: dict[str, dict[str, Any]] = {}
    runs = {}
    if base.status == "ok":
        for name in names:
            asked = varying.replay_of(base.id, chain_file.chain, name)
            runs[name] = _run(asked, f"variant {name}", store=store, direct=direct)
    with open_store(store or settings.store) as opened:
        found = {name: varying.compared(opened, base, run) for name, run in runs.items()}
    if as_json:
        print_json({"base": json.loads(base.result or b"{}"), "variants": found})
    else:
        _print(base, found)
    if base.status != "ok" or any(run.status != "ok" for run in runs.values()):
        raise typer.Exit(1)


def _run(asked: RunRequest | Replay, words: str, *, store: str | None, direct: bool) -> RunRow:
    from flows.cli.run import started_run

    print(f"{words}:", file=sys.stderr)
    with started_run(asked, store=store, direct=direct) as (_, _, row):
        print(f"run {row.id}: {row.status}\n", file=sys.stderr)
        return row


def _print(base: RunRow, found: dict[str, dict[str, Any]]) -> None:
    from flows import varying
    from flows.cli.diff import metric_line

    if not found:
        print(f"run {base.id} is {base.status}: its variants were not run.")
        return
    for name, one in found.items():
        ran = ", ".join(one["steps"]) or "nothing"
        print(safe(f"{name}: run {one['run_id']} is {one['status']}; it ran {ran}"))
        print(table(varying.beside(name, one), right=_RIGHT))
        if one["metrics"]:
            print(
                "\n"
                + table([metric_line(line) for line in one["metrics"]], right=frozenset({"before", "after"}))
            )
        print(f"next: headrace diff {base.id} {one['run_id']}\n")
