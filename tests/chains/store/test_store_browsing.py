"""What pages read: runs and records by page, sums, neighbours, what came before. On every kind of store."""

from __future__ import annotations

import dataclasses
import json

from chains.store import UNREAD


def test_runs_come_in_pages_filtered_and_counted(store, run_row):
    more = [
        dataclasses.replace(
            run_row,
            id=f"r{n}",
            started_at=200.0 + n,
            chain="b" if n % 2 else "a",
            status="ok" if n < 3 else "failed",
        )
        for n in range(5)
    ]
    store.put(*more)
    assert [run.id for run in store.page_of_runs(limit=2, offset=1)] == ["r3", "r2"]
    assert [run.id for run in store.page_of_runs(limit=9, chain="b")] == ["r3", "r1"]
    assert [run.id for run in store.page_of_runs(limit=9, status="failed", ids=["r3", "r1"])] == ["r3"]
    assert store.page_of_runs(limit=9, ids=[]) == []
    assert store.page_of_runs(limit=1)[0].source is UNREAD
    assert (store.number_of_runs(), store.number_of_runs(chain="a"), store.number_of_runs(ids=["r1"])) == (
        6,
        3,
        1,
    )
    assert store.chains_of_runs() == ["a", "b", "support"]


def test_the_state_of_a_run_changes_with_the_run(store, run_row):
    before = dict(store.states_of_runs())
    store.put(dataclasses.replace(run_row, heartbeat_at=5.0))
    assert dict(store.states_of_runs()) != before and list(before) == ["run1"]


def test_sums_are_those_of_all_steps_together(store, record_row):
    store.put(
        record_row(0, tokens_in=3, attempts=1, cost_micro=5), record_row(1, status="failed", attempts=1)
    )
    sums = store.sums(["run1", "none"])
    assert set(sums) == {"run1"}
    assert (sums["run1"]["ok"], sums["run1"]["failed"], sums["run1"]["tokens_in"]) == (1, 1, 3)
    assert sums["run1"]["cost_unknown"] == 1


def test_records_are_listed_with_the_beginnings_of_what_they_say_and_without_blobs(store, record_row):
    said = json.dumps({"text": "é" * 300}).encode()
    store.put(
        record_row(0, output=said),
        record_row(1, output=b'"' + b"x" * 70_000 + b'"'),
        record_row(2, status="failed", error=b'{"message": "no"}'),
    )
    first, large, failed = store.page_of_records("run1", "triage", limit=10)
    assert first.output == said[:400] and not first.is_large
    assert large.is_large and large.output is None
    assert failed.error == b'{"message": "no"}' and failed.record.row == 2
    assert [item.record.row for item in store.page_of_records("run1", "triage", limit=1, offset=1)] == [1]
    assert [
        item.record.row for item in store.page_of_records("run1", "triage", limit=9, status="failed")
    ] == [2]


def test_neighbours_rows_and_ends(store, record_row):
    store.put(record_row(0, finished_at=7.0), record_row(3), record_row(9))
    assert store.neighbours(store.record("run1", "triage", 3)) == (0, 9)
    assert store.neighbours(store.record("run1", "triage", 0)) == (None, 3)
    assert [record.id for record in store.records_of_row("run1", 3)] == ["record-3"]
    assert store.ended("run1") == [("record-0", 7.0)]
    assert store.last_row("run1") == 9 and store.last_row("none") == -1
    assert {record.row for record in store.records_by_id(["record-0", "record-9", "gone"])} == {0, 9}
    assert store.record_by_id("record-9").row == 9 and store.record_by_id("gone") is None
    assert [record.row for record in store.records("run1", rows=[9, 0])] == [0, 9]


def test_earlier_records_are_those_of_the_same_place_in_earlier_runs_of_the_chain(
    store, run_row, step_row, record_row
):
    runs = [
        ("old", 10.0, "support"),
        ("older", 5.0, "support"),
        ("later", 900.0, "support"),
        ("alien", 9.0, "b"),
    ]
    for name, started, chain in runs:
        store.put(
            dataclasses.replace(run_row, id=name, started_at=started, chain=chain),
            dataclasses.replace(step_row, run_id=name),
        )
        store.put(*(record_row(row, id=f"{name}-{row}", run_id=name) for row in (0, 1)))
    store.put(record_row(1))
    found = store.earlier(store.run("run1"), store.record("run1", "triage", 1))
    assert [record.id for record in found] == ["old-1", "older-1"]
    assert len(store.earlier(store.run("run1"), store.record("run1", "triage", 1), limit=1)) == 1


def test_the_time_of_a_steps_calls_is_told_by_what_it_was_spent_on(store, record_row, attempt_row):
    store.put(record_row(0), record_row(1))
    store.put(
        attempt_row(1, state="error", started_at=1.0, finished_at=1.5, wait_s=0.25),
        attempt_row(2, state="ok", started_at=3.0, finished_at=5.0, wait_s=1.5, device_wait_s=0.5),
        attempt_row(1, id="other", record_id="record-1", state="intent", started_at=6.0, wait_s=0.25),
    )
    [(step, times)] = store.times_of_steps("run1").items()
    assert step == "triage"
    assert (times.queue, times.device, times.call, times.failed, times.pause) == (0.5, 0.5, 1.5, 0.5, 1.5)
    assert store.times_of_steps("none") == {}


def test_when_a_worker_began_with_a_step_is_told_for_steps_that_one_did(store, record_row):
    store.put(
        record_row(0, worker="gpu-1", started_at=7.0),
        record_row(1, worker="gpu-1", started_at=5.0),
        record_row(2, started_at=1.0),
    )
    assert store.begun_elsewhere("run1") == {"triage": 5.0}


def test_small_outputs_come_by_row_and_long_ones_stay_closed(store, record_row):
    store.put(
        record_row(1, output=b'{"a": 2}'),
        record_row(0, output=b'{"a": 1}'),
        record_row(2, output=b'"' + b"x" * 100_000 + b'"'),
        record_row(-1, output=b'{"own": 1}'),
    )
    assert store.small_outputs("run1", "triage", limit=9) == [(0, b'{"a": 1}'), (1, b'{"a": 2}')]
    assert store.small_outputs("run1", "triage", limit=1) == [(0, b'{"a": 1}')]
