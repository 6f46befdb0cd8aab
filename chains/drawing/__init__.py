"""Pictures of a chain's steps: `mermaid` for pages that render it, `svg` for everything else."""

from chains.drawing.layout import Drawing, draw, draw_file
from chains.drawing.mermaid import mermaid
from chains.drawing.svg import Mark, svg

__all__ = ["Drawing", "Mark", "draw", "draw_file", "mermaid", "svg"]
