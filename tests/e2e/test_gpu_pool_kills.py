"""Trainings on another pool that are killed, left alone by their run, or cancelled."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from servers.prefect_api import ask
from servers.waiting import until

from chains.store import RunRow, open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

ROWS = 3
FOR_EVER = 1_000_000


def parts_of(url: str, run_id: str) -> list[dict[str, Any]]:
    chosen = {"tags": {"all_": [f"part-of:{run_id}"]}}
    return ask(url, "flow_runs/filter", {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_ASC"})


def checkpoints(desk) -> list[str]:
    return [path.name for path in desk.store.glob("work/*/checkpoints/checkpoint-*")]


def run_of(desk) -> RunRow:
    with open_store(desk.store) as store:
        return store.runs(limit=1)[0]


def start_training(desk) -> subprocess.Popen[bytes]:
    """Start a run and return when its training has left a whole checkpoint: it writes the one after it."""
    running = desk.start("run", str(desk.chain), "--data", str(desk.tickets(ROWS)))
    until(lambda: len(checkpoints(desk)) > 1 or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    return running


def check_whole(desk, run_id: str, worker: str) -> None:
    """Check that a run ended well, its training went on from a checkpoint, and no prompt was sent twice."""
    with open_store(desk.store) as store:
        records = {(record.step, record.row): record for record in store.records(run_id)}
        assert store.run(run_id).status == "ok"
    assert {record.status for record in records.values()} == {"ok"}
    tuned = next(record for (step, _), record in records.items() if step == "tune")
    assert tuned.worker == worker
    (card,) = desk.store.glob("models/**/README.md")
    assert ", resumed from step " in card.read_text()
    assert desk.sent() == ROWS
    assert desk.headrace("verify").code == 0


def test_a_training_goes_on_from_its_checkpoint_on_a_new_worker_when_its_own_was_killed(
    make_tuned_desk: Callable, serve_parts: Callable, prefect_url: str
) -> None:
    desk = make_tuned_desk("gpu_killed", max_steps=1500)
    first = serve_parts(desk, "gpu_killed", "first")
    running = start_training(desk)
    first.kill()
    serve_parts(desk, "gpu_killed", "second")
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors.decode()
    assert b"its process on pool 'gpu_killed' was lost" in errors and b"it is sent again" in errors
    run_id = run_of(desk).id
    check_whole(desk, run_id, "second")
    assert [part["state_type"] for part in parts_of(prefect_url, run_id)] == ["CRASHED", "COMPLETED"]


@pytest.mark.parametrize("worker_too", [False, True])
def test_when_the_process_of_the_run_is_killed_a_resume_goes_on_with_the_training(
    make_tuned_desk: Callable, serve_parts: Callable, prefect_url: str, worker_too: bool
) -> None:
    pool = "gpu_orphaned" if not worker_too else "gpu_abandoned"
    desk = make_tuned_desk(pool, max_steps=1500)
    worker = serve_parts(desk, pool, "first")
    running = start_training(desk)
    running.kill()
    running.communicate()
    run_id = run_of(desk).id
    if worker_too:  # what it was at keeps the only place of the pool, as far as Prefect knows
        worker.kill()
        worker = serve_parts(desk, pool, "second")
    done = desk.headrace("resume", run_id, "--json")
    assert done.code == 0, (done.err, worker.log.read_text())
    check_whole(desk, run_id, worker.name)
    assert [part["state_type"] for part in parts_of(prefect_url, run_id)][1:] == ["COMPLETED"]


def test_cancelling_a_run_ends_its_part_and_leaves_the_store_and_the_worker_well(
    make_tuned_desk: Callable, serve_parts: Callable, prefect_url: str
) -> None:
    desk = make_tuned_desk("gpu_cancelled", max_steps=FOR_EVER)
    worker = serve_parts(desk, "gpu_cancelled", "only")
    running = start_training(desk)
    done = desk.headrace("cancel", "last")
    assert done.code == 0 and "is cancelled" in done.out, (done.out, done.err)
    running.communicate(timeout=60)
    assert running.returncode == 130
    run = run_of(desk)
    (part,) = parts_of(prefect_url, run.id)
    assert part["state_type"] == "CANCELLED", worker.log.read_text()
    assert worker.descendants() == [worker.process.pid]  # the training is gone, the worker is there
    assert run.status == "cancelled" and desk.headrace("verify").code == 0
    with open_store(desk.store) as store:
        assert {record.status for record in store.records(run.id) if record.step != "triage"} == {"cancelled"}
        assert not any(lease.alive for lease in store.part_leases(run.id).values())
