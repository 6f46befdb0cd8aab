"""Forks: what runs, what is linked, and that the source stays as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable

import pytest
from servers.prefect_api import flow_run

from chains.store import open_store

pytestmark = pytest.mark.e2e


def run(desk, count: int = 6) -> str:
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(count)), "--direct", "--json")
    assert done.code == 0, done.err
    return done.json()["run_id"]


def replay(desk, *arguments: str):
    return desk.headrace("replay", *arguments, "--direct", "--json")


def replayed(desk, *arguments: str) -> str:
    done = replay(desk, *arguments)
    assert done.code == 0, done.err
    return done.json()["run_id"]


def rows_of(desk, run_id: str) -> str:
    """Return a hash over every row that the store has of a run."""
    digest = hashlib.sha256()
    with sqlite3.connect(desk.store / "headrace.db") as database:
        for table, key in (
            ("runs", "id"),
            ("steps", "run_id"),
            ("records", "run_id"),
            ("attempts", "run_id"),
        ):
            for row in database.execute(f"SELECT * FROM {table} WHERE {key} = ? ORDER BY id", (run_id,)):
                digest.update(repr(row).encode())
    return digest.hexdigest()


def outputs(desk, run_id: str, step: str) -> dict[int, bytes | None]:
    with open_store(desk.store) as store:
        return {record.row: record.output for record in store.records(run_id, step)}


def linked(desk, run_id: str) -> dict[str, int]:
    with open_store(desk.store) as store:
        found: dict[str, int] = {}
        for record in store.records(run_id, payloads=False):
            found[record.step] = found.get(record.step, 0) + record.linked
    return found


def test_a_replay_without_an_edit_has_every_output_and_calls_nobody(desk) -> None:
    source = run(desk)
    before, sent = rows_of(desk, source), desk.sent()
    fork = replayed(desk, source, "--from", "triage")
    assert fork != source
    assert desk.sent() == sent
    for step in ("triage", "shout", "reply", "score"):
        assert outputs(desk, fork, step) == outputs(desk, source, step)
    assert rows_of(desk, source) == before
    with open_store(desk.store) as store:
        row = store.run(fork)
        assert row.forked_from == source
        assert store.verify() == []
        assert all(record.linked for record in store.records(fork, payloads=False))


def test_an_edited_step_and_what_needs_it_run_and_the_rest_is_linked(desk) -> None:
    source = run(desk)
    before, sent = rows_of(desk, source), desk.sent()
    fork = replayed(desk, source, "--from", "reply", "--set", "reply.prompt.system=Answer in one word.")
    assert desk.sent() == sent + 6
    asked = [json.loads(line["raw"])["messages"][0]["content"] for line in desk.server.ledger()][sent:]
    assert asked == ["Answer in one word."] * 6
    assert linked(desk, fork) == {"triage": 6, "shout": 6, "reply": 0, "score": 7}
    assert rows_of(desk, source) == before
    found = desk.headrace("diff", source, fork, "--json").json()
    assert found["diverged"] == 6
    assert found["edit"] == {"fork": fork, "source": source, "edited": ["reply: prompt"]}
    assert f"{fork} is a fork of {source}, edited reply: prompt." in desk.headrace("diff", source, fork).out
    assert f"{source}, edited reply: prompt" in desk.headrace("show", fork).out
    why = desk.headrace("why", fork, "triage", "--row", "1", "--json").json()
    assert why["verdict"] == "linked" and why["reused_run"] == source
    causes = found["changed_steps"]["reply"]
    assert [cause["cause"] for cause in causes] == ["template"]
    assert "Answer in one word." in json.dumps(causes)


@pytest.mark.slow
def test_what_needs_the_edited_step_is_asked_again_over_all_rows(desk) -> None:
    source = run(desk)
    sent = desk.sent()
    fork = replayed(desk, source, "--set", "triage.prompt=Sort: {{ inputs.ticket }}")
    assert linked(desk, fork) == {"triage": 0, "shout": 0, "reply": 0, "score": 0}
    assert desk.sent() > sent


@pytest.mark.slow
def test_one_row_is_replayed_and_the_others_are_linked(desk) -> None:
    source = run(desk)
    sent = desk.sent()
    fork = replayed(
        desk, source, "--from", "triage[row 3]", "--set", "triage.prompt=Now: {{ inputs.ticket }}"
    )
    with open_store(desk.store) as store:
        ran = {
            (record.step, record.row) for record in store.records(fork, payloads=False) if not record.linked
        }
    # A step that runs once is measured anew over all rows.
    per_row = {("triage", 3), ("shout", 3), ("reply", 3)}
    assert ran == per_row | {("score", row) for row in range(-1, 6)}
    assert desk.sent() - sent in (1, 2)  # the reply may be one that is known


@pytest.mark.slow
def test_sampling_of_one_step_leaves_the_others_model_alone(desk) -> None:
    source = run(desk)
    sent = desk.sent()
    fork = replayed(desk, source, "--set", "reply.temperature=0.9", "--set", "reply.max_tokens=7")
    bodies = [json.loads(line["raw"]) for line in desk.server.ledger()][sent:]
    assert [(body["temperature"], body["max_tokens"]) for body in bodies] == [(0.9, 7)] * 6
    assert linked(desk, fork)["triage"] == 6
    cause = desk.headrace("diff", source, fork, "--json").json()["changed_steps"]["reply"]
    assert {item["name"] for item in cause} == {"temperature", "max_tokens"}


@pytest.mark.slow
def test_an_input_reaches_the_steps_that_read_it(desk) -> None:
    source = run(desk)
    sent = desk.sent()
    fork = replayed(desk, source, "--set", "inputs.tone=brief")
    assert linked(desk, fork) == {"triage": 6, "shout": 6, "reply": 0, "score": 7}
    bodies = [json.loads(line["raw"]) for line in desk.server.ledger()][sent:]
    assert {body["messages"][0]["content"] for body in bodies} == {"You answer customers. Tone: brief."}


@pytest.mark.slow
def test_a_fresh_step_is_asked_anew_though_its_answer_is_known(desk) -> None:
    source = run(desk)
    sent = desk.sent()
    fork = replayed(desk, source, "--from", "triage[row 0-1]", "--fresh")
    assert desk.sent() == sent + 2  # the replies are known, since the intents are the same
    assert outputs(desk, fork, "triage") == outputs(desk, source, "triage")


@pytest.mark.slow
def test_samples_show_how_far_the_answers_of_a_step_differ(desk) -> None:
    source = run(desk)
    sent = desk.sent()
    fork = replayed(desk, source, "--from", "triage[row 0]", "--samples", "4")
    # The first sample asks what was asked: its answer is known, and so are those to the same reply.
    assert desk.sent() - sent in (3, 4)
    with open_store(desk.store) as store:
        record = store.record(fork, "triage", 0)
        assert len(store.samples(record)) == 4 and not record.linked
    assert linked(desk, fork)["triage"] == 5


@pytest.mark.slow
def test_a_dry_run_says_what_would_run_and_what_it_may_cost_and_makes_nothing(desk) -> None:
    source = run(desk)
    sent = desk.sent()
    done = replay(desk, source, "--set", "reply.prompt.system=Be short.", "--dry-run")
    found = done.json()
    assert [(step["step"], step["runs"], step["linked"]) for step in found["steps"]] == [
        ("triage", 0, 6),
        ("shout", 0, 6),
        ("reply", 6, 0),
        ("score", 0, 1),
    ]
    assert found["steps"][2]["reason"] == "edited: prompt"
    assert found["ceiling"]["calls"] == 6
    assert found["ceiling"]["tokens"] > 6 * 1024  # no `max_tokens`: what a budget would keep for an answer
    assert desk.sent() == sent
    assert len(desk.headrace("runs", "--json").json()) == 1
    told = desk.headrace("replay", source, "--set", "reply.prompt.system=Be short.", "--dry-run")
    assert "nothing that it reads changes" in told.out and "at most 6 calls" in told.out


@pytest.mark.slow
def test_the_ceiling_holds(desk) -> None:
    source = run(desk)
    edit = ("--set", "triage.prompt=Sort it well, please, as you always do: {{ inputs.ticket }}")
    ceiling = replay(desk, source, *edit, "--dry-run").json()["ceiling"]
    sent = desk.sent()
    fork = replayed(desk, source, *edit)
    with open_store(desk.store) as store:
        counts = store.counts(fork)
    assert desk.sent() - sent <= ceiling["calls"]
    used = sum(counts[step]["tokens_in"] + counts[step]["tokens_out"] for step in ("triage", "reply"))
    assert 0 < used <= ceiling["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "triag"], "Did you mean 'triage'?"),
        (["--from", "triage[row 99]"], "has no row 99: its last one is row 5"),
        (["--from", "triage[item]"], "names no rows, items or turns"),
        (["--from", "score[row 1]"], "runs once over all rows"),
        (["--from", "triage[item 1]"], "has no `map`"),
        (["--set", "triage.promt=x"], "Did you mean 'prompt'?"),
        (["--set", "triage.prompt.system=x"], "has no one message 'system'"),
        (["--set", "inputs.tones=x"], "Did you mean 'tone'?"),
        (["--set", "inputs.tone=loud"], "must be one of 'warm', 'brief'"),
        (["--set", "triage.prompt={{ inputs.tickt }}"], "inputs.tickt"),
        (["--set", "triage.prompt={{ reply.text }}"], "need each other"),
        (["--set", "reply.temperature=hot"], "temperature"),
        (["--set", "shout.temperature=1"], "asks no model"),
        (["--model", "triage=other"], "no model 'other'"),
        (["--from", "reply", "--set", "triage.prompt=x"], "does not come after 'reply'"),
        (["--from", "score", "--set", "inputs.tone=brief"], "nor a step after it reads inputs.tone"),
        (["--fresh"], "--from STEP --fresh"),
        (["--from", "shout", "--samples", "3"], "has no field 'samples'"),
        (["--set", "triage.prompt=@nowhere.md"], "cannot read 'nowhere.md'"),
    ],
)
def test_what_cannot_be_replayed_is_said_and_makes_no_run(shared_source, arguments, said) -> None:
    desk, source = shared_source
    done = desk.headrace("replay", source, *arguments, "--dry-run")
    assert done.code == 2, done.out
    assert said in done.err


@pytest.fixture(scope="module")
def shared_source(request, tmp_path_factory):
    """A run that a table of refusals looks at; nothing is written to it."""
    from e2e.conftest import CHAINS, Desk, environment_of
    from servers.launch import start

    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(CHAINS / "desk", folder / "desk")
    server = start(folder, ())
    request.addfinalizer(server.stop)
    chain = folder / "desk" / "chain.yaml"
    chain.write_text(chain.read_text().replace("http://127.0.0.1:1/v1", server.url))
    desk = Desk(folder, server, environment_of(folder))
    return desk, run(desk)


@pytest.mark.slow
def test_a_failed_row_stays_failed_in_a_fork_until_it_is_retried(make_desk: Callable) -> None:
    refuses = {"match": "Ticket 3:", "fault": "status", "status": 400, "times": 1}
    desk = make_desk(refuses)
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(6)), "--direct", "--json")
    source, sent = done.json()["run_id"], desk.sent()
    fork = replay(desk, source, "--from", "reply", "--set", "reply.prompt.system=Short.")
    assert fork.code == 1
    assert desk.sent() == sent + 5
    again = desk.headrace("retry", fork.json()["run_id"], "--direct", "--json")
    assert again.code == 0, again.err
    assert desk.sent() == sent + 5 + 2
    before = rows_of(desk, source)
    assert desk.headrace("retry", source, "--direct").code == 0
    assert rows_of(desk, source) != before


@pytest.mark.slow
def test_a_source_that_is_tried_again_leaves_its_forks_as_they_were(make_desk: Callable) -> None:
    refuses = {"match": "Ticket 3:", "fault": "status", "status": 400, "times": 1}
    desk = make_desk(refuses)
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(6)), "--direct", "--json")
    source = done.json()["run_id"]
    fork = replay(desk, source, "--from", "reply").json()["run_id"]
    with open_store(desk.store) as store:
        before = [(r.step, r.row, r.output, r.error) for r in store.records(fork)]
    assert desk.headrace("retry", source, "--direct").code == 0
    with open_store(desk.store) as store:
        assert [(r.step, r.row, r.output, r.error) for r in store.records(fork)] == before
        assert store.verify() == []


@pytest.mark.slow
def test_a_fork_needs_neither_the_chain_nor_its_files(desk) -> None:
    source = run(desk)
    shutil.rmtree(desk.chain.parent)
    fork = replayed(desk, source, "--set", "shout.args.text={{ inputs.ticket }}!")
    assert linked(desk, fork) == {"triage": 6, "shout": 0, "reply": 0, "score": 7}
    assert all(json.loads(text)["value"].endswith("!") for text in outputs(desk, fork, "shout").values())
    # So does a resume of it, and a fork of the fork.
    assert desk.headrace("resume", fork, "--direct").code == 0
    other = replayed(desk, fork, "--set", "reply.prompt.system=Hm.")
    assert outputs(desk, other, "shout") == outputs(desk, fork, "shout")


@pytest.mark.slow
def test_a_changed_chain_file_is_taken_when_it_is_named_and_confirmed(desk) -> None:
    source = run(desk)
    desk.chain.write_text(desk.chain.read_text().replace("You answer customers.", "You help."))
    sent = desk.sent()
    fork = replayed(desk, source, "--from", "reply")  # as the run kept it
    assert desk.sent() == sent and linked(desk, fork)["reply"] == 6
    refused = replay(desk, source, "--chain", str(desk.chain))
    assert refused.code == 2 and "changed: reply" in refused.err and "--yes" in refused.err
    fork = replayed(desk, source, "--chain", str(desk.chain), "--yes")
    assert desk.sent() == sent + 6
    assert linked(desk, fork) == {"triage": 6, "shout": 6, "reply": 0, "score": 7}


@pytest.mark.slow
def test_a_fork_outlives_its_source(desk) -> None:
    source = run(desk)
    fork = replayed(desk, source, "--set", "reply.prompt.system=Short.")
    before = {step: outputs(desk, fork, step) for step in ("triage", "shout", "reply", "score")}
    assert desk.headrace("prune", source, "--yes").code == 0
    assert {step: outputs(desk, fork, step) for step in before} == before
    verified = desk.headrace("verify")
    assert verified.code == 0, verified.err
    sent = desk.sent()
    other = replayed(desk, fork, "--from", "triage")
    assert desk.sent() == sent
    assert {step: outputs(desk, other, step) for step in before} == before


@pytest.mark.slow
def test_a_fork_is_made_again_from_manifests(desk) -> None:
    source = run(desk)
    fork = replayed(desk, source, "--set", "reply.prompt.system=Short.")
    before = outputs(desk, fork, "triage")
    for path in desk.store.glob("headrace.db*"):
        path.unlink()
    done = desk.headrace("verify", "--rebuild")
    assert done.code == 0, done.err
    assert outputs(desk, fork, "triage") == before


@pytest.mark.slow
def test_a_fork_has_a_budget_of_its_own_and_is_resumed_with_more(desk) -> None:
    source = run(desk)
    edit = ("--set", "reply.prompt.system=Short.")
    stopped = replay(desk, source, *edit, "--budget", "calls=2")
    assert stopped.code == 1
    fork = stopped.json()["run_id"]
    sent = desk.sent()
    done = desk.headrace("resume", fork, "--budget", "calls=20", "--direct", "--json")
    assert done.code == 0, done.err
    assert desk.sent() == sent + 4
    with open_store(desk.store) as store:
        assert store.run(fork).forked_from == source


REPLAY = """
import asyncio, json, sys
from flows.replay import replay
print(json.dumps(asyncio.run(replay(sys.argv[1], edits=json.loads(sys.argv[2])))))
"""


@pytest.mark.slow
def test_a_fork_is_made_by_a_flow_of_prefect_and_by_the_command_line_through_it(
    prefect_desk: Callable, prefect_url: str
) -> None:
    desk = prefect_desk()
    source = run(desk)
    sent = desk.sent()
    edits = json.dumps({"reply.prompt.system": "Short.", "reply.temperature": 0.5})
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, source, edits],
        capture_output=True,
        cwd=desk.folder,
        env=desk.environment,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr.decode()
    fork = json.loads(done.stdout.decode().strip().splitlines()[-1])["run_id"]
    assert desk.sent() == sent + 6
    assert linked(desk, fork) == {"triage": 6, "shout": 6, "reply": 0, "score": 7}
    assert flow_run(prefect_url, fork)["state_type"] == "COMPLETED"
    again = desk.headrace("replay", fork, "--from", "triage", "--json")
    assert again.code == 0, again.err
    assert desk.sent() == sent + 6
    assert flow_run(prefect_url, again.json()["run_id"])["state_type"] == "COMPLETED"


@pytest.mark.slow
def test_a_fork_that_was_killed_is_resumed_and_repeats_no_finished_call(make_desk: Callable) -> None:
    desk = make_desk(latency=0.2)
    source = run(desk, 24)
    sent = desk.sent()
    process = desk.start("replay", source, "--set", "reply.prompt.system=Short.", "--direct")
    while desk.sent() < sent + 10:
        assert process.poll() is None
    process.kill()
    process.communicate()
    with open_store(desk.store) as store:
        fork = store.runs(limit=1)[0].id
        in_flight = len([row for row in store.attempts_of_run(fork) if row.state == "intent"])
    done = desk.headrace("resume", fork, "--direct", "--json")
    assert done.code == 0, done.err
    assert desk.sent() <= sent + 24 + in_flight
    assert linked(desk, fork) == {"triage": 24, "shout": 24, "reply": 0, "score": 25}
    with open_store(desk.store) as store:
        assert store.verify() == []
