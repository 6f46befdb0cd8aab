"""How long the inspector's pages take over a large store: `python tests/bench/pages.py [RUNS] [FOLDER]`.

Writes RUNS runs of 100 records with their attempts (default 1,000: 100,000 records) unless the folder holds
them already, then asks for each page over HTTP from a server process and prints the 95th percentile.
"""

# ruff: noqa: E501 - long rows and commands

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from chains.store import AttemptRow, RecordRow, RunRow, StepRow, Store, open_store

ROWS = 50
CHAIN = b"""chain: large
inputs: {ticket: {type: string}}
models: {writer: {provider: openai, model: m}}
defaults: {model: writer}
steps:
  triage: {prompt: "Sort this ticket: {{ inputs.ticket }}"}
  reply: {prompt: "Answer {{ triage.text }}"}
"""
WORDS = [
    "refund",
    "parcel",
    "late",
    "invoice",
    "warranty",
    "broken",
    "please",
    "order",
    "address",
    "question",
    "cancel",
    "delivery",
]


def text(number: int, words: int = 120) -> str:
    chosen = random.Random(number)
    return " ".join(chosen.choice(WORDS) for _ in range(words)) + f" word{number}"


def write(store: Store, number: int) -> None:
    run = f"run{number:05d}"
    options = json.dumps(
        {
            "chain": "large.yaml",
            "mapping": {},
            "models": [],
            "base_url": None,
            "skip_bad": False,
            "limit": None,
        }
    )
    counts = {"ok": ROWS, "reused": 0, "tokens_in": ROWS * 100, "tokens_out": ROWS * 40, "cost_micro": ROWS * 7,
              "attempts": ROWS, "cost_unknown": 0}  # fmt: skip
    result = json.dumps(
        {"run_id": run, "status": "ok", "rows": ROWS, "counts": {"triage": counts, "reply": counts}}
    )
    store.put(
        RunRow(
            id=run, chain="large" if number % 3 else "other", chain_hash="h", source=CHAIN, rows=ROWS, status="ok",
            started_at=float(number), finished_at=number + 9.0, options=options.encode(), result=result.encode(),
        ),
        *(StepRow(run_id=run, id=step, kind="prompt", status="ok", started_at=1.0, finished_at=2.0) for step in ("triage", "reply")),
    )  # fmt: skip
    records, attempts = [], []
    for row in range(ROWS):
        for step in ("triage", "reply"):
            ticket, said = text(number * ROWS + row), text(number + row, 40)
            name = "inputs.ticket" if step == "triage" else "triage.text"
            messages = [{"role": "user", "content": f"Sort this ticket: {ticket}"}]
            record = RecordRow(
                id=f"{run}{step}{row:03d}", run_id=run, step=step, row=row, status="ok", value_key=f"{number}{step}{row}",
                inputs=json.dumps({name: ticket}).encode(), messages=json.dumps(messages).encode(),
                output=json.dumps({"text": said}).encode(), tokens_in=100, tokens_out=40, cost_micro=7,
                started_at=number + 1.0, finished_at=number + 2.0, attempts=1,
            )  # fmt: skip
            records.append(record)
            attempts.append(
                AttemptRow(
                    id=record.id, record_id=record.id, run_id=run, step=step, number=1, state="ok", request=record.messages,
                    response=record.output, status=200, started_at=number + 1.0, finished_at=number + 2.0,
                )
            )  # fmt: skip
    store.put(*records)
    store.put(*attempts)


def measure(address: str, token: str, paths: dict[str, str], times: int = 30) -> None:
    for name, path in paths.items():
        took = []
        for _ in range(times):
            request = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {token}"})
            began = time.perf_counter()
            with urllib.request.urlopen(request) as answer:
                size = len(answer.read())
            took.append(time.perf_counter() - began)
        first, took = took[0], sorted(took)
        print(f"{name:<10} p50 {took[times // 2] * 1e3:6.1f} ms  p95 {took[int(times * 0.95)] * 1e3:6.1f} ms  "
              f"first {first * 1e3:6.1f} ms  {size} bytes")  # fmt: skip


def main(runs: int, folder: Path) -> None:
    with open_store(folder) as store:
        there = store.number_of_runs()
        for number in range(there, runs):
            write(store, number)
    command = [
        sys.executable,
        "-c",
        "from flows.cli import main; main()",
        "ui",
        "--port",
        "0",
        "--store",
        str(folder),
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address, _, token = server.stdout.readline().strip().partition("/?token=")
        asking = urllib.request.Request(
            f"{address}/runs.json?text=nothing", headers={"Authorization": f"Bearer {token}"}
        )
        began = time.perf_counter()
        while json.load(urllib.request.urlopen(asking))["runs_not_searched"]:
            time.sleep(1)
        print(f"indexed {runs} runs in {time.perf_counter() - began:.1f} s")
        run = f"run{runs // 2:05d}"
        measure(address, token, {
            "runs": "/runs", "page 10": "/runs?page=10", "chain": "/runs?chain=other", "run": f"/runs/{run}",
            "step": f"/runs/{run}/steps/reply", "record": f"/runs/{run}/steps/reply/7",
            "search": "/runs?text=refund+parcel", "rare": "/runs?text=word777", "none": "/runs?text=zebra",
            "diff": f"/diff?before={run}&after=run00003",
        })  # fmt: skip
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(
            int(sys.argv[1]) if len(sys.argv) > 1 else 1000, Path(sys.argv[2] if len(sys.argv) > 2 else made)
        )
