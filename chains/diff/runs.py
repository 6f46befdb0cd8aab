"""Two runs of one chain, row by row: where each row first went another way, and why.

Owns the walk: rows are read in chunks from both runs, with two queries for each chunk, and of each row no
more is kept than its first divergence. Knows nothing of metrics. Steps that only one of the chains has are
named and not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from chains.diff.alignment import Pairing, pair_rows
from chains.diff.causes import ONCE, Cause, Compared, compare_records, part_causes
from chains.diff.recorded import RecordedRun
from chains.spec import PromptStep
from chains.store import RecordRow, Store

AT_ONCE: Final = 500
"""Pairs of rows that are read together."""

Place: TypeAlias = tuple[str, str, int, int, int]
"""Step, item, turn and sample: a record's place within its row."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a row first went another way; the rows' numbers are None for a step that runs once."""

    row_before: int | None
    row_after: int | None
    step: str
    causes: tuple[Cause, ...]
    answer_differs: bool
    record_before: str | None
    record_after: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the divergence as JSON data."""
        return {
            "row_before": self.row_before,
            "row_after": self.row_after,
            "step": self.step,
            "causes": [cause.to_dict() for cause in self.causes],
            "answer_differs": self.answer_differs,
            "record_before": self.record_before,
            "record_after": self.record_after,
        }


@dataclass(slots=True)
class StepDiff:
    """One step over all rows: how many were compared, and of how many the question or the answer differs."""

    step: str
    compared: int = 0
    asked_differently: int = 0
    answered_differently: int = 0
    first: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON data; `first`: rows that first differ here, by the `causes`."""
        return {
            "step": self.step,
            "compared": self.compared,
            "asked_differently": self.asked_differently,
            "answered_differently": self.answered_differently,
            "first": self.first,
            "causes": dict(sorted(self.causes.items())),
        }


@dataclass(slots=True)
class RunDiff:
    """All that differs. `divergences` holds the first ones; `diverged` counts the rows of all."""

    steps: list[StepDiff]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    of_steps: dict[str, tuple[Cause, ...]]
    rows: int = 0
    diverged: int = 0
    rows_only_before: int = 0
    rows_only_after: int = 0
    paired_by: str = "number"
    divergences: list[Divergence] = field(default_factory=list)


def diff_runs(
    store: Store,
    before: RecordedRun,
    after: RecordedRun,
    *,
    steps: Sequence[str] | None = None,
    shown: int = 20,
) -> RunDiff:
    """Compare two runs; `steps` limits it to some, `shown` is how many divergences are kept."""
    common = [step for step in _in_order(before, after) if steps is None or step in steps]
    walk = _Walk(store, before, after, common)
    names = before.chain_file.chain.steps.keys(), after.chain_file.chain.steps.keys()
    found = RunDiff(
        steps=list(walk.steps.values()),
        only_before=tuple(step for step in names[0] if step not in names[1]),
        only_after=tuple(step for step in names[1] if step not in names[0]),
        of_steps={step: causes for step, causes in walk.of_steps.items() if causes},
    )
    pairing = pair_rows(store, before, after)
    found.paired_by = pairing.by
    found.rows_only_before, found.rows_only_after = pairing.only_before, pairing.only_after
    for divergence in walk.rows(pairing):
        if divergence is None:
            continue
        found.diverged += divergence.row_before is not None
        if len(found.divergences) < shown:
            found.divergences.append(divergence)
    found.rows = pairing.pairs
    return found


def _in_order(before: RecordedRun, after: RecordedRun) -> list[str]:
    """Return the steps that both have, upstream first; the same whichever run is named first."""
    common = before.depth.keys() & after.depth.keys()
    return sorted(common, key=lambda step: (max(before.depth[step], after.depth[step]), step))


class _Walk:
    """Goes through the rows of two runs and counts."""

    def __init__(self, store: Store, before: RecordedRun, after: RecordedRun, steps: Sequence[str]) -> None:
        self._store = store
        self._runs = (before, after)
        self._order = {step: place for place, step in enumerate(steps)}
        self.steps = {step: StepDiff(step) for step in steps}
        self.of_steps = {step: part_causes(before.parts[step], after.parts[step]) for step in steps}
        self._once = {step for step in steps if step in before.once and step in after.once}
        self._messages = {step: _message_count(before, after, step) for step in steps}

    def rows(self, pairing: Pairing) -> Iterator[Divergence | None]:
        """Yield the first divergence of the once steps, then of each pair of rows."""
        chunk: list[tuple[int, int]] = [(ONCE, ONCE)]
        for pair in pairing:
            if len(chunk) >= AT_ONCE or chunk == [(ONCE, ONCE)]:
                yield from self._chunk(chunk)
                chunk = []
            chunk.append(pair)
        yield from self._chunk(chunk)

    def _chunk(self, pairs: Sequence[tuple[int, int]]) -> Iterator[Divergence | None]:
        old = self._records(0, [row for row, _ in pairs])
        new = self._records(1, [row for _, row in pairs])
        for row_before, row_after in pairs:
            yield self._row((row_before, row_after), old.get(row_before, {}), new.get(row_after, {}))

    def _records(self, side: int, rows: Sequence[int]) -> dict[int, dict[Place, RecordRow]]:
        spread = max(rows) - min(rows) + 1
        wanted: range | Sequence[int] = range(min(rows), max(rows) + 1) if spread <= len(rows) else rows
        found: dict[int, dict[Place, RecordRow]] = {}
        step = next(iter(self._order)) if len(self._order) == 1 else None
        for record in self._store.records(self._runs[side].run.id, step, rows=wanted, within=True):
            if record.step in self._order and (record.row == ONCE or record.step not in self._once):
                place = (record.step, record.path, record.item, record.turn, record.sample)
                found.setdefault(record.row, {})[place] = record
        return found

    def _row(
        self,
        pair: tuple[int, int],
        old: dict[Place, RecordRow],
        new: dict[Place, RecordRow],
    ) -> Divergence | None:
        first: Divergence | None = None
        for place in sorted({**old, **new}, key=lambda place: (self._order[place[0]], *place[1:])):
            before, after = old.get(place), new.get(place)
            step = self.steps[place[0]]
            step.compared += 1
            found = compare_records(before, after, self.of_steps[place[0]], messages=self._messages[place[0]])
            if found is None:
                continue
            step.asked_differently += any(cause.kind in _ASKED for cause in found.causes)
            step.answered_differently += found.answer_differs
            if first is None:
                first = _divergence(pair, place[0], found, (before, after))
                step.first += 1
                step.causes.update({cause.kind for cause in found.causes})
        return first


_ASKED = frozenset(
    ("template", "variable", "model", "parameters", "output form", "code", "collection", "settings")
)


def _divergence(
    pair: tuple[int, int], step: str, found: Compared, records: tuple[RecordRow | None, RecordRow | None]
) -> Divergence:
    row_before, row_after = (None if row == ONCE else row for row in pair)
    before, after = (record.id if record is not None else None for record in records)
    return Divergence(row_before, row_after, step, found.causes, found.answer_differs, before, after)


def _message_count(before: RecordedRun, after: RecordedRun, step: str) -> int:
    """Return how many messages a prompt step has in both runs, 0 for other steps or other numbers."""
    if not isinstance(before.chain_file.chain.steps[step], PromptStep):
        return 0
    counts = [len(run.parts[step].get("template") or ()) for run in (before, after)]
    return max(counts)
