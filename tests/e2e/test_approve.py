"""Runs that wait for a person, on the command line and as deployments that Prefect pauses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers.prefect_api import ask, deployment_id, start_flow_run
from servers.prefect_worker import worker
from servers.waiting import until

pytestmark = pytest.mark.e2e

CHAIN = """chain: mail
inputs: {{ticket: {{type: string}}}}
models: {{m: {{provider: openai, model: test-model, base_url: "{url}"}}}}
defaults: {{model: m}}
steps:
  draft: {{prompt: "Answer: {{{{ inputs.ticket }}}}"}}
  sign_off:
    approve: "Send this to {{{{ inputs.ticket }}}}?"
    show: [draft]
    fields: {{note: string, stars: {{type: integer, required: false}}}}
  send: {{prompt: "Send {{{{ draft.text }}}} with {{{{ sign_off.note }}}}", when: sign_off.approved}}
outputs: {{sent: "{{{{ send.text | default('nothing') }}}}", by: "{{{{ sign_off.by }}}}"}}
"""


@pytest.fixture
def mail(make_desk: Callable[..., Any], prefect_url: str) -> Iterator[Any]:
    desk = make_desk()
    (desk.folder / "chains").mkdir()
    (desk.folder / "chains" / "mail.yaml").write_text(CHAIN.format(url=desk.server.url))
    yield desk
    with_api = desk.environment.get("PREFECT_API_URL")
    if with_api:
        address = f"{prefect_url}/deployments/{deployment_id(prefect_url, 'mail')}"
        with suppress(OSError):  # busy: the next test's chain is registered anew all the same
            urllib.request.urlopen(urllib.request.Request(address, method="DELETE"), timeout=60).close()


def test_a_run_waits_is_answered_and_finished(mail: Any) -> None:
    chain = str(mail.folder / "chains" / "mail.yaml")
    begun = mail.headrace("run", chain, "-i", "ticket=Ann", "--direct")
    assert begun.code == 4, begun.err
    assert "sign_off · row 0 waits: Send this to Ann?" in begun.err and "headrace approve" in begun.err
    shown = mail.headrace("show", "last", "--json").json()
    assert shown["status"] == "waiting" and {step["status"] for step in shown["steps"]} == {"ok", "waiting"}
    refused = mail.headrace("approve", "last", "sign_off", "yes")
    assert refused.code == 2 and "'note' is a required property" in refused.err
    answered = mail.headrace("approve", "last", "sign_off", "yes", "--set", "note=007", "--set", "stars=4")
    assert answered.code == 0 and "sign_off · row 0: yes, by " in answered.out, answered.err
    assert mail.sent() == 1
    done = mail.headrace("resume", "last", "--direct", "--json")
    assert done.code == 0 and mail.sent() == 2
    assert "with 007" in done.json()["outputs"]["sent"] and "@" in done.json()["outputs"]["by"]
    again = mail.headrace("approve", "last", "sign_off", "no")
    assert again.code == 2 and "asks about no row now" in again.err
    at_once = mail.headrace(
        "run", chain, "-i", "ticket=Bob", "--direct", "--approve", "sign_off=no", "--json"
    )
    assert at_once.code == 0 and at_once.json()["outputs"]["sent"] == "nothing" and mail.sent() == 3


def test_in_a_terminal_the_question_is_asked_there(mail: Any) -> None:
    chain = str(mail.folder / "chains" / "mail.yaml")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        mail.command("run", chain, "-i", "ticket=Ann", "--direct"),
        cwd=mail.folder,
        env={**mail.environment, "TERM": "dumb"},
        stdin=slave,
        stderr=slave,
        stdout=subprocess.PIPE,
    )
    os.close(slave)
    os.write(master, b"maybe\nyes\n\n\nyes\nsee you\n5\n")  # no note at first, which is asked for again
    out, _ = process.communicate(timeout=150)
    said = os.read(master, 65536).decode()
    os.close(master)
    assert process.returncode == 0, said
    assert "with see you" in out.decode() and mail.sent() == 2
    assert "Send this to Ann?" in said and "[draft]" in said and "'note' is a required property" in said
    kept = mail.headrace("show", "last", "--step", "sign_off", "--json").json()["output"]
    assert (kept["note"], kept["stars"]) == ("see you", 5)


def deployed(mail: Any, prefect_url: str) -> str:
    """Deploy the chain to a pool of its own and return the pool's name."""
    mail.environment["PREFECT_API_URL"] = prefect_url
    pool = f"approve-{os.getpid()}-{mail.folder.name[-4:]}"
    done = mail.headrace("deploy", "--folder", "chains", "--pool", pool)
    assert done.code == 0, done.err
    return pool


