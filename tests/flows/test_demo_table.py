"""What `headrace demo` prints at its end: what ran in which order, and before and after with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chains.store import RecordRow, RunRow, StepRow, open_store
from flows.cli import demo

ORDER = ("triage", "tune", "score_before", "score_after")
ROWS = 40


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[Any]:
    """A run as the demo leaves it: 24 of 40 right before, 36 after."""
    store = open_store(tmp_path / "store")
    store.put(RunRow(id="r1", chain="support", chain_hash="h", source=b"", rows=ROWS, started_at=1.0))
    store.put(
        *(
            StepRow(run_id="r1", id=name, kind="evaluate", once=name != "triage", status="ok")
            for name in ORDER
        )
    )

    def record(step: str, row: int, output: Any, **fields: Any) -> RecordRow:
        whole = {"status": "ok", "started_at": 1.0, "finished_at": 3.0} | fields
        return RecordRow(
            id=f"{step}{row}", run_id="r1", step=step, row=row, output=json.dumps(output).encode(), **whole
        )

    store.put(*(record("triage", row, {"text": "x"}) for row in range(ROWS)))
    store.put(record("tune", -1, {"model": "m"}, finished_at=21.0))
    for step, right in (("score_before", 24), ("score_after", 36)):
        metric = {"value": right / ROWS, "low": right / ROWS - 0.1, "high": right / ROWS + 0.05, "n": ROWS}
        store.put(record(step, -1, {"accuracy": metric, "rows": ROWS, "missing": 0}))
        store.put(*(record(step, row, {"scores": {"accuracy": float(row < right)}}) for row in range(ROWS)))
    needs = {"triage": set(), "tune": set(), "score_before": {"triage"}, "score_after": {"tune"}}
    yield SimpleNamespace(
        run_id="r1",
        store=store,
        graph=SimpleNamespace(order=ORDER, needs=needs),
        chain=SimpleNamespace(
            models={"writer": SimpleNamespace(model=None, provider="starter")},
            defaults=SimpleNamespace(model="writer"),
        ),
    )
    store.close()


def test_steps_stand_in_running_order_below_what_they_wait_for(prepared: Any) -> None:
    lines = demo._dag(prepared).splitlines()
    assert lines[0].split() == ["step", "kind", "needs", "status", "rows", "time"]
    assert lines[1].startswith("triage ") and lines[1].split()[-3:] == ["40", "2.0", "s"]
    assert lines[2].startswith("tune ") and lines[2].endswith("20 s")
    assert lines[3].startswith("  └ score_before") and "triage" in lines[3]


def test_before_and_after_carry_intervals_and_the_paired_difference(prepared: Any) -> None:
    text = demo._before_after(prepared, prepared.store.run("r1"))
    head, line, paired = text.splitlines()
    assert "starter" in head and "tuned starter" in head
    assert line.split("  ")[0] == "accuracy"
    assert "60.0 %  [50.0, 65.0]" in line and "90.0 %  [80.0, 95.0]" in line
    assert paired.startswith("accuracy, paired difference: +30.0 points [+")


def test_without_a_score_it_says_so(prepared: Any) -> None:
    store = prepared.store
    store.put(RunRow(id="r2", chain="support", chain_hash="h", source=b"", started_at=1.0))
    assert "did not run" in demo._before_after(prepared, store.run("r2"))
