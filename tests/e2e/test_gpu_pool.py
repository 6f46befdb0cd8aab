"""Steps with a pool of their own: they run on that pool's long-lived worker, in one part."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
from servers.prefect_api import ask
from servers.prefect_workers import Worker, wait_until_online

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

CHAIN = """
chain: tuned
inputs:
  ticket: {type: string}
models:
  writer: {provider: openai, model: test-model, base_url: "URL", temperature: 0}
  tiny: {provider: local, model: "models:tiny@latest", max_tokens: 4, pool: POOL}
steps:
  triage: {prompt: "Which intent has {{ inputs.ticket }}?", model: writer}
  tune:
    finetune: scratch
    data: {train: train.jsonl}
    architecture:
      {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
       num_key_value_heads: 1, vocab_size: 320, max_position_embeddings: 64}
    max_steps: 4
    max_length: 64
    learning_rate: 0.01
    publish: tiny
    pool: POOL
  answer: {prompt: "Say {{ inputs.ticket | length }}.", model: tiny, on_length: accept}
outputs: {answer: "{{ answer.text }}"}
"""


@pytest.fixture
def tuned_desk(make_desk: Callable, prefect_url: str) -> Callable:
    def make(pool: str):
        desk = make_desk()
        desk.environment["PREFECT_API_URL"] = prefect_url
        chain = CHAIN.replace("URL", desk.server.url).replace("POOL", pool)
        desk.chain.write_text(chain)
        rows = [
            {
                "prompt": [{"role": "user", "content": f"Say {word}."}],
                "completion": [{"role": "assistant", "content": word}],
            }
            for word in ("red", "green", "blue", "black")
        ]
        (desk.chain.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return desk

    return make


@pytest.fixture
def start_worker(prefect_url: str) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(desk, pool: str, name: str) -> Worker:
        log = desk.folder / f"{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                desk.command("worker", "--pool", pool, "--name", name),
                cwd=desk.folder,
                env=desk.environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(name, process, log)
        started.append(worker)
        wait_until_online(prefect_url, pool, worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


def test_tuning_and_what_it_tuned_run_on_the_worker_of_their_pool(
    tuned_desk, start_worker, prefect_url: str
) -> None:
    desk = tuned_desk("gpu_one")
    worker = start_worker(desk, "gpu_one", "only")
    data = str(desk.tickets(3))
    away, here = desk.folder / "away.jsonl", desk.folder / "here.jsonl"
    done = desk.headrace("run", str(desk.chain), "--data", data, "--out", str(away), "--json")
    assert done.code == 0, (done.err, worker.log.read_text())
    run_id = done.json()["run_id"]
    parts = ask(prefect_url, "flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"part-of:{run_id}"]}}})
    assert [run["name"] for run in parts] == ["tuned · tune, answer · rows 0-2"]
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


def test_a_pool_that_prefect_does_not_have_leaves_its_steps_in_the_process(
    tuned_desk, prefect_url: str
) -> None:
    desk = tuned_desk("gpu_that_is_not_there")
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--json")
    assert done.code == 0, done.err
    assert done.json()["counts"]["answer"]["ok"] == 1


def test_a_pool_that_nobody_serves_is_waited_for_and_then_named(
    tuned_desk, start_worker, prefect_url: str
) -> None:
    desk = tuned_desk("gpu_deserted")
    start_worker(desk, "gpu_deserted", "gone").kill()
    desk.environment["HEADRACE_POOL_WAIT"] = "12"
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund")
    assert done.code != 0
    assert "waiting for pool 'gpu_deserted'" in done.err
