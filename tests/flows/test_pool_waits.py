"""A step that waits for its pool says so, with its age, and no more once it has been picked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chains.clock import Clock
from chains.store import RunRow, StepRow, Store, open_store
from flows.cli.show import step_facts
from flows.pool_waits import note_no_wait, note_wait, wait_of_run, wait_text

RUN = "run1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        opened.put(
            RunRow(
                id=RUN, chain="desk", chain_hash="h", source=b"", rows=1, status="running", started_at=1.0
            ),
            StepRow(run_id=RUN, id="here", kind="prompt", status="ok", started_at=1.0, finished_at=2.0),
            StepRow(run_id=RUN, id="tune", kind="finetune", once=True, status="running", started_at=2.0),
        )
        yield opened


def step(store: Store, name: str) -> StepRow:
    """Return a step's row when all that was handed over before is written."""
    run = store.run(RUN)
    assert run is not None
    store.put(run)
    return next(row for row in store.steps(RUN) if row.id == name)


def test_a_step_tells_the_pool_that_it_waits_for_and_since_when(store: Store) -> None:
    assert wait_of_run(store, RUN) is None
    note_wait(store, RUN, {"here", "tune"}, pool="gpu", since=Clock().now() - 37)
    said = wait_text(step(store, "tune"))
    assert said is not None and said.startswith("waiting for pool 'gpu' (3")
    assert (wait_of_run(store, RUN) or "").startswith("waiting for pool 'gpu' (")
    assert (step_facts(step(store, "tune"), {}, "running")["waits"] or "").startswith("waiting for pool")
    assert wait_text(step(store, "here")) is None, "it had ended"
    assert step(store, "tune").started_at == 2.0


def test_what_was_picked_up_or_has_ended_waits_no_more(store: Store) -> None:
    note_wait(store, RUN, {"tune"}, pool="gpu", since=Clock().now())
    waiting = step(store, "tune")
    assert wait_text(waiting) is not None
    assert wait_text(replace(waiting, status="cancelled")) is None
    note_no_wait(store, RUN, {"tune"})
    assert wait_text(step(store, "tune")) is None and wait_of_run(store, RUN) is None
