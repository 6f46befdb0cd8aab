"""Where the steps of a chain stand in a picture.

Owns layers (a step stands below all that it needs), the order within a layer, and the way of long lines
around boxes. Knows nothing of SVG. Invariant: boxes do not overlap, and every line goes down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chains.graph import Graph
from chains.spec import Chain, kind_of, runs_once

CHARACTER = 7.6
PADDING, HEIGHT, BESIDE, BELOW, MARGIN = 16.0, 44.0, 24.0, 40.0, 12.0
_LANE = 10.0
_SWEEPS = 6


@dataclass(frozen=True, slots=True)
class Box:
    """One step: its middle, its size, and what it is."""

    step: str
    kind: str
    once: bool
    x: float
    y: float
    width: float
    height: float = HEIGHT


@dataclass(frozen=True, slots=True)
class Line:
    """One edge from a step to one that needs it; `reads` is false where only the order is meant."""

    start: str
    end: str
    reads: bool
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """All boxes and lines, in a field of this size."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: float
    height: float


def draw(chain: Chain, graph: Graph) -> Drawing:
    """Lay out the steps of a chain from top to bottom."""
    layers = _layers(graph)
    ways = _ways(graph, {step: place for place, layer in enumerate(layers) for step in layer})
    rows = _ordered(_with_lanes(layers, ways), ways)
    widths = {step: _width(step, chain) for step in graph.order}
    middles, width = _placed(rows, widths)
    boxes = {
        step: Box(
            step,
            kind_of(chain.steps[step]),
            runs_once(chain.steps[step]),
            middles[step],
            _y(place),
            widths[step],
        )
        for place, row in enumerate(rows)
        for step in row
        if isinstance(step, str)
    }
    lines = tuple(
        Line(way[0], way[-1], way[0] in graph.reads[way[-1]], _points(way, boxes, middles, rows))
        for way in ways
        if isinstance(way[0], str) and isinstance(way[-1], str)
    )
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * BELOW
    return Drawing(tuple(boxes[step] for step in graph.order), lines, width, height)


_Place = str | tuple[str, str, int]
"""A step, or the lane of a long line through a layer: from, to, layer."""
_Way = tuple[_Place, ...]


def _layers(graph: Graph) -> list[list[str]]:
    depth: dict[str, int] = {}
    for step in graph.order:
        depth[step] = max((depth[other] + 1 for other in graph.needs[step]), default=0)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for step in graph.order:
        layers[depth[step]].append(step)
    return layers


def _ways(graph: Graph, depth: Mapping[str, int]) -> list[_Way]:
    """Return each edge with the lanes that it takes through the layers between its ends."""
    found: list[_Way] = []
    for step in graph.order:
        for other in sorted(graph.needs[step], key=graph.order.index):
            lanes = [(other, step, layer) for layer in range(depth[other] + 1, depth[step])]
            found.append((other, *lanes, step))
    return found


def _with_lanes(layers: Sequence[Sequence[str]], ways: Sequence[_Way]) -> list[list[_Place]]:
    rows: list[list[_Place]] = [list(layer) for layer in layers]
    for way in ways:
        for place in way:
            if not isinstance(place, str):
                rows[place[2]].append(place)
    return rows


def _ordered(rows: list[list[_Place]], ways: Sequence[_Way]) -> list[list[_Place]]:
    """Order each row by the middle of its neighbours, down and up, so that few lines cross."""
    above: dict[_Place, list[_Place]] = {place: [] for row in rows for place in row}
    below: dict[_Place, list[_Place]] = {place: [] for row in rows for place in row}
    for way in ways:
        for upper, lower in pairwise(way):
            above[lower].append(upper)
            below[upper].append(lower)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        order = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for index in order:
            beside = rows[index - 1 if down else index + 1]
            at = {place: number for number, place in enumerate(beside)}
            rows[index] = _by_middle(rows[index], above if down else below, at)
    return rows


def _by_middle(
    row: list[_Place], beside: Mapping[_Place, list[_Place]], at: Mapping[_Place, int]
) -> list[_Place]:
    def middle(item: tuple[int, _Place]) -> float:
        number, place = item
        near = [at[other] for other in beside[place]]
        return sum(near) / len(near) if near else float(number)

    return [place for _, place in sorted(enumerate(row), key=middle)]


def _placed(
    rows: Sequence[Sequence[_Place]], widths: Mapping[str, float]
) -> tuple[dict[_Place, float], float]:
    """Return the middle of every place; rows are centred over each other."""
    sizes = {place: widths[place] if isinstance(place, str) else _LANE for row in rows for place in row}
    spans = [sum(sizes[place] for place in row) + BESIDE * (len(row) - 1) for row in rows]
    width = max(spans, default=0.0) + 2 * MARGIN
    middles: dict[_Place, float] = {}
    for row, span in zip(rows, spans, strict=True):
        left = (width - span) / 2
        for place in row:
            middles[place] = round(left + sizes[place] / 2, 1)
            left += sizes[place] + BESIDE
    return middles, round(width, 1)


def _points(
    way: _Way,
    boxes: Mapping[str, Box],
    middles: Mapping[_Place, float],
    rows: Sequence[Sequence[_Place]],
) -> tuple[tuple[float, float], ...]:
    start, end = boxes[str(way[0])], boxes[str(way[-1])]
    points = [(start.x, start.y + HEIGHT / 2)]
    for place in way[1:-1]:
        top = _y(int(place[2]))
        points += [(middles[place], top - HEIGHT / 2), (middles[place], top + HEIGHT / 2)]
    return (*points, (end.x, end.y - HEIGHT / 2))


def _y(layer: int) -> float:
    return MARGIN + HEIGHT / 2 + layer * (HEIGHT + BELOW)


def _width(step: str, chain: Chain) -> float:
    longest = max(len(step), len(kind_of(chain.steps[step])) + 7)
    return round(longest * CHARACTER + 2 * PADDING, 1)
