"""A process that is killed in the middle of a call: what the store says, and how often the call is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chains.store import open_store

ASK = """
import asyncio, sys

from chains.clock import Clock
from chains.settings import Settings
from chains.spec import Model, Retry
from chains.store import RecordRow, RunRow, StepRow, open_store
from tasks.attempts import Caller, call
from tasks.providers import Providers

folder, url = sys.argv[1:]


async def main():
    with open_store(folder) as store:
        made = len(store.attempts("record"))
        if not made:
            run = RunRow(id="run", chain="c", chain_hash="h", source=b"", started_at=1.0)
            store.put(run, StepRow(run_id="run", id="s", kind="prompt"))
        model = Model(provider="openai", model="m", base_url=url)
        providers = Providers({"m": model}, store=store, settings=Settings(), env={})
        provider = providers.get("m")
        opening = RecordRow(id="record", run_id="run", step="s", row=0, started_at=1.0)
        caller = Caller(
            store=store, clock=Clock(), retry=Retry(attempts=2), timeout=5, gate=providers.gate("m"),
            run_id="run", step="s", record_id="record", first_number=made + 1, opening=opening,
        )
        request = provider.chat_request([{"role": "user", "content": "hello"}], schema=None, sample=0)
        await call(caller, request, provider.send_chat, provider.read_chat)
        await providers.aclose()


asyncio.run(main())
"""


def ask(folder: Path, url: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HEADRACE_FAILPOINTS": failpoint}
    command = [sys.executable, "-c", ASK, str(folder), url]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("point", "calls"), [("attempt.after_intent", 0), ("attempt.before_outcome", 1)])
def test_a_killed_call_is_ambiguous_and_counts(serve: Any, tmp_path: Path, point: str, calls: int) -> None:
    server, folder = serve(), tmp_path / "store"

    assert ask(folder, server.url, f"{point}=kill").returncode == -signal.SIGKILL
    assert len(server.ledger()) == calls

    with open_store(folder) as store:
        assert [attempt.state for attempt in store.attempts("record")] == ["intent"]
        assert store.close_lost("run", "interrupted") == 1
        assert [attempt.state for attempt in store.attempts("record")] == ["ambiguous"]
        assert store.verify() == []

    assert ask(folder, server.url).returncode == 0
    assert len(server.ledger()) == calls + 1

    third = ask(folder, server.url)
    assert "no attempt is left: 2 of 2" in third.stderr
    assert len(server.ledger()) == calls + 1
