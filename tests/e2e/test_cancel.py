"""Runs that are stopped from outside, lost, or taken over."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.prefect_api import ask, state_of, wait_for_state

from chains.clock import Clock
from chains.store import RunRow, open_store
from flows.closing import PART_OF, close_lost_runs, until_free
from flows.lease import RunLease
from flows.resuming import has_gone

pytestmark = pytest.mark.e2e


def wait_for_calls(desk, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while desk.sent() < count:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


def pause_between_writes(desk, process: subprocess.Popen[bytes]) -> None:
    """Pause a process at a moment when it does not hold the database's write lock."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        connection = sqlite3.connect(desk.store / "headrace.db", timeout=0.05)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
            return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.005)
        finally:
            connection.close()
    raise AssertionError("the process was never without the lock")


def run_row(desk) -> RunRow:
    with open_store(desk.store) as store:
        return store.runs(limit=1)[0]


def states_of_attempts(desk) -> set[str]:
    with open_store(desk.store) as store:
        return {attempt.state for attempt in store.attempts_of_run(store.runs(limit=1)[0].id, payloads=False)}


@pytest.mark.slow
def test_cancel_stops_calls_within_two_seconds_and_leaves_the_store_clean(make_desk: Callable) -> None:
    desk = make_desk(latency=0.25)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(400)), "--direct")
    wait_for_calls(desk, 20, process)
    before, asked = desk.sent(), time.monotonic()
    done = desk.headrace("cancel", "last")
    assert done.code == 0 and "is cancelled" in done.out, done.err
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err.decode()
    assert "headrace cancel" in err.decode()
    # Eight at a time for 0.25 s each: what was sent after the wish was sent within two seconds (and a start).
    assert desk.sent() - before <= 8 * 4 * (time.monotonic() - asked)
    with open_store(desk.store) as store:
        run = store.runs(limit=1)[0]
        ended = max(a.started_at for a in store.attempts_of_run(run.id, payloads=False))
        assert run.finished_at is not None and run.finished_at - ended < 3
    with open_store(desk.store) as store:
        bad = [a for a in store.attempts_of_run(run.id, payloads=False) if a.state != "ok"]
    # Those next in line had their intents written; they say that nothing was sent.
    assert {(a.state, a.error_type) for a in bad} <= {("error", "Cancelled")}
    assert desk.headrace("verify").code == 0
    again = desk.headrace("cancel", "last")
    assert again.code == 0 and "is not running: it is cancelled" in again.out


@pytest.mark.slow
def test_a_cancelled_run_is_finished_by_resume_without_a_repeated_call(make_desk: Callable) -> None:
    desk = make_desk(latency=0.8)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(40)), "--direct")
    wait_for_calls(desk, 12, process)
    desk.headrace("cancel", "last")
    process.communicate(timeout=30)
    assert desk.sent() < 80
    done = desk.headrace("resume", "last", "--direct", "--json")
    assert done.code == 0, done.err
    assert desk.sent() == 80 and done.json()["counts"]["reply"]["ok"] == 40


def test_cancel_closes_a_run_whose_process_was_killed(make_desk: Callable) -> None:
    desk = make_desk(latency=0.5)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(40)), "--direct")
    wait_for_calls(desk, 8, process)
    process.kill()
    process.communicate()
    assert run_row(desk).status == "running"
    done = desk.headrace("cancel", "last")
    assert done.code == 0 and "is cancelled" in done.out, done.err
    assert run_row(desk).status == "cancelled"
    assert "intent" not in states_of_attempts(desk) and "ambiguous" in states_of_attempts(desk)


@pytest.mark.slow
def test_a_run_that_somebody_works_on_is_not_resumed(make_desk: Callable) -> None:
    desk = make_desk(latency=0.8)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(40)), "--direct")
    wait_for_calls(desk, 8, process)
    refused = desk.headrace("resume", "last", "--direct")
    assert refused.code == 2 and "being worked on" in refused.err and "headrace cancel" in refused.err
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert desk.sent() == 80


