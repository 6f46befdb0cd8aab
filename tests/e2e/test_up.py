"""`headrace up`: all stands with one command, and nothing is left when it ends."""

from __future__ import annotations

import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.headrace_up import CHAIN, Up
from servers.prefect_api import ask
from servers.waiting import until

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def make(*options: str, **environment: str) -> Up:
        started.append(Up(tmp_path, *options, **environment))
        return started[-1]

    yield make
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
        until(lambda up=up: not up.left(), seconds=40)


def test_one_command_runs_chains_and_ctrl_c_takes_all_of_it_down(start: Callable[..., Up]) -> None:
    up = start()
    up.stands()
    text = up.log.read_text()
    assert f"http://127.0.0.1:{up.port}  (started here)" in text and "chain    shout" in text
    flow_run = up.start_run("hello")
    until(lambda: up.state(flow_run) == "COMPLETED")
    names = {one["name"]: one for one in ask(up.url, "deployments/filter", {})}
    assert set(names) == {"shout", "sweep"}
    assert [one["schedule"]["interval"] for one in names["sweep"]["schedules"]] == [300]
    up.start_run("wait")
    until(lambda: [run for run in up.runs() if run["status"] == "running"])
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=90) == 0, up.log.read_text()
    assert "All is down." in up.log.read_text()
    assert up.left() == []
    assert sorted(run["status"] for run in up.runs()) == ["cancelled", "ok"]


def test_the_gpu_pool_is_served_by_a_worker_that_does_parts_in_its_own_process(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    (tmp_path / "chains").mkdir()
    routed = CHAIN.replace("chain: shout", "chain: routed").replace("{python:", "{pool: gpu, python:")
    (tmp_path / "chains/routed.yaml").write_text(routed)
    up = start("--gpu")
    up.stands()
    until(lambda: "serves pool 'gpu'" in up.log.read_text())
    flow_run = up.start_run("hello", "routed")
    until(lambda: up.state(flow_run) == "COMPLETED")
    with open_store(tmp_path / "store") as store:
        (record,) = store.records(store.runs()[0].id)
    assert record.worker is not None and record.worker.startswith("gpu-")
    assert "gpu    | routed · reply · row 0: Completed" in up.log.read_text()
    up.start_run("wait", "routed")
    until(lambda: up.log.read_text().count("gpu    | routed · reply · row 0 …") == 2)
    until(lambda: [run for run in up.runs() if run["status"] == "running"])
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=90) == 0, up.log.read_text()
    assert up.left() == []


def test_a_second_ctrl_c_ends_everything_at_once(start: Callable[..., Up]) -> None:
    up = start()
    up.stands()
    up.start_run("wait")
    until(lambda: [run for run in up.runs() if run["status"] == "running"])
    up.process.send_signal(signal.SIGINT)
    until(lambda: "Stopping" in up.log.read_text())
    up.process.send_signal(signal.SIGINT)
    up.process.wait(timeout=30)
    assert up.left() == []
    assert up.runs()[0]["status"] == "interrupted"


def test_what_it_started_ends_when_it_is_killed(start: Callable[..., Up]) -> None:
    up = start()
    up.stands()
    up.process.kill()
    up.process.wait()
    until(lambda: not up.left(), seconds=60)


def test_a_port_that_something_else_has_is_one_sentence(tmp_path: Path, start: Callable[..., Up]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        up = start("--port", str(taken))
        assert up.process.wait(timeout=60) == 3
    text = up.log.read_text()
    assert f"port {taken} of this machine is taken by something that is no Prefect server." in text
    assert "Traceback" not in text


def test_it_uses_the_server_that_is_up_and_leaves_it_running(
    start: Callable[..., Up], prefect_url: str
) -> None:
    up = start(PREFECT_API_URL=prefect_url)
    up.stands()
    assert "(was up already)" in up.log.read_text()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=60) == 0
    with urllib.request.urlopen(f"{prefect_url}/health", timeout=10) as reply:
        assert reply.status == 200
