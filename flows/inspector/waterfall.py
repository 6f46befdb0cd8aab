"""What took how long: bars over time, as SVG.

Owns the bars and their kinds: waiting (for a place, a rate or the next try), a call, and other work. Colours
are classes. Knows nothing of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from flows.cli.text import duration

if TYPE_CHECKING:
    from chains.store import AttemptRow, RecordRow, StepRow

_WIDTH, _LABEL, _LINE, _BAR = 900.0, 190.0, 22.0, 14.0
MOST: Final = 60
"""Lines of a waterfall."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time of one kind."""

    start: float
    end: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One line: its name and its bars."""

    name: str
    bars: tuple[Bar, ...]


def step_bars(steps: Sequence[StepRow]) -> list[Lane]:
    """Return a line per step, from its first row to its last."""
    return [
        Lane(step.id, (Bar(step.started_at, step.finished_at, "work", step.id),))
        for step in steps
        if step.started_at is not None and step.finished_at is not None
    ]


def attempt_bars(records: Sequence[RecordRow], attempts: Sequence[AttemptRow]) -> list[Lane]:
    """Return a line per record: what it waited, each call, the pauses between tries, and the rest as work."""
    found = []
    for record in records:
        if record.started_at is None or record.finished_at is None:
            continue
        bars = [Bar(record.started_at, record.finished_at, "work", f"{record.step}: {record.status}")]
        tries = 0
        for attempt in attempts:
            if attempt.record_id == record.id:
                tries += 1
                bars += _of_attempt(attempt, tries)
        found.append(Lane(record.step, tuple(bars)))
    return found


def _of_attempt(attempt: AttemptRow, number: int) -> list[Bar]:
    waited = Bar(
        attempt.started_at - attempt.wait_s,
        attempt.started_at,
        "wait" if number == 1 else "pause",
        f"waited {duration(attempt.wait_s)}",
    )
    end = attempt.finished_at if attempt.finished_at is not None else attempt.started_at
    kind = "call" if attempt.state == "ok" else "error"
    said = f"attempt {attempt.number}: {attempt.error_type or attempt.state}"
    return [waited, Bar(attempt.started_at, end, kind, said)]


def waterfall(lanes: Sequence[Lane]) -> str | None:
    """Return the picture, or None where nothing has ended."""
    lanes = [lane for lane in lanes if lane.bars][:MOST]
    if not lanes:
        return None
    begin = min(bar.start for lane in lanes for bar in lane.bars)
    end = max(bar.end for lane in lanes for bar in lane.bars)
    span = max(end - begin, 1e-6)
    height = _LINE * len(lanes) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="waterfall" role="img" width="{_WIDTH:g}" '
        f'height="{height:g}" viewBox="0 0 {_WIDTH:g} {height:g}">',
        "<title>What took how long</title>",
    ]
    for place, lane in enumerate(lanes):
        top = place * _LINE + 4
        parts.append(f'<text x="{_LABEL - 8:g}" y="{top + 11:g}" class="name">{escape(lane.name)}</text>')
        for bar in lane.bars:
            left = _LABEL + (bar.start - begin) / span * (_WIDTH - _LABEL)
            width = max((bar.end - bar.start) / span * (_WIDTH - _LABEL), 1.0)
            title = f"{bar.title} · {duration(bar.end - bar.start)}"
            parts.append(
                f'<rect class="{escape(bar.kind)}" x="{left:.1f}" y="{top:g}" width="{width:.1f}" '
                f'height="{_BAR:g}"><title>{escape(title)}</title></rect>'
            )
    foot = height - 6
    parts.append(f'<text x="{_LABEL:g}" y="{foot:g}">0</text>')
    parts.append(f'<text x="{_WIDTH:g}" y="{foot:g}" class="end">{escape(duration(span))}</text></svg>')
    return "\n".join(parts)
