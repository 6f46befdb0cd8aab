"""Throughput while the endpoint refuses, breaks and resets: 5 % 429, 2 % 500, 1 % resets.

What the injected waits allow is measured, not argued: a bare loop that knows the faults, waits out each
Retry-After and tries again at once, with nothing kept. It is run in two ways: each call waits for itself, and
everybody waits (what an endpoint that means its 429 asks for).
"""

from __future__ import annotations

from typing import Any

from contenders import Bench, Contender, measure

RATES = {"rate_429": 0.05, "retry_after": 1.0, "rate_500": 0.02, "rate_reset": 0.01}
OWN = Contender("faults-own", "bare loop, each call waits for itself", "contend_faults.py")
ALL = Contender("faults-all", "bare loop, everybody waits", "contend_faults.py", ("--shared-wait",))


REMARK = "Injected: 5 % 429 with Retry-After: 1, 2 % 500, 1 % connection resets."


def faults(bench: Bench, headrace: Contender, *, say: Any) -> dict[str, Any]:
    """Run Headrace and the two bare loops against the same faults."""
    found = {}
    for who in (headrace, OWN, ALL):
        say(who.title)
        figures = measure(bench, who, **RATES)
        ledger = figures["ledger"]
        found[who.name] = figures | {
            "title": who.title,
            "injected": sum(ledger["injected"].values()),
            "beyond": ledger["calls"] - figures["rows"] * bench.steps - sum(ledger["injected"].values()),
        }
    return found


def table(found: dict[str, Any]) -> list[list[str]]:
    lines = [["", "rows/s", "seconds", "calls", "injected errors", "calls beyond rows x steps + errors"]]
    lines[0].append("of a bare loop where everybody waits")
    allowed = found[ALL.name]["rows"] / found[ALL.name]["seconds"]
    for figures in found.values():
        lines.append(
            [
                figures["title"],
                f"{figures['rows'] / figures['seconds']:.1f}",
                f"{figures['seconds']:.1f}",
                str(figures["ledger"]["calls"]),
                str(figures["injected"]),
                str(figures["beyond"]),
                f"{figures['rows'] / figures['seconds'] / allowed:.2f}",
            ]
        )
    return lines
