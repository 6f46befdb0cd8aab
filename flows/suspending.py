"""A deployed run that waits for a person: Prefect shows a form, and goes on when it is filled in.

Owns the form, the pause and the way of an answer from Prefect into the store. A flow run that waits is
suspended: its process ends, nothing of it is left on the worker, and Prefect starts it again once it is
answered, on any worker. Prefect knows one form per flow run, so the rows that wait share it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import acreate_flow_run_input, aread_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.logging import get_run_logger
from prefect.runtime import deployment

from chains.approvals import answer_schema
from chains.clock import Clock
from chains.errors import InputInvalid
from flows.approving import Asked, answer, rows_that_wait
from flows.results import chain_of

if TYPE_CHECKING:
    from chains.store import RunRow, Store

ROWS = 20
"""Rows in one form; when they are answered, the next are asked about."""
LONGEST = 4000
"""Characters of what is shown with a question; the record has all of it."""


async def suspend(store: Store, run_id: str) -> None:
    """Pause this flow run until its form is filled in; does not return where Prefect pauses it.

    Only a run of a deployment can be started again by Prefect; others wait in the store.
    """
    run = store.run(run_id)
    if run is None or run.status != "waiting" or not deployment.id:
        return
    asked = rows_that_wait(store, run, chain_of(run), most=ROWS)

    class Form(RunInput):
        """What is asked; its schema is that of the steps."""

        @classmethod
        async def asave(cls, keyset: Any, flow_run_id: Any = None) -> None:
            await acreate_flow_run_input(keyset["schema"], form_of(asked), flow_run_id)
            await acreate_flow_run_input(keyset["description"], description_of(asked), flow_run_id)

    await asuspend_flow_run(wait_for_input=Form, key=_key(run))


async def take_answers(store: Store, run: RunRow) -> None:
    """Write the answers of the form that this flow run was paused with to the store, if there are any.

    Rows that were answered otherwise meanwhile keep those answers; one whose answer does not fit waits on.
    """
    if run.status != "waiting":
        return
    keyset = keyset_from_base_key(f"suspended-{_key(run)}")
    given: Any = await aread_flow_run_input(keyset["response"])
    form: Any = await aread_flow_run_input(keyset["schema"])
    if not isinstance(given, dict) or not isinstance(form, dict):
        return
    of_one = form["title"] if "approved" in form["properties"] else None
    for asked in rows_that_wait(store, run, chain_of(run)):
        value = given if _place(asked) == of_one else given.get(_place(asked))
        if value is None:
            continue
        try:
            await answer(store, asked, value, by="Prefect", clock=Clock())
        except InputInvalid as error:
            get_run_logger().warning("%s waits on: %s", asked.place, error)


def form_of(asked: Sequence[Asked]) -> dict[str, Any]:
    """Return the schema of the form: the answer to one question, or an object with one for each."""
    if len(asked) == 1:
        return answer_schema(asked[0].step) | {"title": _place(asked[0])}
    fields = {
        _place(one): answer_schema(one.step)
        | {"title": one.place, "description": one.question, "position": number}
        for number, one in enumerate(asked)
    }
    return {"title": "Answers", "type": "object", "properties": fields, "additionalProperties": False}


def description_of(asked: Sequence[Asked]) -> str:
    """Return what stands above the form, as Markdown: each question with what is shown."""
    return "\n\n".join(_described(one) for one in asked)


def _described(asked: Asked) -> str:
    parts = [f"**{asked.place}**: {asked.question}"]
    for name, value in asked.shown.items():
        whole = value.get("text") if isinstance(value, dict) and isinstance(value.get("text"), str) else value
        text = whole if isinstance(whole, str) else json.dumps(whole, ensure_ascii=False, indent=1)
        # As a block of code, so that nothing in it is Markdown.
        lines = text[:LONGEST].replace("\r", "").split("\n")
        parts.append(f"{name}:\n\n" + "\n".join(f"    {line}" for line in lines))
    return "\n\n".join(parts)


def _place(asked: Asked) -> str:
    """Return the name of a row in the form."""
    return asked.record.step if asked.record.row < 0 else f"{asked.record.step}_{asked.record.row}"


def _key(run: RunRow) -> str:
    """Return what tells this pause of a run from its earlier ones: when the run began to wait."""
    return f"{run.id}-{int((run.finished_at or 0.0) * 1000)}"
