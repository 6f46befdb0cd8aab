"""`--out`: what it refuses before anything is paid for, and what it says of rows that did not run."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "store" not in path.parts
    }


@pytest.mark.slow
def test_what_the_run_reads_keeps_or_cannot_write_is_refused_before_any_call(desk) -> None:
    data = desk.tickets(3)
    (desk.folder / "link.jsonl").symlink_to(data)
    os.link(data, desk.folder / "hard.jsonl")
    (desk.folder / "pipe").mkdir()
    os.mkfifo(desk.folder / "fifo")
    before = contents(desk.folder)
    refused = {
        str(data): "the data set itself",
        "desk/../tickets.jsonl": "the data set itself",
        "link.jsonl": "the data set itself",
        "hard.jsonl": "the data set itself",
        str(desk.chain): "a file of the chain",
        "desk/prompts/triage.md": "a file of the chain",
        "desk/functions.py": "a file of the chain",
        str(desk.store / "blobs" / "x"): "inside the store",
        "missing/out.jsonl": "there is no folder 'missing'",
        "pipe": "is a folder",
        "fifo": "no ordinary file",
        "tickets.jsonl/out": "there is no folder 'tickets.jsonl'",
    }
    (desk.store / "blobs").mkdir(parents=True)
    for out, said in refused.items():
        done = desk.headrace("run", str(desk.chain), "--data", str(data), "--out", out, "--direct")
        assert done.code == 2, (out, done.err)
        assert said in done.err and "Traceback" not in done.err, (out, done.err)
    assert desk.sent() == 0
    assert contents(desk.folder) == before
    assert desk.headrace("runs", "--json").json() == []


def test_outputs_that_cannot_be_written_in_the_end_hide_no_result(desk) -> None:
    folder = desk.folder / "results"
    folder.mkdir()
    functions = desk.chain.parent / "functions.py"
    gone = f"    import os\n    os.path.exists({str(folder)!r}) and os.rmdir({str(folder)!r})\n    return"
    functions.write_text(functions.read_text().replace("    return", gone))
    out = folder / "out.jsonl"
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--out", str(out), "--direct")
    assert done.code == 3, done.err
    assert "intent: refund" in done.out and "cannot be written" in done.err and "Traceback" not in done.err
    sent = desk.sent()
    folder.mkdir()
    assert desk.headrace("resume", "last", "--out", str(out), "--direct").code == 0
    assert desk.sent() == sent and json.loads(out.read_text())["status"] == "ok"


def test_rows_that_a_stop_left_are_cancelled_and_no_call_begins_after_it(make_desk: Callable) -> None:
    desk = make_desk(latency=0.4)
    desk.chain.write_text(desk.chain.read_text().replace("concurrency: 8", "concurrency: 4"))
    out = desk.folder / "out.jsonl"
    data = desk.tickets(40)
    process = desk.start("run", str(desk.chain), "--data", str(data), "--out", str(out), "--direct")
    while desk.sent() < 16:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    stopped_at = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    # The server's clock is this machine's: nothing came later than the signal needed to be heard.
    late = [line for line in desk.server.ledger() if line["at"] > stopped_at + 0.3]
    assert not late, len(late)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 40
    by_status = {status: [r for r in lines if r["status"] == status] for status in ("ok", "cancelled")}
    assert len(by_status["ok"]) + len(by_status["cancelled"]) == 40
    assert by_status["cancelled"] and all(row["outputs"]["reply"] is None for row in by_status["cancelled"])
    assert all(row["outputs"]["reply"] for row in by_status["ok"])
    shown = desk.headrace("show", "last", "--json").json()
    assert shown["status"] == "cancelled"
    assert {step["step"]: step["status"] for step in shown["steps"]}["triage"] == "cancelled"
    assert not [step for step in shown["steps"] if step["status"] in ("ok", "waiting", "running")]


def test_after_a_crash_no_step_waits_any_more(make_desk: Callable) -> None:
    desk = make_desk(latency=1.5)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(40)), "--direct")
    while desk.sent() < 4:
        assert process.poll() is None
        time.sleep(0.02)
    running = desk.headrace("show", "last", "--json").json()
    assert running["status"] == "running" and running["steps"][0]["status"] == "running"
    process.kill()
    process.communicate()
    shown = desk.headrace("show", "last", "--json").json()
    assert shown["status"] == "interrupted"
    assert {step["status"] for step in shown["steps"]} == {"cancelled"}
