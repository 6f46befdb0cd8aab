"""Runs without Prefect, against a server that counts what it saw."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from chains.store import open_store

pytestmark = pytest.mark.e2e


def records_that_called(desk) -> int:
    store = open_store(desk.store)
    try:
        run = store.runs(limit=1)[0]
        return len([r for r in store.records(run.id, payloads=False) if r.attempts and not r.reused_from])
    finally:
        store.close()


def test_a_batch_sends_one_request_per_record_and_a_second_run_sends_none(desk) -> None:
    tickets = desk.tickets(20)
    first = desk.headrace("run", str(desk.chain), "--data", str(tickets), "--direct", "--json")
    assert first.code == 0, first.err
    assert first.json()["rows"] == 20
    assert desk.sent() == 40 == records_that_called(desk)
    again = desk.headrace("run", str(desk.chain), "--data", str(tickets), "--direct", "--json")
    assert again.code == 0, again.err
    assert desk.sent() == 40
    assert again.json()["counts"]["triage"]["reused"] == 20
    assert again.json()["counts"]["reply"]["reused"] == 20


def test_a_single_run_prints_its_outputs(desk) -> None:
    done = desk.headrace(
        "run", str(desk.chain), "-i", "ticket=Where is my delivery?", "-i", "tone=brief", "--direct"
    )
    assert done.code == 0, done.err
    assert "reply: " in done.out and "intent: delivery" in done.out
    steps = desk.headrace("show", "last", "--json").json()["steps"]
    assert {step["step"]: step["status"] for step in steps} == {
        "triage": "ok",
        "shout": "ok",
        "reply": "ok",
        "score": "skipped",
    }


def test_show_prints_exactly_the_bytes_that_were_sent(desk) -> None:
    assert desk.headrace("run", str(desk.chain), "-i", "ticket=¿Dónde está? 🙂 refund", "--direct").code == 0
    raw = desk.headrace("show", "last", "--step", "triage", "--raw")
    record = desk.headrace("show", "last", "--step", "triage", "--json").json()
    sent = {line["raw"] for line in desk.server.ledger()}
    assert raw.out.encode() in sent
    assert record["attempts"][0]["request"].encode() in sent
    assert record["attempts"][0]["request"] in desk.headrace("show", "last", "--step", "triage").out


def test_outputs_are_written_one_line_per_row(desk) -> None:
    out = desk.folder / "out.jsonl"
    done = desk.headrace(
        "run", str(desk.chain), "--data", str(desk.tickets(6)), "--out", str(out), "--direct"
    )
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(6))
    assert [line["outputs"]["intent"] for line in lines] == ["refund", "delivery", "question"] * 2


def test_columns_are_mapped_by_map(desk) -> None:
    data = desk.folder / "other.csv"
    data.write_text("body,intent\nmy refund,refund\nmy delivery,delivery\n")
    refused = desk.headrace("run", str(desk.chain), "--data", str(data), "--direct")
    assert refused.code == 2 and "ticket" in refused.err
    done = desk.headrace(
        "run", str(desk.chain), "--data", str(data), "--map", "ticket=body", "--direct", "--json"
    )
    assert done.code == 0, done.err
    assert done.json()["rows"] == 2


def test_an_endpoint_that_is_down_fails_its_rows_with_their_history(desk) -> None:
    desk.server.stop()
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(3)), "--direct")
    assert done.code == 1
    assert "3 failed" in done.err
    assert "attempt 1: ConnectionFailed" in done.err and "attempt 3: ConnectionFailed" in done.err


def test_one_refused_row_does_not_stop_the_others(make_desk: Callable) -> None:
    desk = make_desk({"match": "Ticket 3:", "fault": "status", "status": 400})
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(6)), "--direct", "--json")
    assert done.code == 1
    counts = done.json()["counts"]
    assert counts["triage"]["ok"] == 5 and counts["triage"]["failed"] == 1
    assert counts["reply"]["ok"] == 5 and counts["reply"]["blocked"] == 1
    assert done.json()["status"] == "failed"


def test_a_bad_row_is_named_and_nothing_is_sent(desk) -> None:
    data = desk.tickets(3)
    data.write_text(data.read_text() + '{"ticket": 12}\n{"ticket"\n')
    done = desk.headrace("run", str(desk.chain), "--data", str(data), "--direct")
    assert done.code == 2
    assert "row" in done.err and desk.sent() == 0
    skipped = desk.headrace("run", str(desk.chain), "--data", str(data), "--skip-bad", "--direct", "--json")
    assert skipped.code == 0, skipped.err
    assert skipped.json()["rows"] == 3
    assert skipped.err.count("left out") == 2


def test_a_missing_key_is_named_before_any_call(desk) -> None:
    text = desk.chain.read_text().replace("temperature: 0", 'temperature: 0, api_key: "{{ env.DESK_KEY }}"')
    desk.chain.write_text(text)
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=x", "--direct")
    assert done.code == 3
    assert "DESK_KEY" in done.err and desk.sent() == 0


def test_wrong_chain_exits_2_with_every_problem(desk) -> None:
    desk.chain.write_text(
        desk.chain.read_text().replace("reask: 1", "reasc: 1").replace("triage.intent }}, ", "x")
    )
    done = desk.headrace("check", str(desk.chain))
    assert done.code == 2
    assert f"{desk.chain}:" in done.err and "reask" in done.err


def wait_for_calls(desk, count: int) -> None:
    for _ in range(600):
        if desk.sent() >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"only {desk.sent()} calls were seen")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_is_finished_by_resume(make_desk: Callable, number: signal.Signals) -> None:
    desk = make_desk(latency=0.25)
    process = desk.start("run", str(desk.chain), "--data", str(desk.tickets(24)), "--direct")
    wait_for_calls(desk, 9)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9), err.decode()
    before = desk.sent()
    assert before < 48
    assert desk.headrace("verify").code == 0
    run = desk.headrace("runs", "--json").json()[0]["run"]
    done = desk.headrace("run", "--resume", run, "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["run_id"] == run
    # Only calls of which nobody knows what became are repeated, and after Ctrl-C there is none.
    with open_store(desk.store) as store:
        found = store.attempts_of_run(run, payloads=False)
    ambiguous = sum(attempt.state == "ambiguous" for attempt in found)
    assert ambiguous <= (16 if number == signal.SIGKILL else 0)
    assert desk.sent() <= 48 + ambiguous
    assert done.json()["counts"]["reply"]["ok"] == 24
    assert desk.headrace("verify").code == 0


def test_samples_are_listed_with_their_record_and_shown_one_by_one(desk) -> None:
    chain = desk.folder / "votes.yaml"
    chain.write_text(
        "chain: votes\ninputs: {ticket: {type: string}}\n"
        f"models: {{w: {{provider: openai, model: m, seed: 7, base_url: '{desk.server.url}'}}}}\n"
        "defaults: {model: w}\n"
        "steps: {ideas: {prompt: 'An idea: {{ inputs.ticket }}', samples: 3, vote: all}}\n"
        "outputs: {first: '{{ ideas[0].text }}', number: '{{ ideas | length }}'}\n"
    )
    done = desk.headrace("run", str(chain), "-i", "ticket=late", "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["outputs"]["number"] == 3 and "late" in done.json()["outputs"]["first"]
    assert done.json()["counts"]["ideas"]["ok"] == 1 and done.json()["counts"]["ideas"]["attempts"] == 3
    record = desk.headrace("show", "last", "--step", "ideas", "--json").json()
    assert [len(sample["attempts"]) for sample in record["samples"]] == [1, 1, 1]
    text = desk.headrace("show", "last", "--step", "ideas").out
    assert "[samples; --sample N shows one]" in text
    one = desk.headrace("show", "last", "--step", "ideas", "--sample", "2").out
    assert "ideas · row 0 · sample 2 · ok" in one and '"seed":8' in one
    none = desk.headrace("show", "last", "--step", "ideas", "--sample", "9")
    assert none.code == 2 and "no sample 9" in none.err


def test_streamed_answers_go_to_standard_error_as_they_come(make_desk) -> None:
    desk = make_desk({"at": 1, "fault": "ends_early", "events": 4})
    done = desk.headrace(
        "run", str(desk.chain), "-i", "ticket=my delivery \x1b[2J", "--direct", "--stream", "--json"
    )
    assert done.code == 0, done.err
    result = done.json()
    assert result["status"] == "ok" and result["outputs"]["intent"] == "delivery"
    assert "[triage]\n" in done.err and "[triage begins again" in done.err and "[reply]\n" in done.err
    assert result["outputs"]["reply"].strip()[:12] in done.err and "\x1b" not in done.err
    refused = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(2)), "--direct", "--stream")
    assert refused.code == 2 and "--stream is for a new run over one row" in refused.err


def test_each_item_of_a_map_has_its_own_samples(desk) -> None:
    chain = desk.folder / "each.yaml"
    chain.write_text(
        "chain: each\ninputs: {parts: {type: array}}\n"
        f"models: {{w: {{provider: openai, model: m, seed: 7, base_url: '{desk.server.url}'}}}}\n"
        "defaults: {model: w}\n"
        "steps: {ask: {prompt: 'About {{ item }}', map: '{{ inputs.parts }}', samples: 3, quorum: 2}}\n"
        "outputs: {said: \"{{ ask | map(attribute='agreement') | list }}\"}\n"
    )
    done = desk.headrace("run", str(chain), "-i", 'parts=["a","b"]', "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["outputs"]["said"] == [1.0, 1.0] and desk.sent() == 6
    store = open_store(desk.store)
    try:
        records = store.records(done.json()["run_id"], within=True)
    finally:
        store.close()
    assert sorted((record.item, record.sample) for record in records if record.attempts) == [
        (item, sample) for item in (0, 1) for sample in (1, 2, 3)
    ]
