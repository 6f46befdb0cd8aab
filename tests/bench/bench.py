"""Measure Headrace beside what people would otherwise run.

    python tests/bench/bench.py [MODE ...] [options]

Modes: `compare` (the default), `single`, `cold`, `faults`, `kills`, `flat`, `processes`. The endpoint is a
server of our own, in a process of its own; each contender runs in one too. Nothing here is asserted: a
machine that is busy gives other figures.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import cold
import compare
import faults
import flatness
import kills
import processes
import report
import single
from contenders import CONTENDERS, PREFECT_FLOW, Bench, Contender
from endpoint import endpoint
from postgres import cpu_seconds, postgres
from servers.prefect_server import prefect_server

Table = list[list[str]]
BY_NAME = {who.name: who for who in CONTENDERS}
HEADRACE = BY_NAME["headrace"]


def run_compare(bench: Bench, given: argparse.Namespace) -> tuple[Any, Table, list[str]]:
    found = compare.compare(
        bench, chosen(given), kill_rows=given.kill_rows, cold_tries=given.cold_tries, say=say
    )
    return found, compare.table(found), compare.remarks(found)


def run_single(bench: Bench, given: argparse.Namespace) -> tuple[Any, Table, list[str]]:
    names = ("aiohttp", "headrace", "headrace-prefect")
    contenders = [*(BY_NAME[name] for name in names), PREFECT_FLOW]
    found = single.single(bench, contenders, times=given.times, say=say)
    return found, single.table(found), [f"{given.times} times in one process, latency 0."]


def run_cold(bench: Bench, given: argparse.Namespace) -> tuple[Any, Table, list[str]]:
    found = cold.cold(bench, BY_NAME, say=say)
    return found, cold.table(found), []


def run_faults(bench: Bench, given: argparse.Namespace) -> tuple[Any, Table, list[str]]:
    found = faults.faults(bench, HEADRACE, say=say)
    return found, faults.table(found), [faults.REMARK]


def run_kills(bench: Bench, given: argparse.Namespace) -> tuple[Any, Table, list[str]]:
    say(f"{given.kills} kills")
    found = kills.kill_and_finish(bench, HEADRACE, rows=bench.rows, times=given.kills, seed=given.seed)
    return found.figures(), kills.table(found), []


def run_flat(bench: Bench, given: argparse.Namespace) -> tuple[Any, Table, list[str]]:
    found = flatness.flatness(bench, HEADRACE, say=say)
    return found, flatness.table(found), []


def run_processes(bench: Bench, given: argparse.Namespace) -> tuple[Any, Table, list[str]]:
    place = contextlib.nullcontext(given.store) if given.store else postgres(bench.folder)
    with place as store:
        found = processes.processes(
            bench,
            HEADRACE,
            store=None if store == "sqlite" else store,
            numbers=given.processes,
            server_cpu=(lambda: 0.0) if given.store else partial(cpu_seconds, bench.folder),
            say=say,
        )
    return found, processes.table(found), []


MODES: dict[str, Callable[[Bench, argparse.Namespace], tuple[Any, Table, list[str]]]] = {
    "compare": run_compare,
    "single": run_single,
    "cold": run_cold,
    "faults": run_faults,
    "kills": run_kills,
    "flat": run_flat,
    "processes": run_processes,
}
WITH_PREFECT = {"compare", "single", "cold"}


def main() -> None:
    given = arguments()
    results: dict[str, Any] = {"machine": report.machine(), "date": str(today()), "options": vars(given)}
    with prepared(given) as bench:
        for mode in given.modes:
            how = described(bench, mode)
            figures, lines, remarks = MODES[mode](bench, given)
            results[mode] = {"how": how, "figures": figures}
            print("\n".join(["", how, "", report.as_text(lines), "", *remarks]), flush=True)
            if given.write_docs:
                text = "\n\n".join([how, report.as_markdown(lines), *remarks])
                report.write_block(mode, f"\n{text}\n")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1, default=str))


@contextlib.contextmanager
def prepared(given: argparse.Namespace) -> Iterator[Bench]:
    """Start what the modes need."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=given.folder)))
        bench = Bench(
            stack.enter_context(endpoint()),
            folder,
            rows=given.rows,
            steps=given.steps,
            concurrency=given.concurrency,
            latency=given.latency,
            sigma=given.sigma,
            temperature=given.temperature,
        )
        if needs_prefect(given):
            say("waiting for a Prefect server")
            bench.prefect_url = stack.enter_context(prefect_server(folder / "prefect-home"))
        yield bench


def needs_prefect(given: argparse.Namespace) -> bool:
    modes = WITH_PREFECT & set(given.modes)
    return bool(modes - {"compare"}) or ("compare" in modes and any(who.prefect for who in chosen(given)))


def chosen(given: argparse.Namespace) -> list[Contender]:
    return [who for who in CONTENDERS if not given.only or who.name in given.only]


def described(bench: Bench, mode: str) -> str:
    spread = f", lognormal with sigma {bench.sigma:g}" if bench.sigma else ""
    load = f"{bench.rows:,} rows x {bench.steps} dependent calls, {bench.concurrency} at once"
    latency = f"latency {1000 * bench.latency:.0f} ms{spread}"
    if mode == "single":
        load, latency = f"1 row x {bench.steps} dependent calls", "latency 0"
    busy = f"load average {os.getloadavg()[0]:.1f} at the start"
    return f"`{mode}`: {load}, {latency}. {report.machine()}; {busy}; {today()}."


def today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modes", nargs="*", default=["compare"], metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=3, help="dependent calls per row")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds; the median with --sigma")
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of a lognormal latency")
    parser.add_argument("--temperature", type=float, help="0 makes Headrace look for answers to reuse")
    parser.add_argument("--only", nargs="+", choices=sorted(BY_NAME), help="contenders of `compare`")
    parser.add_argument("--kill-rows", type=int, default=200, help="rows of the kill column; 0 leaves it out")
    parser.add_argument(
        "--cold-tries", type=int, default=3, help="cold starts of `compare`; 0 leaves them out"
    )
    parser.add_argument("--kills", type=int, default=10, help="kills in mode `kills`")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments of the kills")
    parser.add_argument("--times", type=int, default=50, help="runs in mode `single`")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--store", help="store of mode `processes`: a URL, `sqlite`, or our own PostgreSQL")
    parser.add_argument("--folder", default=os.environ.get("TMPDIR"), help="where to put stores and data")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--write-docs", action="store_true", help="write the tables into docs/performance.md")
    given = parser.parse_args()
    unknown = set(given.modes) - set(MODES)
    if unknown:
        parser.error(f"no mode {sorted(unknown)}; there are {', '.join(MODES)}")
    return given


if __name__ == "__main__":
    main()
