"""What a single row costs beyond its calls, in a warm process: latency 0, one row, many times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from contenders import Bench, Contender, start
from workload import write_rows


def single(bench: Bench, contenders: Sequence[Contender], *, times: int, say: Any) -> dict[str, Any]:
    """Run one row `times` times in one process of each contender; the first tenth is left out as warm-up."""
    found = {}
    for who in contenders:
        say(f"{who.title}: a single row, {times} times")
        folder = bench.new_folder(f"single-{who.name}")
        data = write_rows(folder / "rows.jsonl", range(1))
        bench.reset(latency=0.0, sigma=0.0)
        figures = start(bench, who, folder, data, "--warm-data", str(data), "--repeat", str(times)).finish()
        each = figures["each"][times // 10 :]
        found[who.name] = {"title": who.title, "median_s": statistics.median(each), "least_s": min(each)}
    return found


def table(found: dict[str, Any]) -> list[list[str]]:
    bare = found.get("aiohttp", {}).get("median_s")
    lines = [["", "median", "least", "beyond the bare loop"]]
    for figures in found.values():
        beyond = f"{1000 * (figures['median_s'] - bare):.1f} ms" if bare is not None else ""
        lines.append(
            [
                figures["title"],
                f"{1000 * figures['median_s']:.1f} ms",
                f"{1000 * figures['least_s']:.1f} ms",
                beyond,
            ]
        )
    return lines
