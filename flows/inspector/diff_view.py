"""The page of two runs side by side. Owns what it says; knows nothing of HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chains.diff import diff_runs
from chains.diff.recorded import PARTS
from flows.cli.diff import answer_text, asked_text
from flows.comparing import compared_metrics
from flows.forked import edit_between
from flows.inspector.addresses import path_of
from flows.inspector.cause_view import cause_view, pieces_of
from flows.inspector.runs_view import run_line
from flows.inspector.texts import LONGEST, cut

if TYPE_CHECKING:
    from chains.diff import Cause, Divergence
    from chains.store import RunRow
    from flows.inspector.looking import Looking

SHOWN: Final = 10
MOST_ROWS: Final = 5_000
"""Rows of runs that a page compares; `headrace diff` compares any number."""


def diff_view(looking: Looking, before: RunRow, after: RunRow, *, step: str) -> dict[str, Any]:
    """Return the page of two runs; `step` limits it to one."""
    view: dict[str, Any] = {
        "before": run_line(before, {}),
        "after": run_line(after, {}),
        "step": step,
        "edit": edit_between(before, after),
        "problem": None,
    }
    chains = looking.chain(before), looking.chain(after)
    if chains[0] is None or chains[1] is None:
        return view | {"problem": "The chain of one of these runs is not one that this Headrace reads."}
    if max(before.rows, after.rows) > MOST_ROWS:
        command = f"headrace diff {before.id} {after.id}"
        return view | {
            "problem": f"These runs have more than {MOST_ROWS} rows. Compare them with `{command}`."
        }
    common = [name for name in chains[0].depth if name in chains[1].depth]
    step = step if step in common else ""
    found = diff_runs(looking.store, chains[0], chains[1], steps=[step] if step else None, shown=SHOWN)
    return view | {
        "step": step,
        "common": common,
        "rows": found.rows,
        "diverged": found.diverged,
        "paired_by": found.paired_by,
        "rows_only_before": found.rows_only_before,
        "rows_only_after": found.rows_only_after,
        "only_before": list(found.only_before),
        "only_after": list(found.only_after),
        "changed": {name: [cause_view(cause) for cause in causes] for name, causes in found.of_steps.items()},
        "steps": [line.to_dict() for line in found.steps],
        "metrics": compared_metrics(looking.store, chains[0], chains[1]),
        "divergences": [_divergence(looking, before, after, item) for item in found.divergences],
    }


def _divergence(looking: Looking, before: RunRow, after: RunRow, found: Divergence) -> dict[str, Any]:
    records = [
        looking.store.record_by_id(name) if name else None
        for name in (found.record_before, found.record_after)
    ]
    asked = [cut(asked_text(record), LONGEST // 4).text for record in records]
    answered = [cut(answer_text(record), LONGEST // 4).text for record in records]
    return {
        "row_before": found.row_before,
        "row_after": found.row_after,
        "step": found.step,
        "answer_differs": found.answer_differs,
        "causes": [_named(cause) if cause.kind in PARTS else cause_view(cause) for cause in found.causes],
        "asked": pieces_of(*asked),
        "answered": pieces_of(*answered),
        "links": [path_of(record) if record is not None else None for record in records],
    }


def _named(cause: Cause) -> dict[str, Any]:
    """Return a cause that is the same for all rows: both sides of it stand above them."""
    return {"cause": str(cause), "pieces": [], "moves": []}
