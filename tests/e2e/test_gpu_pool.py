"""Steps with a pool of their own: they run on that pool's long-lived worker, and models stay loaded there."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.headrace_up import until
from servers.prefect_api import ask, deployment_id, start_flow_run, wait_for_state
from servers.prefect_workers import Worker, start_worker, wait_until_online

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def serve_runs(prefect_url: str) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def serve(desk, pool: str, name: str) -> Worker:
        started.append(start_worker(desk.folder, pool, name, desk.environment, "--limit", "2"))
        wait_until_online(prefect_url, pool, started[-1])
        return started[-1]

    yield serve
    for worker in started:
        worker.kill()


def parts_of(url: str, run_id: str) -> list[dict[str, Any]]:
    chosen = {"tags": {"all_": [f"part-of:{run_id}"]}}
    return ask(url, "flow_runs/filter", {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_ASC"})


def answers(store_folder: Path) -> dict[tuple[str, int], bytes | None]:
    with open_store(store_folder) as store:
        records = list(store.records(store.runs()[0].id))
    return {(record.step, record.row): record.output for record in records if record.step != "tune"}


def test_tuning_and_what_it_tuned_run_on_the_worker_of_their_pool(
    make_tuned_desk: Callable, serve_parts: Callable, prefect_url: str
) -> None:
    desk = make_tuned_desk("gpu_one")
    worker = serve_parts(desk, "gpu_one", "only")
    data = str(desk.tickets(3))
    away, here = desk.folder / "away.jsonl", desk.folder / "here.jsonl"
    done = desk.headrace("run", str(desk.chain), "--data", data, "--out", str(away), "--json")
    assert done.code == 0, (done.err, worker.log.read_text())
    run_id = done.json()["run_id"]
    assert [run["name"] for run in parts_of(prefect_url, run_id)] == ["tuned · tune, answer · rows 0-2"]
    assert desk.sent() == 3
    with open_store(desk.store) as store:
        by = {record.step: record.worker for record in store.records(run_id)}
        assert by == {"triage": None, "tune": "only", "answer": "only"}
    desk.environment["HEADRACE_STORE"] = str(desk.folder / "other")
    again = desk.headrace("run", str(desk.chain), "--data", data, "--direct", "--out", str(here))
    assert again.code == 0, again.err
    assert away.read_text() == here.read_text()
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(timeout=30) == 130


def test_a_deployed_run_stays_on_its_pool_and_its_gpu_steps_load_one_model_for_all_parts(
    make_tuned_desk: Callable, serve_parts: Callable, serve_runs: Callable, prefect_url: str
) -> None:
    desk = make_tuned_desk("gpu_two")
    desk.environment |= {
        "HEADRACE_SHARD_ROWS": "2",
        "HEADRACE_PART_ROWS": "2",
        "HEADRACE_READ_OUTSIDE": "true",
    }
    gpu, cpu = serve_parts(desk, "gpu_two", "gpu-worker"), serve_runs(desk, "cpu_two", "cpu-worker")
    deployed = desk.headrace("deploy", str(desk.chain), "--pool", "cpu_two")
    assert deployed.code == 0, deployed.err
    data = str(desk.tickets(6))
    flow_run = start_flow_run(prefect_url, deployment_id(prefect_url, "tuned"), {"data": data})
    state = wait_for_state(prefect_url, flow_run, "COMPLETED", "FAILED", "CRASHED", seconds=300)
    assert state["type"] == "COMPLETED", (cpu.log.read_text(), gpu.log.read_text())
    with open_store(desk.store) as store:
        (run,) = store.runs()
        by = {(record.step, record.worker) for record in store.records(run.id)}
    assert by == {("triage", None), ("tune", "gpu-worker"), ("answer", "gpu-worker")}
    assert {part["name"] for part in parts_of(prefect_url, run.id)} == {
        "tuned · tune · once",
        *(f"tuned · answer · rows {first}-{first + 1}" for first in (0, 2, 4)),
    }
    assert gpu.log.read_text().count("model 'tiny' loaded") == 1
    assert desk.sent() == 6
    away = answers(desk.store)
    desk.environment["HEADRACE_STORE"] = str(desk.folder / "other")
    here = desk.headrace("run", str(desk.chain), "--data", data, "--direct")
    assert here.code == 0, here.err
    assert answers(desk.folder / "other") == away


def test_a_pool_that_prefect_does_not_have_leaves_its_steps_in_the_process(make_tuned_desk: Callable) -> None:
    desk = make_tuned_desk("gpu_that_is_not_there")
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--json")
    assert done.code == 0, done.err
    assert done.json()["counts"]["answer"]["ok"] == 1


def test_a_pool_that_nobody_serves_is_waited_for_and_then_named(
    make_tuned_desk: Callable, serve_parts: Callable
) -> None:
    desk = make_tuned_desk("gpu_deserted")
    serve_parts(desk, "gpu_deserted", "gone").kill()
    desk.environment["HEADRACE_POOL_WAIT"] = "30"
    running = desk.start("run", str(desk.chain), "-i", "ticket=my refund")
    until(lambda: "waiting for pool 'gpu_deserted' (" in desk.headrace("show", "last").out)
    listed = desk.headrace("runs", "--json").json()[0]
    assert listed["status"] == "running" and "waiting for pool 'gpu_deserted' (" in listed["waits"]
    _, errors = running.communicate(timeout=200)
    assert running.returncode != 0
    assert b"waiting for pool 'gpu_deserted'" in errors
    assert b"no worker took up the work" in errors and b"headrace worker --pool gpu_deserted" in errors
    ended = desk.headrace("runs", "--json").json()[0]
    assert (ended["status"], ended["waits"]) == ("failed", None)
    # Prefect takes a worker that was killed for alive for another minute and a half.
    start_one = "no worker; start one: `headrace worker --pool gpu_deserted`"
    until(lambda: start_one in desk.headrace("doctor").out, "that nobody serves the pool", seconds=240)
