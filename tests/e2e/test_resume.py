"""What `resume` and `retry` finish, what they refuse, and what they leave alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import pytest

from chains.store import open_store

pytestmark = pytest.mark.e2e


def statuses(desk, run: str, step: str) -> list[str]:
    with open_store(desk.store) as store:
        run_id = store.runs(limit=1)[0].id if run == "last" else run
        return [record.status for record in store.records(run_id, step, payloads=False) if record.row >= 0]


def run_with_a_bad_row(desk) -> str:
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(6)), "--direct", "--json")
    assert done.code == 1, done.err
    return done.json()["run_id"]


REFUSES_ROW_3 = {"match": "Ticket 3:", "fault": "status", "status": 400, "times": 1}


@pytest.mark.slow
def test_retry_runs_what_failed_and_what_was_blocked_and_scores_anew(make_desk: Callable) -> None:
    desk = make_desk(REFUSES_ROW_3)
    run = run_with_a_bad_row(desk)
    assert statuses(desk, run, "reply").count("blocked") == 1
    before = desk.sent()
    score = desk.headrace("show", run, "--step", "score", "--json").json()
    assert score["output"]["missing"] == 1
    done = desk.headrace("retry", run, "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["run_id"] == run
    assert desk.sent() == before + 2  # one row, two prompt steps
    assert statuses(desk, run, "reply") == ["ok"] * 6
    # The score had counted the row as wrong: it is measured again, without asking a model.
    score = desk.headrace("show", run, "--step", "score", "--json").json()
    assert score["output"]["missing"] == 0 and score["output"]["rows"] == 6
    nothing = desk.headrace("retry", run, "--direct")
    assert nothing.code == 2 and "no failed rows" in nothing.err
    assert desk.sent() == before + 2


def test_a_clock_that_was_set_back_lets_no_earlier_score_stand(make_desk: Callable) -> None:
    desk = make_desk(REFUSES_ROW_3)
    run = run_with_a_bad_row(desk)
    set_clock_back(desk, 3600.0)
    done = desk.headrace("retry", run, "--direct", "--json")
    assert done.code == 0, done.err
    assert statuses(desk, run, "reply") == ["ok"] * 6
    score = desk.headrace("show", run, "--step", "score", "--json").json()
    assert score["output"]["missing"] == 0 and score["output"]["rows"] == 6
    sent = desk.sent()
    assert desk.headrace("resume", run, "--direct", "--json").code == 0
    assert desk.sent() == sent


def set_clock_back(desk, seconds: float) -> None:
    """Make all that the store holds of an hour that the machine's clock has yet to reach."""
    with sqlite3.connect(desk.store / "headrace.db") as database:
        for table in ("runs", "steps", "records", "attempts"):
            database.execute(
                f"UPDATE {table} SET started_at = started_at + ?, finished_at = finished_at + ?",
                (seconds, seconds),
            )
        database.execute("UPDATE runs SET heartbeat_at = heartbeat_at + ?", (seconds,))


def test_a_resume_of_a_finished_run_does_nothing(desk) -> None:
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(3)), "--direct", "--json")
    sent = desk.sent()
    again = desk.headrace("resume", "last", "--direct", "--json")
    assert again.code == 0, again.err
    assert again.json()["counts"] == done.json()["counts"]
    assert desk.sent() == sent


@pytest.mark.slow
def test_a_changed_step_is_named_and_runs_anew_only_when_accepted(make_desk: Callable) -> None:
    desk = make_desk(REFUSES_ROW_3)
    run = run_with_a_bad_row(desk)
    before = desk.sent()
    desk.chain.write_text(desk.chain.read_text().replace("You answer customers.", "You help customers."))
    refused = desk.headrace("resume", run, "--direct")
    assert refused.code == 2
    assert "changed: reply" in refused.err and "--accept-changes" in refused.err
    assert desk.sent() == before
    done = desk.headrace("resume", run, "--accept-changes", "--direct", "--json")
    assert done.code == 0, done.err
    # The failed row's triage, and every reply: triage stands as it is.
    assert desk.sent() == before + 1 + 6
    sent = [json.loads(line["raw"])["messages"][0]["content"] for line in desk.server.ledger()][before:]
    assert sum(text.startswith("You help customers.") for text in sent) == 6
    # What was accepted is the run's chain now: nothing is left to do.
    again = desk.headrace("resume", run, "--direct")
    assert again.code == 0, again.err
    assert desk.sent() == before + 7