@pytest.mark.slow
def test_a_paused_process_whose_run_was_taken_over_writes_no_more(make_desk: Callable) -> None:
    desk = make_desk(latency=0.25)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(40)), "--direct")
    wait_for_calls(desk, 8, process)
    pause_between_writes(desk, process)
    run = run_row(desk)
    with open_store(desk.store, clock=Later()) as later:
        assert [lost.id for lost in close_lost_runs(later, Later())] == [run.id]
    done = desk.headrace("resume", run.id, "--direct", "--json")
    assert done.code == 0, done.err
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "taken over" in err.decode(), err.decode()
    after = run_row(desk)
    assert (after.id, after.status) == (run.id, "ok")
    assert desk.headrace("verify").code == 0


class Later(Clock):
    """A clock that is past every lease."""

    def monotonic(self) -> float:
        return super().monotonic() + 120


def test_only_runs_whose_lease_has_passed_are_closed(tmp_path) -> None:
    with open_store(tmp_path) as store:
        lease = RunLease(store, "r1", Clock())
        assert lease.take() and not RunLease(store, "r1", Clock()).take()
        store.put(RunRow(id="r1", chain="c", chain_hash="h", source=b"", started_at=1.0, host="elsewhere"))
        assert close_lost_runs(store, Clock()) == []
        assert lease.still_mine()
        with open_store(tmp_path, clock=Later()) as later:
            assert [run.id for run in close_lost_runs(later, Later())] == ["r1"]
            closed = later.run("r1")
            assert closed is not None and closed.status == "interrupted"
        assert not lease.still_mine()


async def test_a_flow_run_that_starts_again_waits_for_the_lease_of_the_process_before(tmp_path) -> None:
    with open_store(tmp_path) as store:
        assert store.lease_run("r1", "elsewhere", 1.0)
        store.put(RunRow(id="r1", chain="c", chain_hash="h", source=b"", started_at=1.0, host="elsewhere"))
        begun = time.monotonic()
        await until_free(store, "r1")
        assert 0.9 < time.monotonic() - begun < 10
        await until_free(store, "r2")


@pytest.mark.slow
def test_sweep_marks_a_killed_flow_run_as_crashed_and_resume_finishes_it(
    make_desk: Callable, prefect_url: str
) -> None:
    desk = make_desk(latency=0.25)
    desk.environment |= {"PREFECT_API_URL": prefect_url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(40)))
    wait_for_calls(desk, 8, process)
    process.kill()
    process.communicate()
    run = run_row(desk)
    assert run.prefect_flow_run_id is not None
    assert state_of(prefect_url, run.prefect_flow_run_id)["type"] == "RUNNING"
    carrier = {"flow_runs": {"id": {"any_": [run.prefect_flow_run_id]}}}
    (flow_run,) = ask(prefect_url, "flow_runs/filter", carrier)
    of_run = {"flow_id": flow_run["flow_id"], "tags": [f"{PART_OF}{run.id}"], "state": {"type": "RUNNING"}}
    part = ask(prefect_url, "flow_runs/", of_run)["id"]
    with (desk.folder / "sweep.log").open("wb") as log:
        sweeping = subprocess.Popen(
            [sys.executable, "-m", "flows.sweep", "--every", "2"],
            cwd=desk.folder,
            env=desk.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        state = wait_for_state(prefect_url, run.prefect_flow_run_id, "CRASHED", seconds=150)
        wait_for_state(prefect_url, part, "CRASHED")
    except AssertionError as error:
        raise AssertionError((desk.folder / "sweep.log").read_text()) from error
    finally:
        os.killpg(sweeping.pid, signal.SIGKILL)  # with the processes of its flow runs
        sweeping.wait()
    assert f"headrace resume {run.id}" in state["message"]
    assert run_row(desk).status == "interrupted"
    done = desk.headrace("resume", run.id, "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["counts"]["reply"]["ok"] == 40


def test_a_process_that_has_ended_is_gone_before_its_parent_has_heard_of_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.read() == b""
    run = RunRow(
        id="r",
        chain="c",
        chain_hash="h",
        source=b"",
        started_at=1.0,
        host=socket.gethostname(),
        pid=child.pid,
    )
    stat = Path(f"/proc/{child.pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert has_gone(run)
    child.communicate()
    assert has_gone(run)
