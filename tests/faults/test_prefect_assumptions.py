"""What Headrace relies on in Prefect, asked of the installed version and a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RETRIES = """
import asyncio
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from flows.prefect_starter import RowsFailed, is_infrastructure

calls = {"rows": 0, "machine": 0}

@task(retries=1, retry_condition_fn=is_infrastructure, cache_policy=NO_CACHE, persist_result=False)
async def unit(kind):
    calls[kind] += 1
    if kind == "rows":
        raise RowsFailed("2 rows failed")
    if calls[kind] == 1:
        raise OSError("the disk blinked")
    return {"ok": 1}

@flow
async def both():
    rows = await unit("rows", return_state=True)
    machine = await unit("machine", return_state=True)
    return [rows.type.value, machine.type.value]

print(asyncio.run(both()), calls)
"""

LOOP = """
import asyncio
from prefect import flow, task

@task
async def where():
    return id(asyncio.get_running_loop())

@flow
async def main_flow():
    return {id(asyncio.get_running_loop()), *await asyncio.gather(where(), where())}

print(len(asyncio.run(main_flow())))
"""


def last_line(code: str, url: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ
        | {"PREFECT_API_URL": url, "PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "CRITICAL"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.e2e
def test_prefect_retries_machine_faults_and_no_failed_rows(prefect_url: str, tmp_path: Path) -> None:
    assert last_line(RETRIES, prefect_url, tmp_path) == "['FAILED', 'COMPLETED'] {'rows': 1, 'machine': 2}"


@pytest.mark.e2e
def test_async_tasks_share_the_event_loop_of_their_flow(prefect_url: str, tmp_path: Path) -> None:
    assert last_line(LOOP, prefect_url, tmp_path) == "1"
