"""Several runs want one device: they wait for it in their order, and none fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from servers.prefect_api import ask
from servers.waiting import until

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

CHAIN = """chain: queued
inputs: {gate: {type: string}, turn: {type: integer}}
steps:
  hold:
    python: "work.py:hold"
    args: {gate: "{{ inputs.gate }}", turn: "{{ inputs.turn }}"}
    pool: gpu_queue
outputs: {held: "{{ hold.value }}"}
"""
WORK = """import time
from pathlib import Path


def hold(gate, turn):
    begun = time.time()
    while not Path(gate).exists():
        time.sleep(0.02)
    return [turn, begun, time.time()]
"""


def test_three_runs_that_want_one_device_have_it_one_after_another_in_their_order(
    make_desk: Callable, serve_parts: Callable, prefect_url: str
) -> None:
    desk = make_desk()
    desk.environment["PREFECT_API_URL"] = prefect_url
    desk.chain.write_text(CHAIN)
    (desk.chain.parent / "work.py").write_text(WORK)
    gate = desk.folder / "gate"
    serve_parts(desk, "gpu_queue", "one")
    serve_parts(desk, "gpu_queue", "two")  # two workers and still one device: the pool's limit is 1

    def sent() -> list[dict[str, Any]]:
        named = {"flow_runs": {"name": {"like_": "queued · hold"}}, "sort": "EXPECTED_START_TIME_ASC"}
        return ask(prefect_url, "flow_runs/filter", named)

    runs: list[subprocess.Popen[bytes]] = []
    for number in range(1, 4):
        runs.append(desk.start("run", str(desk.chain), "-i", f"gate={gate}", "-i", f"turn={number}"))
        until(lambda number=number: len(sent()) == number)
    until(lambda: [part["state_type"] for part in sent()] == ["RUNNING", "SCHEDULED", "SCHEDULED"])
    gate.touch()
    for run in runs:
        output, errors = run.communicate(timeout=120)
        assert run.returncode == 0, (output, errors)
    with open_store(desk.store) as store:
        outputs = [
            json.loads(record.output)["value"] for run in store.runs() for record in store.records(run.id)
        ]
    outputs.sort()
    assert [turn for turn, _, _ in outputs] == [1, 2, 3]
    times = [time for _, begun, ended in outputs for time in (begun, ended)]
    assert times == sorted(times)  # none began before the one in front of it had ended
