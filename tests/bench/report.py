"""Tables as text and as Markdown, and the page that shows them.

A block of docs/performance.md between `<!-- bench NAME -->` and `<!-- end -->` is written by the command that
measured it, never by hand.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
SHOWN = ("aiohttp", "openai", "prefect", "sqlalchemy", "orjson")


def as_text(lines: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal; heads are wrapped at their words."""
    heads = [_wrapped(head) for head in lines[0]]
    depth = max(len(head) for head in heads)
    head_rows = [
        [head[n - depth + len(head)] if n >= depth - len(head) else "" for head in heads]
        for n in range(depth)
    ]
    rows = [*head_rows, *([cell.replace("`", "") for cell in line] for line in lines[1:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    heads, *rest = lines
    rule = [":--", *("--:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *rest))


def machine() -> str:
    """Return in one line what the figures were measured on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({_processor()}), Python {platform.python_version()}, {versions}"


def write_block(name: str, text: str) -> None:
    """Put a block's new content into the page; a block that is not there yet becomes its last section."""
    page = PAGE.read_text()
    pattern = re.compile(rf"(<!-- bench {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    changed, number = pattern.subn(lambda found: f"{found[1]}{text}\n{found[2]}", page)
    if number == 0:
        changed = f"{page.rstrip()}\n\n## `{name}`\n\n<!-- bench {name} -->\n{text}\n<!-- end -->\n"
    PAGE.write_text(changed)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.machine()


def _wrapped(head: str, width: int = 14) -> list[str]:
    lines = [""]
    for word in head.split():
        if len(lines[-1]) + len(word) >= width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
