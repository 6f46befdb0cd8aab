"""Curves over the steps of a training, as SVG.

Owns scales and lines. Colours are classes. Knows nothing of trainings and of the store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 560.0, 220.0
_LEFT, _RIGHT, _TOP, _FOOT = 62.0, 14.0, 12.0, 26.0
_TICKS: Final = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its name, the class of its colour, and its points from left to right."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


def chart(title: str, curves: Sequence[Curve]) -> str | None:
    """Return the picture of some curves on one scale, or None where there is nothing to draw."""
    drawn = [
        Curve(curve.name, curve.kind, [point for point in curve.points if all(map(math.isfinite, point))])
        for curve in curves
    ]
    drawn = [curve for curve in drawn if curve.points]
    if not drawn:
        return None
    right = max(x for curve in drawn for x, _ in curve.points) or 1.0
    values = [y for curve in drawn for _, y in curve.points]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1.0

    def at(x: float, y: float) -> str:
        across = _LEFT + x / right * (_WIDTH - _LEFT - _RIGHT)
        return f"{across:.1f} {_TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _FOOT):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curves" role="img" width="{_WIDTH:g}" '
        f'height="{_HEIGHT:g}" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}"><title>{escape(title)}</title>'
    ]
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        x, y = at(0, value).split()
        parts.append(f'<path class="grid" d="M{x} {y}H{_WIDTH - _RIGHT:g}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 8:g}" y="{float(y) + 4:.1f}">{value:.3g}</text>')
    parts.append(f'<text x="{_LEFT:g}" y="{_HEIGHT - 6:g}">0</text>')
    parts.append(f'<text class="end" x="{_WIDTH - _RIGHT:g}" y="{_HEIGHT - 6:g}">step {right:,.0f}</text>')
    for curve in drawn:
        line = "L".join(at(x, y) for x, y in curve.points)
        name = f"<title>{escape(curve.name)}</title>"
        parts.append(f'<path class="{escape(curve.kind)}" d="M{line}">{name}</path>')
        if len(curve.points) <= 40:
            spots = [at(x, y).split() for x, y in curve.points]
            parts += [
                f'<circle class="{escape(curve.kind)}" cx="{x}" cy="{y}" r="2.5">{name}</circle>'
                for x, y in spots
            ]
    return "\n".join([*parts, "</svg>"])
