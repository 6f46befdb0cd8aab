"""A picture of a training: its losses over the steps.

Owns scales and lines. Knows nothing of how losses come about or where pictures are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tasks.drawing import BLUE, FAINT, RED, curve, line, picture, text

_WIDTH, _HEIGHT, _LEFT, _TOP = 520, 260, 60, 40
_TICKS = 4
_LINES = (
    ("loss of each step", FAINT, "curve", "loss"),
    ("training examples", BLUE, "history", "train_loss"),
    ("validation examples", RED, "history", "validation_loss"),
)


def losses_svg(
    curve_points: Sequence[Mapping[str, float]], history: Sequence[Mapping[str, float]]
) -> str | None:
    """Draw the loss of the steps and of each evaluation; None where there are fewer than two points."""
    given = {"curve": curve_points, "history": history}
    lines = [
        (name, ink, _points(given[source], figure), source == "history")
        for name, ink, source, figure in _LINES
    ]
    drawn = [found for found in lines if found[2]]
    if max((len(points) for _, _, points, _ in drawn), default=0) < 2:
        return None
    right = max(x for _, _, points, _ in drawn for x, _ in points)
    high = max(y for _, _, points, _ in drawn for _, y in points) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x / right * _WIDTH, _TOP + (1 - y / high) * _HEIGHT

    parts = _scale(right, high)
    for place, (name, ink, points, dotted) in enumerate(drawn):
        parts.append(curve([at(*point) for point in points], ink))
        if dotted:
            spots = [at(*point) for point in points]
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{ink}"/>' for x, y in spots]
        parts.append(line((_LEFT + 170 * place, 18), (_LEFT + 170 * place + 18, 18), ink))
        parts.append(text(_LEFT + 170 * place + 24, 22, name, size=12))
    return picture(_LEFT + _WIDTH + 20, _TOP + _HEIGHT + 40, parts)


def _scale(right: float, high: float) -> list[str]:
    parts = []
    for tick in range(_TICKS + 1):
        y = _TOP + (1 - tick / _TICKS) * _HEIGHT
        parts.append(line((_LEFT, y), (_LEFT + _WIDTH, y), "#eee"))
        parts.append(text(_LEFT - 8, y + 4, f"{high * tick / _TICKS:.3g}", anchor="end"))
    parts.append(text(_LEFT, _TOP + _HEIGHT + 18, "0", anchor="middle"))
    parts.append(text(_LEFT + _WIDTH, _TOP + _HEIGHT + 18, f"step {right:,.0f}", anchor="end"))
    return [*parts, text(_LEFT, _TOP + _HEIGHT + 34, "loss over the steps", size=12)]


def _points(found: Sequence[Mapping[str, float]], figure: str) -> list[tuple[float, float]]:
    """Return the points that can be drawn: a loss that ran away is no number."""
    pairs = [(float(point["step"]), float(point[figure])) for point in found if figure in point]
    return [(step, loss) for step, loss in pairs if math.isfinite(loss)]
