"""The few marks that pictures are made of, as SVG.

Owns escaping and the outer element: what is drawn is text and lines, with no script, no link and no font.
Knows nothing of what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

INK, FAINT, BLUE, RED = "#222", "#bbb", "#1f5fa8", "#b03a2e"
_LONGEST = 20


def line(start: tuple[float, float], end: tuple[float, float], ink: str) -> str:
    """Return a straight line."""
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
        f'stroke="{ink}" stroke-width="1.5"/>'
    )


def curve(points: Sequence[tuple[float, float]], ink: str) -> str:
    """Return a line through many points."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{ink}" stroke-width="1.5"/>'


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 11,
    ink: str = INK,
    turned: bool = False,
) -> str:
    """Return a text; small ones are cut to a label's length, and what cannot be printed is a space."""
    shown = words if len(words) <= _LONGEST or size > 11 else f"{words[: _LONGEST - 1]}…"
    clean = "".join(character if character.isprintable() else " " for character in shown)
    turn = f' transform="rotate(-60 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{ink}"{turn}>'
        f"{escape(clean)}</text>"
    )


def picture(width: int, height: int, parts: Sequence[str]) -> str:
    """Return the whole picture on a white ground."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
