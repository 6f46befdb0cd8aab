"""A run begins in one transaction and ends in one; what it leaves beside the database comes after."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from chains.store import RunRow, StepRow


@pytest.fixture
def new_run(run_row) -> RunRow:
    return dataclasses.replace(run_row, id="new")


def steps() -> list[StepRow]:
    return [
        StepRow(run_id="new", id=name, kind="prompt", once=False, status="waiting") for name in ("a", "b")
    ]


def test_a_run_is_there_leased_with_steps_and_files_after_one_transaction(shared, new_run, clock, again):
    content = b"chain: support"
    sha256 = hashlib.sha256(content).hexdigest()
    before = shared.transactions
    assert shared.begin_run(new_run, steps(), holder="me", files={sha256: content})
    assert shared.transactions == before + 1
    assert shared.run("new") == new_run and {step.id for step in shared.steps("new")} == {"a", "b"}
    assert shared.get_blob(sha256) == content and shared.verify() == []
    with again(clock=clock) as other:
        assert not other.lease_run("new", "other")


def test_a_run_that_another_process_has_is_not_begun(shared, new_run, clock, again):
    with again(clock=clock) as other:
        assert other.lease_run("new", "other")
        assert not shared.begin_run(new_run, steps(), holder="me", files={})
        assert shared.run("new") is None


def test_a_run_ends_with_its_counts_in_one_transaction(
    shared, new_run, record_row, attempt_row, clock, again
):
    shared.begin_run(new_run, steps(), holder="me", files={})
    done = dataclasses.replace(record_row(0, tokens_in=3), run_id="new", step="a", id="done")
    left = dataclasses.replace(record_row(0, status="running"), run_id="new", step="b", id="left")
    asked = dataclasses.replace(attempt_row(), run_id="new", step="b", record_id="left", state="intent")
    shared.put(done, left, asked)

    def ended(counts):
        return dataclasses.replace(new_run, status="ok", result=json.dumps(counts).encode())

    before = shared.transactions
    assert shared.end_run("new", "me", ended)
    assert shared.transactions == before + 1
    run = shared.run("new")
    assert run.status == "ok" and json.loads(run.result) == shared.counts("new")
    assert json.loads(run.result)["b"]["cancelled"] == 1 and json.loads(run.result)["a"]["tokens_in"] == 3
    assert [attempt.state for attempt in shared.attempts("left")] == ["ambiguous"]
    with again(clock=clock) as other:
        assert other.lease_run("new", "other")


def test_who_lost_its_run_does_not_end_it(shared, new_run, clock, elapse, again):
    with again(clock=clock) as paused:
        paused.begin_run(new_run, steps(), holder="paused", files={}, lease=30)
        elapse(31)
        assert shared.lease_run("new", "other", 30)
        asked = []
        assert not paused.end_run("new", "paused", asked.append)
        assert not asked
    assert shared.run("new").status == new_run.status


def test_closing_the_store_waits_for_manifests(store):
    store.write_manifest_aside("run1")
    place = store.manifests
    store.close()
    assert place.exists("run1.jsonl.zst")
