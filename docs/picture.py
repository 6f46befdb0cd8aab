"""Draw a terminal's text as an SVG: `headrace demo | python docs/picture.py > docs/demo.svg`."""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console
from rich.text import Text


def draw(text: str, title: str) -> str:
    """Return the SVG of a terminal that shows `text`; it loads no font from elsewhere."""
    width = max(len(line) for line in text.splitlines()) + 1
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(Text(text.rstrip("\n")))
    svg = console.export_svg(title=title)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    sys.stdout.write(draw(sys.stdin.read(), "make demo"))
