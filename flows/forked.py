"""What a fork's row says of how it came about: the run that it was made from, and what was edited.

Owns the words. Knows nothing of how a fork is made.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chains.store import RunRow


def edits_of(run: RunRow) -> list[str]:
    """Return what a fork was asked for, such as `reply: prompt, temperature`; nothing for other runs."""
    said: dict[str, Any] = json.loads(run.options or b"{}").get("fork") or {}
    found = [f"{step}: {', '.join(names)}" for step, names in (said.get("edited") or {}).items()]
    found += [f"inputs.{name}" for name in said.get("inputs") or ()]
    if said.get("fresh"):
        found.append(f"{said.get('from')} asked anew")
    return found


def fork_words(run: RunRow) -> str | None:
    """Return what a fork was made from and how; None for other runs."""
    if run.forked_from is None:
        return None
    edits = edits_of(run)
    return f"{run.forked_from}, edited {'; '.join(edits) if edits else 'nothing'}"


def edit_between(before: RunRow, after: RunRow) -> dict[str, Any] | None:
    """Return which of two runs is a fork of the other, and what was edited in it."""
    for source, fork in ((before, after), (after, before)):
        if fork.forked_from == source.id:
            return {"fork": fork.id, "source": source.id, "edited": edits_of(fork)}
    return None
