"""Deployed chains: forms that the API holds callers to, runs by a worker, schedules, chains that are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers.prefect_api import ask
from servers.prefect_worker import worker
from servers.waiting import until

from chains.loading import load
from flows.forms import form_of

pytestmark = pytest.mark.e2e

CHAIN = """chain: shout
description: Say it loudly.
inputs:
  ticket: {type: string, description: What they wrote.}
  tone: {type: string, enum: [warm, brief], default: warm}
  stars: {type: integer, minimum: 1, maximum: 5, required: false}
steps:
  reply: {python: "work.py:answer", args: {text: "{{ inputs.ticket }}", tone: "{{ inputs.tone }}"}}
outputs:
  reply: "{{ reply.value }}"
"""
WORK = """def answer(text, tone):
    if "boom" in text:
        raise ValueError("no such thing")
    return f"{tone}: {text.upper()}"
"""


@dataclass
class Office:
    """A folder of chains, a store and a Prefect server with a pool of its own."""

    folder: Path
    url: str
    pool: str
    environment: dict[str, str]

    def write(self, name: str, source: str) -> Path:
        path = self.folder / "chains" / name / "chain.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        (path.parent / "work.py").write_text(WORK)
        return path

    def headrace(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    def deploy(self, *arguments: str) -> dict[str, Any]:
        done = self.headrace("deploy", "--folder", "chains", "--pool", self.pool, "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def deployment(self, chain: str) -> dict[str, Any]:
        for patience in range(5):  # a server on SQLite answers 503 while its database is locked
            try:
                address = f"{self.url}/deployments/name/run-chain/{chain}"
                with urllib.request.urlopen(address, timeout=60) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                if error.code != 503 or patience == 4:
                    raise
                error.close()
                time.sleep(1)
        raise AssertionError("the last try returns or raises")

    def create(self, chain: str, parameters: dict[str, Any]) -> str:
        path = f"deployments/{self.deployment(chain)['id']}/create_flow_run"
        return ask(self.url, path, {"parameters": parameters})["id"]

    def runs_of(self, chain: str) -> list[dict[str, Any]]:
        deployment = {"id": {"any_": [self.deployment(chain)["id"]]}}
        return ask(self.url, "flow_runs/filter", {"deployments": deployment})

    def ended(self, flow_run: str) -> dict[str, Any]:
        def final() -> dict[str, Any] | None:
            (run,) = ask(self.url, "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
            return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return until(final)

    def result(self, flow_run: str, chain: str = "shout") -> dict[str, Any]:
        chosen = {"flow_run_id": {"any_": [flow_run]}, "key": {"any_": [f"{chain}-result"]}}
        (artifact,) = ask(self.url, "artifacts/filter", {"artifacts": chosen})
        return artifact["data"]


def with_schedule(source: str, schedule: str) -> str:
    return f"{source}schedule:\n  often: {schedule}\n"


@pytest.fixture
def office(tmp_path: Path, prefect_url: str) -> Iterator[Office]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "HEADRACE_STORE": str(tmp_path / "store"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    pool = f"pool-{tmp_path.name.rpartition('_')[2]}-{os.getpid()}"
    yield Office(tmp_path, prefect_url, pool, environment)
    for deployment in ask(prefect_url, "deployments/filter", {}):
        address = f"{prefect_url}/deployments/{deployment['id']}"
        with suppress(OSError):  # busy: the next test's chains are registered anew all the same
            urllib.request.urlopen(urllib.request.Request(address, method="DELETE"), timeout=60).close()


@pytest.fixture
def staffed(office: Office) -> Iterator[Office]:
    office.write("shout", CHAIN)
    office.deploy()
    with worker(office.pool, office.environment, office.folder):
        yield office


def test_a_deployments_form_is_the_chains_inputs_and_a_wrong_value_starts_nothing(office: Office) -> None:
    path = office.write("shout", CHAIN)
    (made,) = office.deploy()["deployments"]
    deployment = office.deployment("shout")
    assert (made["name"], made["state"], made["id"]) == ("run-chain/shout", "made", deployment["id"])
    assert deployment["parameter_openapi_schema"] == form_of(load(path).chain)
    assert set(deployment["parameter_openapi_schema"]["properties"]) == {
        "ticket",
        "tone",
        "stars",
        "data",
        "options",
    }
    assert deployment["version"] == made["version"] == load(path).hash[:12]
    assert made["version"] in deployment["description"]
    before = len(office.runs_of("shout"))
    for parameters, field in (
        ({"ticket": "x", "tone": "loud"}, "'tone'"),
        ({"ticket": "x", "stars": 9}, "'stars'"),
        ({"tone": "warm"}, "'ticket'"),
        ({"ticket": "x", "color": "red"}, "'color'"),
        ({"ticket": "x", "options": {"limit": 0}}, "'options.limit'"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            office.create("shout", parameters)
        assert refused.value.code in (409, 422)
        assert field in json.loads(refused.value.read())["detail"]
    assert len(office.runs_of("shout")) == before


@pytest.mark.slow
def test_deploying_again_updates_what_changed_and_tells_what_is_gone(office: Office) -> None:
    path = office.write("shout", CHAIN)
    other = office.write("other", CHAIN.replace("chain: shout", "chain: other"))
    assert {one["state"] for one in office.deploy()["deployments"]} == {"made"}
    ask(office.url, f"deployments/{office.deployment('shout')['id']}/pause_deployment", {})
    again = {one["chain"]: one for one in office.deploy()["deployments"]}
    assert {one["state"] for one in again.values()} == {"unchanged"} and again["shout"]["paused"]
    path.write_text(CHAIN.replace("[warm, brief]", "[warm, brief, stern]"))
    other.unlink()
    told = office.deploy()
    (updated,) = told["deployments"]
    assert updated["state"] == "updated" and updated["paused"]
    assert updated["version"] != again["shout"]["version"] and updated["id"] == again["shout"]["id"]
    tone = office.deployment("shout")["parameter_openapi_schema"]["properties"]["tone"]
    assert tone["enum"] == ["warm", "brief", "stern"]
    assert [(gone["chain"], gone["removed"]) for gone in told["gone"]] == [("other", False)]
    assert office.deployment("other")["name"] == "other"
    assert office.deploy("--prune")["gone"][0]["removed"]
    with pytest.raises(urllib.error.HTTPError):
        office.deployment("other")
    assert office.deploy()["gone"] == []


def test_a_bad_chain_deploys_nothing_of_its_folder(office: Office) -> None:
    office.write("fine", CHAIN.replace("chain: shout", "chain: fine"))
    office.write("bad", with_schedule(CHAIN.replace("chain: shout", "chain: bad"), "{cron: often}"))
    done = office.headrace("deploy", "--folder", "chains", "--pool", office.pool)
    assert done.returncode == 2
    assert "bad/chain.yaml:12:17: schedule 'often': 'often' is no cron rule" in done.stderr
    with pytest.raises(urllib.error.HTTPError):
        office.deployment("fine")


@pytest.mark.slow
def test_schedules_come_and_go_with_the_file(office: Office) -> None:
    source = with_schedule(CHAIN, '{cron: "0 7 * * 1-5", timezone: Europe/Berlin, data: in.jsonl, limit: 5}')
    source += "  slowly: {interval: 12h, inputs: {ticket: hello}, active: false}\n"
    source += '  weekly: {rrule: "FREQ=WEEKLY;BYDAY=MO", inputs: {ticket: monday}}\n'
    path = office.write("shout", source)
    (made,) = office.deploy()["deployments"]
    assert made["schedules"] == ["often", "slowly", "weekly"]
    found = {one["slug"]: one for one in office.deployment("shout")["schedules"]}
    assert found["often"]["schedule"]["cron"] == "0 7 * * 1-5"
    assert found["often"]["schedule"]["timezone"] == "Europe/Berlin"
    assert found["often"]["parameters"] == {"data": "in.jsonl", "options": {"limit": 5}}
    assert found["slowly"]["schedule"]["interval"] == 43200 and found["slowly"]["active"] is False
    assert "FREQ=WEEKLY" in found["weekly"]["schedule"]["rrule"]
    assert office.deploy()["deployments"][0]["state"] == "unchanged"
    path.write_text(CHAIN)
    assert office.deploy()["deployments"][0]["state"] == "updated"
    assert office.deployment("shout")["schedules"] == []


@pytest.mark.slow
def test_a_worker_runs_a_filled_in_form_and_leaves_its_outputs(staffed: Office) -> None:
    one = staffed.create("shout", {"ticket": "where is it", "tone": "brief"})
    bad = staffed.create("shout", {"ticket": "boom"})
    (staffed.folder / "chains/shout/in.csv").write_text("ticket,tone\na,brief\nb,warm\nc,brief\n")
    many = staffed.create("shout", {"data": "in.csv", "tone": "warm", "options": {"limit": 2}})
    flow_run = staffed.ended(one)
    assert flow_run["state_type"] == "COMPLETED" and flow_run["name"] == "shout"
    version = staffed.deployment("shout")["version"]
    assert f"version:{version}" in flow_run["tags"] and "chain:shout" in flow_run["tags"]
    result = staffed.result(one)
    assert result["status"] == "ok" and result["outputs"] == {"reply": "brief: WHERE IS IT"}
    assert staffed.ended(bad)["state_type"] == "FAILED"
    failed = staffed.result(bad)
    assert failed["status"] == "failed"
    assert failed["error"]["step"] == "reply" and "no such thing" in failed["error"]["message"]
    assert staffed.ended(many)["name"] == "shout · in.csv"
    rows = staffed.result(many)["row_outputs"]
    assert [row["outputs"]["reply"] for row in rows] == ["brief: A", "warm: B"]


VARIANTS = """variants:
  stern: {steps: {reply: {args: {text: "{{ inputs.ticket }}", tone: stern}}}}
  broken: {steps: {reply: {args: {text: boom, tone: warm}}}}
