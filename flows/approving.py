"""The rows of a run that wait for a person, and the answers that they get.

Owns which rows are asked about and how an answer becomes the row's record: from then on the row is done, and
a resume goes on behind it. Knows nothing of where answers come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chains.approvals import output_of, read_answer
from chains.clock import Clock, iso
from chains.errors import InputInvalid
from chains.keys import canonical
from chains.spec import ApproveStep, Chain
from chains.suggest import did_you_mean

if TYPE_CHECKING:
    from chains.store import RecordRow, RunRow, Store


@dataclass(frozen=True, slots=True)
class Asked:
    """One row that waits: the step and what it asks."""

    record: RecordRow
    step: ApproveStep
    question: str
    shown: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it is asked, such as `sign_off · row 3`."""
        return self.record.step if self.record.row < 0 else f"{self.record.step} · row {self.record.row}"


def checked_answers(chain: Chain, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return answers that are given beforehand; raise InputInvalid for a step that does not ask."""
    return {name: read_answer(name, _approve_step(chain, name), value) for name, value in given.items()}


def rows_that_wait(store: Store, run: RunRow, chain: Chain, *, most: int | None = None) -> list[Asked]:
    """Return the rows of a run that a person is asked about, by step and row."""
    found: list[Asked] = []
    for step_id, step in chain.steps.items():
        if not isinstance(step, ApproveStep):
            continue
        for record in store.records(run.id, step_id, statuses=("waiting",)):
            if record.inputs is not None:  # else it waits itself for an answer before it
                asked = json.loads(record.inputs)
                found.append(Asked(record, step, asked["question"], asked["show"]))
            if most is not None and len(found) == most:
                return found
    return found


def asked_about(store: Store, run: RunRow, chain: Chain, step_id: str, *, row: int | None) -> Asked:
    """Return the row that is meant; raise InputInvalid where none waits, or several do and none is named."""
    _approve_step(chain, step_id)
    if run.status == "running":
        raise InputInvalid(f"run {run.id} is still running.", hint="Answer when it waits.")
    waiting = [asked for asked in rows_that_wait(store, run, chain) if asked.record.step == step_id]
    found = waiting if row is None else [asked for asked in waiting if asked.record.row == row]
    if not found:
        which = "no row" if row is None else f"row {row}"
        raise InputInvalid(
            f"step {step_id!r} of run {run.id} asks about {which} now.", hint=f"See `headrace show {run.id}`."
        )
    if len(found) > 1:
        rows = ", ".join(str(asked.record.row) for asked in found[:10])
        raise InputInvalid(f"{len(found)} rows wait: {rows}.", hint="Name one with --row.")
    return found[0]


async def answer(store: Store, asked: Asked, given: Any, *, by: str, clock: Clock) -> RecordRow:
    """Write the answer to a row as its record; raise InputInvalid where it does not fit the step's fields."""
    checked = read_answer(asked.record.step, asked.step, given)
    now = clock.now()
    output = canonical(output_of(checked, by=by, at=iso(now) or ""))
    record = replace(asked.record, status="ok", output=output, error=None, finished_at=now)
    await store.aput(record)
    return record


def _approve_step(chain: Chain, name: str) -> ApproveStep:
    step = chain.steps.get(name)
    if isinstance(step, ApproveStep):
        return step
    asking = [known for known, other in chain.steps.items() if isinstance(other, ApproveStep)]
    if not asking:
        raise InputInvalid(f"the chain {chain.chain!r} has no approve step.", hint="Leave the answer out.")
    raise InputInvalid(f"step {name!r} asks for no approval.", hint=did_you_mean(name, asking))
