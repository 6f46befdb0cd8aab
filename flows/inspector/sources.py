"""Which record a variable of a prompt came from.

Owns the way from a variable's name to the page of the record that it was read from: an input, a step of the
chain, a step beside it in the same turn, or the list that an item was taken from. Where the way is not plain
there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chains.spec.steps import MappedStep
from chains.templates import references
from flows.inspector.addresses import Place, record_path, run_path
from flows.inspector.marking import root_of

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.loading import ChainFile
    from chains.store import RecordRow


def source_of(recorded: RecordedRun | None, record: RecordRow, variable: str) -> str | None:
    """Return the address of the page that a variable leads to."""
    root = root_of(variable)
    if recorded is None or record.step not in recorded.every:
        return run_path(record.run_id) if root == "inputs" else None
    step, home = recorded.every[record.step]
    if isinstance(step, MappedStep) and root == step.as_ and isinstance(step.map, str):
        root = next((found.root for found in references(step.map)), root)
    outer = _outer(record.step)
    if root == "inputs":
        # In a chain that is run as a step, the inputs are what that step was given.
        around = [name for name in outer if recorded.every[name][1].path != home.path]
        return _of_row(recorded, record, around[0]) if around else run_path(record.run_id)
    beside, *further = [f"{before}.{root}" for before in outer] + [root]
    if _is_of(recorded, beside, home):
        if "." not in beside:
            return _of_row(recorded, record, beside)
        same_turn = Place(record.path, turn=record.turn)
        return record_path(record.run_id, beside, record.row) + same_turn.query
    name = next((name for name in further if _is_of(recorded, name, home)), None)
    return _of_row(recorded, record, name) if name is not None else None


def _outer(step: str) -> list[str]:
    """Return the whole names of the steps that a step stands in, the nearest first."""
    parts = step.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _is_of(recorded: RecordedRun, name: str, home: ChainFile) -> bool:
    """Whether there is a step of this name in the same chain file: a chain sees no step of another."""
    return name in recorded.every and recorded.every[name][1].path == home.path


def _of_row(recorded: RecordedRun, record: RecordRow, step: str) -> str | None:
    """Return the record of a step of the run's own level; of a turn further out the way is not plain."""
    if "." in step:
        return None
    return record_path(record.run_id, step, None if step in recorded.once else record.row)
