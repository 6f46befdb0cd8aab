"""Which rows an evaluate step scores, and as what.

Owns the rules: a row without a reference is not scored (`unlabelled`); a row whose prediction cannot be had
is scored as wrong (`missing`), because leaving it out would flatter the chain. Knows nothing of metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chains.errors import TemplateFailed
from chains.references import Reference
from chains.spec import EvaluateStep
from chains.templates import references, render_value
from tasks.context import RowView, StepSkipped
from tasks.metrics import Pair

_NO_OUTPUT = frozenset({"failed", "blocked", "cancelled", "missing"})
"""How an upstream step ends without an answer; `skipped` is not one: a template may hold a default for it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A rendered value, or why there is none; `error` where the template itself is why."""

    value: Any = None
    reason: str | None = None
    error: TemplateFailed | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """One row that counts, why its prediction is missing where it is, and what else was rendered for it."""

    row: int
    pair: Pair
    reason: str | None = None
    also: Mapping[str, Outcome] = field(default_factory=dict)


def compared(step: EvaluateStep, views: Sequence[RowView], also: Mapping[str, str]) -> list[Compared]:
    """Return the rows that have a reference, in one pass that keeps no more of a row than what is compared.

    `also` are more templates by name. A step without a reference takes every row. None at all is a reason
    to skip the step.
    """
    if not views:
        raise StepSkipped("the run has no rows")
    template = step.evaluate.reference
    reads = _columns_read(template)
    columns = sorted({found.path[0] for found in reads if found.path})
    found = _Columns(columns)
    labels, predictions = _Failures(), _Failures()
    rows = []
    for view in views:
        # A column that is there and empty is a label: "no order number" is an answer that can be right.
        if not found.all_in(view):
            continue
        label = labels.note(_render(template, view)) if template is not None else Outcome()
        if label.reason is not None:
            continue
        said = predictions.note(_render(step.evaluate.prediction, view))
        pair = Pair(said.value, label.value, missing=said.reason is not None)
        more = {name: _render(source, view) for name, source in also.items()}
        rows.append(Compared(view.row, pair, said.reason, more))
    if reads and not found.with_data:
        raise StepSkipped("the run has no data set, so there is nothing to compare with")
    for column in columns:
        if column not in found.seen:
            raise StepSkipped(f"the run has no labels: column {column!r} is not in the data")
    labels.raise_if_all()
    if not rows:
        raise StepSkipped(f"no row has a reference: {labels.first_reason}")
    predictions.raise_if_all()
    return rows


def _columns_read(template: str | None) -> list[Reference]:
    if template is None:
        return []
    return [found for found in references(template) if found.root == "row" and not found.guarded]


class _Columns:
    """Which of the columns that a reference reads are in the data."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = wanted
        self.seen: set[str] = set()
        self.with_data = False

    def all_in(self, view: RowView) -> bool:
        """Note a row's columns; return whether it has all that are wanted."""
        self.with_data = self.with_data or "row" in view.scope
        here = [column for column in self._wanted if column in view.scope.get("row", {})]
        self.seen.update(here)
        return len(here) == len(self._wanted)


class _Failures:
    """How a template failed over the rows, without keeping the rows."""

    def __init__(self) -> None:
        self._error: TemplateFailed | None = None
        self._all = True
        self.first_reason: str | None = None

    def note(self, outcome: Outcome) -> Outcome:
        """Take one row's outcome and return it."""
        if outcome.reason is None:
            self._all = False
        self.first_reason = self.first_reason or outcome.reason
        self._error = self._error or outcome.error
        return outcome

    def raise_if_all(self) -> None:
        """Raise the template's failure where no row got past it: a mistake in the chain is no score of 0."""
        if self._error is not None and self._all:
            raise self._error


def _render(template: str, view: RowView) -> Outcome:
    """Render for one row; an upstream step that failed has no answer, whatever default the template names."""
    ended = {found.root: view.statuses.get(found.root) for found in references(template)}
    for step_id, status in ended.items():
        if status in _NO_OUTPUT:
            return Outcome(reason=f"step {step_id!r}: {status}")
    try:
        return Outcome(render_value(template, view.scope))
    except TemplateFailed as error:
        for step_id, status in ended.items():
            if status == "skipped":
                return Outcome(reason=f"step {step_id!r}: skipped")
        return Outcome(reason=error.message, error=error)
