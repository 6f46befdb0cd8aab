"""All contenders side by side in one go: the table of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from contenders import Bench, Contender, cold_start, measure
from kills import kill_and_finish


def compare(
    bench: Bench, contenders: Sequence[Contender], *, kill_rows: int, cold_tries: int, say: Any
) -> dict[str, Any]:
    """Measure each contender and return their figures by name."""
    found = {}
    for who in contenders:
        say(f"{who.title}: the batch")
        figures = measure(bench, who)
        if cold_tries:
            say(f"{who.title}: cold starts")
            figures["cold_s"] = statistics.median(cold_start(bench, who) for _ in range(cold_tries))
        if kill_rows:
            say(f"{who.title}: kill -9 half-way")
            rows = max(8, int(kill_rows * min(1.0, who.share * 5)))
            killed = kill_and_finish(bench, who, rows=rows, times=1)
            figures["killed"] = {"finished": killed.finished, "repeated": killed.repeated}
        found[who.name] = figures | {"title": who.title, "keeps": who.keeps}
    return found


def table(found: dict[str, Any]) -> list[list[str]]:
    """Return the table's rows, heads first."""
    heads = ["", "rows/s", "calls/s", "of the limit", "client CPU per call", "calls per CPU second"]
    heads += ["peak memory", "cold start to first request", "finished calls repeated after kill -9", "keeps"]
    limit = _rate(found["aiohttp"]) if "aiohttp" in found else None
    lines = [heads]
    for figures in found.values():
        calls, cpu = figures["ledger"]["calls"], figures["cpu_s"]
        killed = figures.get("killed")
        lines.append(
            [
                figures["title"],
                f"{figures['rows'] / figures['seconds']:.1f}",
                f"{_rate(figures):.0f}",
                f"{_rate(figures) / limit:.3f}" if limit else "",
                f"{1000 * cpu / calls:.2f} ms",
                f"{calls / cpu:.0f}",
                f"{figures['peak_mb']:.0f} MB",
                f"{figures['cold_s']:.2f} s" if "cold_s" in figures else "",
                f"{killed['repeated']} of {killed['finished']}" if killed else "",
                figures["keeps"],
            ]
        )
    return lines


def remarks(found: dict[str, Any]) -> list[str]:
    """Return what a reader must know to trust the table."""
    loads = [figures["ledger"]["cpu_s"] / figures["seconds"] for figures in found.values()]
    sizes = [figures["ledger"]["bytes_in"] / max(1, figures["ledger"]["calls"]) for figures in found.values()]
    wrong = [
        figures["title"]
        for figures in found.values()
        if figures["ledger"]["answered"] < figures["ledger"]["calls"]
    ]
    lines = [
        f"The endpoint used at most {max(loads):.0%} of a core; a request is {min(sizes):.0f} to "
        f"{max(sizes):.0f} bytes.",
    ]
    return lines + [f"{title}: calls without an answer." for title in wrong]


def _rate(figures: dict[str, Any]) -> float:
    return figures["ledger"]["calls"] / figures["seconds"]
