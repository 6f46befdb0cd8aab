"""The command that lists runs, and the opening of a store that must exist."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.clock import elapsed, iso
from flows.cli.options import JsonOption, StoreOption, no_store
from flows.cli.text import duration, moment, print_json, safe, table
from flows.pool_waits import wait_of_run
from flows.resuming import is_dead

if TYPE_CHECKING:
    from chains.store import RunRow, Store

_RIGHT = frozenset({"rows"})
MOST_ROWS = 2**31 - 1


def runs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST_ROWS, help="How many.")] = 20,
    chain: Annotated[str | None, typer.Option("--chain", help="Only runs of this chain.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the latest runs."""
    with reading(store) as opened:
        found = [
            run_facts(run) | {"waits": wait_of_run(opened, run.id) if run.status == "running" else None}
            for run in opened.runs(limit=limit, chain=chain)
        ]
    if as_json:
        print_json(found)
    else:
        _print_runs(found, chain)


@contextmanager
def reading(store: str | None) -> Iterator[Store]:
    """Open a store that must exist."""
    from chains.settings import get_settings
    from chains.store import open_store, store_exists

    location = store or get_settings().store
    if not store_exists(location):
        raise no_store(location)
    opened = open_store(location)
    try:
        yield opened
    finally:
        opened.close()


def _print_runs(found: list[dict[str, Any]], chain: str | None) -> None:
    if not found and chain is not None:
        print(f"No runs of a chain {safe(chain)!r} in this store.")
        return
    lines = [
        {
            "run": run["run"],
            "chain": run["chain"],
            "status": run["waits"] or run["status"],
            "rows": run["rows"],
            "started": moment(run["started_at"]),
            "took": duration(run["seconds"]),
            "data": run["data"],
            "version": run["version"][:12],
        }
        for run in found
    ]
    print(table(lines, right=_RIGHT) if lines else "No runs yet. Try `headrace demo`.")


def run_facts(run: RunRow) -> dict[str, Any]:
    """Return what the lists say of a run, as JSON values."""
    took = elapsed(run.started_at, run.finished_at)
    return {
        "run": run.id,
        "chain": run.chain,
        "status": live_status(run),
        "rows": run.rows,
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "seconds": None if took is None else round(took, 3),
        "data": run.data_path,
        "version": run.chain_hash,
        "forked_from": run.forked_from,
    }


def live_status(run: RunRow) -> str:
    """Return a run's status, `interrupted` for one whose process on this machine is gone."""
    return "interrupted" if is_dead(run) else run.status
