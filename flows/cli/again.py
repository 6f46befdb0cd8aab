"""`headrace resume`, `retry` and `cancel`: finish a run, try its failed rows again, or stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chains.errors import InputInvalid
from flows.cli.options import DirectOption, JsonOption, OutOption, RunArgument, StoreOption, named_values
from flows.cli.read import reading
from flows.cli.run import run_to_end
from flows.request import Resume

if TYPE_CHECKING:
    from chains.store import RunRow, Store

CANCEL_LIMIT_SECONDS = 45.0
"""A live process answers within seconds; the lease of one that is gone passes within this time."""


def resume(
    run: RunArgument,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Run the steps that have changed since, and those that need them, anew in this run.",
        ),
    ] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="NAME=NUMBER",
            help="What the run may spend in all: usd=2, tokens=100000 or calls=500.",
        ),
    ] = None,
    out: OutOption = None,
    direct: DirectOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Finish a run: rows that were not done, and rows that failed. What is done is kept."""
    asked = Resume(run, accept_changes=accept_changes, budget=numbers(budget))
    run_to_end(asked, out=out, direct=direct, store=store, as_json=as_json)


def numbers(budget: list[str] | None) -> dict[str, float]:
    """Return the limits of `--budget`; raise InputInvalid for what is no number."""
    found = {}
    for name, text in named_values(budget, flag="--budget").items():
        try:
            found[name] = float(text.replace("_", ""))
        except ValueError as error:
            raise InputInvalid(
                f"--budget {name}={text!r:.200} is no number.", hint="Write --budget usd=2."
            ) from error
    return found


def retry(
    run: RunArgument,
    out: OutOption = None,
    direct: DirectOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run only what failed in a run that came to its end, and what was blocked by it."""
    run_to_end(Resume(run, failed_only=True), out=out, direct=direct, store=store, as_json=as_json)


def cancel(run: RunArgument, store: StoreOption = None) -> None:
    """Stop a run: no new calls, a few seconds for those in flight. What is done is kept."""
    from flows.resuming import find_run

    with reading(store) as opened:
        found = find_run(opened, run)
        if found.status != "running":
            print(f"run {found.id} is not running: it is {found.status}.")
            return
        opened.request_cancel(found.id)
        ended = _await_end(opened, found)
    if ended.status == "running":
        raise InputInvalid(
            f"run {ended.id} was asked to stop and has not yet.", hint="Its calls in flight may take a while."
        )
    print(f"run {ended.id} is {ended.status}; `headrace resume {ended.id}` finishes it.")


def _await_end(store: Store, run: RunRow) -> RunRow:
    """Return the run's row when it has ended; a run whose process is gone is closed here."""
    import time

    from chains.clock import Clock
    from flows.closing import close_if_lost
    from flows.resuming import find_run

    clock = Clock()
    begun = clock.monotonic()
    while run.status == "running" and clock.monotonic() - begun < CANCEL_LIMIT_SECONDS:
        close_if_lost(store, run, clock, "cancelled")
        run = find_run(store, run.id)
        if run.status == "running":
            time.sleep(0.2)
    return run
