"""The shipped chain `support` on two pools: it runs on one, its tuning and what that tuned on the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.prefect_api import deployment_id, start_flow_run, wait_for_state
from test_gpu_pool import answers, serve_runs

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

__all__ = ["serve_runs"]

SUPPORT = Path(__file__).parents[2] / "chains" / "library" / "support"
LABELLED, ROWS = 40, 2


def shortened(folder: Path) -> Path:
    """Copy the chain, with pools, a few labelled tickets and a few steps: a whole training takes minutes."""
    shutil.copytree(SUPPORT, folder)
    for name, lines in (("labelled.jsonl", LABELLED), ("heldout.jsonl", ROWS)):
        path = folder / "data" / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    chain = folder / "chain.yaml"
    text = chain.read_text()
    for old, new in (
        (
            '"models:support-triage@latest", max_tokens: 40',
            '"models:support-triage@latest", max_tokens: 40, pool: gpu_support',
        ),
        ("publish: support-triage", "publish: support-triage\n    pool: gpu_support"),
        ("num_train_epochs: 3", "max_steps: 3"),
        ("    eval_steps: 338\n", ""),
        ("max_tokens: 120", "max_tokens: 20"),
    ):
        assert old in text
        text = text.replace(old, new)
    chain.write_text(text)
    return chain


def of_rows(store: Path) -> dict[tuple[str, int], bytes | None]:
    """Return what each row got; what once steps leave names files of the store."""
    return {place: output for place, output in answers(store).items() if place[1] >= 0}


def test_the_support_chain_tunes_on_the_gpu_pool_and_ends_as_in_one_process(
    make_desk: Callable, serve_parts: Callable, serve_runs: Callable, prefect_url: str
) -> None:
    desk = make_desk()
    desk.environment |= {"PREFECT_API_URL": prefect_url, "OMP_NUM_THREADS": "1"}
    chain = shortened(desk.folder / "support")
    gpu, cpu = serve_parts(desk, "gpu_support", "gpu-worker"), serve_runs(desk, "cpu_support", "cpu-worker")
    deployed = desk.headrace("deploy", str(chain), "--pool", "cpu_support")
    assert deployed.code == 0, deployed.err
    given = {"data": "data/heldout.jsonl", "tune": True}
    flow_run = start_flow_run(prefect_url, deployment_id(prefect_url, "support"), given)
    state = wait_for_state(prefect_url, flow_run, "COMPLETED", "FAILED", "CRASHED", seconds=600)
    assert state["type"] == "COMPLETED", (state, cpu.log.read_text(), gpu.log.read_text())
    with open_store(desk.store) as store:
        (run,) = store.runs()
        by = {record.step: record.worker for record in store.records(run.id)}
    assert {step for step, worker in by.items() if worker == "gpu-worker"} == {"tune", "triage_tuned"}
    assert {worker for step, worker in by.items() if step not in ("tune", "triage_tuned")} == {None}
    assert gpu.log.read_text().count("model 'tuned' loaded") == 1
    away = of_rows(desk.store)
    assert {step for step, _ in away} >= {"triage", "passages", "reply", "triage_tuned"}
    desk.environment["HEADRACE_STORE"] = str(desk.folder / "other")
    data = str(chain.parent / "data" / "heldout.jsonl")
    here = desk.start("run", str(chain), "--data", data, "-i", "tune=true", "--direct")
    _, errors = here.communicate(timeout=400)
    assert here.returncode == 0, errors.decode()
    assert of_rows(desk.folder / "other") == away
