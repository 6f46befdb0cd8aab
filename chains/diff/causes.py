"""Why two records of one step differ.

Owns the list of causes and the comparison of one pair. Knows nothing of the store or of other rows.
Invariant: the causes of (a, b) and of (b, a) are the same but for which side is which, and a record and
itself have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from chains.diff.recorded import PARTS, Part
from chains.store import RecordRow

CauseKind: TypeAlias = (
    Part
    | Literal["variable", "passages", "ending", "sampling noise", "what it read", "not the same each time"]
)
ONCE: Final = -1
"""The row of a step that runs once over all rows."""
_BY_FIELD: Final = frozenset(PARTS) - {"template", "output form"}
"""Parts whose fields are named one by one."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason, with both sides: `name` is the variable, field or step part that differs."""

    kind: CauseKind
    name: str = ""
    before: Any = None
    after: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return the cause as JSON data."""
        return {"cause": self.kind, "name": self.name, "before": self.before, "after": self.after}

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Compared:
    """How two records of a step differ: why, and whether what came out differs."""

    causes: tuple[Cause, ...]
    answer_differs: bool


Parts: TypeAlias = Mapping[Part, Any]


def part_causes(before: Parts, after: Parts) -> tuple[Cause, ...]:
    """Return what differs between two forms of a step, whatever the row."""
    found: list[Cause] = []
    for part in PARTS:
        old, new = before.get(part), after.get(part)
        if old == new:
            continue
        if part in _BY_FIELD and isinstance(old, Mapping) and isinstance(new, Mapping):
            names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            found += [Cause(part, name, old.get(name), new.get(name)) for name in sorted(names)]
        else:
            found.append(Cause(part, "", old, new))
    return tuple(found)


def compare_records(
    before: RecordRow | None, after: RecordRow | None, of_step: tuple[Cause, ...], *, messages: int = 0
) -> Compared | None:
    """Return how two records differ, or None where they do not.

    `of_step` is what differs between the two forms of their step; `messages` is how many the step's prompt
    has: what comes after them is a repeated question.
    """
    if before is None or after is None:
        if before is after:
            return None
        return Compared((Cause("ending", "", _ending(before), _ending(after)),), True)
    answer_differs = before.status != after.status or not _same_output(before, after)
    asked = question_causes(before, after, of_step, messages=messages)
    if not answer_differs and not asked:
        return None
    if asked:
        return Compared(asked, answer_differs)
    return Compared((_unasked(before, after),), True)


def question_causes(
    before: RecordRow, after: RecordRow, of_step: tuple[Cause, ...], *, messages: int = 0
) -> tuple[Cause, ...]:
    """Return why two records asked different things; none where they asked the same."""
    variables = _variables(before, after)
    rendered = before.messages != after.messages and _messages(before, messages) != _messages(after, messages)
    found = []
    for cause in of_step:
        # A new wording that renders to the same words asks the same.
        if cause.kind == "template" and not (rendered if messages else variables):
            continue
        found.append(cause)
    # Values that a template reads and does not write out (`{% if %}`) leave the words as they were.
    if rendered or not messages:
        found += variables
    return tuple(found)


def moved(before: list[str], after: list[str]) -> list[dict[str, Any]]:
    """Return the passages of a `passages` cause that came, went or changed their rank."""
    old = {name: rank for rank, name in enumerate(before, start=1)}
    new = {name: rank for rank, name in enumerate(after, start=1)}
    return [
        {"id": name, "before": old.get(name), "after": new.get(name)}
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _named(hits: list[Any]) -> list[str]:
    names = (str(hit.get("id") or hit.get("text")) if isinstance(hit, dict) else str(hit) for hit in hits)
    return list(dict.fromkeys(names))


def _same_output(before: RecordRow, after: RecordRow) -> bool:
    if before.output == after.output:
        return True
    # What is not said by a model follows from its key; the rest of such an output is how it came about.
    same_key = before.value_key is not None and before.value_key == after.value_key
    return same_key and before.messages is None and after.messages is None


def _variables(before: RecordRow, after: RecordRow) -> list[Cause]:
    if before.inputs == after.inputs or before.inputs is None or after.inputs is None:
        return []  # one that was skipped or blocked read nothing
    old, new = _object(before.inputs), _object(after.inputs)
    return [
        Cause("variable", name, old.get(name), new.get(name))
        for name in sorted({**old, **new})
        if name not in old or name not in new or old[name] != new[name]
    ]


def _unasked(before: RecordRow, after: RecordRow) -> Cause:
    """Name why the same question had two answers."""
    if before.status != after.status:
        return Cause("ending", "", _ending(before), _ending(after))
    old, new = _object(before.output), _object(after.output)
    if isinstance(old.get("hits"), list) and isinstance(new.get("hits"), list):
        return Cause("passages", "", _named(old["hits"]), _named(new["hits"]))
    if before.messages is not None:
        return Cause("sampling noise")
    return Cause("what it read" if before.row == ONCE else "not the same each time")


def _ending(record: RecordRow | None) -> str:
    if record is None:
        return "no record"
    error = _object(record.error)
    return f"{record.status}: {error['message']}" if error.get("message") else record.status


def _messages(record: RecordRow, count: int) -> list[Any]:
    found = json.loads(record.messages) if record.messages is not None else []
    return found[:count] if count else found


def _object(payload: bytes | None) -> dict[str, Any]:
    found = json.loads(payload) if payload is not None else {}
    return found if isinstance(found, dict) else {"": found}
