"""The data card: what is in the training files, what was dropped and why, in Markdown.

Owns the words. Equal data and parameters leave equal bytes: there is no time and no path in it. Rows are
shown in code blocks, so that nothing in them is markup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chains.spec import PrepareStep
from tasks.preparing.gathering import Gathered
from tasks.splitting import PARTS

_SAMPLES = 2
"""Examples of each part that are shown."""
_CUT = 1000


def card(
    *,
    source: Mapping[str, str],
    step: PrepareStep,
    found: Gathered,
    counts: Mapping[str, int],
    tokens: Mapping[str, Mapping[str, float]],
    leaks: Mapping[str, Any],
    folder: Path,
) -> str:
    """Return the card of the parts that stand in `folder`."""
    lines = ["# Data card", "", f"Made from `{source['name']}` (sha256 `{source['sha256']}`).", ""]
    lines += ["| part | examples |" + (" tokens | longest |" if tokens else "")]
    lines += ["|---|---|" + ("---|---|" if tokens else "")]
    for part in PARTS:
        of_part = tokens.get(part)
        more = f" {of_part['total']:,} | {of_part['max']:,} |" if of_part else " - | - |" if tokens else ""
        lines.append(f"| {part} | {counts[part]:,} |{more}")
    lines += ["", f"{counts['read']:,} rows were read, {sum(found.dropped.values()):,} were dropped."]
    lines += ["", "## Dropped", ""] + (_dropped(found) or ["None.", ""])
    lines += ["## Leaks", "", _leaks(step, leaks), ""]
    lines += ["## How it was made", "", _block(_settings(step))]
    if found.masked:
        masks = ", ".join(f"{count:,} {name}" for name, count in found.masked.items())
        lines += [
            f"Masked: {masks}. Patterns find what is written in the usual ways, and not everything.",
            "",
        ]
    for part in PARTS:
        if counts[part]:
            lines += [f"## From {part}", "", *map(_block, _first_lines(folder / f"{part}.jsonl"))]
    return "\n".join(lines).rstrip() + "\n"


def _dropped(found: Gathered) -> list[str]:
    lines = []
    for reason, count in found.dropped.items():
        lines += [
            f"{count:,} {reason.replace('_', ' ')}, such as:",
            "",
            _block("\n".join(found.samples[reason])),
        ]
    return lines


def _leaks(step: PrepareStep, leaks: Mapping[str, Any]) -> str:
    alike = step.leaks.similarity
    looked = "equal questions" if alike is None else f"questions that are equal or {alike:g} alike"
    rows = "; ".join(
        f"row {pair['row']} ({pair['part']}) and row {pair['other']} ({pair['other_part']})"
        f", {pair['similarity']:g} alike"
        for pair in leaks["pairs"][:10]
    )
    return f"Looked for {looked} in two parts: {leaks['equal']} equal, {leaks['near']} near. {rows}".rstrip()


def _settings(step: PrepareStep) -> str:
    fields = step.model_dump(mode="json", exclude_defaults=True, exclude={"description", "when", "after"})
    return json.dumps(fields, ensure_ascii=False, indent=1)


def _first_lines(path: Path) -> list[str]:
    found: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            found.append(line.rstrip("\n"))
            if len(found) == _SAMPLES:
                break
    return found


def _block(text: str) -> str:
    cut = text if len(text) <= _CUT else f"{text[:_CUT]}…"
    fence = "```"
    while fence in cut:
        fence += "`"
    return f"{fence}\n{cut}\n{fence}\n"


def token_counts(tokens: Sequence[int], parts: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the tokens of each part: all, the mean, and the longest example's."""
    found: dict[str, list[int]] = {}
    for count, part in zip(tokens, parts, strict=True):
        if part < len(PARTS):
            found.setdefault(PARTS[part], []).append(count)
    return {
        part: {"total": sum(counts), "mean": round(sum(counts) / len(counts), 1), "max": max(counts)}
        for part, counts in found.items()
    }
