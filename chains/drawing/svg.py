"""A laid-out chain as SVG.

Owns the picture's elements and classes. Colours are in classes only, so that a page may bring its own style
sheet; `svg(..., styled=True)` puts one in, for a file that stands alone. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from chains.drawing.layout import Box, Drawing, Line

STYLE = """
.dag { color: #1c2430; font-family: ui-sans-serif, system-ui, sans-serif; }
.dag text { fill: currentColor; text-anchor: middle; font-size: 13px; font-weight: 600; }
.dag .kind { font-size: 11px; font-weight: 400; opacity: .75; }
.dag rect { fill: #f6f8fb; stroke: #8b97a8; }
.dag path { fill: none; stroke: #8b97a8; }
.dag .order { stroke-dasharray: 3 4; }
.dag marker path { fill: #8b97a8; stroke: none; }
@media (prefers-color-scheme: dark) {
  .dag { color: #e4e9f0; }
  .dag rect { fill: #1d2530; stroke: #6d7a8c; }
}
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a run adds to a step: a state, which becomes a class, a note below the name, and a link."""

    state: str
    note: str = ""
    href: str | None = None


def svg(drawing: Drawing, marks: Mapping[str, Mark] | None = None, *, styled: bool = True) -> str:
    """Return the picture as one SVG element."""
    size = f'width="{drawing.width:g}" height="{drawing.height:g}"'
    box = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" class="dag" role="img" {size} {box}>']
    parts += ["<title>The steps of the chain and what each needs</title>"]
    parts += [f"<style>{STYLE}</style>"] if styled else []
    parts.append(
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
    )
    parts += _field(drawing, marks or {})
    return "\n".join([*parts, "</svg>\n"])


def _field(drawing: Drawing, marks: Mapping[str, Mark]) -> list[str]:
    """Return the lines and boxes of a drawing, and inside the boxes what they hold."""
    parts = [_line(line) for line in drawing.lines]
    for box in drawing.boxes:
        parts.append(_box(box, marks.get(box.step)))
        if box.inside is not None:
            left, top = box.origin
            parts += [f'<g transform="translate({left:g} {top:g})">', *_field(box.inside, marks), "</g>"]
    return parts


def _line(line: Line) -> str:
    (x, y), *rest = line.points
    path = [f"M{x:g} {y:g}"]
    for number, (to_x, to_y) in enumerate(rest):
        if number % 2 == 0:  # from a box or lane to the next, in a curve; through a lane, straight
            middle = (y + to_y) / 2
            path.append(f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}")
        else:
            path.append(f"L{to_x:g} {to_y:g}")
        x, y = to_x, to_y
    kind = "reads" if line.reads else "order"
    return f'<path class="{kind}" marker-end="url(#tip)" d="{" ".join(path)}"/>'


def _box(box: Box, mark: Mark | None) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    radius = box.height / 2 if box.once else 6
    name = top + 19 if box.inside is not None else box.y - 3
    note = mark.note if mark is not None and mark.note else box.kind + (" · once" if box.once else "")
    state = f" state-{mark.state}" if mark is not None else ""
    body = (
        f'<g class="step{escape(state)}"><rect x="{left:g}" y="{top:g}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="{radius:g}"/>'
        f'<text x="{box.x:g}" y="{name:g}">{escape(box.label)}</text>'
        f'<text class="kind" x="{box.x:g}" y="{name + 16:g}">{escape(note)}</text></g>'
    )
    if mark is None or mark.href is None:
        return body
    return f'<a href="{escape(mark.href)}">{body}</a>'