"""


@pytest.mark.slow
def test_variants_that_a_form_names_run_below_the_chain_and_are_compared(staffed: Office) -> None:
    staffed.write("varied", CHAIN.replace("chain: shout", "chain: varied") + VARIANTS)
    staffed.deploy()
    with pytest.raises(urllib.error.HTTPError) as refused:
        staffed.create("varied", {"ticket": "x", "variants": ["mild"]})
    assert refused.value.code in (409, 422)
    assert "'variants[0]'" in json.loads(refused.value.read())["detail"]
    both = staffed.create("varied", {"ticket": "hm", "variants": ["stern", "broken"]})
    ended = staffed.ended(both)
    assert ended["state_type"] == "FAILED" and "variant broken did not go well" in ended["state"]["message"]
    assert staffed.result(both, "varied")["outputs"] == {"reply": "warm: HM"}  # of the chain as it is
    below = ask(staffed.url, "flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [both]}}})
    assert {run["name"]: run["state_type"] for run in below} == {
        "variant · stern": "COMPLETED",
        "variant · broken": "FAILED",
    }
    chosen = {"flow_run_id": {"any_": [both]}, "key": {"any_": ["varied-variants"]}}
    (page,) = ask(staffed.url, "artifacts/filter", {"artifacts": chosen})
    assert "## stern · ok" in page["data"] and "1 of 1" in page["data"]


@pytest.mark.slow
def test_a_schedule_fires_and_that_of_a_paused_deployment_does_not(staffed: Office) -> None:
    schedule = "{interval: 4s, inputs: {ticket: tick}}"
    asleep = CHAIN.replace("chain: shout", "chain: asleep")
    staffed.write("asleep", asleep)
    staffed.deploy()
    ask(staffed.url, f"deployments/{staffed.deployment('asleep')['id']}/pause_deployment", {})
    staffed.write("asleep", with_schedule(asleep, schedule))  # paused before there is anything to run
    staffed.write("awake", with_schedule(CHAIN.replace("chain: shout", "chain: awake"), schedule))
    staffed.deploy()

    def fired() -> list[dict[str, Any]]:
        return [run for run in staffed.runs_of("awake") if run["state_type"] == "COMPLETED"]

    done = until(fired, seconds=240)
    ask(staffed.url, f"deployments/{staffed.deployment('awake')['id']}/pause_deployment", {})
    assert all(run["auto_scheduled"] for run in done)
    assert staffed.result(done[0]["id"], "awake")["outputs"] == {"reply": "warm: TICK"}
    assert not [run for run in staffed.runs_of("asleep") if run["state_type"] != "SCHEDULED"]
    listed = json.loads(staffed.headrace("runs", "--json").stdout)
    assert "awake" in {run["chain"] for run in listed} and "asleep" not in {run["chain"] for run in listed}
