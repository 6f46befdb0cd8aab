"""Which record a variable of a prompt came from.

Owns the way from a variable's name to the page of the record that it was read from: an input, a step of the
chain, a step beside it in the same turn, or the list that an item was taken from. Where the way is not plain
there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from chains.spec.steps import MappedStep
from chains.templates import references
from flows.inspector.addresses import Place, record_path, run_path
from flows.inspector.marking import root_of

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.store import RecordRow


def source_of(recorded: RecordedRun | None, record: RecordRow, variable: str) -> str | None:
    """Return the address of the page that a variable leads to."""
    root = root_of(variable)
    step, _ = recorded.every.get(record.step, (None, None)) if recorded is not None else (None, None)
    if isinstance(step, MappedStep) and root == step.as_ and isinstance(step.map, str):
        root = next((found.root for found in references(step.map)), root)
    if root == "inputs":
        return run_path(record.run_id)
    if recorded is None:
        return None
    for depth, name in enumerate(_names(record.step, root)):
        if name not in recorded.every:
            continue
        if "." not in name:
            return record_path(record.run_id, name, None if name in recorded.once else record.row)
        if depth == 0:  # beside it, in the same turn
            beside = Place(record.path, turn=record.turn)
            return record_path(record.run_id, name, record.row) + beside.query
        return None  # of a turn further out
    return None


def _names(step: str, root: str) -> Iterator[str]:
    """Yield the whole names that a name may mean at a step, the nearest first."""
    outer = step.split(".")[:-1]
    while True:
        yield ".".join((*outer, root))
        if not outer:
            return
        outer.pop()
