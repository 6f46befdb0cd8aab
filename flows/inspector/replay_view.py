"""The form that replays a run from a step: what may be edited, what was edited, and what that would run.

Owns which fields the form has and what a sent form asks for. Of a step only its prompt, its sampling
parameters and the chain's inputs that it reads can be edited here: where calls go, with which key and which
files are read is not for a form to say. Knows nothing of HTML and of how a fork is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from chains.changes import inputs_read
from chains.errors import HeadraceError, InputInvalid
from chains.graph import models_of
from chains.prompts import prompt_parts
from chains.replay import SAMPLING
from chains.spec import PromptStep, runs_once
from flows.inspector.looking import NotThere
from flows.inspector.runs_view import run_line
from flows.request import Replay

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.settings import Settings
    from chains.store import RunRow
    from flows.inspector.looking import Looking

LONGEST: Final = 200_000
"""Characters of a value that a form takes; longer ones are edited with `headrace replay`."""
_BUDGETS: Final = ("tokens", "usd")


def replay_view(looking: Looking, run: RunRow, step: str, row: int | None) -> dict[str, Any]:
    """Return the form for a step of a run, and for one of its rows where a row is named."""
    recorded = _recorded(looking, run, step)
    if row is not None and (runs_once(recorded.chain_file.chain.steps[step]) or row < 0):
        row = None
    fields = _fields(looking, recorded, step, row)
    return {
        "run": run_line(run, {}),
        "step": step,
        "row": row,
        "fields": fields,
        "given": {field["name"]: field["value"] for field in fields},
        "rows": "one" if row is not None else "all",
        "budget": {},
        "plan": None,
        "problem": None,
        "refresh": False,
    }


def previewed(
    looking: Looking, view: dict[str, Any], sent: Mapping[str, str], settings: Settings
) -> dict[str, Any]:
    """Return the form as it was sent, with what it would run and the most that this may cost."""
    from flows.fork_costs import planned_steps, total_of
    from flows.forking import plan_fork

    view = filled(view, sent)
    try:
        fork = plan_fork(looking.store, asked_for(view, sent), settings)
        steps = planned_steps(looking.store, fork, settings)
    except HeadraceError as error:
        return view | {"problem": str(error)}
    total = total_of(steps)
    budget = {"tokens": total.tokens, "usd": _dollars(total.cost_micro)}
    return view | {
        "plan": [found.to_dict() for found in steps],
        "ceiling": total.to_dict(),
        "runs": any(found.runs for found in steps),
        "budget": {name: sent.get(f"budget.{name}") or number for name, number in budget.items()},
    }


def filled(view: dict[str, Any], sent: Mapping[str, str]) -> dict[str, Any]:
    """Return the form with what was sent in its fields."""
    given = {name: _text(sent.get(name, value)) for name, value in view["given"].items()}
    rows = sent.get("rows", view["rows"]) if view["row"] is not None else "all"
    return view | {"given": given, "rows": "one" if rows == "one" else "all"}


def asked_for(view: Mapping[str, Any], sent: Mapping[str, str]) -> Replay:
    """Return the replay that a sent form asks for; raise InputInvalid for a field that it does not have."""
    known = {field["name"] for field in view["fields"]} | {f"budget.{name}" for name in _BUDGETS}
    if strange := sorted(sent.keys() - known - {"rows", "do"}):
        raise InputInvalid(f"the form has no field {strange[0]!r:.80}.")
    edits = {}
    for field in view["fields"]:
        text = _text(sent.get(field["name"], field["value"]))
        if text != _text(field["value"]):
            edits[field["target"]] = text if field["is_text"] or text else None
    start = view["step"]
    if view["row"] is not None and sent.get("rows", "one") == "one":
        start = f"{start}[row {view['row']}]"
    return Replay(view["run"]["id"], start=start, edits=edits, budget=_budget(sent), from_text=True)


def _budget(sent: Mapping[str, str]) -> dict[str, float] | None:
    found = {}
    for name in _BUDGETS:
        text = sent.get(f"budget.{name}", "").strip().replace(",", "")
        if text:
            try:
                found[name] = float(text)
            except ValueError as error:
                raise InputInvalid(f"the budget of {name}, {text!r:.40}, is no number.") from error
            if not 0 < found[name] < 1e15:
                raise InputInvalid(f"the budget of {name} must be more than 0.")
    return found or None


def _recorded(looking: Looking, run: RunRow, step: str) -> RecordedRun:
    recorded = looking.chain(run)
    if recorded is None:
        raise NotThere(f"The chain of run {run.id} is not one that this Headrace reads.")
    if step not in recorded.chain_file.chain.steps:
        raise NotThere(f"Run {run.id} has no step {step!r}.")
    return recorded


def _fields(looking: Looking, recorded: RecordedRun, step_id: str, row: int | None) -> list[dict[str, Any]]:
    chain_file = recorded.chain_file
    step = chain_file.chain.steps[step_id]
    fields = []
    if isinstance(step, PromptStep):
        for place, (role, text) in enumerate(prompt_parts(chain_file, step_id)):
            target = f"{step_id}.prompt.{place}"
            fields.append(_field("prompt", f"prompt.{place}", target, role, text, is_text=True))
    fields += _inputs(looking, recorded, step_id, row)
    names = models_of(step, chain_file.chain) if isinstance(step, PromptStep) else []
    model = chain_file.chain.models.get(names[0]) if names else None
    for name in SAMPLING if model is not None else ():
        value = getattr(model, name)
        text = "" if value is None else json.dumps(value, ensure_ascii=False)
        fields.append(_field("sampling", name, f"{step_id}.{name}", name, text, is_text=False))
    return [field for field in fields if field is not None]


def _inputs(
    looking: Looking, recorded: RecordedRun, step_id: str, row: int | None
) -> list[dict[str, Any] | None]:
    """Return a field for each input that the step reads, with the value that it had."""
    chain_file, run = recorded.chain_file, recorded.run
    values: dict[str, Any] = json.loads(run.inputs or b"{}")
    record = looking.store.record(run.id, step_id, row) if row is not None else None
    for name, value in (json.loads(record.inputs) if record and record.inputs else {}).items():
        root, _, rest = name.partition(".")
        if root == "inputs" and rest in chain_file.chain.inputs:
            values[rest] = value
    found = []
    for name in sorted(inputs_read([step_id], chain_file) & values.keys()):
        is_text = chain_file.chain.inputs[name].type == "string"
        value = values[name]
        text = (
            value
            if isinstance(value, str)
            else ""
            if value is None
            else json.dumps(value, ensure_ascii=False)
        )
        target = f"inputs.{name}"
        found.append(_field("input", target, target, name, text, is_text=is_text))
    return found


def _field(  # noqa: PLR0917 - what a field is
    kind: str, name: str, target: str, label: str, text: str, *, is_text: bool
) -> dict[str, Any] | None:
    """Return a field, or None for a text that no form can carry as it is."""
    if len(text) > LONGEST or "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        return None
    return {"kind": kind, "name": name, "target": target, "label": label, "value": text, "is_text": is_text}


def _text(sent: str) -> str:
    """Return a text as it was before a browser sent its lines with the ends that forms have."""
    return sent.replace("\r\n", "\n").replace("\r", "\n")


def _dollars(cost_micro: int | None) -> float | None:
    return cost_micro / 1e6 if cost_micro else None
