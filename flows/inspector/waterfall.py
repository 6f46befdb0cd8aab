"""What took how long: bars over time, as SVG.

Owns the bars and their kinds: waiting for a worker of a pool, for a place or a rate, for the device of a
local model and for the next try; calls, failed calls and other work. Colours are classes. Knows nothing of
the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from flows.cli.text import duration
from flows.inspector.addresses import Place

if TYPE_CHECKING:
    from chains.store import AttemptRow, RecordRow, StepRow
    from chains.store.browsing import StepTimes

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
    shares: bool = False
    """Its length is a share, and says nothing of when."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One line: its name and its bars."""

    name: str
    bars: tuple[Bar, ...]


def step_bars(
    steps: Sequence[StepRow], times: Mapping[str, StepTimes], pools: Mapping[str, float]
) -> list[Lane]:
    """Return a line per step, from its first row to its last.

    Where a step has calls, its line is cut into shares by what the time of all its rows was spent on.
    """
    found = []
    for step in steps:
        if step.started_at is None or step.finished_at is None:
            continue
        start = min(max(step.started_at, pools.get(step.id, 0.0)), step.finished_at)
        work = Bar(start, step.finished_at, "work", step.id)
        shares = _shares(work, times.get(step.id))
        found.append(Lane(step.id, (*_pool_bars(step.started_at, start), work, *shares)))
    return found


def pool_waits(
    steps: Sequence[StepRow], begun: Mapping[str, float], needs: Mapping[str, Iterable[str]]
) -> dict[str, float]:
    """Return until when each step waited for its pool: from the end of all that it needs."""
    ended = {step.id: step.finished_at or 0.0 for step in steps}
    return {
        step: at
        for step, at in begun.items()
        if at > max((ended.get(name, 0.0) for name in needs.get(step, ())), default=0.0)
    }


def _pool_bars(since: float, until: float) -> list[Bar]:
    return [Bar(since, until, "pool", "waiting for a worker of its pool")] if until > since else []


def _shares(whole: Bar, times: StepTimes | None) -> list[Bar]:
    if times is None:
        return []
    parts = (
        ("wait", "waiting for a place", times.queue),
        ("device", "waiting for the device", times.device),
        ("call", "calls", times.call),
        ("error", "failed calls", times.failed),
        ("pause", "before the next try", times.pause),
    )
    total = sum(seconds for _, _, seconds in parts)
    found, at = [], whole.start
    for kind, title, seconds in parts if total > 0 else ():
        end = at + (whole.end - whole.start) * seconds / total
        if seconds > 0:
            found.append(Bar(at, end, kind, f"{title}: {duration(seconds)} of all rows", shares=True))
        at = end
    return found


def attempt_bars(
    records: Sequence[RecordRow],
    attempts: Sequence[AttemptRow],
    steps: Mapping[str, StepRow] | None = None,
) -> list[Lane]:
    """Return a line per record: what it waited, each call, the pauses between tries, and the rest as work.

    With its step's row, a record that a worker made shows how long its pool was waited for.
    """
    found = []
    for record in records:
        if record.started_at is None or record.finished_at is None:
            continue
        step = (steps or {}).get(record.step)
        since = step.started_at if step is not None and record.worker is not None else None
        bars = _pool_bars(since, record.started_at) if since is not None else []
        bars.append(Bar(record.started_at, record.finished_at, "work", f"{record.step}: {record.status}"))
        tries = 0
        for attempt in attempts:
            if attempt.record_id == record.id:
                tries += 1
                bars += _of_attempt(attempt, tries)
        found.append(Lane(f"{record.step} {Place.of(record).words}".rstrip(), tuple(bars)))
    return found


def _of_attempt(attempt: AttemptRow, number: int) -> list[Bar]:
    begin = attempt.started_at
    waited = Bar(
        begin - attempt.wait_s,
        begin,
        "wait" if number == 1 else "pause",
        "waiting for a place" if number == 1 else "before the next try",
    )
    end = attempt.finished_at if attempt.finished_at is not None else begin
    asked = min(begin + attempt.device_wait_s, end)
    device = [Bar(begin, asked, "device", "waiting for the device")] if asked > begin else []
    kind = "call" if attempt.state == "ok" else "error"
    said = f"attempt {attempt.number}: {attempt.error_type or attempt.state}"
    return [waited, *device, Bar(asked, end, kind, said)]


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
            title = bar.title if bar.shares else f"{bar.title} · {duration(bar.end - bar.start)}"
            parts.append(
                f'<rect class="{escape(bar.kind)}" x="{left:.1f}" y="{top:g}" width="{width:.1f}" '
                f'height="{_BAR:g}"><title>{escape(title)}</title></rect>'
            )
    foot = height - 6
    parts.append(f'<text x="{_LABEL:g}" y="{foot:g}">0</text>')
    parts.append(f'<text x="{_WIDTH:g}" y="{foot:g}" class="end">{escape(duration(span))}</text></svg>')
    return "\n".join(parts)
