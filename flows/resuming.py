"""Going on with an earlier run: whether it may be, and which of its records no longer stand.

Owns the refusals (a run that somebody works on, a run without failed rows, a chain that has changed) and
the times before which a changed step's records are those of its earlier form. Knows nothing of how rows are
run; the records themselves are judged one by one by tasks.rows.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chains.errors import InputInvalid

if TYPE_CHECKING:
    from chains.changes import Changes
    from chains.graph import Graph
    from chains.store import RunRow, Store
    from flows.request import Resume

_ENDED = ("ok", "skipped", "failed", "blocked")


def find_run(store: Store, name: str) -> RunRow:
    """Return the run of this id, of these first letters of one, or the `last` one."""
    found = next(iter(store.runs(limit=1)), None) if name == "last" else store.run(name)
    if found is None:
        raise InputInvalid(
            f"there is no run {name!r} in the store {str(store.path)!r}.", hint="See `headrace runs`."
        )
    return found


def earlier_run(store: Store, resume: Resume) -> RunRow:
    """Return the run to go on with; raise InputInvalid where it must not be."""
    earlier = find_run(store, resume.run)
    if is_dead(earlier):
        store.close_lost(earlier.id, "interrupted")
        earlier = find_run(store, earlier.id)
    if resume.failed_only:
        _refuse_incomplete(store, earlier)
    return earlier


def is_dead(run: RunRow) -> bool:
    """Whether nobody runs a run that has not ended; its lease need not be waited for then."""
    return run.status == "running" and has_gone(run)


def has_gone(run: RunRow) -> bool:
    """Whether the process that last worked on the run was on this machine and is gone."""
    if run.host != socket.gethostname() or run.pid is None:
        return False
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(run.pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits for its parent to hear of it; false where nobody says so."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"


def stale_since(
    earlier: RunRow, changes: Changes, graph: Graph, *, accepted: bool, now: float
) -> dict[str, float]:
    """Return for each step the time before which its records do not stand, where there is one.

    Raises InputInvalid that names the changed steps, unless the user has accepted the changes.
    """
    options = json.loads(earlier.options or b"{}")
    stale: dict[str, float] = {
        step: time for step, time in options.get("anew", {}).items() if step in graph.order
    }
    if not changes:
        return stale
    from chains.changes import with_dependents

    again = with_dependents(frozenset(changes.changed + changes.added), graph)
    if not accepted:
        also = [step for step in graph.order if step in again and step not in changes.changed + changes.added]
        runs = f" (and {', '.join(also)}, which need them)" if also else ""
        raise InputInvalid(
            f"the chain has changed since run {earlier.id}: {changes}.",
            hint=f"`headrace resume {earlier.id} --accept-changes` runs these steps{runs} anew in this run; "
            "a new run leaves this one as it is.",
        )
    # A clock that was set back must not let an earlier record stand.
    since = max(now, earlier.finished_at or 0.0, earlier.heartbeat_at or 0.0)
    return stale | dict.fromkeys(again, since)


def compared(earlier: RunRow, hashes: Mapping[str, str]) -> Changes:
    """Return how a chain's steps differ from those that the run was made with."""
    from chains.changes import compare

    return compare(json.loads(earlier.options or b"{}").get("steps", {}), hashes)


def _refuse_incomplete(store: Store, earlier: RunRow) -> None:
    """Refuse a retry where nothing failed, and where rows have not ended: only a resume finishes those."""
    # `score-polite` are the verdicts of a judge of the step `score`, which asks about the rows that it can
    # and `draft.write` is a step inside `draft`, whose own records tell of its rows.
    every = store.counts(earlier.id)
    counts = {name: numbers for name, numbers in every.items() if name.isidentifier()}
    steps = {step.id: step for step in store.steps(earlier.id, payloads=False) if step.id.isidentifier()}
    left = sum(
        max((1 if step.once else earlier.rows) - sum(counts.get(name, {}).get(word, 0) for word in _ENDED), 0)
        for name, step in steps.items()
        if not step.once
    )
    if left or earlier.status not in ("ok", "failed"):
        raise InputInvalid(
            f"run {earlier.id} did not come to its end, and a retry runs failed rows only.",
            hint=f"`headrace resume {earlier.id}` finishes it, failed rows included.",
        )
    if not any(numbers.get("failed") for numbers in every.values()):
        raise InputInvalid(f"run {earlier.id} has no failed rows.", hint=f"See `headrace show {earlier.id}`.")
