"""A store with one run and one step in it, and rows that need only what a test is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chains.store import AttemptRow, RecordRow, RunRow, StepRow, Store, open_store


@pytest.fixture
def run_row() -> RunRow:
    return RunRow(
        id="run1", chain="support", chain_hash="c" * 64, source=b"chain: support\n", started_at=100.0
    )


@pytest.fixture
def step_row() -> StepRow:
    return StepRow(run_id="run1", id="triage", kind="prompt", status="running", started_at=101.0)


@pytest.fixture
def store(tmp_path: Path, run_row: RunRow, step_row: StepRow) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        opened.put(run_row, step_row)
        yield opened


@pytest.fixture
def record_row() -> Callable[..., RecordRow]:
    def make(row: int = 0, **fields) -> RecordRow:
        given = {
            "id": f"record-{row}",
            "run_id": "run1",
            "step": "triage",
            "status": "ok",
            "started_at": 102.0,
        }
        return RecordRow(row=row, **{**given, **fields})

    return make


@pytest.fixture
def attempt_row() -> Callable[..., AttemptRow]:
    def make(number: int = 1, **fields) -> AttemptRow:
        given = {"id": f"attempt-{number}", "record_id": "record-0", "run_id": "run1", "step": "triage"}
        return AttemptRow(number=number, **{**given, "started_at": 103.0, **fields})

    return make
