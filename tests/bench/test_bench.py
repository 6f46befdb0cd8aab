"""The benchmark measures what it says: all contenders do the same work, and its endpoint counts right."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import report
from endpoint import Endpoint, endpoint
from workload import messages

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server():
    with endpoint() as running:
        yield running


async def ask(session: aiohttp.ClientSession, url: str, step: str) -> int | None:
    body = json.dumps({"model": "bench", "messages": messages(step, 7, "Where is it?", None)})
    try:
        async with session.post(f"{url}/chat/completions", data=body) as reply:
            await reply.read()
            return reply.status
    except aiohttp.ClientConnectionError:
        return None


async def ask_many(url: str, number: int) -> list[int | None]:
    async with aiohttp.ClientSession() as session:
        return list(await asyncio.gather(*(ask(session, url, f"s{n}") for n in range(number))))


def test_the_endpoint_counts_every_call_and_names_it(server: Endpoint) -> None:
    server.reset(latency=0.02, ids=True)
    assert asyncio.run(ask_many(server.url, 10)) == [200] * 10
    stats, ids = server.stats(), server.ids()
    assert stats["calls"] == stats["answered"] == 10
    assert stats["most_in_flight"] == 10 and stats["in_flight"] == 0
    assert set(ids) == {f"7-s{n}" for n in range(10)}
    assert all(answered - asked >= 0.02 for [[asked, answered]] in ids.values())


def test_the_endpoint_injects_what_it_was_told_to(server: Endpoint) -> None:
    server.reset(latency=0.0, rate_429=0.3, rate_500=0.2, rate_reset=0.1)
    statuses = asyncio.run(ask_many(server.url, 200))
    injected = server.stats()["injected"]
    assert injected == {"429": statuses.count(429), "500": statuses.count(500), "reset": statuses.count(None)}
    assert all(injected.values())
    assert statuses.count(200) == server.stats()["answered"] == 200 - sum(injected.values())


@pytest.mark.slow
def test_all_contenders_send_the_same_requests_and_headrace_keeps_them(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "bench.py"), "compare", "--only", "aiohttp", "openai", "headrace"]
    options = ["--rows", "6", "--concurrency", "4", "--latency", "0.01"]
    options += ["--kill-rows", "0", "--cold-tries", "0"]
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [*command, *options, "--json", str(out), "--folder", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())["compare"]["figures"]
    assert {found["ledger"]["answered"] - 3 for found in figures.values()} == {18}
    # The SDK writes its JSON with other spaces; the messages are the same.
    sizes = [found["ledger"]["bytes_in"] for found in figures.values()]
    assert max(sizes) - min(sizes) < 0.05 * max(sizes)
    assert "of the limit" in done.stdout and "bare aiohttp loop" in done.stdout


def test_a_table_is_put_between_its_marks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench single -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    report.write_block("single", report.as_markdown([["", "median"], ["headrace", "1 ms"]]))
    table = "|  | median |\n| :-- | --: |\n| headrace | 1 ms |"
    assert page.read_text() == f"before\n<!-- bench single -->\n{table}\n<!-- end -->\nafter\n"
    report.write_block("cold", "text")
    assert page.read_text().endswith("after\n\n## `cold`\n\n<!-- bench cold -->\ntext\n<!-- end -->\n")
