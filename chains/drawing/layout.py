"""Where the steps of a chain stand in a picture.

Owns layers (a step stands below all that it needs), the order within a layer, and the way of long lines
around boxes. Knows nothing of SVG. Invariant: boxes do not overlap, and every line goes down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from chains.graph import Graph, body_of, graph_of_file
from chains.spec import Chain, ChainStep, RepeatStep, kind_of, runs_once

if TYPE_CHECKING:
    from chains.loading import ChainFile

CHARACTER = 7.6
PADDING, HEIGHT, BESIDE, BELOW, MARGIN = 16.0, 44.0, 24.0, 40.0, 12.0
HEAD = 40.0
"""What the name of a step takes above the steps inside it."""
_LANE = 10.0
_SWEEPS = 6


@dataclass(frozen=True, slots=True)
class Box:
    """One step: its whole name, its middle, its size, what it is, and the steps inside it."""

    step: str
    kind: str
    once: bool
    x: float
    y: float
    width: float
    height: float = HEIGHT
    inside: Drawing | None = None
    """Drawn inside the box, below its name."""

    @property
    def label(self) -> str:
        """The name that the step has among those beside it."""
        return self.step.rpartition(".")[2]

    @property
    def origin(self) -> tuple[float, float]:
        """Where the field of the steps inside begins."""
        width = self.inside.width if self.inside is not None else self.width
        return round(self.x - width / 2, 1), round(self.y - self.height / 2 + HEAD, 1)


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


def draw_file(chain_file: ChainFile, prefix: str = "") -> Drawing:
    """Lay out a chain with what is inside its steps; `prefix` stands before the names of the steps."""
    inside: dict[str, Drawing] = {}
    for step_id, step in chain_file.chain.steps.items():
        if isinstance(step, RepeatStep):
            inside[step_id] = draw_file(body_of(chain_file, step), f"{prefix}{step_id}.")
        elif isinstance(step, ChainStep) and step.chain in chain_file.chains:
            inside[step_id] = draw_file(chain_file.chains[step.chain], f"{prefix}{step_id}.")
    return draw(chain_file.chain, graph_of_file(chain_file), inside, prefix)


def draw(
    chain: Chain, graph: Graph, inside: Mapping[str, Drawing] | None = None, prefix: str = ""
) -> Drawing:
    """Lay out the steps of a chain from top to bottom."""
    inside = inside or {}
    layers = _layers(graph)
    ways = _ways(graph, {step: place for place, layer in enumerate(layers) for step in layer})
    rows = _ordered(_with_lanes(layers, ways), ways)
    widths = {step: max(_width(step, chain), _size(inside, step)[0]) for step in graph.order}
    heights = {step: _size(inside, step)[1] for step in graph.order}
    tall = [max((heights[step] for step in row if isinstance(step, str)), default=HEIGHT) for row in rows]
    levels = _levels(tall)
    middles, width = _placed(rows, widths)
    boxes = {
        step: Box(
            prefix + step,
            kind_of(chain.steps[step]),
            runs_once(chain.steps[step]),
            middles[step],
            levels[place],
            widths[step],
            heights[step],
            inside.get(step),
        )
        for place, row in enumerate(rows)
        for step in row
        if isinstance(step, str)
    }
    lines = tuple(
        Line(way[0], way[-1], way[0] in graph.reads[way[-1]], _points(way, boxes, middles, (levels, tall)))
        for way in ways
        if isinstance(way[0], str) and isinstance(way[-1], str)
    )
    height = 2 * MARGIN + sum(tall) + (len(rows) - 1) * BELOW
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
    layers: tuple[Sequence[float], Sequence[float]],
) -> tuple[tuple[float, float], ...]:
    levels, tall = layers
    start, end = boxes[str(way[0])], boxes[str(way[-1])]
    points = [(start.x, start.y + start.height / 2)]
    for place in way[1:-1]:
        middle, half = levels[int(place[2])], tall[int(place[2])] / 2
        points += [(middles[place], middle - half), (middles[place], middle + half)]
    return (*points, (end.x, end.y - end.height / 2))


def _levels(tall: Sequence[float]) -> list[float]:
    """Return the middle of each layer, from the height of its tallest box."""
    found, top = [], MARGIN
    for height in tall:
        found.append(round(top + height / 2, 1))
        top += height + BELOW
    return found


def _size(inside: Mapping[str, Drawing], step: str) -> tuple[float, float]:
    """Return the width that what is inside a step needs, and the height of its box."""
    drawing = inside.get(step)
    return (0.0, HEIGHT) if drawing is None else (drawing.width, drawing.height + HEAD)


def _width(step: str, chain: Chain) -> float:
    longest = max(len(step), len(kind_of(chain.steps[step])) + 7)
    return round(longest * CHARACTER + 2 * PADDING, 1)
