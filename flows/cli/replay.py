"""`headrace replay`: a fork of a run with a step edited; what does not depend on it is linked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.errors import InputInvalid
from flows.cli.again import numbers
from flows.cli.options import (
    DirectOption,
    JsonOption,
    OutOption,
    RunArgument,
    StoreOption,
    named_values,
    text_or_file,
)
from flows.cli.read import reading
from flows.cli.run import run_to_end
from flows.request import Replay

if TYPE_CHECKING:
    from flows.fork_costs import PlannedStep
    from flows.forking import Fork

_RIGHT = frozenset({"runs", "linked", "calls ≤", "tokens ≤", "cost ≤"})


def replay(
    run: RunArgument,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP[row N]", help="The step, and its rows, from which on to run."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STEP.FIELD=VALUE",
            help="Edit: triage.prompt=@file, triage.temperature=0.7, inputs.tone=brief; @@ is @.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="STEP=NAME", help="Another model: of the chain, or PROVIDER:MODEL."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask the step of --from anew, though nothing is edited.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option("--samples", metavar="N", min=1, max=100, help="Ask the step of --from N times a row."),
    ] = None,
    chain: Annotated[
        str | None,
        typer.Option(
            "--chain", metavar="CHAIN", help="Take this file in place of the chain as the run kept it."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Run the steps that --chain has changed without asking.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show what would run, what is linked, and what it may cost."),
    ] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="NAME=NUMBER",
            help="What the fork may spend: usd=2, tokens=100000 or calls=500.",
        ),
    ] = None,
    out: OutOption = None,
    direct: DirectOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a fork of a run: edited steps and what needs them run, everything else is linked."""
    edits = {
        target: text_or_file(value, flag=f"--set {target}")
        for target, value in named_values(set_, flag="--set").items()
    }
    asked = Replay(
        run,
        start=start,
        edits=edits,
        models=named_values(model, flag="--model"),
        fresh=fresh,
        samples=samples,
        chain=chain,
        budget=numbers(budget) or None,
        from_text=True,
    )
    if dry_run or chain is not None:
        _show(asked, store, dry_run=dry_run, yes=yes, as_json=as_json)
    if not dry_run:
        run_to_end(asked, out=out, direct=direct, store=store, as_json=as_json)


def _show(asked: Replay, store: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Print what a replay would do, or ask whether steps that the file has changed may run."""
    from chains.settings import get_settings
    from flows.fork_costs import planned_steps
    from flows.forking import plan_fork

    settings = get_settings()
    with reading(store) as opened:
        fork = plan_fork(opened, asked, settings)
        steps = planned_steps(opened, fork, settings) if dry_run else []
    if dry_run:
        _print_plan(fork, steps, as_json=as_json)
    elif fork.changed_by_file:
        _confirm(fork, yes=yes)


def _confirm(fork: Fork, *, yes: bool) -> None:
    text = f"The chain has changed since run {fork.source.id}: {fork.changed_by_file}."
    print(text, file=sys.stderr)
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputInvalid("the changed steps would run in the fork.", hint="Run them with --yes.")
    typer.confirm("Run these steps in the fork?", abort=True, err=True)


def _print_plan(fork: Fork, steps: list[PlannedStep], *, as_json: bool) -> None:
    from flows.cli.text import money, print_json, safe, table
    from flows.fork_costs import total_of

    total = total_of(steps)
    if as_json:
        print_json(_json(fork, steps, total.to_dict()))
        return
    print(safe(f"A fork of run {fork.source.id} ({fork.source.chain}, {fork.source.rows} rows)\n"))
    lines = [
        {
            "step": step.step,
            "runs": step.runs or None,
            "linked": step.linked or None,
            "why": step.reason,
            "calls ≤": step.ceiling.calls if step.runs else None,
            "tokens ≤": step.ceiling.tokens if step.runs else None,
            "cost ≤": money(step.ceiling.cost_micro) if step.runs else None,
        }
        for step in steps
    ]
    print(table(lines, right=_RIGHT))
    if fork.changed_by_file:
        print(safe(f"\nThe chain has changed since: {fork.changed_by_file}."))
    if not any(step.runs for step in steps):
        print("\nNothing runs: every record is linked. Edit something (--set), or ask anew (--fresh).")
        return
    calls, tokens = (
        f"{number:,}" if number is not None else "unknown" for number in (total.calls, total.tokens)
    )
    print(f"\nat most {calls} calls, {tokens} tokens, {money(total.cost_micro)}; failed tries are not in it")


def _json(fork: Fork, steps: list[PlannedStep], total: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": fork.source.id,
        "chain": fork.source.chain,
        "rows": fork.source.rows,
        "edited": {step: list(names) for step, names in fork.edited.items()},
        "inputs": dict(fork.inputs),
        "changed": list(fork.changes.changed),
        "added": list(fork.changes.added),
        "removed": list(fork.changes.removed),
        "steps": [step.to_dict() for step in steps],
        "ceiling": total,
    }
