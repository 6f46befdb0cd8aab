"""Pictures of an evaluation as SVG: the confusion of labels, and how far confidences can be relied on.

Owns what is drawn where. Labels come from data and models: tasks.drawing escapes them. Knows nothing of steps
or of the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.drawing import BLUE, FAINT, INK, line, picture, text

_CELL, _SIDE, _TOP = 34, 150, 120
MOST_LABELS = 40
"""Labels of a confusion picture; the commonest are drawn, the table in the step's output has all."""


def confusion_svg(table: Mapping[str, Any]) -> str:
    """Draw a confusion table: references down, predictions across, shaded by the share of the row."""
    labels, counts, missing = table["labels"], table["counts"], table["missing"]
    totals = [sum(row) + gone for row, gone in zip(counts, missing, strict=True)]
    order = sorted(range(len(labels)), key=lambda place: (-totals[place], labels[place]))[:MOST_LABELS]
    places = sorted(order)
    heads = [*(labels[place] for place in places), "no answer"]
    parts = [text(10, 20, "reference ↓  prediction →", size=12)]
    for column, head in enumerate(heads):
        x, y = _SIDE + column * _CELL + _CELL // 2, _TOP - 6
        parts.append(text(x, y, head, turned=True))
    for row, place in enumerate(places):
        y = _TOP + row * _CELL
        parts.append(text(_SIDE - 8, y + _CELL // 2 + 4, labels[place], anchor="end"))
        values = [*(counts[place][other] for other in places), missing[place]]
        for column, value in enumerate(values):
            right = column < len(places) and places[column] == place
            parts += _cell(_SIDE + column * _CELL, y, (value, value / (totals[place] or 1)), right=right)
    return picture(_SIDE + len(heads) * _CELL + 20, _TOP + len(places) * _CELL + 20, parts)


def _cell(x: int, y: int, value: tuple[int, float], *, right: bool) -> list[str]:
    count, share = value
    colour = "31,95,168" if right else "176,58,46"
    found = [
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="rgba({colour},{share:.3f})" '
        f'stroke="{FAINT}" stroke-width="0.5"/>'
    ]
    if count:
        ink = "#fff" if share > 0.6 else INK
        found.append(text(x + _CELL // 2, y + _CELL // 2 + 4, str(count), anchor="middle", ink=ink))
    return found


def reliability_svg(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw a reliability diagram: each bin's accuracy with its interval over its confidence."""
    size, left, top = 320, 60, 30

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * size, top + (1 - y) * size

    parts = [f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" stroke="{FAINT}"/>']
    parts.append(line(at(0, 0), at(1, 1), FAINT))
    for tick in (0.0, 0.5, 1.0):
        x, y = at(tick, tick)
        parts.append(text(x, top + size + 18, f"{tick:g}", anchor="middle"))
        parts.append(text(left - 8, y + 4, f"{tick:g}", anchor="end"))
    for part in bins:
        if not part["rows"]:
            continue
        said, accuracy = part["confidence"], part["accuracy"]
        parts.append(line(at(said, accuracy["low"]), at(said, accuracy["high"]), BLUE))
        x, y = at(said, accuracy["value"])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{BLUE}"/>')
        parts.append(text(x + 7, y - 5, str(part["rows"]), size=9))
    parts.append(text(left + size / 2, top + size + 38, "confidence", anchor="middle", size=12))
    parts.append(text(left, top - 10, "share that is right (rows beside each point)", size=12))
    return picture(left + size + 40, top + size + 55, parts)
