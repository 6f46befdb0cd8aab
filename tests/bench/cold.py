"""From the start of a new process to its first request: the command line, in its three ways to run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from contenders import Bench, Contender, cold_start

TRIES = 3


def cold(bench: Bench, contenders: Mapping[str, Contender], *, say: Any) -> dict[str, list[float]]:
    """Return the seconds of each try, by way."""
    embedded = dataclasses.replace(bench, prefect_url=None)
    ways = (
        ("`headrace run --direct`", bench, contenders["headrace"]),
        ("`headrace run`, a Prefect server is up", bench, contenders["headrace-prefect"]),
        ("`headrace run`, it starts a Prefect server itself", embedded, contenders["headrace-prefect"]),
    )
    found = {}
    for title, where, who in ways:
        say(title)
        found[title] = [cold_start(where, who) for _ in range(TRIES)]
        bench._made = where._made  # folders are numbered by both
    return found


def table(found: dict[str, list[float]]) -> list[list[str]]:
    lines = [["", "median", "of"]]
    for title, tries in found.items():
        lines.append([title, f"{sorted(tries)[len(tries) // 2]:.2f} s", ", ".join(f"{t:.2f}" for t in tries)])
    return lines