def state_of(url: str, flow_run: str) -> dict[str, Any]:
    (found,) = ask(url, "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
    return found["state"]


def waits(url: str, flow_run: str, *, after: str = "") -> dict[str, Any]:
    """Return the state in which a flow run is paused, another than the one of the id `after`."""

    def paused() -> dict[str, Any] | None:
        state = state_of(url, flow_run)
        assert state["type"] not in ("FAILED", "CRASHED", "COMPLETED"), state
        return state if state["type"] == "PAUSED" and state["id"] != after else None

    return until(paused, seconds=240)


def is_free(worker_pid: int) -> None:
    """Return when a worker's processes have ended.

    Prefect's worker stops with an error where a flow run comes back while its last process is still ending.
    """
    children = Path(f"/proc/{worker_pid}/task/{worker_pid}/children")
    until(lambda: not children.read_text().strip())
    time.sleep(3)  # until the worker has taken note


def ends(url: str, flow_run: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        state = state_of(url, flow_run)
        return state if state["type"] in ("FAILED", "CRASHED", "COMPLETED", "CANCELLED") else None

    return until(final, seconds=240)


def read_input(url: str, flow_run: str, key: str) -> Any:
    def read() -> Any:
        with (
            suppress(OSError),  # busy
            urllib.request.urlopen(f"{url}/flow_runs/{flow_run}/input/{key}", timeout=60) as reply,
        ):
            return json.loads(reply.read())

    return until(read)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_deployed_run_pauses_survives_its_worker_and_pays_for_nothing_twice(
    mail: Any, prefect_url: str
) -> None:
    pool = deployed(mail, prefect_url)
    with worker(pool, mail.environment, mail.folder):
        flow_run = start_flow_run(prefect_url, deployment_id(prefect_url, "mail"), {"ticket": "Ann"})
        state = waits(prefect_url, flow_run)
    assert mail.sent() == 1
    keys = state["state_details"]["run_input_keyset"]
    form = read_input(prefect_url, flow_run, keys["schema"])
    assert set(form["properties"]) == {"approved", "note", "stars"} and form["required"] == ["approved"]
    description = read_input(prefect_url, flow_run, keys["description"])
    assert "Send this to Ann?" in description and "    [" in description  # the draft, as a block of code

    for wrong, why in (({}, "approved"), ({"approved": True}, "note"), ({"approved": "no"}, "boolean")):
        answer = ask(prefect_url, f"flow_runs/{flow_run}/resume", {"run_input": wrong})
        assert answer["status"] == "REJECT" and why in answer["details"]["reason"]
    given = {"approved": True, "note": "kind regards"}
    with worker(pool, mail.environment, mail.folder):  # another one
        answer = ask(prefect_url, f"flow_runs/{flow_run}/resume", {"run_input": given})
        assert answer["status"] == "ACCEPT"
        assert ends(prefect_url, flow_run)["type"] == "COMPLETED"
    sent = [json.loads(line["raw"])["messages"][0]["content"] for line in mail.server.ledger()]
    assert [text.partition(" ")[0] for text in sent] == ["Answer:", "Send"] and "kind regards" in sent[1]
    record = mail.headrace("show", "last", "--step", "sign_off", "--json").json()
    assert record["output"]["approved"] is True and record["output"]["by"] == "Prefect"
    assert record["output"]["at"]
    assert len(mail.headrace("runs", "--json").json()) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rows_of_a_paused_run_share_a_form_and_the_command_line_answers_too(
    mail: Any, prefect_url: str
) -> None:
    pool = deployed(mail, prefect_url)
    (mail.folder / "chains" / "rows.jsonl").write_text('{"ticket": "Ann"}\n{"ticket": "Bob"}\n')
    with worker(pool, mail.environment, mail.folder) as running:
        flow_run = start_flow_run(prefect_url, deployment_id(prefect_url, "mail"), {"data": "rows.jsonl"})
        first = waits(prefect_url, flow_run)
        is_free(running.pid)
        keys = first["state_details"]["run_input_keyset"]
        form = read_input(prefect_url, flow_run, keys["schema"])
        assert set(form["properties"]) == {"sign_off_0", "sign_off_1"}
        answer = ask(
            prefect_url, f"flow_runs/{flow_run}/resume", {"run_input": {"sign_off_1": {"approved": False}}}
        )
        assert answer["status"] == "ACCEPT"
        waits(prefect_url, flow_run, after=first["id"])
        is_free(running.pid)
        done = mail.headrace("approve", "last", "sign_off", "yes", "--set", "note=bye")
        assert done.code == 0 and "next:" not in done.out, done.err
        assert ends(prefect_url, flow_run)["type"] == "COMPLETED"
    assert mail.sent() == 3  # two drafts, one that was sent
    rows = mail.headrace("result", "last", "--json").json()["row_outputs"]
    assert "bye" in rows[0]["outputs"]["sent"] and rows[1]["outputs"]["sent"] == "nothing"
