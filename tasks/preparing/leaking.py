"""The leak report: questions of one part that are asked, or nearly asked, in another.

Owns what a leak is and how it is told. Equal questions always count; near duplicates are those whose word
sequences are shared to `similarity`. Knows nothing of how parts are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chains.errors import StepFailed
from chains.spec import PrepareStep
from tasks.preparing.gathering import Gathered
from tasks.preparing.similar import near_pairs
from tasks.splitting import PARTS, leaks

SHOWN = 5
"""Leaks that a message names."""
KEPT = 100
"""Leaks that the step's output names."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Two examples of different parts that ask the same (`similarity` 1) or nearly so."""

    one: int
    other: int
    similarity: float


def find_leaks(step: PrepareStep, found: Gathered, parts: Sequence[int]) -> list[Leak]:
    """Return each example that leaks once, with the first that it leaks from."""
    first: dict[int, Leak] = {other: Leak(one, other, 1.0) for one, other in leaks(found.questions, parts)}
    if found.asked is not None and step.leaks.similarity is not None:

        def apart(one: int, other: int) -> bool:
            part, other_part = parts[one], parts[other]
            return part != other_part and max(part, other_part) < len(PARTS) and other not in first

        near = near_pairs(
            found.asked, lambda example: found.text(example, asked=True), step.leaks.similarity, apart
        )
        for one, other, alike in near:
            first.setdefault(other, Leak(one, other, alike))
    return [first[other] for other in sorted(first)]


def require_few(
    step: PrepareStep, found: Gathered, parts: Sequence[int], all_leaks: list[Leak], *, step_id: str
) -> None:
    """Raise StepFailed, which names both rows of the first leaks, where there are more than are allowed."""
    if len(all_leaks) <= step.leaks.max:
        return
    listed = "; ".join(_words(leak, found, parts) for leak in all_leaks[:SHOWN])
    near = sum(leak.similarity < 1 for leak in all_leaks)
    what = f"{len(all_leaks)} rows ask the same as a row in another part" + (
        f" ({near} of them nearly the same)" if near else ""
    )
    raise StepFailed(f"step {step_id!r}: {what}: {listed}.", hint=_hint(step, near))


def report(found: Gathered, parts: Sequence[int], all_leaks: list[Leak]) -> dict[str, Any]:
    """Return the report as JSON data."""
    near = sum(leak.similarity < 1 for leak in all_leaks)
    return {
        "equal": len(all_leaks) - near,
        "near": near,
        "pairs": [
            {
                "row": found.rows[leak.one],
                "part": PARTS[parts[leak.one]],
                "other": found.rows[leak.other],
                "other_part": PARTS[parts[leak.other]],
                "similarity": round(leak.similarity, 3),
            }
            for leak in all_leaks[:KEPT]
        ],
    }


def _words(leak: Leak, found: Gathered, parts: Sequence[int]) -> str:
    alike = "" if leak.similarity == 1 else f" ({leak.similarity:.2f} alike)"
    return (
        f"row {found.rows[leak.one]} ({PARTS[parts[leak.one]]}) and "
        f"row {found.rows[leak.other]} ({PARTS[parts[leak.other]]}){alike}"
    )


def _hint(step: PrepareStep, near: int) -> str:
    if near:
        return (
            f"Drop such rows with `near_duplicates: {step.leaks.similarity:g}`, keep them together with "
            "`split: {group: COLUMN}`, or allow some with `leaks: {max: ...}`."
        )
    return f"Groups of {step.split.group!r} share questions: drop those rows or group by another column."
