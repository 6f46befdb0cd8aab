"""`headrace resume` and `headrace retry`: finish an earlier run, or try its failed rows again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.check import JsonOption, StoreOption
from flows.cli.read import RunArgument
from flows.cli.run import run_to_end
from flows.request import Resume

OutOption = Annotated[Path | None, typer.Option("--out", help="Write each row's outputs as JSONL.")]
DirectOption = Annotated[bool, typer.Option("--direct", help="Run without Prefect.")]


def resume(
    run: RunArgument,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Run the steps that have changed since, and those that need them, anew in this run.",
        ),
    ] = False,
    out: OutOption = None,
    direct: DirectOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Finish a run: rows that were not done, and rows that failed. What is done is kept."""
    asked = Resume(run, accept_changes=accept_changes)
    run_to_end(asked, out=out, direct=direct, store=store, as_json=as_json)


def retry(
    run: RunArgument,
    out: OutOption = None,
    direct: DirectOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run only what failed in a run that came to its end, and what was blocked by it."""
    run_to_end(Resume(run, failed_only=True), out=out, direct=direct, store=store, as_json=as_json)
