"""The variants of a chain: forks of a run of it, in which some steps are in another form.

Owns what a variant edits, and what it comes to beside the run of the chain as it is. What a variant does not
change is linked from that run and paid once. Knows nothing of how runs are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chains.clock import elapsed
from chains.errors import ChainInvalid, InputInvalid
from chains.loading import restore_edited
from chains.replay import with_edits
from chains.spec import Chain
from chains.suggest import did_you_mean
from flows.cli.text import money
from flows.request import Replay

_LOOKED_AT = 1000
"""Newest runs of a chain among which a variant that was begun is looked for."""

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings
    from chains.store import RunRow, Store


def variants_named(chain: Chain, text: str) -> list[str]:
    """Return the variants that `a,b` names; `all` is every one. Raises InputInvalid for others."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if names == ["all"] and "all" not in chain.variants:
        names = list(chain.variants)
    for name in names:
        if name not in chain.variants:
            raise InputInvalid(
                f"the chain {chain.chain!r} has no variant {name!r}.",
                hint=did_you_mean(name, chain.variants) or "Declare it under 'variants:'.",
            )
    if not names:
        raise InputInvalid(f"the chain {chain.chain!r} has no variants.", hint="Declare some: `variants:`.")
    return names


def edits_of(chain: Chain, name: str) -> dict[str, Any]:
    """Return a variant's values by their targets, such as `triage.prompt`."""
    return {
        f"{step}.{field}": value
        for step, fields in chain.variants[name].steps.items()
        for field, value in fields.items()
    }


def check_variants(chain_file: ChainFile, names: Sequence[str], settings: Settings) -> None:
    """Raise ChainInvalid or InputInvalid for a variant that is no chain; nothing has been sent by then."""
    for name in names:
        words = f"variant {name!r}: "
        try:
            edited = with_edits(chain_file, edits_of(chain_file.chain, name), {})
            restore_edited(edited.source, chain_file, settings)
        except ChainInvalid as error:
            place = chain_file.where("variants", name)
            found = [replace(one, location=place, message=words + one.message) for one in error.problems]
            raise ChainInvalid(found) from error
        except InputInvalid as error:
            raise InputInvalid(words + error.message, hint=error.hint) from error
        if not edited.steps:
            raise InputInvalid(f"{words}it changes nothing.", hint="Give a field another value.")


def begun_variant(store: Store, base: RunRow, chain_file: ChainFile, name: str) -> RunRow | None:
    """Return the newest fork of a run that ran a variant of it, however far it came."""
    wanted = with_edits(chain_file, edits_of(chain_file.chain, name), {}).source
    forks = (run for run in store.runs(limit=_LOOKED_AT, chain=base.chain) if run.forked_from == base.id)
    return next((run for run in forks if run.source == wanted), None)


def replay_of(run: str, chain: Chain, name: str) -> Replay:
    """Return the fork of a run that runs a variant."""
    return Replay(run, edits=edits_of(chain, name))


def compared(store: Store, before: RunRow, after: RunRow) -> dict[str, Any]:
    """Return what a variant came to beside the chain as it is: rows, metrics, tokens, cost and time.

    Tokens, cost and seconds are those of the steps that the variant ran, in both runs.
    """
    from chains.diff import diff_runs
    from flows.comparing import compared_metrics
    from flows.recorded import recorded_run

    sides = [recorded_run(store, run) for run in (before, after)]
    found = diff_runs(store, sides[0], sides[1], shown=0)
    ran = {record.step for record in store.records(after.id, payloads=False) if not record.linked}
    return {
        "run_id": after.id,
        "status": after.status,
        "steps": sorted(ran),
        "rows": found.rows,
        "rows_that_differ": found.diverged,
        "metrics": compared_metrics(store, sides[0], sides[1]),
        "before": _spent(store, before, ran),
        "after": _spent(store, after, ran),
    }


def beside(name: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what `compared` found as two lines of a table: the chain as it is, and the variant."""
    differ = f"{found['rows_that_differ']} of {found['rows']}"
    return [
        {
            "": words,
            "rows that differ": differ if side == "after" else "",
            "calls": found[side]["calls"],
            "tokens": found[side]["tokens"],
            "cost": money(found[side]["cost_micro"]),
            "seconds each": found[side]["seconds_per_record"],
        }
        for words, side in (("as it is", "before"), (name, "after"))
    ]


def _spent(store: Store, run: RunRow, steps: set[str]) -> dict[str, Any]:
    records = [
        record
        for step in sorted(steps)
        for record in store.records(run.id, step, payloads=False, within=True)
    ]
    unknown = any(record.attempts and record.cost_micro is None for record in records)
    seconds = [elapsed(record.started_at, record.finished_at) or 0.0 for record in records if record.attempts]
    return {
        "calls": sum(record.attempts for record in records),
        "tokens": sum((record.tokens_in or 0) + (record.tokens_out or 0) for record in records),
        "cost_micro": None if unknown else sum(record.cost_micro or 0 for record in records),
        "seconds_per_record": round(sum(seconds) / len(seconds), 3) if seconds else None,
    }