@pytest.mark.slow
def test_an_accepted_change_that_is_interrupted_does_not_keep_the_earlier_answers(
    make_desk: Callable,
) -> None:
    desk = make_desk(latency=0.2)
    first = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(24)), "--direct", "--json")
    run, before = first.json()["run_id"], desk.sent()
    prompt = desk.chain.parent / "prompts" / "triage.md"
    prompt.write_text(prompt.read_text() + "\nThink first.")
    process = desk.start("resume", run, "--accept-changes", "--direct")
    while desk.sent() < before + 10:
        assert process.poll() is None
    process.kill()
    process.communicate()
    done = desk.headrace("resume", run, "--direct", "--json")
    assert done.code == 0, done.err
    store = open_store(desk.store)
    try:
        for record in store.records(run, "triage"):
            assert b"Think first." in (record.messages or b"")
    finally:
        store.close()


def test_a_comment_or_a_retry_setting_changes_no_step(make_desk: Callable) -> None:
    desk = make_desk(REFUSES_ROW_3)
    run = run_with_a_bad_row(desk)
    text = desk.chain.read_text().replace("attempts: 3", "attempts: 4")
    desk.chain.write_text("# a comment\n" + text)
    done = desk.headrace("resume", run, "--direct")
    assert done.code == 0, done.err


def test_changed_data_is_refused(make_desk: Callable) -> None:
    desk = make_desk(REFUSES_ROW_3)
    run = run_with_a_bad_row(desk)
    desk.tickets(7)
    refused = desk.headrace("resume", run, "--direct")
    assert refused.code == 2 and "tickets.jsonl" in refused.err and "changed" in refused.err


def test_rows_keep_the_numbers_that_they_have_in_the_file(desk) -> None:
    data = desk.tickets(3)
    data.write_text('{"ticket": 12}\n' + data.read_text())
    out = desk.folder / "out.jsonl"
    arguments = ("--skip-bad", "--limit", "2", "--out", str(out))
    done = desk.headrace("run", str(desk.chain), "--data", str(data), *arguments, "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["rows"] == 2
    assert [json.loads(line)["row"] for line in out.read_text().splitlines()] == [1, 2]
    assert "left out: row 0" in done.err
    shown = desk.headrace("show", "last", "--step", "triage", "--row", "1", "--json").json()
    assert "Ticket 0" in shown["messages"][0]["content"]


def test_a_single_kept_row_gives_its_outputs(desk) -> None:
    data = desk.tickets(1)
    data.write_text('{"ticket": 12}\n' + data.read_text())
    done = desk.headrace("run", str(desk.chain), "--data", str(data), "--skip-bad", "--direct")
    assert done.code == 0, done.err
    assert "intent: refund" in done.out


def test_a_budget_stops_the_run_and_a_larger_one_goes_on(desk) -> None:
    text = desk.chain.read_text().replace("\ndefaults:", "\nbudget: {usd: 0.001}\n\ndefaults:")
    price = "price: {input: 1.0, output: 1.0}, max_tokens: 50, temperature: 0"
    desk.chain.write_text(text.replace("temperature: 0", price))
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(20)), "--direct")
    assert done.code == 1, done.err
    assert "budget of the run is 0.001 USD" in done.err and "--budget usd=0.002" in done.err
    assert 0 < desk.sent() < 40
    assert statuses(desk, "last", "triage").count("failed") == 0
    wrong = desk.headrace("resume", "last", "--budget", "usd=much", "--direct")
    assert wrong.code == 2 and "usd='much'" in wrong.err
    stopped = desk.headrace("resume", "last", "--direct")
    assert stopped.code == 1 and "budget of the run" in stopped.err
    more = desk.headrace("resume", "last", "--budget", "usd=1", "--direct", "--json")
    assert more.code == 0, more.err
    assert desk.sent() == 40 and more.json()["counts"]["reply"]["ok"] == 20
