"""Pictures of an evaluation as SVG: the confusion of labels, and how far confidences can be relied on.

Owns the drawing; no library is needed for rectangles and lines. Labels come from data and models: they are
escaped, and a picture holds no script, no link and no font. Knows nothing of steps or of the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_CELL, _SIDE, _TOP = 34, 150, 120
_LONGEST = 20
MOST_LABELS = 40
"""Labels of a confusion picture; the commonest are drawn, the table in the step's output has all."""
_INK, _FAINT, _BLUE = "#222", "#bbb", "#1f5fa8"


def confusion_svg(table: Mapping[str, Any]) -> str:
    """Draw a confusion table: references down, predictions across, shaded by the share of the row."""
    labels, counts, missing = table["labels"], table["counts"], table["missing"]
    totals = [sum(row) + gone for row, gone in zip(counts, missing, strict=True)]
    order = sorted(range(len(labels)), key=lambda place: (-totals[place], labels[place]))[:MOST_LABELS]
    places = sorted(order)
    heads = [*(labels[place] for place in places), "no answer"]
    parts = [_text(10, 20, "reference ↓  prediction →", size=12)]
    for column, head in enumerate(heads):
        x, y = _SIDE + column * _CELL + _CELL // 2, _TOP - 6
        parts.append(_text(x, y, head, turned=True))
    for row, place in enumerate(places):
        y = _TOP + row * _CELL
        parts.append(_text(_SIDE - 8, y + _CELL // 2 + 4, labels[place], anchor="end"))
        values = [*(counts[place][other] for other in places), missing[place]]
        for column, value in enumerate(values):
            right = column < len(places) and places[column] == place
            parts += _cell(_SIDE + column * _CELL, y, (value, value / (totals[place] or 1)), right=right)
    return _picture(_SIDE + len(heads) * _CELL + 20, _TOP + len(places) * _CELL + 20, parts)


def _cell(x: int, y: int, value: tuple[int, float], *, right: bool) -> list[str]:
    count, share = value
    colour = "31,95,168" if right else "176,58,46"
    found = [
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="rgba({colour},{share:.3f})" '
        f'stroke="{_FAINT}" stroke-width="0.5"/>'
    ]
    if count:
        ink = "#fff" if share > 0.6 else _INK
        found.append(_text(x + _CELL // 2, y + _CELL // 2 + 4, str(count), anchor="middle", ink=ink))
    return found


def reliability_svg(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw a reliability diagram: each bin's accuracy with its interval over its confidence."""
    size, left, top = 320, 60, 30

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * size, top + (1 - y) * size

    parts = [f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" stroke="{_FAINT}"/>']
    parts.append(_line(at(0, 0), at(1, 1), _FAINT))
    for tick in (0.0, 0.5, 1.0):
        x, y = at(tick, tick)
        parts.append(_text(x, top + size + 18, f"{tick:g}", anchor="middle"))
        parts.append(_text(left - 8, y + 4, f"{tick:g}", anchor="end"))
    for part in bins:
        if not part["rows"]:
            continue
        said, accuracy = part["confidence"], part["accuracy"]
        parts.append(_line(at(said, accuracy["low"]), at(said, accuracy["high"]), _BLUE))
        x, y = at(said, accuracy["value"])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_BLUE}"/>')
        parts.append(_text(x + 7, y - 5, str(part["rows"]), size=9))
    parts.append(_text(left + size / 2, top + size + 38, "confidence", anchor="middle", size=12))
    parts.append(_text(left, top - 10, "share that is right (rows beside each point)", size=12))
    return _picture(left + size + 40, top + size + 55, parts)


def _line(start: tuple[float, float], end: tuple[float, float], ink: str) -> str:
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
        f'stroke="{ink}" stroke-width="1.5"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    ink: str = _INK,
    turned: bool = False,
) -> str:
    shown = text if len(text) <= _LONGEST or size > 11 else f"{text[: _LONGEST - 1]}…"
    clean = "".join(character if character.isprintable() else " " for character in shown)
    turn = f' transform="rotate(-60 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{ink}"{turn}>'
        f"{escape(clean)}</text>"
    )


def _picture(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
