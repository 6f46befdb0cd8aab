"""Prefect's server goes away in the middle of a run and comes back: all ends well, and is asked once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers.headrace_up import until
from servers.ports import free_port
from servers.prefect_server import prefect_server
from test_gpu_pool_kills import start_training

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


class Restarting:
    """A Prefect server that can be stopped and started again with the same files and address."""

    def __init__(self, home: Path) -> None:
        self._home, self._port = home, free_port()
        self._standing = ExitStack()
        self.url = self.start()

    def start(self) -> str:
        return self._standing.enter_context(prefect_server(self._home, port=self._port))

    def stop(self) -> None:
        self._standing.close()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarting]:
    standing = Restarting(tmp_path_factory.mktemp("prefect-restarted"))
    yield standing
    standing.stop()


@pytest.fixture
def prefect_url(server: Restarting) -> str:
    """In place of the server of all tests, which stays up."""
    return server.url


def test_a_restart_in_the_middle_of_a_training_on_the_pool_does_not_disturb_the_run(
    make_tuned_desk: Callable, serve_parts: Callable, server: Restarting
) -> None:
    desk = make_tuned_desk("gpu_restarted", max_steps=600)
    worker = serve_parts(desk, "gpu_restarted", "only")
    running = start_training(desk)
    server.stop()
    assert running.poll() is None
    server.start()
    _, errors = running.communicate(timeout=400)
    assert running.returncode == 0, (errors.decode(), worker.log.read_text())
    with open_store(desk.store) as store:
        run = store.runs(limit=1)[0]
        records = list(store.records(run.id))
    assert run.status == "ok" and {record.status for record in records} == {"ok"}
    assert desk.sent() == 3 and desk.headrace("verify").code == 0


def test_a_restart_in_the_middle_of_a_batch_of_prompts_repeats_no_call(
    make_desk: Callable, server: Restarting
) -> None:
    desk = make_desk(latency=0.5)
    desk.environment |= {"PREFECT_API_URL": server.url, "HEADRACE_SHARD_ROWS": "4"}
    running = desk.start("run", str(desk.chain), "--data", str(desk.tickets(24)))
    until(lambda: desk.sent() > 4)
    server.stop()
    server.start()
    _, errors = running.communicate(timeout=400)
    assert running.returncode == 0, errors.decode()
    with open_store(desk.store) as store:
        run = store.runs(limit=1)[0]
        counts = store.counts(run.id)
    assert run.status == "ok" and counts["reply"]["ok"] == 24
    assert desk.sent() == sum(numbers.get("attempts", 0) for numbers in counts.values())
