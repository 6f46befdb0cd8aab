"""`headrace approve`: answers a row that waits for a person; and the same questions in a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chains.errors import HeadraceError, InputInvalid
from flows.cli.options import RunArgument, StepArgument, StoreOption, named_values

if TYPE_CHECKING:
    from chains.store import RunRow, Store
    from flows.approving import Asked


def approve(
    run: RunArgument,
    step: StepArgument,
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="yes or no.")],
    row: Annotated[int | None, typer.Option("--row", min=0, help="The row, where several wait.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the answer; JSON or text."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Answer a row that waits for a person. What was done before stays; the run goes on behind it."""
    import asyncio

    from chains.clock import Clock
    from flows import approving
    from flows.cli.read import reading
    from flows.results import chain_of
    from flows.resuming import find_run

    with reading(store) as opened:
        found = find_run(opened, run)
        chain = chain_of(found)
        asked = approving.asked_about(opened, found, chain, step, row=row)
        given = _answer(asked, answer, set_)
        record = asyncio.run(approving.answer(opened, asked, given, by=_who(), clock=Clock()))
        left = len(approving.rows_that_wait(opened, found, chain))
        output = json.loads(record.output or b"{}")
    print(f"{asked.place}: {'yes' if output['approved'] else 'no'}, by {output['by']}.")
    if left:
        print(f"{left} more {'row waits' if left == 1 else 'rows wait'}; see `headrace show {found.id}`.")
    elif not _prefect_goes_on(found, output):
        print(f"next: headrace resume {found.id}")


def read_answers(texts: list[str]) -> dict[str, Any]:
    """Return the answers of `--approve STEP=ANSWER`; what begins with a brace is JSON."""
    given = named_values(texts, flag="--approve")
    return {name: _json(text) if text.lstrip().startswith("{") else text for name, text in given.items()}


def ask_here(store: Store, run: RunRow) -> bool:
    """Ask about every row that waits, in the terminal; return whether all were answered."""
    import asyncio

    from chains.clock import Clock
    from flows.approving import answer, rows_that_wait
    from flows.results import chain_of

    for asked in rows_that_wait(store, run, chain_of(run)):
        given = _asked_in_terminal(asked)
        if given is None:
            return False
        asyncio.run(answer(store, asked, given, by=_who(), clock=Clock()))
    return True


def _asked_in_terminal(asked: Asked) -> dict[str, Any] | None:
    """Return the answer to one question; None where the user leaves it open."""
    from chains.approvals import read_answer, value_of_text

    _show(asked)
    while True:
        said = _line("yes, no, or nothing to decide later: ")
        if not said:
            return None
        if said.lower() not in ("y", "n", "yes", "no"):
            continue
        given: dict[str, Any] = {"approved": said.lower().startswith("y")}
        if given["approved"]:
            for name in asked.step.fields:
                if value := _line(f"{name}: "):
                    given[name] = value_of_text(asked.step, name, value)
        try:
            return read_answer(asked.record.step, asked.step, given)
        except InputInvalid as error:
            print(error, file=sys.stderr)


def _show(asked: Asked) -> None:
    from flows.cli.text import safe

    print(f"\n--- {asked.place}", file=sys.stderr)
    for name, value in asked.shown.items():
        text = value if isinstance(value, str) else _shown(value)
        print(safe(f"[{name}]\n{text}"), file=sys.stderr)
    print(safe(asked.question), file=sys.stderr)


def _shown(value: Any) -> str:
    """Return the text of a prompt step's output, or a value as JSON."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return str(value["text"])
    return json.dumps(value, ensure_ascii=False, indent=2)


def _line(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def _answer(asked: Asked, text: str, fields: list[str] | None) -> dict[str, Any]:
    from chains.approvals import value_of_text

    words = {"yes": True, "y": True, "no": False, "n": False}
    if text.lower() not in words:
        raise InputInvalid(f"{text[:200]!r} is neither yes nor no.", hint="Fields are given with --set.")
    given = named_values(fields, flag="--set")
    values = {name: value_of_text(asked.step, name, value) for name, value in given.items()}
    return {"approved": words[text.lower()], **values}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputInvalid(f"--approve: {text[:200]!r} is no JSON ({error}).") from error


def _who() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def _prefect_goes_on(run: RunRow, answer: Mapping[str, Any]) -> bool:
    """Have Prefect go on with a deployed run that it has paused; False where it has none."""
    if run.prefect_flow_run_id is None:
        return False
    from flows.client import go_on

    try:
        given = {name: value for name, value in answer.items() if name not in ("by", "at")}
        return go_on(run.prefect_flow_run_id, given)
    except HeadraceError as error:
        print(f"Prefect was not told: {error}", file=sys.stderr)
        return False
