"""What a prepare step needs for a large file: peak memory, CPU time, and both for a smaller file beside it.

    python tests/bench/preparing.py [--mb 1000] [--row 2000] [--near] [--write-docs]

The files are made, and removed afterwards: JSON Lines with texts of about `--row` bytes, none twice. Each is
prepared in a process of its own, through the command line's own way without Prefect: read, cleaned,
deduplicated, split, written, with a data card. `--near` also looks for near duplicates across the parts.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import report
from contending import cpu_seconds, peak_mb

WORDS = 4000


def write_texts(path: Path, size: int, row: int) -> int:
    """Write rows until the file has `size` bytes; return their number."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(WORDS)]
    number = written = 0
    with path.open("w") as file:
        while written < size:
            text = " ".join(rng.choices(words, k=max(1, row // 7)))
            written += file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
            number += 1
    return number


def prepare_here(folder: Path, near: bool) -> dict[str, Any]:
    """Prepare the file in this process and return what that took."""
    from chains.settings import Settings
    from chains.store import open_store
    from flows.executor import execute
    from flows.prepared import RunRequest, prepare
    from flows.units import Direct

    step: dict[str, Any] = {"prepare": "data.jsonl", "clean": {"unicode": "NFC", "whitespace": True}}
    step |= {} if near else {"leaks": {"similarity": None}}
    (folder / "chain.yaml").write_text(json.dumps({"chain": "large", "steps": {"files": step}}))
    before = peak_mb()
    with open_store(folder / "store") as store:
        prepared = prepare(RunRequest(chain=str(folder / "chain.yaml")), store=store, settings=Settings())
        result = asyncio.run(execute(prepared, Direct()))
    assert result["status"] == "ok", result
    return {"before_mb": before, "peak_mb": peak_mb(), "cpu_s": cpu_seconds()}


def measured(size: int, row: int, near: bool, folder: Path | None) -> dict[str, Any]:
    """Make a file of this size, prepare it in a child, and remove everything."""
    with tempfile.TemporaryDirectory(prefix="preparing-", dir=folder) as name:
        rows = write_texts(Path(name) / "data.jsonl", size, row)
        command = [sys.executable, __file__, "--here", name, *(["--near"] if near else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return {"rows": rows, "bytes": size, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Measure a tenth of the size and all of it, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=1000, help="size of the larger file (1000)")
    parser.add_argument("--row", type=int, default=2000, help="bytes of a row (2000)")
    parser.add_argument("--near", action="store_true", help="look for near duplicates across the parts")
    parser.add_argument("--folder", type=Path, help="where the files are made")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/performance.md")
    given = parser.parse_args()
    if given.here is not None:
        print(json.dumps(prepare_here(given.here, given.near)))
        return
    sizes = [given.mb * 100_000, given.mb * 1_000_000]
    found = [measured(size, given.row, given.near, given.folder) for size in sizes]
    lines = [["", "rows", "peak memory", "of that before the run", "CPU per row"]]
    for one in found:
        peak, before = f"{one['peak_mb']:.0f} MB", f"{one['before_mb']:.0f} MB"
        spent = f"{1e6 * one['cpu_s'] / one['rows']:.0f} µs"
        lines.append([f"{one['bytes'] / 1e6:,.0f} MB", f"{one['rows']:,}", peak, before, spent])
    small, large = found
    grown = 1e6 * (large["peak_mb"] - small["peak_mb"]) / (large["rows"] - small["rows"])
    how = (
        f"`preparing`: JSON Lines, rows of about {given.row:,} bytes, "
        f"{'near duplicates looked for' if given.near else 'equal rows and questions looked for'}. "
        f"{report.machine()}; {datetime.datetime.now(datetime.UTC).date()}."
    )
    remark = f"Each row more took {grown:.0f} bytes of memory."
    print("\n".join([how, "", report.as_text(lines), "", remark]), flush=True)
    if given.write_docs:
        name = "preparing-near" if given.near else "preparing"
        report.write_block(name, f"\n{how}\n\n{report.as_markdown(lines)}\n\n{remark}\n")


if __name__ == "__main__":
    main()
