"""Why a record is what it is: whether it ran or was reused, from which parts, and what changed since when.

Owns the sentence and the choice of the record to compare with. The store keeps the hash of a question's parts
and not the parts: they are read from the record and the run's own chain. What stands in neither is the exact
identity of a model (the weights of a local one, an address from the environment); where only that can have
changed, this is what is said. Knows nothing of how chains are put together with their overrides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chains.diff.causes import Cause, part_causes, question_causes
from chains.diff.recorded import RecordedRun
from chains.spec import PromptStep
from chains.store import RecordRow, RunRow, Store

Verdict = Literal["ran", "reused", "linked", "not run", "running"]
IDENTITY = Cause("model", "identity")


@dataclass(frozen=True, slots=True)
class Compared:
    """An earlier record at the same place, and what its question has differently."""

    run: str
    record: str
    same_key: bool
    changed: tuple[Cause, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """Why a record is there as it is. `parts` are what its key is made of, as far as the store has them."""

    verdict: Verdict
    reason: str
    key: str | None
    parts: Mapping[str, Any]
    reused_run: str | None = None
    reused_record: str | None = None
    compared: Compared | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON data."""
        compared = self.compared
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "key": self.key,
            "parts": dict(self.parts),
            "reused_run": self.reused_run,
            "reused_record": self.reused_record,
            "compared_with": None
            if compared is None
            else {
                "run": compared.run,
                "record": compared.record,
                "same_key": compared.same_key,
                "changed": [cause.to_dict() for cause in compared.changed],
            },
        }


def why(
    store: Store,
    recorded: RecordedRun,
    record: RecordRow,
    *,
    restored: Callable[[RunRow], RecordedRun | None],
) -> Why:
    """Return why a record ran or was reused; `restored` gives an earlier run's chain, None if it cannot."""
    parts = _parts(recorded, record)
    key = record.value_key
    if record.status == "running":
        return Why("running", "It has not ended yet.", key, parts)
    if record.linked:
        return _linked(store, record, parts)
    if record.status in ("skipped", "blocked", "cancelled"):
        return Why("not run", _said(record) or f"It is {record.status}.", key, parts)
    if record.reused_from is not None:
        return _reused(store, record, parts)
    earlier = store.earlier(recorded.run, record)
    compared = _nearest(store, recorded, record, earlier, restored)
    return Why("ran", _reason(recorded, record, compared), key, parts, compared=compared)


def _linked(store: Store, record: RecordRow, parts: Mapping[str, Any]) -> Why:
    source = store.record_by_id(record.reused_from or "")
    found = source.run_id if source is not None else None
    reason = f"It was taken over from run {found}: the replay changed nothing that it reads."
    if record.status != "ok":
        reason += f" It is {record.status} there" + (f": {said}" if (said := _said(record)) else ".")
    return Why("linked", reason, record.value_key, parts, reused_run=found, reused_record=record.reused_from)


def _reused(store: Store, record: RecordRow, parts: Mapping[str, Any]) -> Why:
    source = store.record_by_id(record.reused_from or "")
    if source is None:
        reason = f"It was answered from record {record.reused_from}, whose run has been removed since."
    else:
        same = "the same run" if source.run_id == record.run_id else f"run {source.run_id}"
        place = f"step {source.step!r}{_row(source)}"
        reason = f"The same question was answered in {same} ({place}): the keys are equal."
    found = source.run_id if source is not None else None
    return Why("reused", reason, record.value_key, parts, reused_run=found, reused_record=record.reused_from)


def _row(record: RecordRow) -> str:
    return f", row {record.row}" if record.row >= 0 else ""


def _reason(recorded: RecordedRun, record: RecordRow, compared: Compared | None) -> str:
    if record.value_key is None:
        return _without_key(recorded, record) + (_since(compared) if compared is not None else "")
    if compared is None:
        return "No earlier run of this chain has a record at this place."
    if compared.same_key:
        return (
            f"Run {compared.run} asked the same, and the answer could not be taken: it was `cache: refresh`, "
            "or the earlier record had not ended well, or is damaged."
        )
    return "No record had its key." + _since(compared)


def _since(compared: Compared) -> str:
    if not compared.changed:
        return f" Since run {compared.run} nothing of its question has changed."
    names = ", ".join(dict.fromkeys(str(cause) for cause in compared.changed))
    return f" Since run {compared.run} has changed: {names}."


def _without_key(recorded: RecordedRun, record: RecordRow) -> str:
    step = recorded.chain_file.chain.steps.get(record.step)
    if record.status == "failed":
        return "It failed, so nothing can be reused from it."
    if getattr(step, "cache", None) == "never":
        return "The step says `cache: never`: every row is worked out for itself."
    if isinstance(step, PromptStep):
        return (
            "The model may answer the same question differently, and the step does not say `cache: always`."
        )
    return "Steps of this kind are not reused between runs."


def _nearest(  # noqa: PLR0917 - a record, and where to look for others
    store: Store,
    recorded: RecordedRun,
    record: RecordRow,
    earlier: list[RecordRow],
    restored: Callable[[RunRow], RecordedRun | None],
) -> Compared | None:
    """Return the earlier record whose question is nearest, the newest among equals."""
    found: list[Compared] = []
    for other in earlier:
        run = store.run(other.run_id)
        past = restored(run) if run is not None else None
        if past is None or record.step not in past.parts:
            continue
        of_step = part_causes(past.parts[record.step], recorded.parts[record.step])
        template = recorded.parts[record.step].get("template")
        count = len(template or ()) if isinstance(template, list) else 0
        changed = question_causes(other, record, of_step, messages=count)
        same = other.value_key is not None and other.value_key == record.value_key
        if not changed and not same and other.value_key is not None and record.value_key is not None:
            changed = (IDENTITY,)
        found.append(Compared(other.run_id, other.id, same, changed))
    return min(found, key=lambda compared: len(compared.changed), default=None)


def _parts(recorded: RecordedRun, record: RecordRow) -> dict[str, Any]:
    """Return what was asked: the step's parts, and the row's own."""
    found: dict[str, Any] = {str(part): value for part, value in recorded.parts.get(record.step, {}).items()}
    if record.messages is not None:
        found["messages"] = json.loads(record.messages)
    if record.inputs is not None:
        found["variables"] = json.loads(record.inputs)
    return found


def _said(record: RecordRow) -> str | None:
    error = json.loads(record.error) if record.error is not None else {}
    message = error.get("message")
    return str(message) if message else None
